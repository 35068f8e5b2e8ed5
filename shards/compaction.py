"""One table in place of a thousand sidecars: a cache, used only while it fits the commits to the letter.

`catalog.parquet` holds the rows of every sidecar in the order of shard names, and a column `shard` with that name;
`catalog.json` is written last and says which commits they come from. Whatever does not fit is left aside in silence,
for the sidecars say the same.
"""

import hashlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from .atomic import hold_directory, write_file, write_json
from .commit import Commit, Damage, committed_shards, describe_file
from .errors import ShardError
from .schema import FORMAT_VERSION, SIDECAR_SCHEMA
from .seal import SEAL, check_seal, parse_object, seal
from .sidecar import in_threads, read_sidecar

CATALOG_FILES = ("catalog.parquet", "catalog.json")
ROW_GROUP = 65_536
"""Rows; none is shared by two splits, so that one split is read without the others."""


def compact(root: Path) -> int:
    """Write `catalog.parquet` and `catalog.json` for what is committed now; return the number of rows.

    Raises:
        ShardError: nothing is committed, or a shard is damaged.
    """
    commits = committed_shards(root)
    if not commits:
        raise ShardError(f"{root} holds no shard to index; make one with `unibrivl ingest`")
    table_path, list_path = (root / name for name in CATALOG_FILES)
    with hold_directory(root, wait=False) as is_ours:
        if not is_ours:
            raise ShardError(f"{root}: another run is writing there; wait for it")
        write_file(table_path, lambda f: _write_rows(f, commits))
        value = {"format": FORMAT_VERSION, "table": describe_file(table_path), "shards": _listed(commits)}
        write_json(list_path, seal(value))
    return sum(commit.planned for commit in commits)


def _listed(commits: list[Commit]) -> list[list[Any]]:
    """Return what `catalog.json` says of each commit: split, name, rows, and the seal of its file."""
    return [[commit.split, commit.name, commit.planned, commit.stored()[SEAL]] for commit in commits]


def _write_rows(file: BinaryIO, commits: list[Commit]) -> None:
    schema = SIDECAR_SCHEMA.append(pa.field("shard", pa.string()))
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for _, part in groupby(commits, key=lambda commit: commit.split):
            for table in _large_tables(list(part)):
                writer.write_table(table, row_group_size=ROW_GROUP)


def _large_tables(commits: list[Commit]) -> Iterator[pa.Table]:
    """Yield the rows of shards in tables of about `ROW_GROUP` rows."""
    waiting: list[pa.Table] = []
    for commit, table in zip(commits, in_threads(read_sidecar, commits), strict=True):
        waiting.append(table.append_column("shard", pa.repeat(pa.scalar(commit.name), len(table))))
        if sum(map(len, waiting)) >= ROW_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def compacted_rows(root: Path, commits: list[Commit], *, split: str | None = None) -> pa.Table | None:
    """Return the rows of all `commits` (of one split, if given) in `SIDECAR_SCHEMA`; None if there is no cache of them.

    `commits` are those on disk: the cache counts only if it was made of exactly these.
    """
    try:
        listed = _read_list(root)["shards"]
        begin = next((n for n, entry in enumerate(listed) if split in (None, entry[0])), len(listed))
        chosen = [entry for entry in listed if split in (None, entry[0])]
        if not chosen or chosen != _listed(commits):
            return None
        first = sum(entry[2] for entry in listed[:begin])
        return _read_rows(_read_table(root), first, first + sum(entry[2] for entry in chosen))
    except (pa.ArrowException, KeyError, ValueError, TypeError, IndexError, OSError):
        return None


def _read_rows(data: bytes, begin: int, end: int) -> pa.Table:
    """Read rows `begin` to `end`, which are whole row groups, as splits are."""
    groups, position = [], 0
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        for group in range(file.num_row_groups):
            if begin <= position < end:
                groups.append(group)
            position += file.metadata.row_group(group).num_rows
        table = file.read_row_groups(groups, columns=SIDECAR_SCHEMA.names)
    if len(table) != end - begin:
        raise ValueError(f"{len(table)} rows, want {end - begin}")
    return table.select(SIDECAR_SCHEMA.names).cast(SIDECAR_SCHEMA)


def _read_list(root: Path) -> dict[str, Any]:
    """Return `catalog.json`.

    Raises:
        OSError, ValueError, KeyError: it is missing or damaged.
    """
    data = (root / CATALOG_FILES[1]).read_bytes()
    value = parse_object(data)
    check_seal(value, data)
    if value["format"] != FORMAT_VERSION:
        raise ValueError(f"format {value['format']}, this program reads {FORMAT_VERSION}")
    return value


def _read_table(root: Path) -> bytes:
    """Return the bytes of `catalog.parquet`, which must be those that `catalog.json` names."""
    data = (root / CATALOG_FILES[0]).read_bytes()
    if hashlib.sha256(data).hexdigest() != _read_list(root)["table"]["sha256"]:
        raise ValueError(f"SHA-256 differs from {CATALOG_FILES[1]}")
    return data


def check_catalog(root: Path) -> list[Damage]:
    """Look for damage in the two files; a cache that is missing or stale is none."""
    name = CATALOG_FILES[1]
    if not (root / name).exists():
        return []
    try:
        _read_list(root)
        name = CATALOG_FILES[0]
        _read_table(root)
    except (OSError, ValueError, KeyError, TypeError) as e:
        hint = f"is a damaged cache ({e}); `unibrivl shards index {root}` makes it again"
        return [Damage(path=root / name, reason=hint)]
    return []
