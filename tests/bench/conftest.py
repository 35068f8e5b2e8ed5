"""A tiny index of a short run, and indexes of made-up embeddings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unibrivl.index.build import IndexConfig, build_index
from unibrivl.index.segment import write_segment
from unibrivl.index.snapshot import publish, writing
from unibrivl.ingest import IngestConfig, ingest, read_and_plan
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


@pytest.fixture
def make_index(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that publishes made-up embeddings.

    It takes vectors of sounds and of pictures and, for each clip, what its row says other than the default: a group,
    a medium and contents of its own, in split `test`.
    """

    def make(audio_ND: np.ndarray, image_ND: np.ndarray, changes: list[dict[str, Any]] | None = None) -> Path:
        out = tmp_path / "made-up"
        entries = []
        with writing(out):
            for modality, vectors in (("audio", audio_ND), ("image", image_ND)):
                rows = [
                    {
                        "key": f"gen_clip{n}_000000000", "labels": ["tone"], "caption": f"Clip {n}", "language": "",
                        "split": "test", "group": f"g{n}", "media_id": f"m{n}", "start_ms": 0, "end_ms": 1000,
                        "shard": "test/gen-test-000000", "tar_offset": 0, "tar_len": 512,
                    } | change
                    for n, change in enumerate(changes or [{}] * len(vectors))
                ]  # fmt: skip
                for n, row in enumerate(rows):
                    row["content_sha256"] = row.pop(f"{modality}_content", f"{modality} {n}")
                    row.pop("image_content", None)
                    row.pop("audio_content", None)
                entries.append(write_segment(out / "segments", modality, np.float32(vectors), rows))
            publish(out, {"segments": entries, "encoder": {"fingerprints": {"audio": "a" * 64, "image": "b" * 64}}})
        return out

    return make
