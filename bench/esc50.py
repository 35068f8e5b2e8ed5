"""`bench esc50`: classification of ESC-50 and ESC-10 on the official five folds.

Protocol. Each fold is measured once, with what was trained on the four others; folds are those of the data set's own
table, and no other split is offered: clips cut from one recording share a fold, and a random split would leak them.
Nothing is chosen on the measured fold. The score is the mean over folds of top-1 accuracy (K. J. Piczak, "ESC: Dataset
for Environmental Sound Classification", 2015), with its deviation, and an interval over clips.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from .environment import environment
from .errors import BenchError
from .supervised import SupervisedConfig, read_sound, train_classifier

FOLDS = (1, 2, 3, 4, 5)
TABLES = ("meta/esc50.csv", "meta.csv")
COLUMNS = ("filename", "fold", "target", "category")
RESAMPLES = 2000
"""Of the bootstrap."""
Progress = Callable[[int, int, str], None]
"""Called with steps done, of how many, and what it is."""


def check_folds(folds: tuple[int, ...]) -> None:
    """Raise a ValueError for folds that there are not."""
    if not folds or set(folds) - set(FOLDS) or len(set(folds)) < len(folds):
        raise ValueError(f"folds are {folds}, want different ones of {FOLDS}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Esc50Config:
    """What `unibrivl bench esc50` was asked to do."""

    data: Path
    """Folder in ESC-50's layout: `meta/esc50.csv` or `meta.csv`, and `audio/`."""
    folds: tuple[int, ...] = FOLDS
    """Folds to measure; fewer than five for a first look, which the result says."""
    classifier: SupervisedConfig = field(default_factory=SupervisedConfig)

    def __post_init__(self) -> None:
        """Refuse folds that there are not."""
        check_folds(self.folds)


@dataclass(frozen=True, slots=True)
class Esc50:
    """The data set, read."""

    sounds: list[np.ndarray]
    """float32 (samples,) at 16 kHz, mono."""
    targets: np.ndarray
    """int64 (clips,), from 0."""
    folds: np.ndarray
    names: tuple[str, ...]
    """Of the classes."""
    listed: int
    """Clips that the table names."""


def measure_esc50(config: Esc50Config, progress: Progress = lambda done, total, text: None) -> dict[str, Any]:
    """Train and measure a `wav2clip` tower from random weights, fold by fold; return figures as plain JSON values.

    Raises:
        BenchError: the folder is not in ESC-50's layout, or a fold is missing.
    """
    data = read_esc50(config.data)
    correct = np.full(len(data.sounds), -1, dtype=np.int64)
    for number, fold in enumerate(config.folds):
        train, test = np.flatnonzero(data.folds != fold), np.flatnonzero(data.folds == fold)

        def step(done: int, total: int, text: str, number: int = number, fold: int = fold) -> None:
            progress(number * total + done, len(config.folds) * total, f"fold {fold}, {text}")

        sounds = [data.sounds[i] for i in train]
        model = train_classifier(sounds, data.targets[train], len(data.names), config.classifier, step)
        found = model.predict([data.sounds[i] for i in test], config.classifier.batch_size)
        correct[test] = found.argmax(axis=1) == data.targets[test]
    return _result(config, data, correct)


def _result(config: Esc50Config, data: Esc50, correct: np.ndarray) -> dict[str, Any]:
    by_fold = {fold: float(correct[data.folds == fold].mean()) for fold in config.folds}
    values = np.array(list(by_fold.values()))
    measured = correct[correct >= 0]
    is_whole = config.folds == FOLDS and len(data.sounds) == data.listed
    return {
        "bench": "esc50",
        "protocol": "official folds, supervised from random weights, last epoch",
        "tower": "wav2clip",
        "metrics": {
            "accuracy": round(float(values.mean()), 4),
            "accuracy_sd": round(float(values.std(ddof=1)), 4) if len(values) > 1 else None,
            "accuracy_by_fold": {str(fold): round(value, 4) for fold, value in by_fold.items()},
        },
        "chance": {"accuracy": round(1 / len(data.names), 4)},
        "oracle": {"accuracy": 1.0},
        "coverage": {"clips": len(data.sounds), "listed": data.listed, "folds": list(config.folds)},
        "interval": {"accuracy": bootstrap(measured, config.classifier.seed), "level": 0.95},
        "seed": config.classifier.seed,
        "status": "ok" if is_whole else "partial",
        "classes": list(data.names),
        "config": config.classifier.stored(),
        "environment": environment(),
    }


def bootstrap(correct: np.ndarray, seed: int) -> list[float]:
    """Return the bounds that hold 95 % of the means of resampled clips."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    means = rng.choice(correct, (RESAMPLES, len(correct))).mean(axis=1)
    return [round(float(value), 4) for value in np.quantile(means, (0.025, 0.975))]


def read_esc50(folder: Path) -> Esc50:
    """Read a folder in ESC-50's layout; clips whose file is missing are left out and counted.

    Raises:
        BenchError: there is no table, it lacks columns or folds, or no sound can be read.
    """
    rows = _rows(folder)
    sounds, kept = [], []
    for row in rows:
        path = folder / "audio" / row["filename"]
        if path.is_file():
            try:
                sounds.append(read_sound(*soundfile.read(path, dtype="float32", always_2d=True)))
            except soundfile.SoundFileError as e:
                raise BenchError(f"{path}: not readable as sound ({e}); fetch it again") from e
            kept.append(row)
    folds = np.array([int(row["fold"]) for row in kept], dtype=np.int64)
    if missing := [fold for fold in FOLDS if fold not in folds]:
        raise BenchError(f"{folder}: no clip of fold {missing[0]} is there; want the five official folds")
    numbers = sorted({int(row["target"]) for row in rows})
    names = {int(row["target"]): row["category"] for row in rows}
    targets = np.array([numbers.index(int(row["target"])) for row in kept], dtype=np.int64)
    return Esc50(sounds, targets, folds, tuple(names[number] for number in numbers), len(rows))


def _rows(folder: Path) -> list[dict[str, str]]:
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if table is None:
        raise BenchError(f"{folder}: has neither {' nor '.join(TABLES)}; want ESC-50's folder")
    with table.open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    if not rows or any(name not in rows[0] for name in COLUMNS):
        raise BenchError(f"{table}: want the columns {', '.join(COLUMNS)}")
    for number, row in enumerate(rows, start=2):
        if not (row["fold"] or "").isdigit() or not (row["target"] or "").isdigit():
            raise BenchError(f"{table}:{number}: fold {row['fold']!r} and target {row['target']!r}, want whole numbers")
        if Path(row["filename"]).name != row["filename"]:
            raise BenchError(f"{table}:{number}: filename {row['filename']!r}, want a plain file name")
    return rows
