"""What is provably whole in a damaged shard, so that only the rest has to be made again.

A sidecar counts if its SHA-256 stands in the commit file, even in one that is damaged elsewhere. Where a damaged commit
file does not name it, each row must be vouched for by the sample itself: its hash, its key and its description. A
sidecar that a sound commit file contradicts is worth nothing.
"""

import hashlib
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from .commit import COMMIT_SUFFIX, Commit, parse_commit
from .errors import ShardError
from .schema import KEY_PATTERN
from .sidecar import parse_table
from .tarindex import parse_members

Row = dict[str, Any]
Span = Callable[[], bytes]


class Salvage(dict[str, tuple[Span, Row]]):
    """Key to (reader of the sample's whole span, sidecar row), in slot order, of every clip that is provably whole.

    A reader reads the tar anew and checks the bytes again, so a `Salvage` holds rows, never media.
    """

    def __init__(self, commit: Commit | None = None) -> None:
        """Begin with nothing."""
        super().__init__()
        self.commit = commit
        """What the shard was, with the hashes that a full repair brings back; None if the commit file is damaged."""
        self.failed: dict[str, Row] = {}
        """Rows of clips that had failed; only from a sidecar that the commit file names."""
        self.lost: list[str] = []
        """Keys of the clips that had come and are no longer whole, as far as the sidecar can be believed."""


def salvage(directory: Path, name: str) -> Salvage:
    """Find what is provably whole in the shard `name` of `directory`; reads the tar once, a sample at a time."""
    commit_path = directory / f"{name}{COMMIT_SUFFIX}"
    try:
        commit = parse_commit(commit_path)
    except ShardError:
        commit = None
    found = Salvage(commit)
    said = _read(commit_path)
    data = _read(directory / f"{name}.parquet")
    is_named = hashlib.sha256(data).hexdigest().encode() in said
    if commit is not None and not is_named:
        return found
    try:
        rows = parse_table(data).to_pylist()
    except (pa.ArrowException, KeyError, ValueError, OSError):
        return found
    tar = directory / f"{name}.tar"
    for row in rows:
        if row["status"] == "ok":
            if _is_whole(tar, row, is_named=is_named):
                found[row["key"]] = partial(read_span, tar, row), row
            else:
                found.lost.append(str(row["key"]))
        elif is_named:
            found.failed[row["key"]] = row
    return found


def read_span(tar: Path, row: Row) -> bytes:
    """Return the span of one sample, checked against the hash in its sidecar row.

    Raises:
        ShardError: the bytes there are not the sample.
    """
    where = f"{tar}: {row['key']}"
    offset, length = row["tar_offset"], row["tar_len"]
    try:
        fd = os.open(tar, os.O_RDONLY)
        try:
            if offset is None or length is None or not 0 <= offset <= offset + length <= os.fstat(fd).st_size:
                raise ShardError(f"{where} lies outside the tar; run `unibrivl shards repair`")
            span = os.pread(fd, length, offset)
        finally:
            os.close(fd)
    except OSError as e:
        raise ShardError(f"{where} cannot be read ({e.strerror}); run `unibrivl shards repair`") from e
    if xxhash.xxh3_64_intdigest(span) != row["sample_xxh3"]:
        raise ShardError(f"{where} is damaged; run `unibrivl shards repair`")
    return span


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _is_whole(tar: Path, row: Row, *, is_named: bool) -> bool:
    try:
        span = read_span(tar, row)
    except ShardError:
        return False
    return is_named or _agrees(span, row)


def _agrees(span: bytes, row: Row) -> bool:
    """Tell whether the sample's own description says what its row says, column by column where it has one."""
    try:
        info = json.loads(parse_members(span, "")["json"])
        said = {name: info[name] for name in info if name in row}
    except (ShardError, ValueError, KeyError, TypeError):
        return False
    key = str(row["key"])
    is_ours = said.get("key") == key and KEY_PATTERN.fullmatch(key) and span.startswith(f"{key}.".encode())
    return bool(is_ours) and all(row[name] == value for name, value in said.items())
