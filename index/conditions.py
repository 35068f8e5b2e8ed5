"""Conditions on what is known of each item: whether what they name is there, and which rows they keep.

How a person says them stands in `where.py`. Shapes: N rows.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ..shards.arrays import numpy_of
from ..shards.labels import near_spellings
from ..shards.subset import flat_labels, has_label
from .classes import Classes
from .errors import QueryError

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers

Kind = Literal["labels", "words", "text", "number"]
COLUMNS: dict[str, Kind] = {
    "labels": "labels", "caption": "text", "split": "words", "language": "words", "duration_s": "number",
    "start_ms": "number", "end_ms": "number", "source": "number", "media_id": "words", "group": "words",
    "key": "words", "item_id": "words",
}  # fmt: skip
"""What can be asked for."""
LISTED = ("split", "language")
"""Columns of few values: one that no item has is a slip, and refused."""
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
OPS: dict[Kind, tuple[str, ...]] = {
    "labels": ("=", "!="), "words": ("=", "!=", "~"), "text": ("=", "!=", "~"), "number": tuple(COMPARE),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condition:
    """One column compared with values."""

    column: str
    op: str
    values: tuple[str, ...] | tuple[float, ...]
    """Any of them will do; with `!=` none may be there."""
    whole: str | None = None
    """The words before commas cut them: a label may have commas of its own."""


@dataclass(frozen=True, slots=True)
class Junction:
    """Filters joined by `and`, `or`, or one turned round by `not`."""

    op: Literal["and", "or", "not"]
    parts: "tuple[Condition | Junction, ...]"


def check_named(root: Condition | Junction, tables: Sequence[pa.Table], classes: Classes) -> None:
    """Refuse labels, splits and languages that no item has, as `Where.check`."""
    for condition in _conditions(root):
        if condition.column == "labels" or condition.column in LISTED:
            known = set[str]().union(*(_distinct(table, condition.column) for table in tables))
            for value in _chosen(condition, known, classes):
                _check_known(condition.column, value, known, classes)


def _conditions(node: Condition | Junction) -> Iterable[Condition]:
    if isinstance(node, Condition):
        yield node
    else:
        for part in node.parts:
            yield from _conditions(part)


def _distinct(rows: pa.Table, column: str) -> set[str]:
    if column not in rows.schema.names:
        return set()
    values = flat_labels(rows[column])[1] if column == "labels" else rows[column]
    return set(pc.unique(values).drop_null().to_pylist())


def _chosen(condition: Condition, known: set[str], classes: Classes) -> tuple[str, ...]:
    """Return the values of a condition; words with commas are one value where there is such a one."""
    whole = condition.whole
    if whole is not None and (whole in known or (condition.column == "labels" and classes.knows(whole))):
        return (whole,)
    return tuple(str(value) for value in condition.values)


def _check_known(column: str, value: str, known: set[str], classes: Classes) -> None:
    if value in known:
        return
    if column == "labels" and classes.ontologies:
        if fault := classes.fault(value):
            raise QueryError(f"filter {column}={value[:40]}: {fault}")
        return
    near = near_spellings(value, sorted(known))
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {_some(known)}"
    raise QueryError(f"filter {column}={value[:40]}: no item has it; {hint}")


def _some(known: set[str]) -> str:
    shown = sorted(known, key=lambda value: (len(value), value))[:5]
    more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
    return (", ".join(value[:40] for value in shown) or "none") + more


def kept(node: Condition | Junction, rows: pa.Table, classes: Classes) -> np.ndarray:
    """Return which rows of one segment are kept, bool (N,)."""
    if isinstance(node, Condition):
        return _compared(node, rows, classes)
    masks = [kept(part, rows, classes) for part in node.parts]
    if node.op == "not":
        return ~masks[0]
    return np.logical_and.reduce(masks) if node.op == "and" else np.logical_or.reduce(masks)


def _compared(condition: Condition, rows: pa.Table, classes: Classes) -> np.ndarray:
    column, op = condition.column, condition.op
    kind = COLUMNS[column]
    if kind == "number":
        numbers = numbers_of(rows, column)
        hits = [COMPARE["=" if op == "!=" else op](numbers, value) for value in condition.values]
        found = np.logical_or.reduce(hits)
    elif kind == "labels":
        found = has_label(rows[column], texts_of(condition, rows, classes))
    elif op == "~":
        needle = str(condition.values[0])
        found = _truth(pc.match_substring(rows[column], needle, ignore_case=True))
    else:
        values = pa.array(sorted(texts_of(condition, rows, classes)), pa.string())
        found = _truth(pc.is_in(rows[column], value_set=values))
    return ~found if op == "!=" else found


def numbers_of(rows: pa.Table, column: str) -> np.ndarray:
    """Return a column of numbers (N,), also one that older rows lack."""
    if column == "duration_s" and column not in rows.schema.names:
        return (numpy_of(rows["end_ms"]) - numpy_of(rows["start_ms"])) / 1000
    return np.zeros(len(rows)) if column not in rows.schema.names else numpy_of(rows[column])


def texts_of(condition: Condition, rows: pa.Table, classes: Classes) -> set[str]:
    """Return the texts that a condition compares a segment's rows with; a label stands for all below it too."""
    is_label = condition.column == "labels"
    known = _distinct(rows, condition.column) if condition.whole else set[str]()
    chosen = _chosen(condition, known, classes if is_label else Classes())
    return set[str]().union(*(classes.spellings(label) for label in chosen)) if is_label else set(chosen)


def _truth(values: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(values, False).combine_chunks().to_numpy(zero_copy_only=False), dtype=bool)
