"""Assigns every clip of a list to a split, a shard and a slot, before anything is decoded.

Membership is a pure function of the list and the seed, never of success, so that any rerun, order or number of
workers gives the same shards.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..shards.atomic import write_file
from ..shards.schema import shard_name
from .clips import Clip


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """One shard to be made."""

    name: str
    split: str
    clips: tuple[Clip, ...]
    """In slot order."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Every shard of a data set, in the order of their names."""

    shards: tuple[PlannedShard, ...]
    sha256: str
    """Over every clip, its shard and its slot."""

    @property
    def num_clips(self) -> int:
        """Count the planned clips."""
        return sum(len(shard.clips) for shard in self.shards)

    def splits(self) -> dict[str, int]:
        """Count the planned clips by split."""
        counts = Counter[str]()
        for shard in self.shards:
            counts[shard.split] += len(shard.clips)
        return dict(sorted(counts.items()))


def make_plan(clips: Iterable[Clip], *, seed: int, shard_clips: int) -> Plan:
    """Plan shards of at most `shard_clips` clips in the order of a seeded hash of their media.

    Clips of one medium stay together (it is opened once), unless they are more than a shard holds.
    """

    def order(clip: Clip) -> tuple[str, str, bytes, int]:
        name = f"{seed}/{clip.corpus}/{clip.media_id}".encode()
        return clip.corpus, clip.split, hashlib.blake2b(name, digest_size=16).digest(), clip.start_ms

    shards: list[PlannedShard] = []
    ordered = sorted(clips, key=order)
    for (corpus, split), part in groupby(ordered, key=lambda clip: (clip.corpus, clip.split)):
        for number, members in enumerate(_fill(part, shard_clips)):
            shards.append(PlannedShard(shard_name(corpus, split, number), split, tuple(members)))
    digest = hashlib.sha256()
    for shard in shards:
        for clip in shard.clips:
            digest.update(json.dumps([shard.name, asdict(clip)], sort_keys=True).encode())
    return Plan(tuple(shards), digest.hexdigest())


def _fill(clips: Iterable[Clip], size: int) -> Iterator[list[Clip]]:
    shard: list[Clip] = []
    for _, group in groupby(clips, key=lambda clip: clip.media_id):
        members = list(group)
        if shard and len(shard) + len(members) > size:
            yield shard
            shard = []
        for clip in members:
            if len(shard) == size:
                yield shard
                shard = []
            shard.append(clip)
    if shard:
        yield shard


def write_plan(plan: Plan, path: Path) -> None:
    """Write the plan as Parquet: one row a clip, with key, shard and slot."""
    names = [field.name for field in fields(Clip)]
    rows = [
        {name: getattr(clip, name) for name in names} | {"key": clip.key, "shard": shard.name, "slot": slot}
        for shard in plan.shards
        for slot, clip in enumerate(shard.clips)
    ]
    table = pa.Table.from_pylist(rows)
    write_file(path, lambda f: pq.write_table(table, f, compression="zstd"))
