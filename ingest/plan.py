"""Assigns every clip of a list to a split, a shard and a slot, before anything is decoded.

Membership is a pure function of the list and the seed, never of success, so that any rerun, order or number of
workers gives the same shards.
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from ..shards.atomic import write_file
from ..shards.schema import shard_name
from .clips import CLIP_SCHEMA, Clip, array_of, clips_of, joined, keys_of, numpy_of, texts_of
from .errors import PlanError
from .hashes import hash_ranks

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers

PLAN_VERSION = b"1"
SHA256_FIELD, VERSION_FIELD = b"unibrivl.plan_sha256", b"unibrivl.plan"
"""Where the Parquet file's metadata hold the hash and the format's version."""
ROW_GROUP_ROWS = 1 << 18


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
    """Over every clip, its shard and its slot; see `plan_sha256`."""

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
    return Plan(ordered, tuple(shards), plan_sha256(ordered, shards))


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


def plan_sha256(table: pa.Table, shards: list[PlannedShard] | tuple[PlannedShard, ...]) -> str:
    """Hash every clip with its shard and slot, the same way whatever wrote or read the table.

    The bytes are: of each shard its name in UTF-8, a zero byte and its number of clips; then column by column, in the
    order of `CLIP_SCHEMA`, its name, a zero byte and its values in slot order. Integers are 64 bits, little-endian.
    Texts are all their lengths in bytes and then all their UTF-8; lists all their lengths and then their values;
    events their three fields one after the other.
    """
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(shard.name.encode() + b"\0" + struct.pack("<q", shard.num_clips))
    for name in CLIP_SCHEMA.names:
        digest.update(name.encode() + b"\0")
        _update(digest, table[name].chunks)
    return digest.hexdigest()


def _update(digest: "hashlib._Hash", chunks: list[pa.Array]) -> None:
    """Hash one column; how it is cut into chunks makes no difference."""
    kind = chunks[0].type if chunks else pa.int64()
    if pa.types.is_int64(kind):
        for chunk in chunks:
            digest.update(numpy_of(chunk).astype("<i8", copy=False).data)
    elif pa.types.is_string(kind):
        _update(digest, [pc.cast(pc.binary_length(chunk), pa.int64()) for chunk in chunks])
        for chunk in chunks:
            _, offsets, text = chunk.buffers()
            ends = np.frombuffer(offsets, np.int32)[[chunk.offset, chunk.offset + len(chunk)]] if len(chunk) else (0, 0)
            digest.update(memoryview(text)[ends[0] : ends[1]] if text else b"")
    elif pa.types.is_list(kind):
        _update(digest, [pc.cast(pc.list_value_length(chunk), pa.int64()) for chunk in chunks])
        _update(digest, [chunk.flatten() for chunk in chunks])
    else:
        for number in range(kind.num_fields):
            _update(digest, [chunk.flatten()[number] for chunk in chunks])


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
    counts = [shard.num_clips for shard in plan.shards]
    codes = array_of(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
    names = pa.DictionaryArray.from_arrays(codes, texts_of([shard.name for shard in plan.shards]))
    slots = np.concatenate([np.zeros(0, np.int64), *(np.arange(count) for count in counts)])
    table = plan.table.append_column("key", keys_of(plan.table)).append_column("shard", names)
    table = table.append_column("slot", array_of(slots))
    table = table.replace_schema_metadata({VERSION_FIELD: PLAN_VERSION, SHA256_FIELD: plan.sha256.encode()})
    write_file(path, lambda f: pq.write_table(table, f, compression="zstd", row_group_size=ROW_GROUP_ROWS))


def read_plan(path: Path) -> Plan:
    """Read a plan and check it.

    Raises:
        PlanError: the file is missing, damaged, of another version, or does not fit its own hash.
    """
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        if metadata.get(VERSION_FIELD) != PLAN_VERSION:
            raise PlanError(f"{path}: no plan of version {PLAN_VERSION.decode()}; ingest into another folder")
        clips = table.select(CLIP_SCHEMA.names).cast(CLIP_SCHEMA).combine_chunks()
        shards = _shards(table["shard"].cast(pa.string()).combine_chunks(), numpy_of(table["slot"]), clips["split"])
        sha256 = plan_sha256(clips, shards or ())
        fits = sha256.encode() == metadata.get(SHA256_FIELD) and shards is not None
        fits = fits and table["key"].cast(pa.string()) == keys_of(clips)
    except FileNotFoundError:
        raise PlanError(f"{path}: there is no such plan") from None
    except (pa.ArrowException, OSError, KeyError) as e:
        reason = str(e).partition("\n")[0][:200]
        raise PlanError(f"{path}: not a plan that can be read ({reason}); ingest the same list again") from e
    if not fits:
        raise PlanError(f"{path}: the plan does not fit its own hash; the file is damaged, ingest the same list again")
    return Plan(clips, shards or (), sha256)


def _shards(column: pa.StringArray, slots: np.ndarray, splits: pa.ChunkedArray) -> tuple[PlannedShard, ...] | None:
    """Find the shards again from each row's shard and slot; None if these are not in the order of a plan."""
    names = column.dictionary_encode()
    codes = numpy_of(names.indices)
    firsts = np.flatnonzero(slots == 0)
    counts = np.diff(np.append(firsts, len(slots)))
    if len(names.dictionary) != len(firsts) or not np.array_equal(codes, np.repeat(np.arange(len(firsts)), counts)):
        return None
    if not np.array_equal(slots, np.arange(len(slots)) - np.repeat(firsts, counts)):
        return None
    heads = zip(names.dictionary.to_pylist(), splits.take(firsts).to_pylist(), firsts, counts, strict=True)
    return tuple(PlannedShard(name, split, int(first), int(count)) for name, split, first, count in heads)
