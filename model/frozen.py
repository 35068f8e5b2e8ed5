"""Runs the frozen image tower once: its embeddings are kept beside the shards and read back afterwards.

One file a shard, `frozen/{tower fingerprint}/{shard}-{hash of the pictures}.npy`, float32 (clips, V), so that a
tower, a shard or a choice of clips that changed never meets an old embedding.
"""

import errno
import hashlib
import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..shards import ClipShards
from ..shards.atomic import write_file
from .images import ImageTower

BATCH = 32
log = logging.getLogger(__name__)


def image_embeddings(
    clips: ClipShards, tower: ImageTower, progress: Callable[[int], None] = lambda count: None
) -> np.ndarray:
    """Return float32 (clips, V), unit norm, in catalog order; computes only what no earlier run has kept."""
    shard_of_clip = clips.catalog.table["shard"].to_numpy()
    parts = []
    for number, commit in enumerate(clips.catalog.shards):
        positions = np.flatnonzero(shard_of_clip == number)
        if not len(positions):  # every clip of the shard failed, or was recovered by a later one
            continue
        name = f"{commit.name}-{_content_hash(clips, positions)}.npy"
        path = clips.catalog.root / "frozen" / tower.fingerprint[:16] / name
        found = _read(path, (len(positions), tower.embed_dim))
        if found is None:
            found = _embed(clips, positions, tower)
            _keep(path, found)
        progress(len(positions))
        parts.append(found)
    embeddings = np.concatenate(parts)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def _content_hash(clips: ClipShards, positions: np.ndarray) -> str:
    """Name the pictures, so that a choice of clips or a repaired shard never takes the embeddings of others."""
    frames = clips.catalog.table["frame_sha256"].take(positions).to_pylist()
    return hashlib.sha256("".join(frames).encode()).hexdigest()[:12]


def _embed(clips: ClipShards, positions: np.ndarray, tower: ImageTower) -> np.ndarray:
    """Embed the clips' pictures, equal ones once."""
    hashes = clips.catalog.table["frame_sha256"]
    _, first, inverse = np.unique([hashes[int(p)].as_py() for p in positions], return_index=True, return_inverse=True)
    embedded = []
    for start in range(0, len(first), BATCH):
        frames = [clips[int(positions[i])].frame() for i in first[start : start + BATCH]]
        embedded.append(tower.embed(np.stack(frames)))
    return np.concatenate(embedded)[inverse]


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    try:
        found = np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):
        log.warning("%s is damaged; its pictures are embedded again", path)
        return None
    return found if found.shape == shape and found.dtype == np.float32 and np.isfinite(found).all() else None


def _keep(path: Path, embeddings: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, lambda f: np.save(f, embeddings, allow_pickle=False))
    except OSError as e:
        if e.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        log.warning("%s cannot be written, so the pictures will be embedded again next time", path.parent)
