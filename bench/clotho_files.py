"""Clotho's lists and sounds, in the official layout.

Layout. `clotho_captions_{development,validation,evaluation}.csv`: file_name, caption_1 to caption_5, UTF-8;
`clotho_metadata_{...}.csv`: file_name, keywords, sound_id and more, ISO-8859-1; sounds in `development/`,
`validation/` and `evaluation/`. Version 1 has no validation split: a drawn tenth of development takes its place.
What DCASE calls development-testing is `evaluation` here. Source: Labbeti/aac-datasets, datasets/functional/clotho.py.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .captions import words_of
from .csv_rows import is_file_name
from .errors import BenchError, NeedsError

TRAINING, VALIDATION, EVALUATION = "development", "validation", "evaluation"
SPLITS = (TRAINING, VALIDATION, EVALUATION)
EVALUATION_CLIPS = 1045
CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))
VALID_SHARE = 0.1
MAX_CAPTION = 2000
"""Characters; the longest of Clotho has some 150."""


@dataclass(frozen=True, slots=True)
class CaptionedClips:
    """Clips of a split whose sounds are there."""

    split: str
    names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    """Of each clip, five, as people wrote them."""
    sounds: tuple[str, ...]
    """Of each clip, the recording it was cut from; its own name where the metadata do not say."""
    folder: Path
    listed: int
    """Clips of the list, whether their sounds are there or not."""

    def take(self, numbers: np.ndarray) -> "CaptionedClips":
        """Return some of them."""
        names, captions, sounds = (
            tuple(values[n] for n in numbers) for values in (self.names, self.captions, self.sounds)
        )
        return replace(self, names=names, captions=captions, sounds=sounds)

    def path(self, number: int) -> Path:
        """Return where a clip's sound lies."""
        return self.folder / self.names[number]


@dataclass(frozen=True, slots=True)
class Clotho:
    """The data set, listed."""

    train: CaptionedClips
    valid: CaptionedClips
    test: CaptionedClips
    has_validation: bool
    """False: version 1, whose validation clips are drawn from development."""


def read_clotho(data: Path, *, seed: int, limit: int | None = None, needs_sounds: bool = True) -> Clotho:
    """Read the lists; clips whose sound is missing are left out and counted.

    Args:
        data: folder in Clotho's layout.
        seed: of the validation clips of version 1, and of `limit`.
        limit: that many clips of each split at most, drawn.
        needs_sounds: False for an encoder that hears nothing: every clip is there.

    Raises:
        NeedsError: a list, or every sound of a split, is missing.
        BenchError: a list is not Clotho's.
    """
    train = read_split(data, TRAINING, needs_sounds=needs_sounds)
    test = read_split(data, EVALUATION, needs_sounds=needs_sounds)
    has_validation = (data / captions_file(VALIDATION)).is_file()
    if has_validation:
        valid = read_split(data, VALIDATION, needs_sounds=needs_sounds)
    else:
        train, valid = _drawn_tenth(train, seed)
    _refuse_shared(data, (train, valid, test))
    train, valid, test = (_limited(clips, limit, seed) for clips in (train, valid, test))
    return Clotho(train, valid, test, has_validation)


def captions_file(split: str) -> str:
    """Return the name of a split's list."""
    return f"clotho_captions_{split}.csv"


def read_split(data: Path, split: str, *, needs_sounds: bool = True) -> CaptionedClips:
    """Read one split; as `read_clotho`."""
    path, folder = data / captions_file(split), data / split
    if not path.is_file():
        raise NeedsError(
            f"{data}: has no {path.name}; want Clotho's folder", status="needs-data",
            expected=(path.name, f"clotho_metadata_{split}.csv", f"{split}/*.wav"),
        )  # fmt: skip
    rows = {row["file_name"]: row for row in _caption_rows(path)}
    kept = [name for name in rows if not needs_sounds or (folder / name).is_file()]
    if not kept:
        raise NeedsError(
            f"{folder}: not one of {len(rows)} sounds is there", status="needs-data",
            expected=tuple(f"{split}/{name}" for name in list(rows)[:3]),
        )  # fmt: skip
    recordings = _recordings(data / f"clotho_metadata_{split}.csv")
    return CaptionedClips(
        split, tuple(kept), tuple(tuple(rows[name][c].strip() for c in CAPTIONS) for name in kept),
        tuple(recordings.get(name, name) for name in kept), folder, len(rows),
    )  # fmt: skip


