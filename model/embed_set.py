"""`embed`: the embeddings of a whole shard set, one Parquet file a shard, for use outside an index.

The files are written by `embed_shard.py`, here or on a cluster (`embed_cluster.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..shards import ClipShards
from ..shards.atomic import is_foreign, remove_leftovers, write_json
from .embed import Encoder, load_encoder
from .embed_cluster import embed_on_cluster
from .embed_shard import EmbedConfig, embed_shard
from .errors import TrainError

EMBEDDINGS_FORMAT = 1
ABOUT_FILE = "embeddings.json"


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """What is there now."""

    clips: int
    files: int
    made: int
    """Files of this call."""


def embed_set(
    config: EmbedConfig, progress: Callable[[int, int, str], None] = lambda done, total, text: None,
    encoder: Encoder | None = None,
) -> EmbedResult:  # fmt: skip
    """Embed every clip of a set.

    Args:
        config: what to embed, and where to.
        progress: called with clips done, clips in all and the shard that was done.
        encoder: of the run, if it is loaded already.

    Raises:
        CheckpointError, ShardError: the run or the shards are missing or damaged.
        TrainError: `out` holds something else, or there is no such cluster.
    """
    encoder = encoder or load_encoder(config.run, config.image_tower, which=config.which)
    about = {"format": EMBEDDINGS_FORMAT, "dim": encoder.dim, "fingerprints": encoder.fingerprints()}
    with ClipShards(config.shards, split=config.split) as clips:
        _claim(config.out, about)
        counts = np.bincount(clips.shard_of_clip, minlength=len(clips.catalog.shards)).tolist()
        numbers = [number for number, count in enumerate(counts) if count]
        done = made = 0
        for number, is_new in _embedded(config, encoder, clips, numbers, about):
            made, done = made + is_new, done + counts[number]
            progress(done, len(clips), clips.catalog.shards[number].name)
        _clear(config.out)
        return EmbedResult(len(clips), len(numbers), made)


def _embedded(
    config: EmbedConfig, encoder: Encoder, clips: ClipShards, numbers: list[int], about: dict[str, Any]
) -> Iterator[tuple[int, bool]]:
    """Embed some shards, by their number in the catalog; yield each with whether its file was written."""
    if config.cluster is not None:
        yield from embed_on_cluster(config, clips, numbers, about)
        return
    for number in numbers:
        yield number, embed_shard(encoder, clips, number, config.out, about)


def _claim(out: Path, about: dict[str, Any]) -> None:
    if is_foreign(out, ABOUT_FILE):
        raise TrainError(f"{out} is not empty and holds no embeddings; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    _clear(out)
    write_json(out / ABOUT_FILE, about)


def _clear(out: Path) -> None:
    for folder in (out, *out.glob("*/")):
        remove_leftovers(folder)
