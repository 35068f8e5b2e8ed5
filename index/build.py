"""`index`: embeds the clips of a shard set and publishes a snapshot of them, alone or beside what is there."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ..model.embed import Encoder, load_encoder
from ..model.embed_set import embed_set
from ..model.embed_shard import EmbedConfig
from ..shards import ClipShards, read_dataset
from ..shards.arrays import array_of
from ..shards.catalog import committed_shards
from ..shards.cluster import ClusterConfig, connected
from .assign_cluster import assign_on
from .captions import CAPTIONS, embed_captions
from .embedded import read_embeddings
from .errors import IndexMismatchError, IndexStoreError
from .gate import equip
from .memory import check_memory, peak_rss_mb
from .merge import merged_drafts, needs_merging
from .plan import SearchConfig
from .recorded import not_measured
from .segment import GIVEN_SCHEMA, Draft, discard, draft_segment, seal_segment
from .snapshot import Snapshot, Tombstones, open_snapshot, publish, writing

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers
CANARY_DIGITS = 6
MODES = ("replace", "append", "upsert")
EMBEDDED = ".embeddings"
"""Folder within the index of what a cluster has embedded, until it is published: a command that is stopped goes on."""
CONTENTS = {"audio": "audio_sha256", "image": "frame_sha256"}
"""Modality to the column of the catalog that tells equal contents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """What `unibrivl index` was asked to do."""

    run: Path
    """A trained run."""
    shards: Path
    """The shard set to index, every split of it."""
    out: Path
    """Folder of the index."""
    image_tower: str | None = None
    """The image tower's name where its weights lie now, if they were moved."""
    mode: str = "replace"
    """`replace`: the index holds exactly these shards; `append`: these beside what it holds, no item twice; `upsert`:
    the same, and items that it holds already are replaced."""
    embeddings: Path | None = None
    """Folder that `unibrivl embed` wrote for these shards, to be read in place of embedding them here."""
    search: SearchConfig = field(default_factory=SearchConfig)
    cluster: ClusterConfig | None = None
    """The Ray cluster that embeds, and finds each row's list; None: this process."""

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}, want {', '.join(MODES)}")


@dataclass(frozen=True, slots=True)
class IndexResult:
    """What is published now."""

    index: Path
    snapshot: str
    items: dict[str, int]
    """By modality, without those deleted."""
    built: bool
    """False when the same index was there."""
    seconds: float
    peak_rss_mb: float
    """Most memory that the process held."""


Progress = Callable[[int, int, str], None]


def build_index(config: IndexConfig, progress: Progress = lambda done, total, text: None) -> IndexResult:
    """Index a shard set; return at once if `out` holds it already.

    Raises:
        CheckpointError, ShardError: the run or the shards are missing or damaged.
        IndexStoreError: `out` cannot be written, memory does not suffice, an item to append is there already, or there
            is no such cluster.
        TrainError: the cluster keeps losing those who embed, or one of its machines has other files.
        IndexMismatchError: `out` was built by another encoder than what is to be appended.
        GateError: the index asked for does not reach the recall.
    """
    started = time.monotonic()
    encoder = load_encoder(config.run, config.image_tower)
    source = describe_source(config.shards, config.out)
    with writing(config.out):
        before = _current(config.out) if config.mode == "replace" else _appendable(config, encoder)
        is_there = before is not None and _holds(before, config, encoder, source)
        if before is None or not is_there:
            with connected(config.cluster, IndexStoreError) if config.cluster else nullcontext():
                _publish(config, encoder, source, before if config.mode != "replace" else None, progress)
        if (config.out / EMBEDDED).exists():
            discard(config.out / EMBEDDED)
        snapshot = open_snapshot(config.out)
    return IndexResult(
        config.out, snapshot.id, snapshot.counts(), not is_there, time.monotonic() - started, peak_rss_mb()
    )


def describe_source(shards: Path, out: Path) -> dict[str, Any]:
    """Return what the manifest says of a shard set."""
    return {
        "shards": os.path.relpath(shards, out),
        "plan_sha256": read_dataset(shards)["plan_sha256"],
        "tars": {commit.name: commit.files[".tar"]["sha256"] for commit in committed_shards(shards, tars=False)},
    }


def _current(out: Path) -> Snapshot | None:
    try:
        return open_snapshot(out)
    except IndexStoreError:
        return None  # none, or damaged: make it anew


def _appendable(config: IndexConfig, encoder: Encoder) -> Snapshot | None:
    """Return what to append to; None: there is nothing yet."""
    if not (config.out / "CURRENT").exists():
        return None
    snapshot = open_snapshot(config.out)
    for modality, ours in encoder.fingerprints().items():
        theirs = snapshot.manifest["encoder"]["fingerprints"].get(modality)
        if theirs != ours:
            raise IndexMismatchError(
                f"{config.out} was built by the {modality} model {str(theirs)[:12]}, {config.run} holds {ours[:12]}; "
                "append with the run that built it, or build an index of its own"
            )
    return snapshot


def _holds(before: Snapshot, config: IndexConfig, encoder: Encoder, source: dict[str, Any]) -> bool:
    """Tell whether a snapshot is what was asked for; clips that were deleted or replaced since are not there."""
    found = before.manifest
    if found["encoder"]["fingerprints"] != encoder.fingerprints() or source not in found["sources"]:
        return False
    clips = sum(commit.ok for commit in committed_shards(config.shards, tars=False))
    number = found["sources"].index(source)
    is_whole = all(_live_rows(before, modality, number) == clips for modality in CONTENTS)
    if config.mode != "replace":
        return is_whole
    return (
        is_whole and len(found["sources"]) == 1 and not before.tombstones
        and found["asked"] == config.search.asked() and found["run"] == os.path.relpath(config.run, config.out)
    )  # fmt: skip


