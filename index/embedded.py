"""Embeddings that `unibrivl embed` wrote, read in place of making them: a cluster embeds, one machine indexes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..shards import ClipShards
from .errors import IndexMismatchError, IndexStoreError


def read_embeddings(
    folder: Path, clips: ClipShards, modality: str, fingerprints: dict[str, str],
    progress: Callable[[int], None] = lambda count: None,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Yield the embeddings of all clips, float32 (clips of a shard, D), shard by shard in catalog order.

    Args:
        folder: with a file `{split}/{shard}.parquet` for each shard.
        clips: the whole set.
        modality: `audio` or `image`, the column that is read.
        fingerprints: of the encoder that must have made them.
        progress: called with the number of clips read.

    Raises:
        IndexStoreError: a file is missing or damaged, or is of other clips.
        IndexMismatchError: another encoder made them.
    """
    keys = clips.catalog.table["key"]
    for number, commit in enumerate(clips.catalog.shards):
        positions = np.flatnonzero(clips.shard_of_clip == number)
        if len(positions):
            table = _read(folder / commit.split / f"{commit.name}.parquet", modality, fingerprints)
            if table["key"].to_pylist() != keys.take(pa.array(positions)).to_pylist():
                raise IndexStoreError(
                    f"{folder}: {commit.name} was embedded of other clips; run `unibrivl embed` again"
                )
            column = table[modality].combine_chunks()
            yield column.flatten().to_numpy().reshape(len(table), -1)
            progress(len(table))


def _read(path: Path, modality: str, fingerprints: dict[str, str]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            about = json.loads((file.metadata.metadata or {}).get(b"unibrivl", b"{}"))
            table = file.read(columns=["key", modality])
    except (OSError, ValueError, pa.ArrowException) as e:
        raise IndexStoreError(f"{path}: no embeddings to be read ({e}); run `unibrivl embed` for these shards") from e
    made = about.get("fingerprints", {}).get(modality)
    if made != fingerprints[modality]:
        raise IndexMismatchError(
            f"{path} was embedded by the {modality} model {str(made)[:12]}, the run is {fingerprints[modality][:12]}; "
            "index with the run that embedded it"
        )
    return table
