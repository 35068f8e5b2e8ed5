"""Reads clip lists: AudioSet's own dialect and general CSV.

A list is read as far as it can be: a row that cannot be understood is reported with its line number and left out,
and nothing is guessed. A row is a line, so a stray quote spoils one row and not the rest of the file.
"""

import csv
import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path, PurePosixPath

from ..shards.schema import MEDIA_ID_PATTERN, SPLIT_PATTERN
from .clips import Clip
from .errors import ListError

AUDIOSET_COLUMNS = ["YTID", "start_seconds", "end_seconds", "positive_labels"]
GENERAL_COLUMNS = (
    "id", "path", "start", "end", "labels", "caption", "split", "group", "language", "license",
)  # fmt: skip
NUMBER_PATTERN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""What every program takes for a number; Python alone would also take 1_0 and nan."""
MAX_SECONDS = 999_999.0
"""The start in ms has nine digits in a key."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out."""

    line: int
    """Counted from 1, as editors do."""
    reason: str


@dataclass(frozen=True, slots=True)
class ClipList:
    """What a list file held."""

    clips: tuple[Clip, ...]
    bad: tuple[BadRow, ...]
    rows: int
    """Data rows, good and bad; comments, header and blank lines apart."""
    dialect: str
    """`audioset` or `general`."""


def read_list(path: Path, *, split: str | None = None) -> ClipList:
    """Read a clip list, telling the dialect by its first row.

    Args:
        path: a CSV file.
        split: for rows that name none; by default `eval` for AudioSet's eval_segments.csv, else `train`.

    Raises:
        ListError: the file is missing, empty, no text, of unknown columns, or has no row that can be read.
    """
    lines = list(_lines(path))
    if not lines:
        raise ListError(f"{path}: the list is empty; want AudioSet's dialect or a CSV with a header")
    if split is not None and not SPLIT_PATTERN.fullmatch(split):
        raise ListError(f"split {split[:40]!r} is no lower-case name; want letters and digits, as in train")
    default_split = split or ("eval" if path.name == "eval_segments.csv" else "train")
    body = list(dropwhile(lambda line: _is_comment(line[1]), lines))
    columns = (_fields(body[0][1]) or []) if body else []
    has_comments = len(body) < len(lines)
    if columns == AUDIOSET_COLUMNS or _is_audioset_row(columns) or (has_comments and not _is_header(columns)):
        dialect = "audioset"
        body = [(n, line) for n, line in body if not _is_comment(line)]
        body = body[1:] if columns == AUDIOSET_COLUMNS else body
        clips, bad = _read_rows(body, lambda fields: _audioset_clip(fields, default_split))
    else:
        dialect = "general"
        header = _general_header(path, columns)
        body = body[1:]
        clips, bad = _read_rows(body, lambda fields: _general_clip(header, fields, default_split))
    if not body:
        raise ListError(f"{path}: the list has a header but no row")
    if not clips:
        raise ListError(f"{path}: none of {len(body)} rows can be read; line {bad[0].line}: {bad[0].reason}")
    return ClipList(tuple(clips), tuple(bad), len(body), dialect)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ListError(f"{path}: there is no such list") from None
    except UnicodeDecodeError as e:
        raise ListError(f"{path}: not a UTF-8 text file (byte {e.start}); save the list as CSV, UTF-8") from e
    except OSError as e:
        raise ListError(f"{path}: cannot be read ({e.strerror})") from e
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip("\r")


def _fields(line: str) -> list[str] | None:
    """Split one line; None if its quotes do not match."""
    try:
        return next(csv.reader([line], skipinitialspace=True, strict=True), [])
    except csv.Error:
        return None


def _is_audioset_row(fields: list[str]) -> bool:
    """AudioSet's rows have no header: an id, two numbers, labels."""
    return len(fields) >= 3 and _number(fields[1]) is not None and _number(fields[2]) is not None


def _is_header(columns: list[str]) -> bool:
    """Tell a general list's header, known columns or not."""
    return {"start", "end"} <= {column.strip().lower() for column in columns}


def _is_comment(line: str) -> bool:
    """A `#` line, unless it is a row whose id a spreadsheet has turned into `#NAME?`."""
    return line.startswith("#") and not _is_audioset_row(_fields(line) or [])


