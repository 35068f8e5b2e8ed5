"""`embed`: the embeddings of a whole shard set, one Parquet file a shard, for use outside an index.

A file says in its metadata what made it; one that is already there, made of the same clips by the same run, is left
alone, so that the same command goes on after a crash.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..shards import ClipShards
from ..shards.atomic import is_foreign, remove_leftovers, write_file, write_json
from ..shards.cluster import ClusterConfig
from .embed import Encoder, load_encoder
from .errors import TrainError

EMBEDDINGS_FORMAT = 1
ABOUT_FILE = "embeddings.json"
KEPT_COLUMNS = ("key", "media_id", "start_ms", "end_ms", "group", "labels", "caption")


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedConfig:
    """What `unibrivl embed` was asked to do."""

    run: Path
    """A trained run."""
    shards: Path
    """Shard set to embed."""
    out: Path
    """Folder of the files, `{split}/{shard}.parquet`."""
    split: str | None = None
    """One split; None: every one."""
    which: str = "last"
    """Checkpoint of the run: `last`, or `best` in validation."""
    image_tower: str | None = None
    """The image tower's name where its weights lie now, if they were moved."""
    cluster: ClusterConfig | None = None
    """The Ray cluster that embeds; None: this process."""

    def __post_init__(self) -> None:
        """Refuse a checkpoint that no run has."""
        if self.which not in ("last", "best"):
            raise ValueError(f"checkpoint is {self.which!r}, want last or best")


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """What is there now."""

    clips: int
    files: int
    made: int
    """Files of this call."""


def embed_set(
    config: EmbedConfig, progress: Callable[[int, int, str], None] = lambda done, total, text: None
) -> EmbedResult:
    """Embed every clip of a set.

    Raises:
        CheckpointError, ShardError: the run or the shards are missing or damaged.
        TrainError: `out` holds something else, or there is no such cluster.
    """
    encoder = load_encoder(config.run, config.image_tower, which=config.which)
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
        from .embed_cluster import embed_on_cluster

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


def embed_shard(encoder: Encoder, clips: ClipShards, number: int, out: Path, about: dict[str, Any]) -> bool:
    """Write the file of the shard that has this number in the catalog, unless it is there; tell whether it was written.

    Args:
        encoder: of the run.
        clips: of the whole set.
        number: of the shard.
        out: folder of the files.
        about: what the file says of its making.
    """
    commit = clips.catalog.shards[number]
    with clips.take(np.flatnonzero(clips.shard_of_clip == number)) as part:
        return _write(encoder, part, out / commit.split / f"{commit.name}.parquet", about)


def _write(encoder: Encoder, clips: ClipShards, path: Path, about: dict[str, Any]) -> bool:
    content = hashlib.sha256("".join(clips.catalog.column("audio_sha256")).encode())
    content.update("".join(clips.catalog.column("frame_sha256")).encode())
    made_of = json.dumps(about | {"content": content.hexdigest()}, sort_keys=True).encode()
    if _is_there(path, made_of, len(clips)):
        return False
    table = clips.catalog.table.select(list(KEPT_COLUMNS))
    for name, values in (("audio", encoder.all_audio(clips)), ("image", encoder.all_images(clips))):
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), encoder.dim)
        table = table.append_column(name, column)
    table = table.replace_schema_metadata({b"unibrivl": made_of})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, lambda f: pq.write_table(table, f, compression="zstd", write_page_checksum=True))
    return True


def _is_there(path: Path, made_of: bytes, num_clips: int) -> bool:
    """Tell whether a file is whole, every page against its checksum, and made of the same."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            found = file.read()
    except (OSError, pa.ArrowException):
        return False
    return (found.schema.metadata or {}).get(b"unibrivl") == made_of and found.num_rows == num_clips
