"""A tiny shard set, a short run on it, and a language tower that trains in no time."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unibrivl.model import towers


@pytest.fixture
def shards_copy(shards: Path, tmp_path: Path) -> Path:
    """Return a copy of the shard set without cached embeddings, to be written to."""
    return Path(shutil.copytree(shards, tmp_path / "shards", ignore=shutil.ignore_patterns("frozen")))


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyConfig:
    width: int = 8


class TinyTower(nn.Module):
    """Level in each of 16 bands of the sound, then one layer with a batch norm."""

    num_samples = 16_000

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.embed_dim = config.width
        self.norm = nn.BatchNorm1d(64)
        self.layer = nn.Linear(64, config.width)

    def features(self, audio_BT: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(audio_BT).abs()[:, :1536].reshape(len(audio_BT), 64, 24)
        return torch.log(spectrum + 1e-3)[:, None]

    def encode(self, features_B1FN: Tensor) -> Tensor:
        return self.layer(self.norm(features_B1FN[:, 0].mean(dim=2)))

    def forward(self, audio_BT: Tensor) -> Tensor:
        return self.encode(self.features(audio_BT))


@pytest.fixture
def tiny_tower(monkeypatch: pytest.MonkeyPatch) -> str:
    """Register a language tower that takes milliseconds; return its name."""
    assert asdict(TinyConfig()) == {"width": 8}
    monkeypatch.setitem(towers.LANGUAGE_TOWERS, "tiny", (TinyConfig, TinyTower))
    return "tiny"
