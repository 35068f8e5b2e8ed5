"""A tiny shard set, a short run on it, and a language tower that trains in no time."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unibrivl.ingest import IngestConfig, ingest, read_and_plan
from unibrivl.model import towers
from unibrivl.model.train import TrainConfig, train

TRAINING = {
    "epochs": 3, "batch_size": 4, "val_share": 0.2, "checkpoint_every": 2,
    "tower_options": {"clip_s": 1.0, "num_mels": 32, "hop": 706},
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two threads a process cost more than they give where the models are tiny and other processes are busy."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shards(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shard set of the tiny corpus. Other folders' tests take the same: what is there is not made again."""
    out = tmp_path_factory.getbasetemp() / "tiny" / "shards"
    config = IngestConfig(list_path=corpus / "list.csv", media_dir=corpus / "media", out=out, shard_clips=8, workers=2)
    ingest(config, read_and_plan(config)[1])
    return out


@pytest.fixture(scope="session")
def run_config(shards: Path) -> TrainConfig:
    """Return the configuration of the run: a few steps of the real towers."""
    return TrainConfig(shards=shards, out=shards.with_name("run"), **TRAINING)


@pytest.fixture(scope="session")
def run(run_config: TrainConfig) -> Path:
    """Return the folder of a finished run; do not write there."""
    train(run_config)
    return run_config.out


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
