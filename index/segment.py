"""Segments: immutable folders of embeddings of one modality, named by their content.

`segments/{sha256}/vectors.npy` (float16, unit norm, C order) is the truth; `rows.parquet` says, row by row, what
each vector is; `ann.faiss` is there where searching them all would take too long. A segment is written as a draft,
into a hidden folder, in one pass over blocks of vectors; sealing it gives it its name.

Shapes: N rows, D dimensions, B rows of a block.
"""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from ..shards.atomic import TEMPORARY_MARK, sync_directory, temporary_path, write_file
from ..shards.commit import describe_file
from .errors import IndexStoreError

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers
VECTORS, ROWS, ANN = "vectors.npy", "rows.parquet", "ann.faiss"
GIVEN_SCHEMA = pa.schema(
    [
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
        ("source", pa.int32()),
    ]
)
"""What is known of a clip; `source` is the number of its shard set in the manifest."""
ROWS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("item_id", pa.string()),
        ("modality", pa.string()),
        *GIVEN_SCHEMA,
        ("duration_s", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Draft:
    """A segment that is being written; nobody finds it by a name."""

    folder: Path
    modality: str
    vectors_ND: np.ndarray
    """float16, unit norm, mapped from the file."""
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class Segment:
    """An opened segment."""

    id: str
    modality: str
    vectors_ND: np.ndarray
    """float16, unit norm, mapped from the file."""
    rows: pa.Table
    folder: Path
    """May hold `ann.faiss`."""


def draft_segment(directory: Path, modality: str, blocks: Iterable[np.ndarray], given: pa.Table) -> Draft:
    """Write vectors and rows of a segment into a hidden folder below `directory`.

    Args:
        directory: the index's `segments`.
        modality: of every row.
        blocks: float32 (B, D) in the order of the rows; normalised here, and never held together. float16 blocks are
            those of other segments, and stay as they are.
        given: what each vector is, with the columns of `GIVEN_SCHEMA`.

    Raises:
        IndexStoreError: a vector is not finite or has no length, two rows have one key, or there are more or fewer
            vectors than rows.
    """
    rows = _identified(modality, given)
    folder = temporary_path(directory / "segment")
    folder.mkdir(parents=True)
    try:
        write_file(folder / VECTORS, lambda f: _write_vectors(f, modality, blocks, rows["key"]))
        write_file(folder / ROWS, lambda f: pq.write_table(rows, f, compression="zstd"))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Draft(folder, modality, np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False), rows)


def seal_segment(draft: Draft, directory: Path) -> dict[str, Any]:
    """Give a draft its name, and return its entry for the manifest; the name is the hash of its files."""
    files = {
        name: describe_file(draft.folder / name) for name in (VECTORS, ROWS, ANN) if (draft.folder / name).exists()
    }
    name = hashlib.sha256("".join(about["sha256"] for about in files.values()).encode()).hexdigest()
    entry = {"id": name, "modality": draft.modality, "rows": len(draft.rows), "files": files}
    sync_directory(draft.folder)
    if (directory / name).exists():
        if next(segment_faults(directory, entry), None) is None:  # it may be in use: at no moment may it be gone
            shutil.rmtree(draft.folder)
            return entry
        discard(directory / name)
    draft.folder.rename(directory / name)
    sync_directory(directory)
    return entry


def open_segment(directory: Path, entry: dict[str, Any]) -> Segment:
    """Open the segment of a manifest entry, every byte checked.

    Raises:
        IndexStoreError: a file is missing or is not the one that was written.
    """
    folder = directory / entry["id"]
    if fault := next(segment_faults(directory, entry), None):
        raise IndexStoreError(f"{fault}; build the index again")
    vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
    with pq.ParquetFile(folder / ROWS) as file:
        rows = file.read()
    if vectors.dtype != np.float16 or vectors.ndim != 2 or not len(vectors) == len(rows) == entry["rows"]:
        raise IndexStoreError(f"{folder}: vectors and rows do not fit each other; build the index again")
    return Segment(entry["id"], entry["modality"], vectors, rows, folder)


def segment_faults(directory: Path, entry: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a segment's files, a line each."""
    folder = directory / entry["id"]
    for name, about in entry["files"].items():
        path = folder / name
        if not path.is_file():
            yield f"{path} is missing"
        elif describe_file(path) != about:
            yield f"{path} is damaged: its SHA-256 is not the manifest's"
    if ANN not in entry["files"] and (folder / ANN).exists():
        yield f"{folder / ANN} is not in the manifest"


def discard(folder: Path) -> None:
    """Delete a folder that nobody shall find half of: it loses its name first."""
    hidden = temporary_path(folder)
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Delete what interrupted writes left; call it only under the index's lock."""
    for path in directory.glob(f".*{TEMPORARY_MARK}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _identified(modality: str, given: pa.Table) -> pa.Table:
    """Return the rows as they are stored.

    Raises:
        IndexStoreError: two rows have one key.
    """
    counts = pc.value_counts(given["key"])
    twice = (
        [found["values"].as_py() for found in counts if found["counts"].as_py() > 1] if len(counts) < len(given) else []
    )
    if twice:
        raise IndexStoreError(f"{modality} embeddings cannot be indexed: two clips have one key, {twice[0]}")
    spans = pc.subtract(given["end_ms"], given["start_ms"])
    columns = {name: given[name] for name in GIVEN_SCHEMA.names} | {
        "row": pa.array(np.arange(len(given))),
        "item_id": pc.binary_join_element_wise(given["key"], modality, "/"),
        "modality": pa.array([modality]).take(pa.array(np.zeros(len(given), np.int64))),
        "duration_s": pc.divide(pc.cast(spans, pa.float64()), 1000.0),
    }
    return pa.table({name: columns[name] for name in ROWS_SCHEMA.names}).cast(ROWS_SCHEMA)


def _write_vectors(file: BinaryIO, modality: str, blocks: Iterable[np.ndarray], keys: pa.ChunkedArray) -> None:
    """Write blocks as one NumPy file, float16 and of unit norm."""
    done, dim = 0, None
    for block_BD in blocks:
        if dim is None:
            dim = block_BD.shape[1]
            header = {"descr": "<f2", "fortran_order": False, "shape": (len(keys), dim)}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(_unit(modality, block_BD, dim, keys, done).tobytes())
        done += len(block_BD)
    if dim is None or done != len(keys):
        raise IndexStoreError(
            f"{modality} embeddings cannot be indexed: rows are missing, {done} vectors for {len(keys)} clips"
        )


def _unit(modality: str, block_BD: np.ndarray, dim: int, keys: pa.ChunkedArray, start: int) -> np.ndarray:
    wide_BD = np.asarray(block_BD, dtype=np.float32)
    if wide_BD.ndim != 2 or wide_BD.shape[1] != dim:
        raise IndexStoreError(
            f"{modality} embeddings cannot be indexed: row {start} has {wide_BD.shape[-1]} numbers, others {dim}"
        )
    norms_B = np.linalg.norm(wide_BD, axis=1)
    bad = np.flatnonzero(~np.isfinite(norms_B) | (norms_B == 0))
    if len(bad):
        row = start + int(bad[0])
        name = f" ({keys[row].as_py()})" if row < len(keys) else ""
        raise IndexStoreError(f"{modality} embeddings cannot be indexed: row {row}{name} is not finite or zero")
    if block_BD.dtype == np.float16:
        return block_BD  # of another segment, and of unit norm: its bits stay
    return (wide_BD / norms_B[:, None]).astype(np.float16)
