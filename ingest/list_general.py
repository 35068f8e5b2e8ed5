"""General clip lists: a CSV with a header, a JSON object a line, or a Parquet table, all with the same columns.

Nothing is taken for something else: a number is no id, `yes` is no number, and an unknown column is an error.
"""

import hashlib
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..shards.schema import MEDIA_ID_PATTERN, SPLIT_PATTERN
from .clips import BATCH_ROWS, Clip
from .errors import ListError
from .list_dialects import Dialect
from .list_rows import columns, labels_in, span_ms, split_fields, without_empty_tail

COLUMNS = (
    "id", "path", "url", "start", "end", "labels", "caption", "split", "group", "language", "license",
)  # fmt: skip
TEXT_COLUMNS = tuple(name for name in COLUMNS if name not in ("start", "end", "labels"))
URL_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


def csv_dialect(path: Path, header_line: str) -> Dialect:
    """Return the dialect of a CSV with the given header.

    Raises:
        ListError: its columns are not those of a list.
    """
    header = _checked(path, without_empty_tail(split_fields(header_line) or [], 0))

    def clip(line: str, split: str) -> Clip:
        return clip_of(dict(zip(header, columns(line, header), strict=True)), split)

    return Dialect(name="general", clip=clip, has_comments=False)


def _json_clip(line: str, split: str) -> Clip:
    try:
        row = json.loads(line, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("no JSON object") from None
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    row = _unique((name.strip().lower(), value) for name, value in row.items())
    if unknown := [name for name in row if name not in COLUMNS]:
        raise ValueError(f"unknown field {unknown[0][:40]!r}; known are {', '.join(COLUMNS)}")
    return clip_of(row, split)


JSONL = Dialect(name="jsonl", clip=_json_clip, has_comments=False)


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in pairs:
        if name in row:
            raise ValueError(f"field {name[:40]!r} stands twice")
        row[name] = value
    return row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no value")


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet list.

    Raises:
        ListError: it is missing, no Parquet file, damaged, or its columns are not those of a list.
    """
    try:
        with pq.ParquetFile(path) as file:
            header = _checked(path, file.schema_arrow.names)
            for batch in file.iter_batches(BATCH_ROWS):
                for row in batch.to_pylist():
                    yield dict(zip(header, row.values(), strict=True))
    except FileNotFoundError:
        raise ListError(f"{path}: there is no such list") from None
    except UnicodeDecodeError as e:
        raise ListError(f"{path}: a text is not UTF-8; write the list anew") from e
    except (pa.ArrowException, OSError) as e:
        reason = str(e).partition("\n")[0][:200]
        raise ListError(f"{path}: not a Parquet file that can be read ({reason})") from e


def _checked(path: Path, names: Iterable[str]) -> tuple[str, ...]:
    header = tuple(name.strip().lower() for name in names)
    unknown = [name for name in header if name not in COLUMNS]
    if unknown or len(set(header)) != len(header):
        what = f"unknown column {unknown[0][:40]!r}" if unknown else "a column stands twice"
        raise ListError(f"{path}: {what}; known are {', '.join(COLUMNS)}, or a dialect of AudioSet or VGGSound")
    missing = [name for name in ("start", "end") if name not in header]
    if not {"id", "path", "url"} & set(header):
        missing.insert(0, "id, path or url")
    if missing:
        raise ListError(f"{path}: the list has no column {', '.join(missing)}")
    return header


def clip_of(row: Mapping[str, Any], split: str) -> Clip:
    """Return the clip of a row: texts, or numbers and lists where the file format has them; None is empty.

    Raises:
        ValueError: what is wrong with the row.
    """
    row = {name: value for name, value in row.items() if value is not None}
    text = {name: _checked_text(name, row[name]) for name in TEXT_COLUMNS if name in row}
    source = _source(text.get("path", "").strip(), text.get("url", "").strip())
    media_id = _id(text.get("id", "").strip(), source)
    start_ms, end_ms = span_ms(row.get("start", ""), row.get("end", ""))
    split = text.get("split") or split
    if not SPLIT_PATTERN.fullmatch(split):
        raise ValueError(f"split {split[:40]!r} is no lower-case name")
    return Clip(
        corpus="gen", media_id=media_id, source=source, start_ms=start_ms, end_ms=end_ms, split=split,
        group=text.get("group", ""), labels=_labels(row.get("labels", "")), caption=text.get("caption", ""),
        language=text.get("language", ""), license=text.get("license", ""),
    )  # fmt: skip


def _checked_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} {str(value)[:40]} is no text")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds half a character") from None
    return value


def _labels(value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        texts = (_checked_text("label", label).strip() for label in value)
        return tuple(label for label in texts if label)
    return labels_in(_checked_text("labels", value), ";")


def _source(path: str, url: str) -> str:
    if path and url:
        raise ValueError("both path and url; give one of them")
    if url and not URL_PATTERN.fullmatch(url):
        raise ValueError(f"url {url[:80]!r} is no address, as in https://host/name.mp4")
    if not path:
        return url
    if URL_PATTERN.fullmatch(path):
        raise ValueError(f"path {path[:80]!r} is an address; put it into a column url")
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise ValueError(f"path {path[:80]!r} leaves the media folder")
    return path


def _id(given: str, source: str) -> str:
    """Take the id as given; a row without one is named by a hash of its path or address."""
    if given:
        if not MEDIA_ID_PATTERN.fullmatch(given):
            raise ValueError(f"id {given[:40]!r} has other characters than letters, digits, - and _")
        return given
    if not source:
        raise ValueError("no id, path or url")
    return urlsafe_b64encode(hashlib.blake2b(source.encode(), digest_size=8).digest()).decode().rstrip("=")
