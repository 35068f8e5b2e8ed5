"""Assigns every clip of a list to a split, a shard and a slot, before anything is decoded.

Membership is a pure function of the list and the seed, never of success, so that any rerun, order or number of
workers gives the same shards.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..shards import ShardError
from ..shards.arrays import array_of, numpy_of
from ..shards.planfile import PlanFile, keys_of, plan_sha256, read_plan_file, write_plan_file
from ..shards.schema import shard_name
from .clips import CLIP_SCHEMA, Clip, clips_of, joined
from .errors import PlanError
from .hashes import hash_ranks


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """One shard to be made: a stretch of the plan's table."""

    name: str
    split: str
    first: int
    """Row of its first clip."""
    num_clips: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Every shard of a data set, in the order of their names."""

    table: pa.Table
    """Every clip in `CLIP_SCHEMA`, in the order of shards and slots."""
    shards: tuple[PlannedShard, ...]
    sha256: str
    """Over every clip, its shard and its slot; see `shards/planfile.py`."""

    @property
    def num_clips(self) -> int:
        """Count the planned clips."""
        return len(self.table)

    def splits(self) -> dict[str, int]:
        """Count the planned clips by split."""
        counts = Counter[str]()
        for shard in self.shards:
            counts[shard.split] += shard.num_clips
        return dict(sorted(counts.items()))

    def clips(self, shard: PlannedShard) -> tuple[Clip, ...]:
        """Return the clips of one shard in slot order."""
        return tuple(clips_of(self.table.slice(shard.first, shard.num_clips)))


def make_plan(table: pa.Table, *, seed: int, shard_clips: int, retry: int = 0) -> Plan:
    """Plan shards of at most `shard_clips` clips in the order of a seeded hash of their media.

    Clips of one medium stay together (it is opened once), unless they are more than a shard holds.

    Args:
        table: clips in `CLIP_SCHEMA`, in any order.
        seed: of the order of the media.
        shard_clips: clips a shard, at least 1.
        retry: round of a retry, from 1; its shards are patch shards. 0: the first shards of these clips.

    Raises:
        PlanError: two rows are the same clip.
    """
    if table.schema != CLIP_SCHEMA or shard_clips < 1:
        raise ValueError("want clips in CLIP_SCHEMA and at least one clip a shard")
    parts = joined(table["corpus"], table["split"])
    names = [tuple(name.split("/")) for name in parts.dictionary.to_pylist()]
    part_ranks = np.argsort(np.array(sorted(range(len(names)), key=names.__getitem__), np.int64))
    part = part_ranks[numpy_of(parts.indices)] if names else np.zeros(0, np.int64)
    medium, start_ms = hash_ranks(table, seed), numpy_of(table["start_ms"])
    _refuse_doubles(table, medium, start_ms)
    order = np.lexsort((start_ms, medium, part))
    part, medium = part[order], medium[order]
    shards = []
    for number, (corpus, split) in enumerate(sorted(names)):
        first, stop = np.searchsorted(part, [number, number + 1]).tolist()
        for shard, (begin, end) in enumerate(_fill(medium[first:stop], shard_clips)):
            name = shard_name(corpus, split, shard, retry=retry)
            shards.append(PlannedShard(name, split, first + begin, end - begin))
    ordered = table.take(array_of(order)).combine_chunks()
    return Plan(ordered, tuple(shards), plan_sha256(ordered, _counts(shards)))


def _refuse_doubles(table: pa.Table, medium: np.ndarray, start_ms: np.ndarray) -> None:
    order = np.lexsort((start_ms, medium))
    same = (np.diff(medium[order]) == 0) & (np.diff(start_ms[order]) == 0)
    if same.any():
        key = keys_of(table.slice(int(order[np.argmax(same)]), 1))[0]
        raise PlanError(f"clip {key} stands in the list twice; a clip is in one split, once")


def _fill(medium: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each shard: as many whole media as fit, or a part of one that fits into none."""
    ends = np.append(np.flatnonzero(np.diff(medium)) + 1, len(medium))
    begin = 0
    while begin < len(medium):
        end = int(ends[np.searchsorted(ends, begin + size, side="right") - 1])
        if end <= begin or ends[0] > begin + size:
            end = begin + size
        yield begin, end
        begin = end


def leaks(table: pa.Table) -> int:
    """Count the media ids in `table` that occur in more than one corpus or split.

    Such media are a leak from training to testing when sets are mixed: 6,958 videos of VGGSound's test list are in
    AudioSet's evaluation list too. They are counted, never dropped.
    """
    places = table.select(["media_id", "corpus", "split"]).group_by(["media_id", "corpus", "split"]).aggregate([])
    counts = places.group_by("media_id").aggregate([([], "count_all")])["count_all"]
    return int((counts.to_numpy() > 1).sum())


def write_plan(plan: Plan, path: Path) -> None:
    """Write the plan as Parquet: one row a clip, with key, shard and slot; its hash is in the metadata."""
    write_plan_file(PlanFile(plan.table, _counts(plan.shards), plan.sha256), path)


def read_plan(path: Path) -> Plan:
    """Read a plan and check it.

    Raises:
        PlanError: the file is missing, damaged, of another version, or does not fit its own hash.
    """
    try:
        found = read_plan_file(path)
    except ShardError as e:
        raise PlanError(f"{e}; ingest the same list again, it writes the plan anew") from e
    shards, first = [], 0
    for name, count in found.shards:
        shards.append(PlannedShard(name, found.table["split"][first].as_py(), first, count))
        first += count
    return Plan(found.table, tuple(shards), found.sha256)


def _counts(shards: Iterable[PlannedShard]) -> tuple[tuple[str, int], ...]:
    return tuple((shard.name, shard.num_clips) for shard in shards)
