"""A tiny shard set, a short run on it, and a language tower that trains in no time."""

import shutil
from pathlib import Path

import pytest

from unibrivl.model import towers

from .tiny import TinyConfig, TinyTower


@pytest.fixture
def shards_copy(shards: Path, tmp_path: Path) -> Path:
    """Return a copy of the shard set without cached embeddings, to be written to."""
    return Path(shutil.copytree(shards, tmp_path / "shards", ignore=shutil.ignore_patterns("frozen")))


@pytest.fixture
def tiny_tower(monkeypatch: pytest.MonkeyPatch) -> str:
    """Register a language tower that takes milliseconds; return its name."""
    monkeypatch.setitem(towers.LANGUAGE_TOWERS, "tiny", (TinyConfig, TinyTower))
    return "tiny"