def _live_rows(snapshot: Snapshot, modality: str, source: int) -> int:
    """Return how many items of a shard set are there; since an item is there once, so many clips of the set are."""
    count = 0
    for segment in snapshot.of(modality):
        is_ours, live = segment.rows["source"].to_numpy() == source, snapshot.live(segment)
        count += int(np.count_nonzero(is_ours if live is None else is_ours & live))
    return count


def _publish(
    config: IndexConfig, encoder: Encoder, source: dict[str, Any], before: Snapshot | None, progress: Progress
) -> None:
    """Embed the shards and publish them, with all that `before` holds."""
    sources = list(before.manifest["sources"]) if before else []
    sources += [] if source in sources else [source]
    with ClipShards(config.shards) as clips:
        held = max((before.count(name) for name in CONTENTS), default=0) if before else 0
        check_memory(held + len(clips), encoder.dim, config.search)
        given = {modality: rows_of(clips, modality, sources.index(source)) for modality in CONTENTS}
        gone = _replaced(before, given, config) if before else {}
        drafts = _draft(config, encoder, clips, given, progress)
    segments = list(before.manifest["segments"]) if before else []
    asked = config.search.asked()
    if before is not None and not needs_merging(before, drafts, config.search):
        search, evaluation, asked = before.manifest["search"], before.evaluation, before.manifest["asked"]
    else:
        if before is not None:
            drafts, segments, gone = merged_drafts(config.out / "segments", before, gone, drafts), [], {}
        words = embed_captions(encoder, drafts, config.search, progress)
        evaluation = equip(drafts, words, config.search, progress, {"text": CAPTIONS}, assign_on(config.cluster))
        evaluation |= not_measured(evaluation, encoder.fingerprints())
        search = evaluation.pop("search")
    for entry in (seal_segment(draft, config.out / "segments") for draft in drafts):
        if entry in segments:  # all of it was deleted or replaced, and is back
            gone.pop(entry["id"])
        else:
            segments.append(entry)
    manifest = {
        "dim": encoder.dim, "metric": "cosine", "search": search, "asked": asked,
        "encoder": _describe_encoder(encoder, config.shards), "run": os.path.relpath(config.run, config.out),
        "sources": sources, "segments": segments, "parent": before.id if before else None,
    }  # fmt: skip
    publish(config.out, manifest, evaluation, gone)


def _describe_encoder(encoder: Encoder, shards: Path) -> dict[str, Any]:
    canaries = {name: [round(float(x), CANARY_DIGITS) for x in v] for name, v in encoder.canaries().items()}
    frame_px = read_dataset(shards)["frame"]["sizes_px"][0]
    return {"fingerprints": encoder.fingerprints(), "canaries": canaries, "frame_px": frame_px}


def rows_of(clips: ClipShards, modality: str, source: int) -> pa.Table:
    """Return what is known of each clip, in catalog order, with the columns of `GIVEN_SCHEMA`."""
    table = clips.catalog.table
    places = pa.array([f"{commit.split}/{commit.name}" for commit in clips.catalog.shards])
    columns = {name: table[name] for name in GIVEN_SCHEMA.names if name in table.schema.names} | {
        "shard": places.take(array_of(clips.shard_of_clip)),
        "content_sha256": table[CONTENTS[modality]],
        "source": pa.array(np.full(len(table), source, np.int32)),
    }
    return pa.table({name: columns[name] for name in GIVEN_SCHEMA.names}).cast(GIVEN_SCHEMA)


def _replaced(before: Snapshot, given: dict[str, pa.Table], config: IndexConfig) -> Tombstones:
    """Return the rows that are gone, with those that the clips to come replace.

    Raises:
        IndexStoreError: there are such, and they were to be appended.
    """
    gone = dict(before.tombstones)
    for segment in before.segments:
        again = pc.is_in(segment.rows["key"], value_set=given[segment.modality]["key"].combine_chunks())
        live, again_N = before.live(segment), again.to_numpy()
        rows = np.flatnonzero(again_N if live is None else again_N & live)
        if len(rows) and config.mode == "append":
            raise IndexStoreError(
                f"{config.out} holds {segment.rows['item_id'][int(rows[0])].as_py()} already; pass --upsert to replace "
                "what it holds, or append other clips"
            )
        if len(rows):
            gone[segment.id] = np.union1d(gone.get(segment.id, np.zeros(0, np.int64)), rows)
    return gone


def _draft(
    config: IndexConfig, encoder: Encoder, clips: ClipShards, given: dict[str, pa.Table], progress: Progress
) -> list[Draft]:
    """Write a draft for sounds and one for pictures."""
    folder, done = _embedded(config, encoder, progress), 0

    def count(number: int) -> None:
        nonlocal done
        done += number
        progress(done, 2 * len(clips), "sounds and pictures embedded")

    def blocks(modality: str) -> Iterator[np.ndarray]:
        if folder is not None:
            yield from read_embeddings(folder, clips, modality, encoder.fingerprints(), count)
        else:
            yield from encoder.audio_blocks(clips, count) if modality == "audio" else encoder.image_blocks(clips, count)

    directory = config.out / "segments"
    return [draft_segment(directory, modality, blocks(modality), rows) for modality, rows in given.items()]


def _embedded(config: IndexConfig, encoder: Encoder, progress: Progress) -> Path | None:
    """Return the folder of embeddings to read; a cluster makes it first. None: they are made here."""
    if config.embeddings is not None or config.cluster is None:
        return config.embeddings
    folder = config.out / EMBEDDED
    asked = EmbedConfig(
        run=config.run, shards=config.shards, out=folder, image_tower=config.image_tower, cluster=config.cluster
    )
    embed_set(asked, progress, encoder)
    return folder
