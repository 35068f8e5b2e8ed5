"""Filters: conditions on what is known of each item, read from words (`labels=Dog`) or from JSON, and told again.

Words: COLUMN, one of `=`, `!=`, `<`, `<=`, `>`, `>=`, `~` (contains), then a value, or several with commas between, of
which any will do. JSON: {"column", "op", "value"}, joined by {"and": [...]}, {"or": [...]} and {"not": ...}. A list is
an `and`. What conditions mean stands in `conditions.py`. Shapes: N rows.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..shards.labels import near_spellings
from .classes import Classes
from .conditions import COLUMNS, OPS, Condition, Junction, Kind, check_named, kept
from .errors import QueryError

MAX_DEPTH = 8
MAX_CONDITIONS = 64
MAX_VALUES = 1000
"""Of one condition."""
MAX_TEXT = 10_000
"""Characters of one value."""

_WORDS = re.compile(r"\s*([\w.]*)\s*(!=|<=|>=|==|=|<|>|~)(.*)", flags=re.DOTALL)


@dataclass(frozen=True, slots=True)
class Where:
    """A checked filter."""

    root: Condition | Junction

    def check(self, tables: Sequence[pa.Table], classes: Classes | None = None) -> None:
        """Refuse labels, splits and languages that no item has.

        Args:
            tables: the rows of every segment: a label may be in one of them only.
            classes: are known even where no item carries one.

        Raises:
            QueryError: one is not there (near spellings are named), or a name is that of several classes.
        """
        check_named(self.root, tables, classes or Classes())

    def mask(self, rows: pa.Table, classes: Classes | None = None) -> np.ndarray:
        """Return which rows are kept, bool (N,).

        Args:
            rows: of one segment.
            classes: a label stands for all below it too.
        """
        return kept(self.root, rows, classes or Classes())

    def as_json(self) -> dict[str, Any]:
        """Return the filter as JSON, which `parse_where` reads again."""
        return _told(self.root)


def parse_where(told: Any) -> Where | None:
    """Return the filter that a person, a file or a request tells; None where nothing is told.

    Args:
        told: words, a list of words that must all hold, a JSON value, or None.

    Raises:
        QueryError: a column or comparison is unknown (near spellings are named), a value does not fit, or the filter
            is too large.
    """
    if isinstance(told, Where):
        return told
    if told is None or told in ("", [], ()):
        return None
    count = [0]
    root = _junction("and", told, 1, count) if isinstance(told, list | tuple) else _node(told, 1, count)
    return Where(root)


def _node(told: Any, depth: int, count: list[int]) -> Condition | Junction:
    if depth > MAX_DEPTH:
        raise QueryError(f"the filter is nested {MAX_DEPTH + 1} deep, want {MAX_DEPTH} at most")
    if isinstance(told, str):
        text = told.strip()
        return _node(_json(text), depth, count) if text.startswith("{") else _counted(_from_words(told), count)
    if isinstance(told, Mapping) and len(told) == 1 and next(iter(told)) in ("and", "or", "not"):
        ((op, parts),) = told.items()
        return _junction(op, parts, depth + 1, count)
    if isinstance(told, Mapping) and set(told) == {"column", "op", "value"}:
        return _counted(_from_fields(told), count)
    shown = json.dumps(told, default=str)[:80]
    raise QueryError(f'filter {shown}: want words, {{"column", "op", "value"}}, or one of and, or, not')


def _junction(op: Any, parts: Any, depth: int, count: list[int]) -> Condition | Junction:
    if op == "not":
        return Junction("not", (_node(parts, depth, count),))
    if not isinstance(parts, list | tuple) or not parts:
        raise QueryError(f"filter {op!r}: want a list of filters, not {json.dumps(parts, default=str)[:40]}")
    nodes = tuple(_node(part, depth, count) for part in parts)
    return nodes[0] if len(nodes) == 1 else Junction(op, nodes)


def _counted(condition: Condition, count: list[int]) -> Condition:
    count[0] += 1
    if count[0] > MAX_CONDITIONS:
        raise QueryError(f"the filter has more than {MAX_CONDITIONS} conditions; ask for several values in one")
    return condition


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise QueryError(f"filter {text[:40]!r}: begins as JSON but is none") from e


def _from_words(text: str) -> Condition:
    """Read `COLUMN OP VALUE[,VALUE...]`; quotes keep a comma: `labels="Bark, loud",Dog`."""
    found = _WORDS.fullmatch(text)
    if not found:
        raise QueryError(f"filter {text[:60]!r}: want COLUMN=VALUE, such as labels=Dog or duration_s>=5")
    column, op, rest = found[1], found[2].replace("==", "="), found[3].strip()
    kind = _kind(column)
    if kind == "text" or op == "~":
        return _condition(column, op, [rest])
    cut = next(csv.reader([rest.replace("\n", " ")], skipinitialspace=True), [])
    values = [value.strip() for value in cut if value.strip()]
    whole = rest if len(values) > 1 and '"' not in rest else None
    return _condition(column, op, values, whole)


def _from_fields(told: Mapping[str, Any]) -> Condition:
    column, op, value = told["column"], told["op"], told["value"]
    values = value if isinstance(value, list) else [value]
    if not isinstance(column, str) or not isinstance(op, str):
        raise QueryError(f"filter {json.dumps(told, default=str)[:80]}: column and op must be texts")
    return _condition(column, op.replace("==", "="), values)


def _condition(column: str, op: str, values: Sequence[Any], whole: str | None = None) -> Condition:
    kind = _kind(column)
    if op not in OPS[kind]:
        raise QueryError(f"filter {column} {op[:20]}: {column} can be compared by {' '.join(OPS[kind])}")
    if not values:
        raise QueryError(f"filter {column}{op}: there is no value")
    if len(values) > MAX_VALUES:
        raise QueryError(f"filter {column}{op}: {len(values)} values, want {MAX_VALUES} at most")
    if len(values) > 1 and op not in ("=", "!="):
        raise QueryError(f"filter {column}{op}: takes one value, not {len(values)}")
    if kind == "number":
        return Condition(column, op, tuple(_number(column, value) for value in values))
    for value in values:
        if not isinstance(value, str) or len(value) > MAX_TEXT or _has_surrogates(value):
            raise QueryError(f"filter {column}{op}: want a text as value, not {json.dumps(value, default=str)[:40]}")
    return Condition(column, op, tuple(values), whole)


def _has_surrogates(text: str) -> bool:
    """Tell whether a text holds what no UTF-8 has: bytes of a shell in another encoding, or half a pair of JSON's."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _kind(column: str) -> Kind:
    if column not in COLUMNS:
        near = near_spellings(column, COLUMNS)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(COLUMNS)}"
        raise QueryError(f"filter: there is no column {column[:40]!r}; {hint}")
    return COLUMNS[column]


def _number(column: str, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else np.nan
    except (ValueError, OverflowError):
        number = np.nan
    if not np.isfinite(number):
        raise QueryError(f"filter {column}: {json.dumps(value, default=str)[:40]} is no number")
    return number


def _told(node: Condition | Junction) -> dict[str, Any]:
    if isinstance(node, Condition):
        values = list(node.values)
        return {"column": node.column, "op": node.op, "value": values[0] if len(values) == 1 else values}
    parts = [_told(part) for part in node.parts]
    return {node.op: parts[0] if node.op == "not" else parts}
