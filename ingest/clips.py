"""What a clip is before anything was fetched: a stretch of one medium, with what a list says about it.

One clip is a `Clip`; two million are an Arrow table in `CLIP_SCHEMA`, a tenth of the memory.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute

from ..shards.arrays import text_scalar
from ..shards.schema import PLAN_SCHEMA, make_key

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers

CLIP_SCHEMA = PLAN_SCHEMA
"""One row a clip, nothing null; the columns are `Clip`'s fields."""
BATCH_ROWS = 4096
"""Rows that are Python objects at one time."""


class Event(NamedTuple):
    """What sounds from when to when."""

    start_ms: int
    """From the clip's start."""
    end_ms: int
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One row of a list that could be read."""

    corpus: str
    """`as` for AudioSet, `vgg` for VGGSound, `gen` for general lists."""
    media_id: str
    """Identifies the medium within the corpus: letters, digits, `-` and `_`."""
    source: str = ""
    """Path of the medium relative to the media folder, or its address; empty: found by its id."""
    start_ms: int
    """Where the clip starts in the medium."""
    end_ms: int
    """Where it ends."""
    split: str = "train"
    """Lower-case name of the part of the corpus."""
    group: str = ""
    """What belongs together, such as all voices of one thing; empty: the medium is its own group."""
    labels: tuple[str, ...] = ()
    """Names or MIDs."""
    events: tuple[Event, ...] = ()
    """Strong labels, where the list has them."""
    caption: str = ""
    """A sentence or a name."""
    language: str = ""
    """Of the caption and the voice, as in BCP 47; empty: none or unknown."""
    license: str = ""
    """SPDX name where there is one."""

    @property
    def key(self) -> str:
        """Return the clip's key in shards and indexes."""
        return make_key(self.corpus, self.media_id, self.start_ms)


def joined(first: pa.ChunkedArray, second: pa.ChunkedArray) -> pa.DictionaryArray:
    """Return `first/second` of every row, each text once."""
    return pc.binary_join_element_wise(first, second, text_scalar("/")).combine_chunks().dictionary_encode()


def table_of(clips: Iterable[Clip]) -> pa.Table:
    """Return the clips as a table in `CLIP_SCHEMA`, in their order."""
    batches: list[pa.RecordBatch] = []
    columns: dict[str, list[object]] = {name: [] for name in CLIP_SCHEMA.names}

    def flush() -> None:
        arrays = [pa.array(columns[field.name], field.type) for field in CLIP_SCHEMA]
        batches.append(pa.record_batch(arrays, schema=CLIP_SCHEMA))
        for values in columns.values():
            values.clear()

    for number, clip in enumerate(clips, 1):
        for name, values in columns.items():
            values.append([tuple(e) for e in clip.events] if name == "events" else getattr(clip, name))
        if number % BATCH_ROWS == 0:
            flush()
    if columns["corpus"]:
        flush()
    return pa.Table.from_batches(batches, CLIP_SCHEMA)


def clips_of(table: pa.Table) -> Iterator[Clip]:
    """Yield the rows of a table in `CLIP_SCHEMA` as clips."""
    for batch in table.select(CLIP_SCHEMA.names).to_batches(max_chunksize=BATCH_ROWS):
        for row in batch.to_pylist():
            row["labels"] = tuple(row["labels"])
            row["events"] = tuple(Event(**event) for event in row["events"])
            yield Clip(**row)
