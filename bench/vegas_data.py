"""Clips with a class, a sound and a frame, and pictures that were generated from their sounds, as they lie on disk.

A data set is a folder with `manifest.csv`, or folders named by class whose sounds and frames share their names (no
official layout of VEGAS is published). Pictures lie in `CLIP_ID/`, or in `CLIP_ID/kept/` as `unibrivl generate --out
CLIP_ID` leaves them. Names come from a list that somebody else wrote: none of them leads out of its folder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..index.generation import KEPT
from ..index.pictures import dropped_reason, told_inside
from .clip_media import read_frame
from .csv_rows import csv_rows
from .encoders import run_fingerprint
from .errors import BenchError, NeedsError
from .protocol import Progress
from .vggsound import PICTURES, SOUNDS

MANIFEST = "manifest.csv"
COLUMNS = ("clip_id", "class", "split", "audio", "frame")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Of generated pictures."""
MIDDLE = 0.5
"""Where in a video its frame is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A row of the manifest."""

    clip_id: str
    category: str
    split: str
    audio: Path
    frame: Path
    """A picture, or a video whose middle is meant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """The pictures of a clip."""

    clip: Clip
    pictures: tuple[Path, ...]
    black: int = 0
    """Pictures that are left out: blacked out by a safety checker, or flagged by it."""
    choosers: frozenset[str] = frozenset()
    """Fingerprints of runs that chose them, if they say so."""


def read_clips(data: Path) -> list[Clip]:
    """Return the clips of a data set.

    Raises:
        NeedsError: there is neither a manifest nor a folder of a class.
        BenchError: the manifest is not in order, a name leads out of the folder, or there are fewer than two classes.
    """
    clips = list(_of_manifest(data) if (data / MANIFEST).is_file() else _of_folders(data))
    if not clips:
        raise NeedsError(
            f"{data}: has no {MANIFEST}, nor folders CLASS/ with sounds and frames of one name", status="needs-data",
            expected=(MANIFEST, "CLASS/CLIP_ID.wav", "CLASS/CLIP_ID.jpg"),
        )  # fmt: skip
    seen: set[str] = set()
    for clip in clips:
        if clip.clip_id in seen:
            raise BenchError(f"{data}: clip {clip.clip_id} stands twice; every clip needs a name of its own")
        seen.add(clip.clip_id)
    if len(categories := {clip.category for clip in clips}) < 2:
        raise BenchError(f"{data}: all clips are of class {categories.pop()}; want two classes at least")
    return clips


def _of_manifest(data: Path) -> Iterator[Clip]:
    path = data / MANIFEST
    for number, row in csv_rows(path, COLUMNS):
        told = {name: row[name].strip() for name in COLUMNS}
        if missing := [name for name in COLUMNS if not told[name]]:
            raise BenchError(f"{path}:{number}: {missing[0]} is empty")
        if not is_plain(told["clip_id"]):
            raise BenchError(f"{path}:{number}: clip_id is {told['clip_id']!r}, want the name of a folder")
        for name in ("audio", "frame"):
            if not stays_inside(told[name]):
                raise BenchError(f"{path}:{number}: {name} is {told[name]!r}, want a path within {data.name}/")
        yield Clip(
            clip_id=told["clip_id"], category=told["class"], split=told["split"], audio=data / told["audio"],
            frame=data / told["frame"],
        )  # fmt: skip


def _of_folders(data: Path) -> Iterator[Clip]:
    """Yield the clips of `CLASS/...`: files of one name, a sound and a picture, or a video that is both."""
    folders = sorted(path for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and is_plain(path.stem))
        sounds = {path.stem: path for path in reversed(files) if path.suffix.lower() in SOUNDS}
        frames = {path.stem: path for path in reversed(files) if path.suffix.lower() in PICTURES}
        for name in sorted(sounds.keys() & frames.keys()):
            yield Clip(clip_id=name, category=folder.name, split="test", audio=sounds[name], frame=frames[name])


def is_plain(name: str) -> bool:
    """Tell whether a name is that of one file in a folder, and of nothing above or hidden."""
    return bool(name) and not name.startswith(".") and not set(name) & set('/\\:\0\n\r"')


def stays_inside(path: str) -> bool:
    """Tell whether a relative path leads to no other place than below its folder."""
    pure = PurePath(path)
    return not pure.is_absolute() and ".." not in pure.parts and not set(path) & set("\\:\0\n\r")


def find_generated(
    images: Path, clips: list[Clip], per_clip: int | None, progress: Progress = lambda done, total, text: None
) -> list[Generated]:
    """Return the pictures of each clip that has any, the first `per_clip` by name, black ones counted and left out.

    Raises:
        NeedsError: there are none.
        BenchError: a picture is damaged.
    """
    found = []
    for number, clip in enumerate(clips, 1):
        if paths := pictures_of(images / clip.clip_id)[:per_clip]:
            found.append(_sorted_out(clip, paths))
        progress(number, len(clips), "pictures")
    if not found:
        raise NeedsError(
            f"{images}: has pictures of none of {len(clips)} clips", status="needs-data",
            expected=tuple(f"{images.name}/{clip.clip_id}/*.png" for clip in clips[:3]),
        )  # fmt: skip
    return found


def pictures_of(folder: Path) -> list[Path]:
    """Return the pictures in a clip's folder by name; of a folder of `unibrivl generate`, those that were kept."""
    place = folder / KEPT if (folder / KEPT).is_dir() else folder
    inside = place.iterdir() if place.is_dir() else ()
    return sorted(path for path in inside if path.suffix.lower() in SUFFIXES and is_plain(path.name) and path.is_file())


def _sorted_out(clip: Clip, paths: list[Path]) -> Generated:
    whole, choosers = [], set()
    for path in paths:
        told = told_inside(path)
        black = not read_frame(path, MIDDLE).any()
        if not dropped_reason(flagged=bool(told.get("flagged")), black=black):
            whole.append(path)
        if isinstance(told.get("verifier"), dict):
            choosers.add(run_fingerprint(told["verifier"]))
    return Generated(
        clip=clip, pictures=tuple(whole), black=len(paths) - len(whole), choosers=frozenset(choosers)
    )  # fmt: skip


def with_media(found: list[Generated], *, sound: bool) -> list[Generated]:
    """Return the clips that have a picture left, their frame and, if it is asked for, their sound.

    Raises:
        NeedsError: there are none.
        BenchError: every picture is black.
    """
    if not any(one.pictures for one in found):
        raise BenchError(f"all {sum(one.black for one in found)} pictures are black or flagged; nothing can be judged")
    kept = [
        one for one in found
        if one.pictures and one.clip.frame.is_file() and (not sound or one.clip.audio.is_file())
    ]  # fmt: skip
    if not kept:
        first = next(one.clip for one in found if one.pictures)
        missing = first.frame if not first.frame.is_file() else first.audio
        raise NeedsError(
            f"{missing}: there is no such file, nor of any other clip", status="needs-data", expected=(missing.name,)
        )
    return kept


def of_split(clips: list[Clip], split: str, data: Path) -> list[Clip]:
    """Return the clips of a split.

    Raises:
        BenchError: there are none.
    """
    if own := [clip for clip in clips if clip.split == split]:
        return own
    known = ", ".join(sorted({clip.split for clip in clips}))
    raise BenchError(f"{data}: no clip of split {split!r}; there is {known}")
