"""A plan's file: every planned clip with its shard and slot, and a hash over all of them.

Plans are made by ingestion. The format knows their file, so that a lost or damaged one is seen like any other.
"""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from .arrays import array_of, numpy_of, text_scalar, texts_of
from .atomic import write_file
from .errors import ShardError
from .schema import PLAN_SCHEMA

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers

PLAN_FILE = "plan/plan-00000.parquet"
"""The first plan of a set; those of retries lie beside it."""
PLAN_VERSION = b"1"
SHA256_FIELD, VERSION_FIELD = b"unibrivl.plan_sha256", b"unibrivl.plan"
"""Where the Parquet file's metadata hold the hash and the format's version."""
ROW_GROUP_ROWS = 1 << 18


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What the file of a plan holds."""

    table: pa.Table
    """Every clip in `PLAN_SCHEMA`, in the order of shards and slots."""
    shards: tuple[tuple[str, int], ...]
    """Name and number of clips of each shard, in order."""
    sha256: str
    """See `plan_sha256`."""


def round_file(number: int) -> str:
    """Return the path of the plan of a round of retries within its set."""
    return f"plan/retry-{number:02d}.parquet"


def plan_sha256(table: pa.Table, shards: Iterable[tuple[str, int]]) -> str:
    """Hash every clip with its shard and slot, the same way whatever wrote or read the table.

    The bytes are: of each shard its name in UTF-8, a zero byte and its number of clips; then column by column, in the
    order of `PLAN_SCHEMA`, its name, a zero byte and its values in slot order. Integers are 64 bits, little-endian.
    Texts are all their lengths in bytes and then all their UTF-8; lists all their lengths and then their values;
    events their three fields one after the other.
    """
    digest = hashlib.sha256()
    for name, count in shards:
        digest.update(name.encode() + b"\0" + struct.pack("<q", count))
    for name in PLAN_SCHEMA.names:
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


def keys_of(table: pa.Table) -> pa.ChunkedArray:
    """Return `Clip.key` of every row. Rows are taken to be valid, as those of a list are."""
    start = pc.utf8_lpad(pc.cast(table["start_ms"], pa.string()), width=9, padding="0")
    return pc.binary_join_element_wise(table["corpus"], table["media_id"], start, text_scalar("_"))


def write_plan_file(plan: PlanFile, path: Path) -> None:
    """Write a plan as Parquet: one row a clip, with key, shard and slot; its hash is in the metadata."""
    counts = [count for _, count in plan.shards]
    codes = array_of(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
    names = pa.DictionaryArray.from_arrays(codes, texts_of([name for name, _ in plan.shards]))
    slots = np.concatenate([np.zeros(0, np.int64), *(np.arange(count) for count in counts)])
    table = plan.table.append_column("key", keys_of(plan.table)).append_column("shard", names)
    table = table.append_column("slot", array_of(slots))
    table = table.replace_schema_metadata({VERSION_FIELD: PLAN_VERSION, SHA256_FIELD: plan.sha256.encode()})
    write_file(path, lambda f: pq.write_table(table, f, compression="zstd", row_group_size=ROW_GROUP_ROWS))


def read_plan_file(path: Path) -> PlanFile:
    """Read a plan and check it against its own hash.

    Raises:
        ShardError: the file is missing, damaged, of another version, or does not fit its own hash.
    """
    try:
        table = pq.read_table(path)
        said = _said_sha256(table.schema.metadata, path)
        clips = table.select(PLAN_SCHEMA.names).cast(PLAN_SCHEMA).combine_chunks()
        shards = _shards(table["shard"].cast(pa.string()).combine_chunks(), numpy_of(table["slot"]))
        sha256 = plan_sha256(clips, shards or ())
        fits = shards is not None and sha256 == said and table["key"].cast(pa.string()) == keys_of(clips)
    except FileNotFoundError:
        raise ShardError(f"{path}: there is no such plan") from None
    except (pa.ArrowException, OSError, KeyError) as e:
        reason = str(e).partition("\n")[0][:200]
        raise ShardError(f"{path}: not a plan that can be read ({reason})") from e
    if not fits:
        raise ShardError(f"{path}: the plan does not fit its own hash; the file is damaged")
    return PlanFile(clips, shards or (), sha256)


def planned_shards(path: Path) -> tuple[set[str], str]:
    """Return the names of a plan's shards and the hash that its file states; the clips are not looked at.

    Raises:
        ShardError: the file is missing, damaged, or of another version.
    """
    try:
        with pq.ParquetFile(path) as file:
            said = _said_sha256(file.schema_arrow.metadata, path)
            return set(file.read(columns=["shard"])["shard"].unique().to_pylist()), said
    except (pa.ArrowException, KeyError, ValueError, OSError) as e:
        reason = str(e).partition("\n")[0][:200]
        raise ShardError(f"{path}: not a plan that can be read ({reason})") from e


def _said_sha256(metadata: dict[bytes, bytes] | None, path: Path) -> str:
    metadata = metadata or {}
    if metadata.get(VERSION_FIELD) != PLAN_VERSION:
        raise ShardError(f"{path}: no plan of version {PLAN_VERSION.decode()}")
    return metadata.get(SHA256_FIELD, b"").decode("ascii", "replace")


def _shards(column: pa.StringArray, slots: np.ndarray) -> tuple[tuple[str, int], ...] | None:
    """Find the shards again from each row's shard and slot; None if these are not in the order of a plan."""
    names = column.dictionary_encode()
    codes = numpy_of(names.indices)
    firsts = np.flatnonzero(slots == 0)
    counts = np.diff(np.append(firsts, len(slots)))
    if len(names.dictionary) != len(firsts) or not np.array_equal(codes, np.repeat(np.arange(len(firsts)), counts)):
        return None
    if not np.array_equal(slots, np.arange(len(slots)) - np.repeat(firsts, counts)):
        return None
    return tuple(zip(names.dictionary.to_pylist(), counts.tolist(), strict=True))
