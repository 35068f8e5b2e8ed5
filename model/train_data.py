"""The clips of a run: which train and which validate, their batches, and the frozen embeddings of their pictures."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from ..shards import ClipLoader, ClipShards
from .errors import TrainError
from .frozen import FrozenImages
from .relation import Spans, related
from .train_config import TrainConfig

Progress = Callable[[int, int, str], None]
"""Called with what is done, of how many, and a short text."""
UNHELD_CLIPS = 1000
"""Training clips that are looked at where no group could be held out."""
HELD_OUT = "held-out groups"


@dataclass(frozen=True, slots=True)
class TrainData:
    """The clips of a run: positions in the catalog, and what belongs to them."""

    clips: ClipShards
    spans: Spans
    """Of all clips, with numbers in place of names."""
    images: FrozenImages
    train: np.ndarray
    val: np.ndarray
    validated_on: str

    def loader(self, config: TrainConfig, rank: int, world_size: int) -> ClipLoader:
        """Return the loader of training sounds; positions in its batches are places in `train`."""
        loaded = self.clips.take(self.train, fields=("audio",))
        return loaded.loader(
            batch_size=config.batch_of_each(world_size), workers=config.workers, seed=config.seed, rank=rank,
            world_size=world_size,
        )  # fmt: skip

    def related(self, first_N: Tensor, second_M: Tensor) -> Tensor:
        """Return which pairs of clips, by position in the catalog, are related: boolean (N, M)."""
        first, second = (self.spans.take(ids.cpu().numpy()) for ids in (first_N, second_M))
        return torch.from_numpy(related(first, second)).to(first_N.device)


def prepare_data(
    config: TrainConfig, clips: ClipShards, tower: Any, accelerator: Accelerator, progress: Progress
) -> TrainData:
    """Split the clips and embed their pictures, every process a part of them.

    Raises:
        TrainError: there are too few clips for a step, or all sound alike.
    """
    spans = Spans.of(clips.catalog.table.select(["group", "media_id", "start_ms", "end_ms"]).to_pylist()).numbered()
    train, val, validated_on = _split(config, clips)
    step = config.batch_size * config.accumulate
    if len(train) < step:
        raise TrainError(
            f"{config.shards} has {len(train)} clips to train on, fewer than a batch of {step}; "
            "pass a smaller --batch-size"
        )
    images = FrozenImages(clips, tower, seed=config.seed, num_draws=config.image_draws)
    done, total = 0, len(clips) * (1 + config.image_draws) // accelerator.num_processes

    def count(number: int) -> None:
        nonlocal done
        done += number
        progress(done, max(done, total), "pictures through the frozen tower")

    images.make(count, part=accelerator.process_index, num_parts=accelerator.num_processes)
    accelerator.wait_for_everyone()
    return TrainData(clips, spans, images, train, val, validated_on)


def _split(config: TrainConfig, clips: ClipShards) -> tuple[np.ndarray, np.ndarray, str]:
    """Return positions to train and to validate on, and what the latter are."""
    groups = clips.catalog.table["group"].to_pylist()
    held = np.array([fraction(f"{config.seed}/{name}") < config.val_share for name in groups])
    train, val = np.flatnonzero(~held), np.flatnonzero(held)
    if len(val) and len(train):
        return train, val[: config.val_clips], HELD_OUT
    train = np.arange(len(clips))
    shown = min(UNHELD_CLIPS, config.val_clips)
    return train, train[:shown], "training clips: no group could be held out"


def fraction(text: str) -> float:
    """Return a number from 0 to below 1 that belongs to a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
