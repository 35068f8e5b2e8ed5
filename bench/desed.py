"""DESED's lists of sounds at home, with their events in time or with labels of whole files.

Layout. Tables of tabs: `filename onset offset event_label`, a row an event, in seconds (a file without events has one
row of empty fields), or `filename event_labels` with a comma list for a whole file. Sources: turpaultn/DESED
(data/real/metadata); DCASE-REPO/DESED_task (recipes/dcase2021_task4_baseline/confs/sed.yaml), whose copies at 16 kHz
are taken, too.

Shapes: F files, C classes.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .csv_rows import is_file_name
from .errors import BenchError, NeedsError

CLASSES = (
    "Alarm_bell_ringing", "Blender", "Cat", "Dishes", "Dog", "Electric_shaver_toothbrush", "Frying", "Running_water",
    "Speech", "Vacuum_cleaner",
)  # fmt: skip
"""Every figure is over these, in this order, whatever a part of the files holds."""
STRONG, WEAK = ("filename", "onset", "offset", "event_label"), ("filename", "event_labels")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the data set, where its files lie."""

    table: str
    folders: tuple[str, ...]
    """Where its sounds may lie; the first that exists is taken, `soundscapes` before its copy at 16 kHz."""
    official: int
    """Files of the published part."""
    columns: tuple[str, ...] = STRONG


def _synthetic(split: str, name: str, official: int) -> Part:
    own = f"{split}/{name}/soundscapes"
    return Part(f"metadata/{own}.tsv", (f"audio/{own}", f"audio/{own}_16k"), official)


SUBSETS = ("synth21-val", "real-val", "public-eval")
"""That are measured."""
TRAIN, WEAK_TRAIN = "synth21-train", "weak"
PARTS = {
    "synth21-val": _synthetic("validation", "synthetic21_validation", 2500),
    "real-val": Part(
        "metadata/validation/validation.tsv",
        ("audio/validation/validation", "audio/validation/validation_16k", "audio/validation"), 1168,
    ),
    "public-eval": Part("metadata/eval/public.tsv", ("audio/eval/public", "audio/eval/public_16k"), 692),
    TRAIN: _synthetic("train", "synthetic21_train", 10_000),
    WEAK_TRAIN: Part("metadata/train/weak.tsv", ("audio/train/weak", "audio/train/weak_16k"), 1578, WEAK),
}  # fmt: skip


class Event(NamedTuple):
    """A sound of a class in a file."""

    onset: float
    """Seconds from the file's beginning."""
    offset: float
    label: int
    """Number in `CLASSES`."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Files of a part, with what the table says of them."""

    part: str
    names: tuple[str, ...]
    events: tuple[tuple[Event, ...], ...]
    """Of each file; for a list of labels, of the whole file and of no length."""
    folder: Path
    """Where the sounds lie, if anywhere."""
    listed: int
    """Files of the whole table."""

    @property
    def is_weak(self) -> bool:
        """Tell whether labels are of whole files."""
        return PARTS[self.part].columns == WEAK

    @property
    def is_whole(self) -> bool:
        """Tell whether this is every file of the published part."""
        return len(self.names) == self.listed == PARTS[self.part].official

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return where each file lies or would lie."""
        return tuple(self.folder / name for name in self.names)

    def take(self, numbers: Sequence[int] | np.ndarray) -> "Listing":
        """Return some of the files."""
        return replace(self, names=tuple(self.names[n] for n in numbers), events=tuple(self.events[n] for n in numbers))

    def there(self) -> "Listing":
        """Return the files that are there."""
        return self.take([number for number, path in enumerate(self.paths) if path.is_file()])

    def labels(self) -> np.ndarray:
        """Return which classes a file holds, boolean (F, C)."""
        found = np.zeros((len(self.names), len(CLASSES)), dtype=bool)
        for number, events in enumerate(self.events):
            found[number, [event.label for event in events]] = True
        return found


def read_part(data: Path, name: str) -> Listing:
    """Read the table of a part; whether its files are there is not looked at.

    Raises:
        NeedsError: there is no table.
        BenchError: it lacks columns, or a row is not one of DESED's: another class, no times, a path.
    """
    part = PARTS[name]
    table = data / part.table
    if not table.is_file():
        raise NeedsError(
            f"{data}: has no {part.table}; want DESED's folder, which holds metadata/ and audio/",
            status="needs-data", expected=(part.table, f"{part.folders[0]}/*.wav"),
        )  # fmt: skip
    events: dict[str, list[Event]] = {}
    for number, row in _rows(table, part.columns):
        place = f"{table}:{number}"
        read = _weak if part.columns == WEAK else _strong
        events.setdefault(_plain_name(row["filename"], place), []).extend(read(row, place))
    if not events:
        raise BenchError(f"{table}: lists no file; take the table as it was published")
    folder = next((data / place for place in part.folders if (data / place).is_dir()), data / part.folders[0])
    return Listing(name, tuple(events), tuple(tuple(sorted(found)) for found in events.values()), folder, len(events))


def _rows(table: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as f:
            rows = csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE, restkey="more", restval=None)
            if tuple(rows.fieldnames or ())[: len(columns)] != columns:
                raise BenchError(f"{table}: columns are {rows.fieldnames or 'none'}, want {', '.join(columns)} by tabs")
            found = [(rows.line_num, row) for row in rows]
    except (UnicodeDecodeError, csv.Error) as e:
        raise BenchError(f"{table}: not readable as a table of tabs in UTF-8 ({e}); take it as it was published") from e
    for number, row in found:
        if "more" in row or any(row[name] is None for name in columns):
            raise BenchError(f"{table}:{number}: {len(columns)} fields are wanted by tabs, and another number is there")
    return found


def _plain_name(name: str, place: str) -> str:
    """Return a file's name that cannot lead out of its folder."""
    if not is_file_name(name):
        raise BenchError(f"{place}: filename {name!r}, want a plain file name")
    return name


def _strong(row: dict[str, str], place: str) -> list[Event]:
    onset, offset, label = (row[name].strip() for name in STRONG[1:])
    if not onset and not offset and not label:
        return []  # the file has no event
    try:
        begin, end = float(onset), float(offset)
    except ValueError as e:
        raise BenchError(f"{place}: onset {onset!r} and offset {offset!r}, want seconds, or three empty fields") from e
    if not (0 <= begin < end and math.isfinite(end)):
        raise BenchError(f"{place}: from {onset} to {offset} s, want an end after the beginning, and neither below 0")
    return [Event(begin, end, _class_number(label, place))]


def _weak(row: dict[str, str], place: str) -> list[Event]:
    labels = [label.strip() for label in row["event_labels"].split(",")]
    return [Event(0.0, 0.0, _class_number(label, place)) for label in labels]


def _class_number(label: str, place: str) -> int:
    if label not in CLASSES:
        raise BenchError(f"{place}: class {label!r} is none of DESED's ten: {', '.join(CLASSES)}")
    return CLASSES.index(label)
