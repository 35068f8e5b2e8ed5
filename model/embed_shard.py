"""One Parquet file of embeddings, of one shard: what this process and machines of a cluster both write.

A file says in its metadata what made it; one that is already there, made of the same clips by the same run, is left
alone, so that the same command goes on after a crash.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..shards import ClipShards
from ..shards.atomic import write_file
from ..shards.cluster import ClusterConfig
from .embed import Encoder

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
