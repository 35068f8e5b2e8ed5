"""A tiny index of a short run, and made-up rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unibrivl.index.build import IndexConfig, build_index
from unibrivl.ingest import IngestConfig, ingest, read_and_plan
from unibrivl.model.embed import Encoder, load_encoder
from unibrivl.model.train import TrainConfig, train


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
def run(shards: Path) -> Path:
    """Return the folder of a finished run; do not write there."""
    config = TrainConfig(
        shards=shards, out=shards.with_name("run"), epochs=3, batch_size=4, val_share=0.2, checkpoint_every=2,
        tower_options={"clip_s": 1.0, "num_mels": 32, "hop": 706},
    )  # fmt: skip
    train(config)
    return config.out


@pytest.fixture(scope="session")
def index(run: Path, shards: Path) -> Path:
    """Return the folder of an index of all 24 clips; do not write there."""
    out = shards.with_name("index")
    build_index(IndexConfig(run=run, shards=shards, out=out))
    return out


@pytest.fixture(scope="session")
def encoder(run: Path) -> Encoder:
    return load_encoder(run)


@pytest.fixture
def one_encoder(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    """Load the run once for all tests that are not about loading it."""
    monkeypatch.setattr("unibrivl.index.query.load_encoder", lambda run: encoder)
    monkeypatch.setattr("unibrivl.index.build.load_encoder", lambda run: encoder)
    return encoder


@pytest.fixture
def make_rows() -> Callable[..., list[dict[str, Any]]]:
    """Return a function that makes up index rows."""

    def make(count: int, **changes: Any) -> list[dict[str, Any]]:
        return [
            {
                "key": f"gen_clip{n}_000000000", "labels": ["tone"], "caption": f"Clip {n}", "language": "",
                "split": "test", "group": f"g{n}", "media_id": f"m{n}", "start_ms": 0, "end_ms": 1000,
                "shard": "test/gen-test-000000", "tar_offset": 0, "tar_len": 512, "content_sha256": f"{n:064x}",
            } | changes
            for n in range(count)
        ]  # fmt: skip

    return make
