"""Where the media of clips come from, behind one small interface: a folder, any fsspec address, YouTube.

The folder is here; what is fetched is in `remote.py` and `youtube.py`, whose libraries load only for those who use
them.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from .clips import Clip
from .errors import ClipError, PlanError
from .medium import Medium, Source, called
from .remote import RemoteConfig, RemoteSource
from .youtube import YouTubeConfig, YouTubeSource

__all__ = [
    "FolderConfig",
    "MediaFolder",
    "Medium",
    "RemoteConfig",
    "Source",
    "SourceConfig",
    "YouTubeConfig",
    "make_source",
]

MEDIA_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".flv", ".ts", ".mpg", ".mpeg", ".ogv", ".3gp")

Holds = Literal["media", "clips"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderConfig:
    """Media that are already here."""

    root: Path
    """Folder of the media, with any folders below."""
    holds: Holds = "media"
    """What a file that is named by id alone holds: the whole medium, or (`clips`) the clip and nothing else."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        if self.holds not in get_args(Holds):
            raise ValueError(f"holds is {self.holds!r}, want one of {', '.join(get_args(Holds))}")


SourceConfig = FolderConfig | RemoteConfig | YouTubeConfig


def make_source(config: SourceConfig) -> Source:
    """Return the source that `config` describes, for one process.

    Raises:
        PlanError: it cannot be used: no such folder, or a package is missing.
    """
    if isinstance(config, FolderConfig):
        return MediaFolder(config)
    if isinstance(config, RemoteConfig):
        return RemoteSource(config)
    return YouTubeSource(config)


class MediaFolder:
    """A folder whose files are named by the list, or by id in one of the ways that downloaders have.

    `ID.mp4` (also `id_ID`, `YID`) is the whole medium. A file named by id and start holds just the clip: our key
    (`as_ID_000030000`), `ID_000030` (VGGSound), `ID_30`, `ID_30_40`, `ID_30.000_40.000`, `ID_30.0-40.0` (seconds) or
    `ID_30000_40000`, and for AudioSet, whose media have one clip each, `ID_30000` (milliseconds). Names are never
    taken apart, since ids hold `_` and digits as well: the names that this clip could have are looked up.
    """

    def __init__(self, config: FolderConfig) -> None:
        """Look whether the folder is there; it is listed when the first medium is looked for by id.

        Raises:
            PlanError: it is no readable folder.
        """
        self.config = config
        self.root = config.root
        self._names: _Names | None = None
        try:
            os.scandir(self.root).close()
        except OSError as e:
            raise PlanError(
                f"{self.root}: not a readable folder of media ({e.strerror}); name one with --media-dir"
            ) from e

    @contextmanager
    def open(self, clip: Clip) -> Iterator[Medium]:
        """Yield the clip's medium, which stays where it is; errors name it as seen from the folder."""
        medium = self.find(clip)
        with called(medium.path, str(medium.path.relative_to(self.root))):
            yield medium

    def find(self, clip: Clip) -> Medium:
        """Return the clip's medium.

        Errors name it as seen from the folder, so that a sidecar has the same bytes wherever the folder lies.

        Raises:
            ClipError: `local.missing_file`; `local.unreadable` for what is no regular file; `local.outside` if the
                list leads out of the folder, through a link or by `..`.
        """
        if clip.source:
            self._check(clip.source)
            return Medium(self._inside(clip.source))
        if self._names is None:
            self._names = _Names(self.root)
        whole = [(stem, clip.start_ms if self.config.holds == "clips" else 0) for stem in _names_by_id(clip)]
        cut = [(stem, clip.start_ms) for stem in _names_by_start(clip)]
        for stem, start_ms in cut + whole if self.config.holds == "clips" else whole + cut:
            if name := self._names.get(stem):
                self._check(name)
                return Medium(self.root / name, start_ms)
        note = f" ({self._names.note})" if self._names.note else ""
        raise ClipError("local.missing_file", f"{clip.media_id}.mp4: no such media file{note}")

    def _check(self, name: str) -> None:
        """Look at the file without opening it: a FIFO would keep its reader waiting for ever."""
        try:
            mode = (self.root / name).stat().st_mode
        except (OSError, ValueError):  # not there, or a name that no file can have
            mode = None
        if mode is None or stat.S_ISDIR(mode):
            raise ClipError("local.missing_file", f"{name[:300]}: no such media file")
        if not stat.S_ISREG(mode):
            raise ClipError("local.unreadable", f"{name}: a device or a pipe, not a media file")

    def _inside(self, name: str) -> Path:
        path = self.root / name
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise ClipError("local.outside", f"{name}: leads out of the media folder")
        return path


class _Names:
    """The media files below a folder by the name without its ending; of two of one name, the first in order."""

    def __init__(self, root: Path) -> None:
        # Ending and folder are shared by many names: of 300,000 files this takes 26 MB and 0.8 s (measured).
        self._rest: dict[str, tuple[str, str]] = {}
        self._unreadable: list[str] = []
        shared: dict[tuple[str, str], tuple[str, str]] = {}
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                entries = os.scandir(root / folder)
            except OSError:  # such as `lost+found` at the top of a disk
                self._unreadable.append(folder)
                continue
            with entries:
                for entry in entries:
                    stem, dot, ending = entry.name.rpartition(".")
                    if dot and f".{ending}".lower() in MEDIA_SUFFIXES and not entry.is_dir(follow_symlinks=False):
                        rest = shared.setdefault((folder, f".{ending}"), (folder, f".{ending}"))
                        self._rest[stem] = min(rest, self._rest.get(stem, rest))
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(f"{folder}{entry.name}/")

    def get(self, stem: str) -> str | None:
        """Return the name of the file relative to the folder."""
        rest = self._rest.get(stem)
        return f"{rest[0]}{stem}{rest[1]}" if rest else None

    @property
    def note(self) -> str:
        """Return what to add where a file was not found."""
        if not self._unreadable:
            return ""
        return f"{len(self._unreadable)} folders could not be read, such as {self._unreadable[0]}"


def _names_by_id(clip: Clip) -> Iterator[str]:
    yield clip.media_id
    yield f"id_{clip.media_id}"
    yield f"Y{clip.media_id}"


def _names_by_start(clip: Clip) -> Iterator[str]:
    """Yield the names of a file that holds just this clip, the least mistakable first."""
    start, end = clip.start_ms, clip.end_ms
    yield clip.key
    for one, other in zip(_in_seconds(start), _in_seconds(end), strict=False):
        yield f"{clip.media_id}_{one}_{other}"
        yield f"{clip.media_id}_{one}-{other}"
    is_mistakable = 0 < start < 1000  # `ID_30_40` is from second 30 on, not from 30 ms
    # Some downloaders write the end of ten seconds even where the clip is shorter.
    for last in () if is_mistakable else dict.fromkeys((end, start + 10_000)):
        yield f"{clip.media_id}_{start}_{last}"
    if start % 1000 == 0:
        yield f"{clip.media_id}_{start // 1000:06d}"
    for one in _in_seconds(start):
        yield f"{clip.media_id}_{one}"
    if clip.corpus == "as" and not is_mistakable:
        yield f"{clip.media_id}_{start}"


def _in_seconds(time_ms: int) -> list[str]:
    """Return the ways to write a time in seconds: `30.0` (as Python does), `30.000`, `30` (whole ones only)."""
    seconds = time_ms / 1000
    return [f"{seconds!r}", f"{seconds:.3f}"] + ([str(time_ms // 1000)] if time_ms % 1000 == 0 else [])
