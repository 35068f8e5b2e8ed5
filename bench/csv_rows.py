"""Reads the CSV tables that data sets and studies come with."""

import csv
from pathlib import Path

from .errors import BenchError


def is_file_name(name: str) -> bool:
    """Tell whether a text names a file of a folder, and nothing elsewhere; colons and spaces may be in it."""
    return name not in ("", ".", "..") and not set(name) & set("/\\") and min(name) >= " " and len(name.encode()) < 256


def csv_rows(path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a table with their lines; all columns are texts, empty where a row is too short.

    Raises:
        BenchError: it is not readable as CSV in UTF-8, has no rows, or lacks one of `columns`.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            rows = csv.DictReader(f, restkey="", restval="")
            found = [(rows.line_num, row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise BenchError(f"{path}: not readable as CSV in UTF-8 ({getattr(e, 'strerror', None) or e})") from e
    if not found:
        raise BenchError(f"{path}: holds none; want rows with the columns {', '.join(columns)}")
    if missing := [name for name in columns if name not in found[0][1]]:
        raise BenchError(f"{path}: has no column {missing[0]}; want the columns {', '.join(columns)}")
    return found