def _general_header(path: Path, columns: list[str]) -> list[str]:
    header = _without_empty_tail([column.strip().lower() for column in columns], 0)
    unknown = [c for c in header if c not in GENERAL_COLUMNS]
    if unknown or len(set(header)) != len(header):
        what = f"unknown column {unknown[0][:40]!r}" if unknown else "a column stands twice"
        raise ListError(f"{path}: {what}; known are {', '.join(GENERAL_COLUMNS)}, or AudioSet's own dialect")
    missing = [c for c in ("start", "end") if c not in header]
    if not {"id", "path"} & set(header):
        missing.insert(0, "id or path")
    if missing:
        raise ListError(f"{path}: the list has no column {', '.join(missing)}")
    return header


def _without_empty_tail(fields: list[str], keep: int) -> list[str]:
    """Drop the empty columns that spreadsheets add behind the last."""
    end = len(fields)
    while end > keep and not fields[end - 1]:
        end -= 1
    return fields[:end]


def _read_rows(body: list[tuple[int, str]], parse: Callable[[list[str]], Clip]) -> tuple[list[Clip], list[BadRow]]:
    clips: list[Clip] = []
    bad: list[BadRow] = []
    seen: dict[str, int] = {}
    for number, line in body:
        fields = _fields(line)
        try:
            if fields is None:
                raise ValueError("quotes do not match")
            clip = parse(fields)
            key = clip.key
            if key in seen:
                raise ValueError(f"the same clip as line {seen[key]}")
        except ValueError as e:
            bad.append(BadRow(number, str(e)))
            continue
        seen[key] = number
        clips.append(clip)
    return clips, bad


def _audioset_clip(fields: list[str], split: str) -> Clip:
    fields = _without_empty_tail(fields, 4)
    if len(fields) != 4:
        raise ValueError(f"{len(fields)} columns, want id, start, end, labels")
    media_id, start, end, labels = fields
    if len(media_id) != 11 or not MEDIA_ID_PATTERN.fullmatch(media_id):
        raise ValueError(f"{media_id[:40]!r} is no YouTube id of 11 letters, digits, - and _")
    start_ms, end_ms = _span(start, end)
    return Clip(
        corpus="as", media_id=media_id, start_ms=start_ms, end_ms=end_ms, split=split,
        labels=tuple(label for label in labels.split(",") if label),
    )  # fmt: skip


def _general_clip(header: list[str], fields: list[str], split: str) -> Clip:
    fields = _without_empty_tail(fields, len(header))
    if len(fields) != len(header):
        raise ValueError(f"{len(fields)} columns, the header has {len(header)}")
    row = dict(zip(header, fields, strict=True))
    source = row.get("path", "").strip()
    pure = PurePosixPath(source)
    if pure.is_absolute() or ".." in pure.parts:
        raise ValueError(f"path {source[:80]!r} leaves the media folder")
    start_ms, end_ms = _span(row.get("start", ""), row.get("end", ""))
    split = row.get("split") or split
    if not SPLIT_PATTERN.fullmatch(split):
        raise ValueError(f"split {split[:40]!r} is no lower-case name")
    return Clip(
        corpus="gen", media_id=_general_id(row.get("id", "").strip(), source), source=source,
        start_ms=start_ms, end_ms=end_ms, split=split, group=row.get("group", ""),
        labels=tuple(label for label in row.get("labels", "").split(";") if label),
        caption=row.get("caption", ""), language=row.get("language", ""), license=row.get("license", ""),
    )  # fmt: skip


def _general_id(given: str, source: str) -> str:
    """Take the id as given; a row without one is named by a hash of its path."""
    if given:
        if not MEDIA_ID_PATTERN.fullmatch(given):
            raise ValueError(f"id {given[:40]!r} has other characters than letters, digits, - and _")
        return given
    if not source:
        raise ValueError("neither id nor path")
    return urlsafe_b64encode(hashlib.blake2b(source.encode(), digest_size=8).digest()).decode().rstrip("=")


def _span(start: str, end: str) -> tuple[int, int]:
    start_s, end_s = _number(start), _number(end)
    if start_s is None or end_s is None:
        raise ValueError(f"start {start[:40]!r} or end {end[:40]!r} is no number of seconds")
    if not 0 <= start_s < end_s <= MAX_SECONDS:
        raise ValueError(f"start {start} and end {end} are no span of time")
    start_ms, end_ms = round(start_s * 1000), round(end_s * 1000)
    if start_ms == end_ms:
        raise ValueError(f"start {start} and end {end} are less than a millisecond apart")
    return start_ms, end_ms


def _number(text: str) -> float | None:
    return float(text) if NUMBER_PATTERN.fullmatch(text.strip()) else None
