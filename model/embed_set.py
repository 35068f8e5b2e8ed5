"""`embed`: the embeddings of a whole shard set, one Parquet file a shard, for use outside an index.

A file says in its metadata what made it; one that is already there, made of the same clips by the same run, is left
alone, so that the same command goes on after a crash.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..shards import ClipShards
from ..shards.atomic import is_foreign, remove_leftovers, write_file, write_json
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
        TrainError: `out` holds something else.
    """
    encoder = load_encoder(config.run, config.image_tower, which=config.which)
    about = {"format": EMBEDDINGS_FORMAT, "dim": encoder.dim, "fingerprints": encoder.fingerprints()}
    with ClipShards(config.shards, split=config.split) as clips:
        _claim(config.out, about)
        done = files = made = 0
        for number, commit in enumerate(clips.catalog.shards):
            positions = np.flatnonzero(clips.shard_of_clip == number)
            if not len(positions):
                continue
            part = clips.take(positions)
            made += _embed_shard(encoder, part, config.out / commit.split / f"{commit.name}.parquet", about)
            files, done = files + 1, done + len(positions)
            progress(done, len(clips), commit.name)
        return EmbedResult(len(clips), files, made)


def _claim(out: Path, about: dict[str, object]) -> None:
    if is_foreign(out, ABOUT_FILE):
        raise TrainError(f"{out} is not empty and holds no embeddings; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / ABOUT_FILE, about)


def _embed_shard(encoder: Encoder, clips: ClipShards, path: Path, about: dict[str, object]) -> bool:
    """Write a shard's file unless it is there; tell whether it was written."""
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
    remove_leftovers(path.parent)
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
