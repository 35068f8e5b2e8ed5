"""Lines of a list file and the fields that rows are made of, whatever the dialect.

The lines of a large list stay bytes: two million as Python strings would take longer to make than to read.
"""

import csv
import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from .errors import ListError

NUMBER_PATTERN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""What every program takes for a number; Python alone would also take 1_0 and nan."""
MAX_SECONDS = 999_999.0
"""The start in ms has nine digits in a key."""


class Lines:
    """A text file by lines. The line ends of Unix, Windows and old Macs count, mixed too; a leading BOM does not."""

    def __init__(self, data: bytes) -> None:
        """Find the lines of UTF-8 text."""
        self._data = _with_unix_line_ends(data.removeprefix(b"\xef\xbb\xbf"))
        ends = np.flatnonzero(np.frombuffer(self._data, np.uint8) == ord("\n")) + 1
        self.ends_in_newline = self._data.endswith(b"\n")
        tail = [] if self.ends_in_newline or not self._data else [len(self._data)]
        self._offsets = np.concatenate([[0], ends, tail]).astype(np.int64)

    @classmethod
    def read(cls, path: Path) -> "Lines":
        """Read a file.

        Raises:
            ListError: it is missing, cannot be read, or is no UTF-8 text.
        """
        try:
            data = path.read_bytes()
            data.decode()
        except FileNotFoundError:
            raise ListError(f"{path}: there is no such list") from None
        except UnicodeDecodeError as e:
            raise ListError(f"{path}: not a UTF-8 text file (byte {e.start}); save the list as CSV, UTF-8") from e
        except OSError as e:
            raise ListError(f"{path}: cannot be read ({e.strerror})") from e
        return cls(data)

    def __len__(self) -> int:
        """Count the lines, blank ones too."""
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> str:
        """Return one line, counted from 0, without its end."""
        return self._data[self._offsets[index] : self._offsets[index + 1]].decode().rstrip("\n")

    def array(self, first: int, stop: int) -> pa.StringArray:
        """Return the lines from `first` to before `stop`, each with its `\\n`, without copying their text."""
        offsets = self._offsets[first : stop + 1]
        text = pa.py_buffer(memoryview(self._data)[offsets[0] : offsets[-1]])
        relative = (offsets - offsets[0]).astype(np.int32)
        return pa.StringArray.from_buffers(stop - first, pa.py_buffer(relative), text)


def _with_unix_line_ends(data: bytes) -> bytes:
    if b"\r" not in data:
        return data
    return data.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def split_fields(line: str, delimiter: str = ",") -> list[str] | None:
    """Split one line; None if its quotes do not match."""
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True), [])
    except csv.Error:
        return None


def without_empty_tail(fields: list[str], keep: int) -> list[str]:
    """Drop the empty columns that spreadsheets add behind the last, but none of the first `keep`."""
    end = len(fields)
    while end > keep and not fields[end - 1]:
        end -= 1
    return fields[:end]


def columns(line: str, names: tuple[str, ...], delimiter: str = ",") -> list[str]:
    """Split a line into as many fields as there are names.

    Raises:
        ValueError: quotes do not match, or there are more or fewer columns.
    """
    fields = split_fields(line, delimiter)
    if fields is None:
        raise ValueError("quotes do not match")
    fields = without_empty_tail(fields, len(names))
    if len(fields) != len(names):
        raise ValueError(f"{len(fields)} columns, want {', '.join(names)}")
    return fields


def number(value: object) -> float | None:
    """Return a number given as text or as a number; None for anything else."""
    if isinstance(value, str):
        return float(value) if NUMBER_PATTERN.fullmatch(value.strip()) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def span_ms(start: object, end: object) -> tuple[int, int]:
    """Return start and end, given in seconds, in ms.

    Raises:
        ValueError: one is no number, or they are no span of at least a millisecond.
    """
    start_s, end_s = number(start), number(end)
    if start_s is None or end_s is None:
        raise ValueError(f"start {_short(start)!r} or end {_short(end)!r} is no number of seconds")
    if not 0 <= start_s < end_s <= MAX_SECONDS:
        raise ValueError(f"start {_short(start)} and end {_short(end)} are no span of time")
    start_ms, end_ms = round(start_s * 1000), round(end_s * 1000)
    if start_ms == end_ms:
        raise ValueError(f"start {_short(start)} and end {_short(end)} are less than a millisecond apart")
    return start_ms, end_ms


def _short(value: object) -> str:
    return str(value)[:40]


def labels_in(text: str, separator: str) -> tuple[str, ...]:
    """Return the labels of a field, without the blanks around them and without empty ones."""
    return tuple(label.strip() for label in text.split(separator) if label.strip())
