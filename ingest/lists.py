"""Reads clip lists: AudioSet's and VGGSound's own dialects, and general CSV, JSONL and Parquet.

A list is read as far as it can be: a row that cannot be understood is reported with its line number and left out,
and nothing is guessed. A row is a line, so a stray quote spoils one row and not the rest of the file.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..shards.arrays import array_of
from ..shards.checks import check_file
from ..shards.schema import SPLIT_PATTERN
from .clips import CLIP_SCHEMA, Clip, table_of
from .errors import ListError
from .list_dialects import (
    AUDIOSET,
    AUDIOSET_COLUMNS,
    DIALECTS,
    STRONG,
    STRONG_COLUMNS,
    Dialect,
    is_audioset_row,
    read_quickly,
)
from .list_general import JSONL, clip_of, csv_dialect, parquet_rows
from .list_repeats import cut_label, merge_events, repeated
from .list_rows import Lines, split_fields

CHUNK_LINES = 1 << 16
"""Lines that are read at once."""
SNIFFED_LINES = 100
"""A list without a header may begin with bad rows; its dialect is told by the first good one of so many."""
SPREADSHEET_ERROR = re.compile(r"#(NAME\?|REF!|VALUE!|DIV/0!|N/A|NULL!|NUM!)")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out."""

    line: int
    """Counted from 1, as editors do; in a Parquet file the row."""
    reason: str


@dataclass(frozen=True, slots=True)
class ClipList:
    """What a list file held."""

    table: pa.Table
    """The clips in `CLIP_SCHEMA`, in the order of the list; `clips_of` makes `Clip`s of them."""
    bad: tuple[BadRow, ...]
    rows: int
    """Data rows, good and bad; comments, header and blank lines apart."""
    dialect: str
    """`audioset`, `audioset strong`, `vggsound`, `vggsound files`, `general`, `jsonl` or `parquet`."""


@dataclass(slots=True)
class _Rows:
    """Rows as they are read."""

    tables: list[pa.Table] = field(default_factory=lambda: [pa.Table.from_batches([], CLIP_SCHEMA)])
    lines: list[np.ndarray] = field(default_factory=lambda: [np.zeros(0, np.int64)])
    """Line of each good row."""
    bad: list[BadRow] = field(default_factory=list)


def read_list(path: Path, *, split: str | None = None) -> ClipList:
    """Read a clip list, telling JSONL and Parquet by their suffix and the dialect of text by its first rows.

    Args:
        path: `.jsonl`, `.parquet`, or CSV and TSV of any other name.
        split: for rows that name none; by default `eval` for AudioSet's eval_segments.csv and
            audioset_eval_strong.tsv, `test` for VGGSound's list of files unless it is train.csv, else `train`.

    Raises:
        ListError: the file is missing, empty, no text, of unknown columns, or has no row that can be read.
    """
    if split is not None and not SPLIT_PATTERN.fullmatch(split):
        raise ListError(f"{path}: split {split[:40]!r} is no lower-case name; want letters and digits, as in train")
    check_file(path, ListError)
    if path.suffix.lower() == ".parquet":
        rows = _read_rows(enumerate(parquet_rows(path), 1), lambda row: clip_of(row, split or "train"))
        return _clip_list(path, rows, "parquet", is_merged=False)
    lines = Lines.read(path)
    dialect, first = _tell(path, lines)
    rows = _read_lines(lines, first, dialect, split or dialect.split_by_file.get(path.name, dialect.split))
    return _clip_list(path, rows, dialect.name, is_merged=dialect.is_merged)


def _clip_list(path: Path, rows: _Rows, dialect: str, *, is_merged: bool) -> ClipList:
    """Put together what was read; a clip that comes again is a bad row."""
    table, numbers = pa.concat_tables(rows.tables), np.concatenate(rows.lines)
    count = len(table) + len(rows.bad)
    if not count:
        raise ListError(f"{path}: the list has a header but no row")
    doubles = repeated(table, is_merged=is_merged)
    what = "event" if is_merged else "clip"
    rows.bad += [BadRow(int(numbers[i]), f"the same {what} as line {numbers[first]}") for i, first in doubles.items()]
    if doubles:
        table = table.take(array_of(np.setdiff1d(np.arange(len(table)), list(doubles))))
    bad = tuple(sorted(rows.bad, key=lambda row: row.line))
    if not len(table):
        raise ListError(f"{path}: none of {count} rows can be read; line {bad[0].line}: {bad[0].reason}")
    return ClipList(merge_events(table) if is_merged else table, bad, count, dialect)


