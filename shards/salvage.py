"""What is provably whole in a damaged shard, so that only the rest has to be made again.

A sidecar counts if its SHA-256 stands in the commit file, even in one that is damaged elsewhere. Where a damaged commit
file does not name it, each row must be vouched for by the sample itself: its hash, its key and its description. A
sidecar that a sound commit file contradicts is worth nothing.

A tar counts by the same rule: where the commit file names its SHA-256, every sample in it is whole, whatever became of
the sidecar. Their rows are then lost, and only their places are given.
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

from .commit import COMMIT_SUFFIX, Commit, describe_file, parse_commit
from .errors import ShardError
from .schema import KEY_PATTERN
from .sidecar import parse_table
from .tarindex import parse_members
from .tarscan import scan_tar

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
        self.media: dict[str, str] = {}
        """Of clips in `lost`, the SHA-256 of their media; only from a sidecar that the commit file names."""
        self.bare: dict[str, Span] = {}
        """Readers of samples that are whole while their rows are lost; only from a tar that the commit file names."""


def salvage(directory: Path, name: str) -> Salvage:
    """Find what is provably whole in the shard `name` of `directory`; reads the tar, a sample at a time."""
    commit_path = directory / f"{name}{COMMIT_SUFFIX}"
    try:
        commit = parse_commit(commit_path)
    except ShardError:
        commit = None
    found = Salvage(commit)
    said, data = _read(commit_path), _read(directory / f"{name}.parquet")
    is_named = hashlib.sha256(data).hexdigest().encode() in said
    tar = directory / f"{name}.tar"
    for row in _rows(data) if is_named or commit is None else []:
        if row["status"] == "ok":
            if _is_whole(tar, row, is_named=is_named):
                found[row["key"]] = partial(read_span, tar, row), row
                continue
            found.lost.append(str(row["key"]))
            if is_named and row["src_sha256"]:
                found.media[row["key"]] = row["src_sha256"]
        elif is_named:
            found.failed[row["key"]] = row
    if not is_named and _names(said, tar):
        found.bare = {key: span for key, span in _spans(tar).items() if key not in found}
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


def _names(said: bytes, path: Path) -> bool:
    """Tell whether a commit file, whole or not, has the SHA-256 of the file as it is now."""
    try:
        return describe_file(path)["sha256"].encode() in said
    except OSError:
        return False


def _rows(data: bytes) -> list[Row]:
    try:
        return parse_table(data).to_pylist()
    except (pa.ArrowException, KeyError, ValueError, OSError):
        return []


def _spans(tar: Path) -> dict[str, Span]:
    """Return a reader for every sample of a whole tar, whose headers say where it lies."""
    places = {
        sample.key: {
            "key": sample.key,
            "tar_offset": sample.offset,
            "tar_len": sample.length,
            "sample_xxh3": sample.xxh3,
        }
        for sample in scan_tar(tar).samples
    }
    return {key: partial(read_span, tar, place) for key, place in places.items()}


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
