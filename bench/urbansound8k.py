"""`bench urbansound8k`: ten classes of city sound on the official ten folds.

Layout and folds are the data set's own (J. Salamon, C. Jacoby, J. P. Bello, 2014): `metadata/UrbanSound8K.csv` and
`audio/fold1` to `audio/fold10`. A random split would leak: slices of one recording share a fold.
"""

from pathlib import Path

import numpy as np

from .csv_rows import csv_rows, is_file_name
from .errors import BenchError, NeedsError
from .folds import FoldedSounds

FOLDS = tuple(range(1, 11))
TABLE = "metadata/UrbanSound8K.csv"
COLUMNS = ("slice_file_name", "fsID", "fold", "classID", "class")


def list_urbansound8k(folder: Path) -> FoldedSounds:
    """List a folder in UrbanSound8K's layout; clips whose file is missing are left out and counted.

    Raises:
        BenchError: there is no table, or it lacks columns or folds.
    """
    table = folder / TABLE
    if not table.is_file():
        expected = (TABLE, "audio/fold{1..10}/{fsID}-{classID}-{occurrenceID}-{sliceID}.wav")
        raise NeedsError(
            f"{folder}: has no {TABLE}; want UrbanSound8K's folder", status="needs-data", expected=expected
        )
    rows = _rows(table)
    paths = [folder / "audio" / f"fold{row['fold']}" / row["slice_file_name"] for row in rows]
    kept = [(row, path) for row, path in zip(rows, paths, strict=True) if path.is_file()]
    folds = np.array([int(row["fold"]) for row, _ in kept], dtype=np.int64)
    if missing := [fold for fold in FOLDS if fold not in folds]:
        raise BenchError(f"{folder}: no clip of fold {missing[0]} is there; want the ten official folds")
    names = {int(row["classID"]): row["class"] for row in rows}
    numbers = sorted(names)
    targets = np.array([numbers.index(int(row["classID"])) for row, _ in kept], dtype=np.int64)
    return FoldedSounds(
        tuple(path for _, path in kept), targets, folds, tuple(names[n] for n in numbers),
        tuple(row["fsID"] for row, _ in kept), len(rows), FOLDS,
        "UrbanSound8K", tuple(f"audio/{path.parent.name}/{path.name}" for path in paths if not path.is_file()),
    )  # fmt: skip


def _rows(table: Path) -> list[dict[str, str]]:
    rows = csv_rows(table, COLUMNS)
    for number, row in rows:
        if not row["fold"].isdigit() or not row["classID"].isdigit():
            raise BenchError(f"{table}:{number}: fold {row['fold']!r}, classID {row['classID']!r}, want whole numbers")
        if not is_file_name(row["slice_file_name"]):
            raise BenchError(f"{table}:{number}: slice_file_name {row['slice_file_name']!r}, want a plain file name")
    return [row for _, row in rows]