def _tell(path: Path, lines: Lines) -> tuple[Dialect, int]:
    """Tell the dialect of a text file and where its rows begin."""
    filled = ((i, lines[i]) for i in range(len(lines)) if lines[i].strip())
    start = next(filled, None)
    if start is None:
        raise ListError(f"{path}: the list is empty; want AudioSet's dialect, or a header and rows")
    if path.suffix.lower() == ".jsonl":
        return JSONL, start[0]
    has_comments = _is_comment(start[1])
    head = start if not has_comments else next((line for line in filled if not _is_comment(line[1])), None)
    if head is None:
        return AUDIOSET, len(lines)
    index, line = head
    if tuple(split_fields(line) or ()) == AUDIOSET_COLUMNS:
        return AUDIOSET, index + 1
    if tuple(split_fields(line, "\t") or ()) == STRONG_COLUMNS:
        return STRONG, index + 1
    if is_audioset_row(line):
        return AUDIOSET, index
    if not {"start", "end"} <= {column.strip().lower() for column in split_fields(line) or ()}:
        for _, sniffed in [head, *islice(filled, SNIFFED_LINES)]:
            for dialect in DIALECTS:
                if re.match(dialect.pattern, sniffed):
                    return dialect, index
        if has_comments:
            return AUDIOSET, index
    return csv_dialect(path, line), index + 1


def _is_comment(line: str) -> bool:
    """A `#` line, unless it is a row whose id a spreadsheet has turned into `#NAME?`."""
    return line.startswith("#") and not SPREADSHEET_ERROR.match(line) and not is_audioset_row(line)


def _read_lines(lines: Lines, first: int, dialect: Dialect, split: str) -> _Rows:
    """Read the lines from `first` on: the well-formed ones at once, the others with care."""
    rows = _Rows()
    for start in range(first, len(lines), CHUNK_LINES):
        quick, is_quick = read_quickly(dialect, lines.array(start, min(start + CHUNK_LINES, len(lines))), split)
        others = ((start + i, lines[start + i]) for i in np.flatnonzero(~is_quick).tolist())
        wanted = (
            (i + 1, line) for i, line in others if line.strip() and not (dialect.has_comments and _is_comment(line))
        )
        careful = _read_rows(wanted, lambda line: dialect.clip(line, split))
        table = pa.concat_tables([quick, *careful.tables])
        numbers = np.concatenate([np.flatnonzero(is_quick) + start + 1, *careful.lines])
        if len(quick) not in (0, len(table)):
            order = np.argsort(numbers)
            table, numbers = table.take(array_of(order)), numbers[order]
        rows.tables.append(table)
        rows.lines.append(numbers)
        rows.bad += careful.bad
    if dialect.ends_in_label and not lines.ends_in_newline:
        _drop_cut_line(rows, len(lines))
    return rows


def _drop_cut_line(rows: _Rows, last: int) -> None:
    """Take the last line for bad if its label is the beginning of others: a file cut there has no other mark."""
    table, numbers = pa.concat_tables(rows.tables), np.concatenate(rows.lines)
    if last in numbers[-1:] and (label := cut_label(table)):
        rows.bad.append(BadRow(last, f"the line is cut off: {label[:40]!r} only begins a label"))
        rows.tables, rows.lines = [table.slice(0, len(table) - 1)], [numbers[:-1]]


def _read_rows(numbered: Iterable[tuple[int, Any]], clip: Callable[[Any], Clip]) -> _Rows:
    """Read rows one by one."""
    rows = _Rows()
    numbers: list[int] = []

    def good() -> Iterable[Clip]:
        for number, row in numbered:
            try:
                yield clip(row)
                numbers.append(number)
            except ValueError as e:
                rows.bad.append(BadRow(number, str(e)))

    rows.tables.append(table_of(good()))
    rows.lines.append(np.array(numbers, np.int64))
    return rows