def _caption_rows(path: Path) -> list[dict[str, str]]:
    rows, seen = [], set()
    for number, row in _rows(path, ("file_name", *CAPTIONS), "utf-8-sig"):
        where, name = f"{path}:{number}", row["file_name"]
        if not is_file_name(name):
            raise BenchError(f"{where}: file_name {name[:80]!r}, want a plain file name")
        if name in seen:
            raise BenchError(f"{where}: {name} stands twice; take the list as it was published")
        for column in CAPTIONS:
            if not words_of(row[column]) or len(row[column]) > MAX_CAPTION:
                raise BenchError(f"{where}: {column} is {row[column][:40]!r}, want a caption; every clip has five")
        seen.add(name)
        rows.append(row)
    if not rows:
        raise BenchError(f"{path}: lists no clip")
    return rows


def _recordings(path: Path) -> dict[str, str]:
    """Return the recording of each clip that the metadata name by number; Clotho leaves some unnamed."""
    if not path.is_file():
        return {}
    rows = [row for _, row in _rows(path, ("file_name", "sound_id"), "iso-8859-1")]
    return {row["file_name"]: row["sound_id"].strip() for row in rows if row["sound_id"].strip().isdigit()}


def _rows(path: Path, columns: tuple[str, ...], encoding: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table with their lines, every one of `columns` a text."""
    try:
        with path.open(newline="", encoding=encoding) as f:
            rows = csv.DictReader(f)
            if missing := [name for name in columns if name not in (rows.fieldnames or ())]:
                raise BenchError(f"{path}: has no column {missing[0]}; want {', '.join(columns)}")
            for row in rows:
                if (
                    None in row and columns[1:] == CAPTIONS
                ):  # moved on by a comma; metadata have fields that nobody asks
                    raise BenchError(f"{path}:{rows.line_num}: has more fields than columns; want commas in quotes")
                yield rows.line_num, {name: row[name] or "" for name in columns}
    except UnicodeDecodeError as e:
        raise BenchError(
            f"{path}: not {encoding.removesuffix('-sig')} ({e.reason}); take it as it was published"
        ) from e
    except (csv.Error, OSError) as e:
        raise BenchError(f"{path}: not readable as CSV ({e}); take it as it was published") from e


def _drawn_tenth(train: CaptionedClips, seed: int) -> tuple[CaptionedClips, CaptionedClips]:
    """Return development without, and with only, a drawn tenth of its recordings."""
    recordings, recording_of = np.unique(train.sounds, return_inverse=True)
    if len(recordings) < 2:
        raise BenchError(f"{train.folder}: one recording, and no validation split; want at least two to draw one from")
    rng = np.random.Generator(np.random.Philox(key=[seed, 2]))
    drawn = (rng.permutation(len(recordings)) < max(1, round(VALID_SHARE * len(recordings))))[recording_of]
    kept, held = train.take(np.flatnonzero(~drawn)), train.take(np.flatnonzero(drawn))
    return replace(kept, listed=train.listed - len(held.names)), replace(held, listed=len(held.names))


def _refuse_shared(data: Path, splits: tuple[CaptionedClips, ...]) -> None:
    """Refuse a clip of two splits under one name; drawn splits share a folder and no clip."""
    home: dict[str, str] = {}
    for clips in splits:
        for name in clips.names:
            if home.setdefault(name, clips.split) != clips.split:
                raise BenchError(f"{data}: {name} is in {home[name]} and in {clips.split}; want splits without overlap")


def _limited(clips: CaptionedClips, limit: int | None, seed: int) -> CaptionedClips:
    if limit is None or limit >= len(clips.names):
        return clips
    rng = np.random.Generator(np.random.Philox(key=[seed, 3]))
    return clips.take(np.sort(rng.permutation(len(clips.names))[:limit]))
