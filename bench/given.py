"""Embeddings that were made elsewhere: `.npy` in a list's order, or Parquet by clip, as `unibrivl embed` writes it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import BenchError, NeedsError

NAMES = ("item", "clip", "key", "id")
VECTORS = ("embedding", "vector")


def read_embeddings(path: Path, modality: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the embedding of each clip by name.

    Args:
        path: `.npy` (N, D) with a row for each of `names`, a Parquet file, or a folder of those.
        modality: `audio` or `image`: the column of Parquet, where there is no `embedding`.
        names: of the whole list.

    Raises:
        NeedsError: it is not there.
        BenchError: it does not fit the list, or holds what is no number.
    """
    if not path.exists():
        raise NeedsError(f"{path}: there is no such file", status="needs-data", expected=(path.name,))
    if path.suffix == ".npy":
        vectors = _read_npy(path)
        if len(vectors) != len(names):
            raise BenchError(f"{path}: {len(vectors)} rows, want {len(names)}, one for each clip of the list")
        return _checked(path, dict(zip(names, vectors, strict=True)))
    found: dict[str, np.ndarray] = {}
    for file in sorted(path.rglob("*.parquet")) if path.is_dir() else [path]:
        found |= _read_parquet(file, modality)
    return _checked(path, found)


def _read_npy(path: Path) -> np.ndarray:
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as e:
        raise BenchError(f"{path}: not readable as .npy ({e})") from e
    if vectors.ndim != 2:
        raise BenchError(f"{path}: shape {vectors.shape}, want (clips, dimensions)")
    return vectors.astype(np.float32)


def _read_parquet(path: Path, modality: str) -> dict[str, np.ndarray]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as e:
        raise BenchError(f"{path}: not readable as Parquet ({e})") from e
    column = next((name for name in (modality, *VECTORS) if name in table.column_names), None)
    if column is None:
        raise BenchError(f"{path}: has no column {modality} or embedding; it has {', '.join(table.column_names)}")
    vectors = np.stack(table[column].to_numpy()) if len(table) else np.zeros((0, 1))
    return dict(zip(_names(path, table), vectors.astype(np.float32), strict=True))


def _names(path: Path, table: pa.Table) -> list[str]:
    """Return the clips' names: `<id>_<start:06d>` of medium and start, or what a column says."""
    if {"media_id", "start_ms"} <= set(table.column_names):
        media, starts = table["media_id"].to_pylist(), table["start_ms"].to_pylist()
        return [f"{medium}_{start // 1000:06d}" for medium, start in zip(media, starts, strict=True)]
    column = next((name for name in NAMES if name in table.column_names), None)
    if column is None:
        raise BenchError(f"{path}: has none of the columns media_id with start_ms, {', '.join(NAMES)}")
    return [str(name).removesuffix(".mp4") for name in table[column].to_pylist()]


def _checked(path: Path, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for name, vector in found.items():
        if not np.isfinite(vector).all():
            raise BenchError(f"{path}: the embedding of {name} holds what is no number; embed it again")
    return found
