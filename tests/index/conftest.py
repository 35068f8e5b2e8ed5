"""A tiny index of a short run, and made-up rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unibrivl.model.embed import Encoder, load_encoder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two threads a process cost more than they give where the models are tiny and other processes are busy."""
    torch.set_num_threads(1)


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
