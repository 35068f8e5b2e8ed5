"""Where in the shards the clip of an index row lies, and reading it there."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..shards import Sample
from ..shards.cache import open_tar
from ..shards.reader import read_sample
from .errors import IndexStoreError
from .snapshot import Snapshot


def place_in_shards(root: Path, manifest: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return where the clip of a row lies: `tar`, `offset` and `length` of a stretch that is a tar of its own.

    Args:
        root: folder of the index.
        manifest: of the snapshot.
        row: with `source`, `shard`, `tar_offset` and `tar_len`.

    Returns:
        None where the row tells of no shard.
    """
    if not row["shard"]:
        return None
    shards = root / manifest["sources"][row["source"]]["shards"]
    tar = os.path.normpath(shards / "shards" / f"{row['shard']}.tar")
    return {"tar": tar, "offset": row["tar_offset"], "length": row["tar_len"]}


def stored_sample(snapshot: Snapshot, row: dict[str, Any]) -> Sample:
    """Read the clip of an index row from the shards that the index was made of.

    Raises:
        ShardError: the shards are damaged, or cannot be fetched.
        IndexStoreError: the index does not say where the clip lies.
        FileNotFoundError: they were moved away.
    """
    place = place_in_shards(snapshot.root, snapshot.manifest, row)
    if place is None:
        raise IndexStoreError(f"{snapshot.root} does not say which shard holds {row['key']}")
    path = Path(place["tar"])
    fd = open_tar(path)
    try:
        return read_sample(fd, path, row["key"], row["tar_offset"], row["tar_len"])
    finally:
        os.close(fd)
