"""Towers that train in no time, and what makes two runs the same."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unibrivl.model.checkpoint import CHECKPOINT_FILE, read_state
from unibrivl.model.speechlm_tower import SpeechlmTower, SpeechlmTowerConfig

TIMING = ("step_s", "data_wait_s", "clips_per_s")
TINY_IMAGE_DIM = 12
TINY_SPEECHLM: dict[str, Any] = {
    "clip_s": 1.0, "head_layers": 1, "hidden_dim": 8,
    "network": {
        "conv_layers": [[8, 10, 5], [8, 3, 2], [8, 2, 2], [8, 8, 8]], "dim": 16, "ffn_dim": 24, "heads": 2,
        "speech_layers": 2, "shared_layers": 2, "conv_pos": 4, "conv_pos_groups": 2, "max_distance": 5,
        "positions": 99, "final_dim": 4,
    },
}  # fmt: skip
"""Options of a SpeechLM tower that trains in no time; it masks frames and drops layers as the real one does."""
STILL = {"dropout": 0.0, "attention_dropout": 0.0, "input_dropout": 0.0, "layerdrop": 0.0, "mask_prob": 0.0}
StillConfig = partial(SpeechlmTowerConfig, **TINY_SPEECHLM | {"network": TINY_SPEECHLM["network"] | STILL})


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


class StillTower(SpeechlmTower):
    """A tiny SpeechLM in which nothing is drawn, so that its losses do not depend on who computes what."""

    def __init__(self, config: SpeechlmTowerConfig) -> None:
        super().__init__(config)
        for module in self.head.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0


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
