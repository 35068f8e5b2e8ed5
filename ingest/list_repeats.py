"""Rows of a list that speak of the same clip: doubles are found, and strong labels become one clip with events."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ..shards.arrays import array_of, numpy_of
from ..shards.planfile import keys_of
from ..shards.schema import EVENTS_TYPE
from .clips import CLIP_SCHEMA

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers


def repeated(table: pa.Table, *, is_merged: bool) -> dict[int, int]:
    """Return the rows that an earlier row has said, with that row.

    Args:
        table: rows in `CLIP_SCHEMA`.
        is_merged: every row is one event, and the same clip at another event is no double.
    """
    if is_merged:
        order, is_double, _ = _event_order(table)
        firsts = np.maximum.accumulate(np.where(is_double, 0, np.arange(len(order))))
        found = np.flatnonzero(is_double)
        return dict(sorted(zip(order[found].tolist(), order[firsts[found]].tolist(), strict=True)))
    codes = _codes(table)
    _, firsts = np.unique(codes, return_index=True)
    earlier = firsts[codes]
    found = np.flatnonzero(earlier != np.arange(len(codes)))
    return dict(zip(found.tolist(), earlier[found].tolist(), strict=True))


def _codes(table: pa.Table) -> np.ndarray:
    """Number the clips by key in the order of their first row; int64 (rows,)."""
    codes = keys_of(table).combine_chunks().dictionary_encode().indices
    return numpy_of(codes).astype(np.int64)


def _event_order(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort rows of one event by clip, start, end and label.

    Returns:
        The order, int64 (rows,); in that order, which row is the double of the one before, bool (rows,), and the
        clips' codes, int64 (rows,).
    """
    events = pc.list_flatten(table["events"]).combine_chunks()
    labels = events.field("label").dictionary_encode()
    ranks = np.argsort(np.argsort(np.array(labels.dictionary.to_pylist(), object)))
    columns = [_codes(table), *(numpy_of(events.field(name)) for name in ("start_ms", "end_ms"))]
    columns.append(ranks[numpy_of(labels.indices)])
    order = np.lexsort(columns[::-1])
    ordered = [column[order] for column in columns]
    is_double = np.zeros(len(order), bool)
    is_double[1:] = np.logical_and.reduce([column[1:] == column[:-1] for column in ordered])
    return order, is_double, ordered[0]


def merge_events(table: pa.Table) -> pa.Table:
    """Return one row a clip from rows of one event each: events by time, labels by name, each once."""
    order, _, codes = _event_order(table)
    clips, firsts, counts = np.unique(_codes(table), return_index=True, return_counts=True)
    events = pc.list_flatten(table["events"]).combine_chunks().take(array_of(order))
    labels = events.field("label").dictionary_encode()
    ranks = np.argsort(np.argsort(np.array(labels.dictionary.to_pylist(), object)))
    pairs = np.unique(codes * len(ranks) + ranks[numpy_of(labels.indices)])
    names = labels.dictionary.take(array_of(np.argsort(ranks)[pairs % len(ranks)]))
    columns = {
        "events": _lists(counts, events, EVENTS_TYPE),
        "labels": _lists(np.bincount(pairs // len(ranks), minlength=len(clips)), names, pa.list_(pa.string())),
    }
    merged = table.take(array_of(firsts))
    return pa.Table.from_arrays([columns.get(name, merged[name]) for name in CLIP_SCHEMA.names], schema=CLIP_SCHEMA)


def _lists(counts: np.ndarray, values: pa.Array, kind: pa.ListType) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(array_of(offsets), values, type=kind)


def cut_label(table: pa.Table) -> str:
    """Return the last row's label if it stands nowhere else and other labels begin with it; else nothing."""
    label = table["labels"][-1].as_py()[-1]
    others = pc.unique(pc.list_flatten(table["labels"].slice(0, len(table) - 1)))
    begins = others.filter(pc.starts_with(others, label)).to_pylist()
    return label if begins and label not in begins else ""
