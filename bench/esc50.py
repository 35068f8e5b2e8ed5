"""`bench esc50`: classification of ESC-50 and ESC-10 on the official five folds.

Protocol. Each fold is measured once, with what was trained on the others; folds are those of the data set's own table,
and no other split is offered: clips cut from one recording share a fold, and a random split would leak them. Nothing is
chosen on the measured fold. The score is the mean over folds of top-1 accuracy (K. J. Piczak, "ESC: Dataset for
Environmental Sound Classification", 2015), with its deviation, and an interval over clips. A tower is either trained
from random weights on four folds (`wav2clip-supervised`), or frozen under a probe or asked with words (`folds.py`).
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..shards import SAMPLE_RATE
from .csv_rows import csv_rows, is_file_name
from .errors import BenchError, NeedsError
from .folds import FoldedSounds, Scored, check_folds, fold_result
from .protocol import Progress, Result
from .supervised import SupervisedConfig, train_classifier

FOLDS = (1, 2, 3, 4, 5)
SUPERVISED = "wav2clip-supervised"
TABLES = ("meta/esc50.csv", "meta.csv")
COLUMNS = ("filename", "fold", "target", "category")


@dataclass(frozen=True, kw_only=True, slots=True)
class Esc50Config:
    """What `unibrivl bench esc50` was asked to do with a tower from random weights."""

    data: Path
    """Folder in ESC-50's layout: `meta/esc50.csv` or `meta.csv`, and `audio/`."""
    folds: tuple[int, ...] = FOLDS
    """Folds to measure; fewer than five for a first look, which the result says."""
    classifier: SupervisedConfig = field(default_factory=SupervisedConfig)

    def __post_init__(self) -> None:
        """Refuse folds that there are not."""
        check_folds(self.folds, FOLDS)


@dataclass(frozen=True, slots=True)
class Esc50:
    """The data set, read."""

    sounds: list[np.ndarray]
    """float32 (samples,) at 16 kHz, mono."""
    listing: FoldedSounds

    @property
    def targets(self) -> np.ndarray:
        """Return int64 (clips,), from 0."""
        return self.listing.targets

    @property
    def folds(self) -> np.ndarray:
        """Return the fold of each clip."""
        return self.listing.folds

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return self.listing.names

    @property
    def listed(self) -> int:
        """Count the clips that the table names."""
        return self.listing.listed


def measure_esc50(config: Esc50Config, progress: Progress = lambda done, total, text: None) -> Result:
    """Train and measure a `wav2clip` tower from random weights, fold by fold.

    Raises:
        BenchError: the folder is not in ESC-50's layout, or a fold is missing.
    """
    data = read_esc50(config.data)
    predicted = np.full(len(data.sounds), -1, dtype=np.int64)
    for number, fold in enumerate(config.folds):
        train, test = np.flatnonzero(data.folds != fold), np.flatnonzero(data.folds == fold)

        def step(done: int, total: int, text: str, number: int = number, fold: int = fold) -> None:
            progress(number * total + done, len(config.folds) * total, f"fold {fold}, {text}")

        sounds = [data.sounds[i] for i in train]
        model = train_classifier(sounds, data.targets[train], len(data.names), config.classifier, step)
        found = model.predict([data.sounds[i] for i in test], config.classifier.batch_size)
        predicted[test] = found.argmax(axis=1)
    return fold_result(
        "esc50", "official folds, supervised from random weights, last epoch", "wav2clip", data.listing, config.folds,
        Scored(predicted), seed=config.classifier.seed, config=config.classifier.stored(),
    )  # fmt: skip


def read_esc50(folder: Path) -> Esc50:
    """Read a folder in ESC-50's layout; clips whose file is missing are left out and counted.

    Raises:
        BenchError: there is no table, it lacks columns or folds, or a sound cannot be read.
    """
    listing = list_esc50(folder)
    return Esc50([listing.load(number, SAMPLE_RATE) for number in range(len(listing.paths))], listing)


def list_esc50(folder: Path) -> FoldedSounds:
    """List what `read_esc50` reads."""
    rows = _rows(folder)
    kept = [row for row in rows if (folder / "audio" / row["filename"]).is_file()]
    folds = np.array([int(row["fold"]) for row in kept], dtype=np.int64)
    if missing := [fold for fold in FOLDS if fold not in folds]:
        raise BenchError(f"{folder}: no clip of fold {missing[0]} is there; want the five official folds")
    numbers = sorted({int(row["target"]) for row in rows})
    names = {int(row["target"]): row["category"] for row in rows}
    return FoldedSounds(
        tuple(folder / "audio" / row["filename"] for row in kept),
        np.array([numbers.index(int(row["target"])) for row in kept], dtype=np.int64), folds,
        tuple(names[number] for number in numbers),
        tuple(row.get("src_file") or row["filename"] for row in kept), len(rows), FOLDS,
        f"ESC-{len(numbers)}", tuple(f"audio/{row['filename']}" for row in rows if row not in kept),
    )  # fmt: skip


def _rows(folder: Path) -> list[dict[str, str]]:
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if table is None:
        raise NeedsError(
            f"{folder}: has neither {' nor '.join(TABLES)}; want ESC-50's folder",
            status="needs-data", expected=(TABLES[0], "audio/{FOLD}-{CLIP_ID}-{TAKE}-{TARGET}.wav"),
        )  # fmt: skip
    rows = csv_rows(table, COLUMNS)
    for number, row in rows:
        if not row["fold"].isdigit() or not row["target"].isdigit():
            raise BenchError(f"{table}:{number}: fold {row['fold']!r} and target {row['target']!r}, want whole numbers")
        if not is_file_name(row["filename"]):
            raise BenchError(f"{table}:{number}: filename {row['filename']!r}, want a plain file name")
    return [row for _, row in rows]
