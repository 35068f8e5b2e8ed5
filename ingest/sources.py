"""Finds the medium of a clip: so far, in a folder of media already here."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .clips import Clip
from .errors import ClipError, PlanError

MEDIA_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".flv", ".ts", ".mpg", ".mpeg", ".ogv", ".3gp")


@dataclass(frozen=True, slots=True)
class Medium:
    """A local file that holds a clip for as long as it is held open."""

    path: Path
    start_ms: int = 0
    """Instant of the medium at which the file begins; not 0 for a file that was cut from it."""


class Source(Protocol):
    """Where media come from. A worker has one of its own; `open` runs in processes that may be killed."""

    def open(self, clip: Clip) -> AbstractContextManager[Medium]:
        """Return the clip's medium as a local file, removed afterwards if it was fetched for this.

        Raises:
            ClipError: `source.*`, `throttle.*`, `transient.*`, `local.*` or `policy.*`, with a sentence.
        """
        ...


class MediaFolder:
    """A folder with one file a medium: named by the list, or by its id (`ID.mp4`, `ID.webm`, ...)."""

    def __init__(self, root: Path) -> None:
        """List the folder once.

        Raises:
            PlanError: it is no readable folder.
        """
        self.root = root
        try:
            names = os.listdir(root)  # noqa: PTH208  (an AudioSet folder has two million entries)
        except OSError as e:
            raise PlanError(f"{root}: not a readable folder of media ({e.strerror}); name one with --media-dir") from e
        self._by_id: dict[str, str] = {}
        for name in sorted(names, reverse=True):
            stem, suffix = os.path.splitext(name)  # noqa: PTH122
            if suffix.lower() in MEDIA_SUFFIXES:
                self._by_id[stem] = name

    def find(self, clip: Clip) -> Path:
        """Return the path of the clip's medium.

        Raises:
            ClipError: `local.missing_file` if it is not there, `local.outside` if a link leads out of the folder.
        """
        name = clip.source or self._by_id.get(clip.media_id)
        path = self.root / name if name else self.root / f"{clip.media_id}.mp4"
        try:
            is_there = name is not None and path.is_file()
        except (OSError, ValueError):  # a name that no file can have
            is_there = False
        if not is_there:
            raise ClipError("local.missing_file", f"{str(path)[:300]}: no such media file")
        if clip.source and not path.resolve().is_relative_to(self.root.resolve()):
            raise ClipError("local.outside", f"{path}: leads out of the media folder")
        return path
