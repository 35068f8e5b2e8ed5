"""Reads sidecars, the tables with one row a planned clip, and never believes one that its commit does not vouch for."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from .commit import Commit, Damage, DamageError
from .schema import SIDECAR_SCHEMA
from .tarindex import BLOCK, END_OF_TAR

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers

Item = TypeVar("Item")
Result = TypeVar("Result")

STATUSES = ("ok", "failed")
PLACE = ("tar_offset", "tar_len", "sample_xxh3")
"""Columns that say where the sample of a clip lies and what it is."""


def read_sidecar(commit: Commit) -> pa.Table:
    """Return a shard's sidecar in `SIDECAR_SCHEMA`, checked against the commit and within itself.

    Raises:
        ShardError: the table is damaged, not the one that was committed, or points beyond the tar.
    """
    path = commit.path(".parquet")
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != commit.files[".parquet"]["sha256"]:
            raise ValueError("SHA-256 differs from its commit")
        table = parse_table(data)
        check_rows(table, commit)
    except (pa.ArrowException, KeyError, ValueError, OSError) as e:
        raise DamageError(Damage(path=path, reason=f"is no sound sidecar ({e})", shard=commit.name)) from e
    return table


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield `function` of each item in their order; hashing and Parquet leave Python's lock to others.

    No more is done ahead than keeps the threads busy, so memory stays flat and an interruption is felt at once.
    """
    if len(items) < 2:  # not worth a thread
        yield from map(function, items)
        return
    width = min(8, len(os.sched_getaffinity(0)))
    threads, waiting = ThreadPoolExecutor(max_workers=width), deque[Future[Result]]()
    try:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > 2 * width:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


def parse_table(data: bytes) -> pa.Table:
    """Parse Parquet bytes in `SIDECAR_SCHEMA`; columns that a later version may add are left aside.

    Raises:
        ArrowException, KeyError, ValueError, OSError: they are no such table.
    """
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        table = file.read(columns=SIDECAR_SCHEMA.names, use_threads=False).select(SIDECAR_SCHEMA.names)
    return table if table.schema.equals(SIDECAR_SCHEMA) else table.cast(SIDECAR_SCHEMA)


def check_rows(table: pa.Table, commit: Commit) -> None:
    """Check that a sidecar has the rows that its commit counts, each clip once, and places inside the tar.

    Raises:
        ValueError: it does not.
    """
    if len(table) != commit.planned:
        raise ValueError(f"{len(table)} rows, its commit says {commit.planned}")
    is_ok = pc.equal(table["status"], "ok")
    if table["key"].null_count or pc.count_distinct(table["key"]).as_py() != len(table):
        raise ValueError("a clip has no key, or two have the same")
    if not pc.all(pc.is_in(table["status"], value_set=pa.array(STATUSES)), min_count=0).as_py():
        raise ValueError(f"a status is none of {', '.join(STATUSES)}")
    if (pc.sum(is_ok).as_py() or 0) != commit.ok:
        raise ValueError(f"{pc.sum(is_ok).as_py() or 0} good clips, its commit says {commit.ok}")
    place = table.select(PLACE).filter(is_ok)
    if any(column.null_count for column in place.columns):
        raise ValueError("a good clip has no place in the tar")
    check_places(place["tar_offset"].to_numpy(), place["tar_len"].to_numpy(), commit.files[".tar"]["bytes"])


def check_places(offsets: np.ndarray, lengths: np.ndarray, tar_bytes: int) -> None:
    """Check that samples (int64 offsets and lengths) lie in a tar of `tar_bytes` one behind the other.

    Raises:
        ValueError: one lies elsewhere, has no whole blocks, or reaches into the next.
    """
    ends = offsets + lengths  # cannot wrap: a length above the tar's size is refused first
    if (lengths > tar_bytes).any() or (lengths <= 0).any() or (offsets > tar_bytes).any() or (offsets < 0).any():
        raise ValueError("a clip lies outside the tar")
    if (offsets % BLOCK).any() or (lengths % BLOCK).any():
        raise ValueError(f"a clip does not fill whole blocks of {BLOCK} bytes")
    if (ends > tar_bytes - len(END_OF_TAR)).any():
        raise ValueError("a clip lies outside the tar")
    if (offsets[1:] < ends[:-1]).any():
        raise ValueError("two clips overlap in the tar, or lie in another order than their rows")


def best_rows(table: pa.Table) -> np.ndarray:
    """Choose one row a clip, where patch shards hold rows for clips that had failed before.

    Args:
        table: rows in the order of shard names, with `key`, `split` and `status`.

    Returns:
        Positions (clips,), int64, in the order in which the clips come first: the first row that is ok, else the last.
    """
    codes = _clip_codes(table)
    position = np.arange(len(table), dtype=np.int64)
    is_ok = pc.equal(table["status"], "ok").to_numpy()
    chosen = np.full(int(codes.max()) + 1 if len(codes) else 0, -1, np.int64)
    np.maximum.at(chosen, codes[~is_ok], position[~is_ok])
    good, first = np.unique(codes[is_ok], return_index=True)
    chosen[good] = position[is_ok][first]
    return chosen


def first_rows(table: pa.Table) -> np.ndarray | None:
    """Return the positions of the first row of each clip, rising; None if every clip has but one."""
    codes = _clip_codes(table)
    if not len(codes) or int(codes.max()) + 1 == len(codes):
        return None
    return np.sort(np.unique(codes, return_index=True)[1])


def _clip_codes(table: pa.Table) -> np.ndarray:
    """Number the clips from 0 in the order in which they come; a clip is a key in a split."""
    names = pc.binary_join_element_wise(table["split"].fill_null(""), table["key"], "/")
    return names.combine_chunks().dictionary_encode().indices.to_numpy()
