"""`index`: embeds the clips of a shard set and publishes a snapshot of them."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..model.embed import Encoder, load_encoder
from ..shards import ClipShards, read_dataset
from ..shards.catalog import committed_shards
from .errors import IndexStoreError
from .segment import ROWS_SCHEMA, write_segment
from .snapshot import open_snapshot, publish, writing

CANARY_DIGITS = 6


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


@dataclass(frozen=True, slots=True)
class IndexResult:
    """What was published."""

    index: Path
    snapshot: str
    items: dict[str, int]
    """By modality."""
    built: bool
    """False when the same index was there."""
    seconds: float


Progress = Callable[[int, int, str], None]


def build_index(config: IndexConfig, progress: Progress = lambda done, total, text: None) -> IndexResult:
    """Index a shard set; return at once if `out` holds the same index.

    Raises:
        CheckpointError, ShardError: the run or the shards are missing or damaged.
        IndexStoreError: `out` cannot be written.
    """
    started = time.monotonic()
    encoder = load_encoder(config.run, config.image_tower)
    manifest = _describe(config, encoder)
    with writing(config.out):
        found = _same(config.out, manifest)
        if found is None:
            manifest["segments"] = _embed(config, encoder, progress)
            snapshot = publish(config.out, manifest)
        else:
            snapshot, manifest = found
    items = {entry["modality"]: entry["rows"] for entry in manifest["segments"]}
    return IndexResult(config.out, snapshot, items, found is None, time.monotonic() - started)


def _describe(config: IndexConfig, encoder: Encoder) -> dict[str, Any]:
    """Return the manifest without its segments."""
    dataset = read_dataset(config.shards)
    canaries = {name: [round(float(x), CANARY_DIGITS) for x in v] for name, v in encoder.canaries().items()}
    return {
        "dim": encoder.dim,
        "metric": "cosine",
        "search": "exact",
        "encoder": {
            "fingerprints": encoder.fingerprints(),
            "canaries": canaries,
            "frame_px": dataset["frame"]["sizes_px"][0],
        },
        "run": os.path.relpath(config.run, config.out),
        "shards": os.path.relpath(config.shards, config.out),
        "plan_sha256": dataset["plan_sha256"],
        "tars": {commit.name: commit.files[".tar"]["sha256"] for commit in committed_shards(config.shards)},
        "parent": None,
    }


def _same(out: Path, manifest: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the current snapshot if it was made of the same shards by the same encoder."""
    if not (out / "CURRENT").exists():
        return None
    try:
        snapshot = open_snapshot(out)
    except IndexStoreError:
        return None  # damaged: make it anew
    found = snapshot.manifest
    compared = ("plan_sha256", "tars", "run", "shards")
    same = all(found[key] == manifest[key] for key in compared)
    same = same and found["encoder"]["fingerprints"] == manifest["encoder"]["fingerprints"]
    return (snapshot.id, found) if same else None


def _embed(config: IndexConfig, encoder: Encoder, progress: Progress) -> list[dict[str, Any]]:
    with ClipShards(config.shards) as clips:
        shards = [f"{commit.split}/{commit.name}" for commit in clips.catalog.shards]
        names = [n for n in ROWS_SCHEMA.names if n not in ("row", "item_id", "modality", "shard", "content_sha256")]
        table = clips.catalog.table
        rows = table.select(names).to_pylist()
        places = [shards[number] for number in table["shard"].to_pylist()]
        done = 0

        def count(number: int) -> None:
            nonlocal done
            done += number
            progress(done, 2 * len(clips), "sounds and pictures embedded")

        segments = []
        for modality, content, embed in (
            ("audio", "audio_sha256", encoder.all_audio), ("image", "frame_sha256", encoder.all_images),
        ):  # fmt: skip
            hashes = table[content].to_pylist()
            described = [
                row | {"shard": place, "content_sha256": sha}
                for row, place, sha in zip(rows, places, hashes, strict=True)
            ]
            segments.append(write_segment(config.out / "segments", modality, embed(clips, count), described))
        return segments
