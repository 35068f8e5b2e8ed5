"""Items of an index as the server tells of them: their words, their picture and their sound.

Media are found by item id only, through the snapshot's own table; nothing that a client sends becomes part of a path.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from ..shards import ShardError
from ..shards.subset import flat_labels
from .clips import stored_sample
from .conditions import COLUMNS
from .errors import IndexStoreError, RequestError
from .segment import Segment
from .snapshot import Snapshot

SHARD_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*", flags=re.ASCII)
"""A shard of an index, split before name: nothing that could lead out of the shard set."""
PICTURE_TYPES = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))
SOUND_TYPES = ((b"fLaC", "audio/flac"), (b"RIFF", "audio/wav"))
TOLD = (
    "item_id",
    "modality",
    "key",
    "caption",
    "labels",
    "language",
    "split",
    "group",
    "media_id",
    "start_ms",
    "end_ms",
)
OFFERED = ("labels", "split", "caption", "duration_s", "language", "media_id")
"""Columns that the page offers to filter by; programs have all of `conditions.COLUMNS`."""
COUNTED = ("labels", "split", "language")
ALL_VALUES = 500
"""Values of a column that the page offers, the most frequent ones."""


@dataclass(frozen=True, slots=True)
class Medium:
    """A picture or a sound as it is stored."""

    data: bytes
    media_type: str
    etag: str


def handles(item_id: str) -> dict[str, str]:
    """Return where the picture and the sound of an item are to be had."""
    address = f"/v1/items/{quote(item_id, safe='')}"
    return {"thumb": f"{address}/thumb", "media": f"{address}/media"}


def find_row(snapshot: Snapshot, item_id: str) -> dict[str, Any]:
    """Return the row of an item.

    Raises:
        RequestError: there is none.
    """
    segment, number = _find(snapshot, item_id)
    return segment.rows.slice(number, 1).to_pylist()[0]


def _find(snapshot: Snapshot, item_id: str) -> tuple[Segment, int]:
    try:
        return snapshot.find(item_id)
    except IndexStoreError as e:
        raise RequestError(404, "no_item", "there is no such item in this index", "ask /v1/search for items") from e


def embedding_of(snapshot: Snapshot, item_id: str) -> tuple[str, np.ndarray]:
    """Return the modality and the embedding (D,) float32 of an item.

    Raises:
        RequestError: there is none.
    """
    segment, number = _find(snapshot, item_id)
    return segment.modality, segment.vectors_ND[number].astype(np.float32)


def describe(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of an item."""
    return {name: row[name] for name in TOLD if name in row} | handles(row["item_id"])


def medium_of(snapshot: Snapshot, item_id: str, kind: str) -> Medium:
    """Return the `thumb` or the `media` of an item, its checksum compared.

    Raises:
        RequestError: there is no such item, or its shards are damaged or not where they were.
    """
    row = find_row(snapshot, item_id)
    if not SHARD_NAME.fullmatch(row["shard"] or ""):
        raise RequestError(404, "no_media", "the shards of this item are not known", "")
    try:
        sample = stored_sample(snapshot, row)
    except (OSError, ShardError) as e:
        hint = "the shards were moved or damaged: `unibrivl shards verify` tells"
        raise RequestError(404, "no_media", "the clip of this item cannot be read", hint) from e
    members, types = (("jpg", "png"), PICTURE_TYPES) if kind == "thumb" else (("flac", "wav"), SOUND_TYPES)
    data = next((sample.members[name] for name in members if name in sample.members), b"")
    media_type = next((told for magic, told in types if data.startswith(magic)), None)
    if media_type is None:
        raise RequestError(404, "no_media", "this clip has none", "")
    return Medium(data, media_type, f'"{hashlib.sha256(data).hexdigest()[:32]}"')


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return begin and end of the one range that a Range header asks for; None: the whole.

    Raises:
        RequestError: the range lies outside.

    >>> byte_range("bytes=10-", 100)
    (10, 100)
    >>> byte_range("bytes=-10", 100)
    (90, 100)
    """
    found = re.fullmatch(r"bytes=(\d{0,15})-(\d{0,15})", (header or "").strip())
    if found is None or found.groups() == ("", ""):
        return None  # no range, several, or another unit: the whole is a right answer to each
    first, last = found.groups()
    begin = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if begin >= end:
        raise RequestError(416, "range", f"the range lies outside of {size} bytes", "")
    return begin, end


def columns_of(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Return what can be filtered by, with the most frequent values: `{name: {kind, values: [{value, count}]}}`."""
    columns: dict[str, dict[str, Any]] = {}
    for name in OFFERED:
        values = _values(snapshot, name) if name in COUNTED else []
        if values or name not in COUNTED:
            columns[name] = {"kind": "words" if COLUMNS[name] == "labels" else COLUMNS[name], "values": values}
    return columns


def _values(snapshot: Snapshot, name: str) -> list[dict[str, Any]]:
    counts = Counter[str]()
    for segment in snapshot.segments:
        column = segment.rows[name]
        flat = flat_labels(column)[1] if COLUMNS[name] == "labels" else column
        counts.update({pair["values"]: pair["counts"] for pair in flat.value_counts().to_pylist() if pair["values"]})
    return [{"value": value, "count": count} for value, count in counts.most_common(ALL_VALUES)]


def examples_of(snapshot: Snapshot, count: int) -> list[dict[str, Any]]:
    """Return a few items with pictures, evenly spread over the index."""
    rows = next((segment.rows for segment in snapshot.of("image") if len(segment.rows)), None)
    if rows is None:
        return []
    step = max(1, len(rows) // count)
    numbers = range(step // 2, len(rows), step)
    return [describe(rows.slice(number, 1).to_pylist()[0]) for number in numbers][:count]
