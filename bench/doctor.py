"""`bench doctor`: which data sets of the tables are there, which are not, and how much of each.

It looks for the official layout in a folder of data sets, or in one data set's own folder; it reads lists and names of
files, never their contents.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .desed import CLASSES, PARTS, TRAIN, WEAK_TRAIN, read_part
from .errors import BenchError, NeedsError
from .esc50 import list_esc50
from .folds import FoldedSounds
from .urbansound8k import list_urbansound8k
from .vegas_data import MANIFEST, read_clips
from .vggsound import PICTURE_FOLDERS, PICTURES, SOUND_FOLDERS, SOUNDS, read_list

VEGAS_FOLDERS = ("VEGAS", "VEGAS-5")
SHOWN = 5
"""Missing files that are named."""
COLUMNS = ("data set", "for", "status", "files", "official", "missing")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What is there of one data set."""

    dataset: str
    bench: str
    status: str
    """`ok`, `partial`, or `needs-data`."""
    files: int = 0
    listed: int = 0
    official: int | None = None
    """Files of the published set; None: it depends."""
    missing: tuple[str, ...] = ()
    """The first files that are not there."""
    missing_classes: tuple[str, ...] = ()
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"missing": list(self.missing), "missing_classes": list(self.missing_classes)}

    def cells(self) -> tuple[str, ...]:
        """Return the texts of `COLUMNS`."""
        official = "" if self.official is None else f"{self.official:,}"
        what = self.note or ", ".join((*self.missing, *(f"class {name}" for name in self.missing_classes[:SHOWN])))
        return self.dataset, self.bench, self.status, f"{self.files:,}/{self.listed:,}", official, what


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A data set of the tables."""

    name: str
    bench: str
    folders: tuple[str, ...]
    """Names under which it may lie."""
    official: int | None
    check: Callable[[Path], tuple[list[str], list[str], list[str]]]
    """Returns the files that are there, those that are missing, and classes of which none is there."""


def examine(data: Path) -> list[Finding]:
    """Return a finding for every data set of the tables.

    Raises:
        BenchError: `data` is no folder.
    """
    return [locate(data, dataset)[0] for dataset in DATASETS]


def locate(data: Path, dataset: DataSet) -> tuple[Finding, Path | None]:
    """Return what is there of a data set, and its folder, if that holds a list, be it a damaged one.

    Raises:
        BenchError: `data` is no folder.
    """
    if not data.is_dir():
        raise BenchError(f"{data}: there is no such folder; want the one that holds the data sets")
    names = {path.name.lower(): path for path in data.iterdir() if path.is_dir()}
    places = [names[name.lower()] for name in dataset.folders if name.lower() in names]
    needs = BenchError(f"no folder {' or '.join(dataset.folders)}")
    for place in [*places, data]:
        try:
            there, missing, classes = dataset.check(place)
        except NeedsError as e:
            needs = e if place != data or not places else needs
            continue
        except BenchError as e:
            return _absent(dataset, str(e)), place
        listed = len(there) + len(missing)
        whole = not missing and dataset.official in (None, listed)
        return Finding(
            dataset=dataset.name, bench=dataset.bench, status="ok" if whole else "partial" if there else "needs-data",
            files=len(there), listed=listed, official=dataset.official, missing=tuple(missing[:SHOWN]),
            missing_classes=tuple(classes),
        ), place  # fmt: skip
    return _absent(dataset, ", ".join(needs.expected) if isinstance(needs, NeedsError) else str(needs)), None


def _absent(dataset: DataSet, note: str) -> Finding:
    return Finding(dataset=dataset.name, bench=dataset.bench, status="needs-data", official=dataset.official, note=note)


def _folded(listing: Callable[[Path], FoldedSounds]) -> Callable[[Path], tuple[list[str], list[str], list[str]]]:
    def check(folder: Path) -> tuple[list[str], list[str], list[str]]:
        found = listing(folder)
        missing = [name for n, name in enumerate(found.names) if n not in found.targets]
        return [path.name for path in found.paths], list(found.absent), missing

    return check


def _vggsound(split: str) -> Callable[[Path], tuple[list[str], list[str], list[str]]]:
    def check(folder: Path) -> tuple[list[str], list[str], list[str]]:
        clips = read_list(folder, split)
        have = set(clips.files(SOUND_FOLDERS, SOUNDS)) & set(clips.files(PICTURE_FOLDERS, PICTURES))
        kept = clips.take([number for number, name in enumerate(clips.names) if name in have])
        missing = [f"video/{name}.mp4" for name in clips.names if name not in have]
        return list(kept.names), missing, kept.coverage(clips)["missing_classes"]

    return check


def _desed(part: str) -> Callable[[Path], tuple[list[str], list[str], list[str]]]:
    def check(root: Path) -> tuple[list[str], list[str], list[str]]:
        whole = read_part(root, part)
        have = whole.there()
        absent = sorted(set(whole.names) - set(have.names))
        missing = [CLASSES[number] for number in np.flatnonzero(~have.labels().any(axis=0))]
        return list(have.names), [f"{whole.folder.relative_to(root)}/{name}" for name in absent], missing

    return check


def _vegas(folder: Path) -> tuple[list[str], list[str], list[str]]:
    if not (folder / MANIFEST).is_file() and folder.name not in VEGAS_FOLDERS:
        raise NeedsError(f"{folder}: has no {MANIFEST}", status="needs-data", expected=(MANIFEST,))
    there, missing, categories = [], [], {}
    for clip in read_clips(folder):
        absent = [path for path in (clip.audio, clip.frame) if not path.is_file()]
        missing += [path.relative_to(folder).as_posix() for path in absent[:1]]
        there += [] if absent else [clip.clip_id]
        categories[clip.category] = categories.get(clip.category, 0) + (not absent)
    return there, missing, [name for name, count in sorted(categories.items()) if not count]


def _listed(
    table: str, delimiter: str, column: str, folder: str, *, encoding: str = "utf-8"
) -> Callable[[Path], tuple[list[str], list[str], list[str]]]:
    """Return a check of a table whose column names files, each once or in several rows."""

    def check(root: Path) -> tuple[list[str], list[str], list[str]]:
        names = sorted(set(_column(root, table, delimiter, column, encoding)))
        there = {name for name in names if (root / folder / name).is_file()}
        return sorted(there), [f"{folder}/{name}" for name in names if name not in there], []

    return check


def _column(root: Path, table: str, delimiter: str, column: str, encoding: str) -> Iterator[str]:
    path = root / table
    if not path.is_file():
        raise NeedsError(f"{path}: there is no such file", status="needs-data", expected=(table,))
    try:
        with path.open(newline="", encoding=encoding) as f:
            rows = csv.DictReader(f, delimiter=delimiter)
            if column not in (rows.fieldnames or ()):
                raise BenchError(f"{path.name}: has no column {column}")
            yield from (row[column] for row in rows if row[column])
    except (UnicodeDecodeError, csv.Error) as e:
        raise BenchError(f"{path.name}: not readable as {encoding} CSV ({e}); take it as it was published") from e


DATASETS = (
    DataSet(name="ESC-50", bench="esc50", folders=("ESC-50", "esc50"), official=2000, check=_folded(list_esc50)),
    DataSet(name="ESC-10", bench="esc50", folders=("ESC-10", "esc10"), official=400, check=_folded(list_esc50)),
    DataSet(
        name="UrbanSound8K", bench="urbansound8k", folders=("UrbanSound8K",), official=8732,
        check=_folded(list_urbansound8k),
    ),
    DataSet(
        name="VGGSound, test", bench="vggsound, vggsound-retrieval", folders=("VGGSound",), official=15_446,
        check=_vggsound("test"),
    ),
    DataSet(name="VGGSound, train", bench="vggsound", folders=("VGGSound",), official=None, check=_vggsound("train")),
    *(
        DataSet(
            name=f"DESED, {title}", bench="desed", folders=("DESED",), official=PARTS[part].official,
            check=_desed(part),
        )
        for title, part in (
            ("synthetic validation", "synth21-val"), ("validation", "real-val"),
            ("public evaluation", "public-eval"), ("synthetic training", TRAIN), ("weak training", WEAK_TRAIN),
        )
    ),
    DataSet(
        name="Clotho, evaluation", bench="clotho", folders=("Clotho",), official=1045,
        check=_listed("clotho_captions_evaluation.csv", ",", "file_name", "evaluation"),
    ),
    DataSet(
        name="Clotho, development", bench="clotho", folders=("Clotho",), official=None,
        check=_listed("clotho_captions_development.csv", ",", "file_name", "development"),
    ),
    DataSet(
        name="Clotho, validation", bench="clotho", folders=("Clotho",), official=None,
        check=_listed("clotho_captions_validation.csv", ",", "file_name", "validation"),
    ),
    DataSet(
        name="VEGAS-5", bench="vegas", folders=VEGAS_FOLDERS, official=None, check=_vegas,
    ),
)  # fmt: skip
