"""Finds what a shard set holds: the committed shards of a folder and one table of their clips."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .commit import Commit, read_commit
from .errors import ShardError
from .schema import FORMAT_VERSION, SIDECAR_SCHEMA, SPLIT_PATTERN

DATASET_FILE = "dataset.json"


def read_dataset(root: Path) -> dict[str, Any]:
    """Return `dataset.json` of a shard set.

    Raises:
        ShardError: `root` is no shard set of this format version.
    """
    path = root / DATASET_FILE
    try:
        value = json.loads(path.read_bytes())
        version = value["format"]
    except FileNotFoundError:
        raise ShardError(f"{root} is no shard set: it has no {DATASET_FILE}; make one with `unibrivl ingest`") from None
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise ShardError(f"{path}: not readable ({e}); run `unibrivl ingest` into a new folder") from e
    if version != FORMAT_VERSION:
        raise ShardError(f"{path}: shard format {version}, this program reads {FORMAT_VERSION}")
    return value


def committed_shards(root: Path, *, split: str | None = None) -> list[Commit]:
    """Return the committed shards below `root` in the order of their names; of one split, if given."""
    if split is not None and not SPLIT_PATTERN.fullmatch(split):
        return []  # no split has such a name, and a pattern would match several
    pattern = f"shards/{split or '*'}/*.commit.json"
    return [read_commit(path) for path in sorted(root.glob(pattern))]


def read_sidecar(commit: Commit) -> pa.Table:
    """Return a shard's sidecar, checked against the schema and the commit.

    Raises:
        ShardError: the table is damaged or not the one that was committed.
    """
    path = commit.path(".parquet")
    try:
        with pq.ParquetFile(path) as file:
            table = file.read().select(SIDECAR_SCHEMA.names).cast(SIDECAR_SCHEMA)
    except (pa.ArrowException, KeyError, ValueError, OSError) as e:
        raise ShardError(f"{path}: not a readable sidecar ({e}); run the ingestion again") from e
    if len(table) != commit.planned:
        raise ShardError(f"{path}: {len(table)} rows, its commit says {commit.planned}")
    return table


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """The committed clips of a shard set, in the order of shard names and slots."""

    root: Path
    shards: tuple[Commit, ...]
    table: pa.Table
    """Rows of the sidecars whose status is ok, with a column `shard` (position in `shards`)."""

    def column(self, name: str) -> list[Any]:
        """Return one column as a list, a value for every clip."""
        return self.table.column(name).to_pylist()

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.table)


def open_catalog(root: Path, *, split: str | None = None) -> Catalog:
    """Read the commits and sidecars of a shard set.

    Raises:
        ShardError: nothing is committed, the split is unknown, or a file is damaged.
    """
    read_dataset(root)
    shards = committed_shards(root, split=split)
    tables = []
    for number, commit in enumerate(shards):
        table = read_sidecar(commit)
        ok = table.filter(pc.field("status") == "ok")
        tables.append(ok.append_column("shard", pa.array([number] * len(ok), pa.int32())))
    total = sum(len(table) for table in tables)
    if not total:
        known = sorted({c.split for c in committed_shards(root)})
        what = f"no clip of split {split!r}; it has {', '.join(known) or 'none'}" if split else "no clip"
        raise ShardError(f"{root} holds {what}")
    return Catalog(root=root, shards=tuple(shards), table=pa.concat_tables(tables))
