"""Finds what a shard set holds: the committed shards of a folder and one table of their clips."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute

from .atomic import write_json
from .commit import Commit, Damage, DamageError, committed_paths, committed_shards, read_committed
from .compaction import CATALOG_FILES, compact, compacted_rows
from .errors import ShardError
from .schema import FORMAT_VERSION, SIDECAR_SCHEMA
from .seal import SEAL, check_seal, parse_object, seal
from .sidecar import best_rows, first_rows, in_threads, read_sidecar

__all__ = [
    "CATALOG_FILES",
    "DATASET_FILE",
    "ONTOLOGY_FILE",
    "Catalog",
    "all_rows",
    "committed_shards",
    "compact",
    "label_counts",
    "open_catalog",
    "read_dataset",
    "read_sidecar",
    "write_dataset",
]

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers

DATASET_FILE = "dataset.json"
ONTOLOGY_FILE = "ontology.json"


def write_dataset(root: Path, value: dict[str, Any]) -> None:
    """Write `dataset.json` of a shard set with the format's version and a seal."""
    write_json(root / DATASET_FILE, seal({"format": FORMAT_VERSION} | value))


def read_dataset(root: Path) -> dict[str, Any]:
    """Return `dataset.json` of a shard set, without its seal, which is checked if there is one.

    Raises:
        ShardError: `root` is no shard set of this format version, or the file is damaged.
    """
    path = root / DATASET_FILE
    try:
        data = path.read_bytes()
        value = parse_object(data)
        if type(value["format"]) is not int or value["format"] != FORMAT_VERSION:
            raise ShardError(f"{path}: shard format {value['format']}, this program reads {FORMAT_VERSION}")
        if SEAL in value:
            check_seal(value, data)
    except FileNotFoundError:
        raise ShardError(f"{root} is no shard set: it has no {DATASET_FILE}; make one with `unibrivl ingest`") from None
    except (OSError, ValueError, KeyError) as e:
        raise ShardError(f"{path}: not readable ({e}); delete it and run the same `unibrivl ingest` again") from e
    return {name: entry for name, entry in value.items() if name != SEAL}


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """The committed clips of a shard set, in the order of shard names and slots."""

    root: Path
    shards: tuple[Commit, ...]
    table: pa.Table
    """Rows of the sidecars whose status is ok, one a clip, with a column `shard` (position in `shards`)."""
    damaged: tuple[Damage, ...] = ()
    """What was left out because it is damaged; empty unless `open_catalog` was told to skip."""

    def column(self, name: str) -> list[Any]:
        """Return one column as a list, a value for every clip."""
        return self.table.column(name).to_pylist()

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.table)


def open_catalog(
    root: Path, *, split: str | None = None, tars: bool = True, on_error: Literal["raise", "skip"] = "raise"
) -> Catalog:
    """Read the commits and sidecars of a shard set, or its compacted catalog if that fits the commits.

    Args:
        root: folder of the set.
        split: one split; None takes every one.
        tars: False: do not look at the tars, a mirror has none.
        on_error: `skip` leaves damaged shards out and says so in `Catalog.damaged`.

    Raises:
        ShardError: nothing is committed, the split is unknown, or a shard is damaged.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}, want raise or skip")
    read_dataset(root)
    damaged: list[Damage] = []
    shards, table = _read_shards(root, split, tars, damaged if on_error == "skip" else None, only_ok=True)
    if (first := first_rows(table)) is not None:  # recovered twice: a patch shard was made again
        table = table.take(first)
    if not len(table):
        known = sorted({path.parent.name for path in committed_paths(root)})
        what = f"no clip of split {split!r}; it has {', '.join(known) or 'none'}" if split else "no clip"
        raise ShardError(f"{root} holds {what}{f'; {damaged[0]}' if damaged else ''}")
    return Catalog(root=root, shards=tuple(shards), table=table, damaged=tuple(damaged))


def all_rows(root: Path, *, split: str | None = None, tars: bool = True) -> pa.Table:
    """Return one row for every clip planned for a committed shard: the one that is ok, else the last that failed.

    The rows are in the order in which the clips were first planned, with a column `shard` (int32, position in
    `committed_shards`). A set in which nothing is committed has no rows.

    Raises:
        ShardError: a shard is damaged.
    """
    _, rows = _read_shards(root, split, tars, None, only_ok=False)
    best = best_rows(rows)
    return rows if len(best) == len(rows) else rows.take(best)


def label_counts(table: pa.Table) -> dict[str, int]:
    """Count the clips of a table by label, the most frequent first and equals in the order of their names."""
    counted = pc.value_counts(pc.list_flatten(table["labels"]).drop_null())
    pairs = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def _read_shards(
    root: Path, split: str | None, tars: bool, skipped: list[Damage] | None, *, only_ok: bool
) -> tuple[list[Commit], pa.Table]:
    """Return commits and the rows of their sidecars with a column `shard`; damage goes to `skipped`, if given."""
    commits: list[Commit] = []
    for path in committed_paths(root, split=split):
        try:
            commits.append(read_committed(path, tars=tars))
        except DamageError as e:
            if skipped is None:
                raise
            skipped.append(e.damage)
    rows = compacted_rows(root, commits, split=split)
    if rows is not None:
        rows = _number(rows, [commit.planned for commit in commits])
        return commits, _good(rows) if only_ok else rows
    commits, tables = _read_sidecars(commits, skipped, only_ok=only_ok)
    return commits, _number(pa.concat_tables([SIDECAR_SCHEMA.empty_table(), *tables]), [len(table) for table in tables])


def _read_sidecars(
    commits: list[Commit], skipped: list[Damage] | None, *, only_ok: bool
) -> tuple[list[Commit], list[pa.Table]]:
    """Return the commits whose sidecars are sound, and the rows of each."""

    def read(commit: Commit) -> pa.Table | Damage:
        try:
            table = read_sidecar(commit)
        except DamageError as e:
            if skipped is None:
                raise
            return e.damage
        return _good(table) if only_ok else table

    tables, sound = [], []
    for commit, found in zip(commits, in_threads(read, commits), strict=True):
        if isinstance(found, Damage):
            assert skipped is not None
            skipped.append(found)
        else:
            tables.append(found)
            sound.append(commit)
    return sound, tables


def _good(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["status"], "ok"))


def _number(rows: pa.Table, counts: list[int]) -> pa.Table:
    """Append the column `shard`: 0 for the first `counts[0]` rows, and so on."""
    return rows.append_column("shard", pa.array(np.repeat(np.arange(len(counts), dtype=np.int32), counts), pa.int32()))
