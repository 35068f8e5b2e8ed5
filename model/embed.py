"""Embeds sounds and pictures with a trained run, in the one space of the image tower."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..shards import SAMPLE_RATE, ClipShards
from .batches import decoded, fit, sounds_of
from .checkpoint import RunState, load_model
from .errors import CheckpointError, TextError
from .frozen import image_embeddings
from .images import ImageTower
from .text import TextSide, no_text, text_side
from .towers import image_tower, image_tower_kind
from .unibrivl import UniBriVL

BATCH = 32
CANARY_TEXT = "A dog barks beside a red car."


@dataclass(frozen=True, slots=True)
class Encoder:
    """A run ready to embed."""

    run: Path
    model: UniBriVL
    images: ImageTower
    state: RunState
    words: TextSide | None = None
    """Reads text, where the run has what it takes."""

    @property
    def dim(self) -> int:
        """Return the width of every embedding."""
        return self.images.embed_dim

    def fingerprints(self) -> dict[str, str]:
        """Return what decides the embeddings, by modality."""
        told = {"audio": self.model.fingerprint(), "image": self.images.fingerprint}
        return told if self.words is None else told | {"text": self.words.fingerprint}

    @property
    def has_text(self) -> bool:
        """Tell whether texts can be embedded."""
        return self.words is not None

    def audio(self, sounds: list[np.ndarray]) -> np.ndarray:
        """Return float32 (sounds, dim), unit norm, for float32 mono sounds at 16 kHz of any lengths."""
        return normalize(self._heard(self.model.embed_audio, sounds), dim=1).cpu().numpy()

    def audio_with_norm(self, sounds: list[np.ndarray]) -> np.ndarray:
        """Return what `audio` returns, of the length that the model gives it before it is made one."""
        with torch.no_grad():
            return self._heard(self.model.project_audio, sounds).cpu().numpy()

    def _heard(self, embed: Callable[[Tensor], Tensor], sounds: list[np.ndarray]) -> Tensor:
        audio_BT = np.stack([fit(sound, self.model.language.num_samples) for sound in sounds])
        device = self.model.log_scale.device
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
            return embed(torch.from_numpy(audio_BT).to(device)).float()

    def image(self, frames: list[np.ndarray]) -> np.ndarray:
        """Return float32 (frames, dim), unit norm, for uint8 (H, W, 3) pictures of any sizes."""
        embeddings = self.images.embed(frames)
        return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)

    def text(self, texts: list[str]) -> np.ndarray:
        """Return float32 (texts, dim), unit norm.

        Raises:
            TextError: the run reads no text, or a text holds no word.
        """
        if self.words is None:
            raise TextError(no_text(self.run))
        return self.words.embed(texts)

    def audio_blocks(
        self, clips: ClipShards, progress: Callable[[int], None] = lambda count: None
    ) -> Iterator[np.ndarray]:
        """Yield the embeddings of every clip's sound, in catalog order; sounds are read and decoded ahead.

        A batch never has clips of two shards: what else is in it may change an embedding's last bits, and machines that
        embed a shard each must come to the same.
        """
        for positions in _by_shard(clips):
            sounds_only = clips.take(positions, fields=("audio",))
            with sounds_only, sounds_only.loader(batch_size=BATCH, shuffle="none", drop_last=False) as loader:
                for batch in decoded(loader):
                    block = self.audio(sounds_of(batch))
                    progress(len(block))
                    yield block

    def image_blocks(
        self, clips: ClipShards, progress: Callable[[int], None] = lambda count: None
    ) -> Iterator[np.ndarray]:
        """Yield the embeddings of every clip's picture, in catalog order, a shard at a time; what is kept is read."""
        for positions in _by_shard(clips):
            with clips.take(positions) as part:
                yield image_embeddings(part, self.images, progress)

    def all_audio(self, clips: ClipShards, progress: Callable[[int], None] = lambda count: None) -> np.ndarray:
        """Return the embeddings of every clip's sound, in catalog order."""
        return np.concatenate(list(self.audio_blocks(clips, progress)))

    def all_images(self, clips: ClipShards, progress: Callable[[int], None] = lambda count: None) -> np.ndarray:
        """Return the embeddings of every clip's picture, in catalog order."""
        return np.concatenate(list(self.image_blocks(clips, progress)))

    def canaries(self) -> dict[str, np.ndarray]:
        """Return the embeddings of a generated tone, a generated picture and, if it can be read, a text, by modality.

        Whoever stored them can tell later whether an encoder still computes the same function.
        """
        seconds = np.arange(SAMPLE_RATE, dtype=np.float64) / SAMPLE_RATE
        tone = (0.5 * np.sin(2 * np.pi * (300 + 900 * seconds) * seconds)).astype(np.float32)
        ramp = np.linspace(0, 255, 64)
        picture = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], 64), np.full((64, 64), 128.0)], axis=-1)
        found = {"audio": self.audio([tone])[0], "image": self.image([picture.astype(np.uint8)])[0]}
        return found if self.words is None else found | {"text": self.text([CANARY_TEXT])[0]}


def _by_shard(clips: ClipShards) -> Iterator[np.ndarray]:
    """Yield the positions of each shard's clips, in catalog order."""
    for number in range(len(clips.catalog.shards)):
        positions = np.flatnonzero(clips.shard_of_clip == number)
        if len(positions):
            yield positions


def load_encoder(
    run: Path, image_tower_name: str | None = None, *, which: str = "last", device: str | None = None
) -> Encoder:
    """Load a trained run with its image tower.

    Args:
        run: folder of the run.
        image_tower_name: the tower's name where its weights lie now, if they were moved; by default the run's.
        which: the `last` checkpoint, or the `best` in validation.
        device: where both towers compute, in bfloat16 unless it is `cpu`; by default a GPU where there is one.

    Raises:
        CheckpointError: the run is missing or damaged, or the image tower is missing or not the one it was trained
            against.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, state = load_model(run, which)
    trained_against = str(state.facts.get("image_fingerprint"))
    name = image_tower_name or str(state.config.get("image_tower"))
    placed = name != image_tower_kind(name)
    try:
        images = image_tower(name, device=device, bf16=device != "cpu")
    except CheckpointError as e:
        if not placed:
            raise
        wanted = f"{image_tower_kind(name)} {trained_against[:12]}"
        raise CheckpointError(f"{e}; if {wanted} of {run} lies elsewhere now, name it with --image-tower") from e
    if images.fingerprint != trained_against:
        remedy = "name its weights with --image-tower" if placed else "install the package versions of the run"
        raise CheckpointError(
            f"{run} was trained against image tower {trained_against[:12]}, "
            f"{images.name} is here {images.fingerprint[:12]}; {remedy}"
        )
    model = model.to(device)
    return Encoder(run, model, images, state, text_side(run, model, images))
