"""Towers that train in no time, and what makes two runs the same."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unibrivl.model.checkpoint import CHECKPOINT_FILE, read_state

TIMING = ("step_s", "data_wait_s", "clips_per_s")
TINY_IMAGE_DIM = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyConfig:
    width: int = 8
    norm: bool = True


class TinyTower(nn.Module):
    """Level in each of 16 bands of the sound, then one layer with a batch norm."""

    pooling = "none"

    num_samples = 16_000

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.embed_dim = config.width
        self.norm = nn.BatchNorm1d(64) if config.norm else nn.LayerNorm(64)
        self.layer = nn.Linear(64, config.width)

    def features(self, audio_BT: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(audio_BT).abs()[:, :1536].reshape(len(audio_BT), 64, 24)
        return torch.log(spectrum + 1e-3)[:, None]

    def encode(self, features_B1FN: Tensor) -> Tensor:
        return self.layer(self.norm(features_B1FN[:, 0].mean(dim=2)))

    def forward(self, audio_BT: Tensor) -> Tensor:
        return self.encode(self.features(audio_BT))


class TinyImageTower:
    """Mean colours of the picture's quarters, as a frozen tower."""

    name = "colours"
    embed_dim = TINY_IMAGE_DIM
    fingerprint = "c" * 64

    def embed(self, frames_BHWC: np.ndarray, rngs: list[np.random.Generator] | None = None) -> np.ndarray:
        size = frames_BHWC.shape[1] // 2
        quarters = frames_BHWC.reshape(len(frames_BHWC), 2, size, 2, size, 3).mean(axis=(2, 4))
        changes = np.stack([rng.normal(0, 5, 12) for rng in rngs]) if rngs else 0
        return (quarters.reshape(len(frames_BHWC), 12) - 128 + changes).astype(np.float32)


def metrics(run: Path) -> list[dict]:
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in entry.items() if name not in TIMING} for entry in entries]


def assert_same_run(found: Path, expected: Path) -> None:
    ours, theirs = load_file(found / CHECKPOINT_FILE), load_file(expected / CHECKPOINT_FILE)
    assert ours.keys() == theirs.keys()
    different = [name for name, tensor in theirs.items() if not torch.equal(ours[name], tensor)]
    assert different == []
    assert metrics(found) == metrics(expected)
    assert read_state(found) == read_state(expected)
