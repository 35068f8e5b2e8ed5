"""Runs the frozen image tower once: its embeddings are kept beside the shards and read back afterwards.

One file a shard, `frozen/{tower fingerprint}/{shard}-{hash of the pictures}.npy`, float32 (clips, V), so that a
tower, a shard or a choice of clips that changed never meets an old embedding. Behind the array stand 8 bytes, the
XXH3 of all before them. Variants of the pictures in changed colours, one file each, have `-s{seed}d{draw}` in their
names.
"""

import errno
import hashlib
import io
import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor

from ..shards import ClipShards
from ..shards.atomic import write_bytes
from .image_augment import picture_rng
from .images import ImageTower

BATCH = 32
CHECKSUM_BYTES = 8
log = logging.getLogger(__name__)


def image_embeddings(
    clips: ClipShards, tower: ImageTower, progress: Callable[[int], None] = lambda count: None
) -> np.ndarray:
    """Return float32 (clips, V), unit norm, in catalog order; computes only what no earlier run has kept."""
    return FrozenImages(clips, tower).read(None, progress)


class FrozenImages:
    """The embeddings of all pictures of a set, and of variants of them in changed colours."""

    def __init__(self, clips: ClipShards, tower: ImageTower, *, seed: int = 0, num_draws: int = 0) -> None:
        """Prepare to embed.

        Args:
            clips: of which the pictures are.
            tower: a frozen image tower.
            seed: of the variants.
            num_draws: variants of each picture; 0: only the picture itself.
        """
        self.clips = clips
        self.tower = tower
        self.seed = seed
        self.num_draws = num_draws
        self._current: tuple[int | None, Tensor] | None = None

    @cached_property
    def plain(self) -> Tensor:
        """Embeddings of the pictures themselves, unit norm."""
        return torch.from_numpy(self.read(None))

    def of_epoch(self, epoch: int) -> Tensor:
        """Return the embeddings (N, V), unit norm, that an epoch trains on."""
        if not self.num_draws:
            return self.plain
        draw = epoch % self.num_draws
        if self._current is None or self._current[0] != draw:
            self._current = draw, torch.from_numpy(self.read(draw))
        return self._current[1]

    def make(self, progress: Callable[[int], None], *, part: int = 0, num_parts: int = 1) -> None:
        """Embed what is not kept yet, of every `num_parts`-th shard, and keep it."""
        for draw in (None, *range(self.num_draws)):
            for positions, name in self._shards()[part::num_parts]:
                self._of_shard(positions, name, draw)
                progress(len(positions))

    def read(self, draw: int | None, progress: Callable[[int], None] = lambda count: None) -> np.ndarray:
        """Return float32 (clips, V), unit norm, in catalog order, of the pictures or of a variant of each."""
        parts = []
        for positions, name in self._shards():
            parts.append(self._of_shard(positions, name, draw))
            progress(len(positions))
        embeddings = np.concatenate(parts)
        return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)

    def _shards(self) -> list[tuple[np.ndarray, str]]:
        """Return the positions in each shard, and the name of the file that keeps their embeddings."""
        found = []
        for number, commit in enumerate(self.clips.catalog.shards):
            positions = np.flatnonzero(self.clips.shard_of_clip == number)
            if len(positions):  # else every clip of the shard failed, or was recovered by a later one
                found.append((positions, f"{commit.name}-{_content_hash(self.clips, positions)}"))
        return found

    def _of_shard(self, positions: np.ndarray, name: str, draw: int | None) -> np.ndarray:
        variant = "" if draw is None else f"-s{self.seed}d{draw}"
        path = self.clips.catalog.root / "frozen" / self.tower.fingerprint[:16] / f"{name}{variant}.npy"
        found = _read(path, (len(positions), self.tower.embed_dim))
        if found is None:
            found = self._embed(positions, draw)
            _keep(path, found)
        return found

    def _embed(self, positions: np.ndarray, draw: int | None) -> np.ndarray:
        """Embed the clips' pictures, equal ones once."""
        hashes = self.clips.catalog.table["frame_sha256"].take(positions).to_pylist()
        names, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        embedded = []
        for start in range(0, len(first), BATCH):
            frames = [self.clips[int(positions[i])].frame() for i in first[start : start + BATCH]]
            embedded.append(self._run_tower(frames, names[start : start + BATCH], draw))
        return np.concatenate(embedded)[inverse]

    def _run_tower(self, frames: list[np.ndarray], hashes: np.ndarray, draw: int | None) -> np.ndarray:
        pictures = np.stack(frames) if len({frame.shape for frame in frames}) == 1 else frames
        if draw is None:
            return self.tower.embed(pictures)
        # keyed by the picture, so that the same one changes alike in every choice of clips
        rngs = [picture_rng(self.seed, draw, int(name[:10], 16)) for name in hashes]
        return self.tower.embed(pictures, rngs)


def _content_hash(clips: ClipShards, positions: np.ndarray) -> str:
    """Name the pictures, so that a choice of clips or a repaired shard never takes the embeddings of others."""
    frames = clips.catalog.table["frame_sha256"].take(positions).to_pylist()
    return hashlib.sha256("".join(frames).encode()).hexdigest()[:12]


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    try:
        data = path.read_bytes()
        body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
        if xxhash.xxh3_64_digest(body) != checksum:
            raise ValueError("checksum")
        found = np.lib.format.read_array(io.BytesIO(body), allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):
        log.warning("%s is damaged; its pictures are embedded again", path)
        return None
    return found if found.shape == shape and found.dtype == np.float32 and np.isfinite(found).all() else None


def _keep(path: Path, embeddings: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, embeddings, allow_pickle=False)
    body = buffer.getvalue()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, body + xxhash.xxh3_64_digest(body))
    except OSError as e:
        if e.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        log.warning("%s cannot be written, so the pictures will be embedded again next time", path.parent)
