"""Segments: immutable folders of embeddings of one modality, named by their content.

`segments/{sha256}/vectors.npy` (float16, unit norm, C order) is the truth; `rows.parquet` says, row by row, what
each vector is. Shapes: N rows, D dimensions.
"""

import hashlib
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..shards.atomic import TEMPORARY_MARK, sync_directory, temporary_path, write_file
from ..shards.commit import describe_file
from .errors import IndexStoreError

FILES = ("vectors.npy", "rows.parquet")

ROWS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("item_id", pa.string()),
        ("modality", pa.string()),
        ("key", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("caption", pa.string()),
        ("language", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("media_id", pa.string()),
        ("start_ms", pa.int64()),
        ("end_ms", pa.int64()),
        ("shard", pa.string()),
        ("tar_offset", pa.int64()),
        ("tar_len", pa.int64()),
        ("content_sha256", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Segment:
    """An opened segment."""

    id: str
    modality: str
    vectors_ND: np.ndarray
    """float16, mapped from the file."""
    rows: pa.Table
    folder: Path


def write_segment(directory: Path, modality: str, vectors_ND: np.ndarray, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Write a segment below `directory`; return its entry for the manifest.

    Args:
        directory: the index's `segments`.
        modality: of every row.
        vectors_ND: float32; normalised here.
        rows: what each vector is, without `row`, `item_id` and `modality`.

    Raises:
        IndexStoreError: a vector is not finite or has no length, or two rows have one key.
    """
    norms = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
    if len(vectors_ND) != len(rows) or len(bad):
        what = f"row {bad[0]} ({rows[bad[0]]['key']}) is not finite or zero" if len(bad) else "rows are missing"
        raise IndexStoreError(f"{modality} embeddings cannot be indexed: {what}")
    twice = [key for key, count in Counter(row["key"] for row in rows).items() if count > 1]
    if twice:
        raise IndexStoreError(f"{modality} embeddings cannot be indexed: two clips have one key, {twice[0]}")
    identified = [
        row | {"row": number, "item_id": f"{row['key']}/{modality}", "modality": modality}
        for number, row in enumerate(rows)
    ]
    temporary = temporary_path(directory / "segment")
    temporary.mkdir(parents=True)
    try:
        unit = (vectors_ND / norms).astype(np.float16)
        write_file(temporary / "vectors.npy", lambda f: np.save(f, unit, allow_pickle=False))
        table = pa.Table.from_pylist(identified, schema=ROWS_SCHEMA)
        write_file(temporary / "rows.parquet", lambda f: pq.write_table(table, f, compression="zstd"))
        files = {name: describe_file(temporary / name) for name in FILES}
        name = hashlib.sha256("".join(files[n]["sha256"] for n in FILES).encode()).hexdigest()
        entry = {"id": name, "modality": modality, "rows": len(rows), "files": files}
        if (directory / name).exists():  # the same content, or what damage has left of it
            shutil.rmtree(directory / name)
        temporary.rename(directory / name)
        sync_directory(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return entry


def open_segment(directory: Path, entry: dict[str, Any]) -> Segment:
    """Open the segment of a manifest entry, every byte checked.

    Raises:
        IndexStoreError: a file is missing or is not the one that was written.
    """
    folder = directory / entry["id"]
    for name in FILES:
        path = folder / name
        if not path.is_file():
            raise IndexStoreError(f"{path} is missing; build the index again")
        if describe_file(path) != entry["files"][name]:
            raise IndexStoreError(f"{path} is damaged: its SHA-256 is not the manifest's; build the index again")
    vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
    with pq.ParquetFile(folder / "rows.parquet") as file:
        rows = file.read()
    if vectors.dtype != np.float16 or vectors.ndim != 2 or not len(vectors) == len(rows) == entry["rows"]:
        raise IndexStoreError(f"{folder}: vectors and rows do not fit each other; build the index again")
    return Segment(entry["id"], entry["modality"], vectors, rows, folder)


def remove_leftovers(directory: Path) -> None:
    """Delete what interrupted writes left; call it only under the index's lock."""
    for path in directory.glob(f".*{TEMPORARY_MARK}*"):
        shutil.rmtree(path)
