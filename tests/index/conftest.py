"""The encoder of a short run, loaded once."""

from pathlib import Path

import pytest

from unibrivl.model.embed import Encoder, load_encoder


@pytest.fixture(scope="session")
def encoder(run: Path) -> Encoder:
    return load_encoder(run)


@pytest.fixture
def one_encoder(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    """Load the run once for all tests that are not about loading it."""
    for module in ("build", "encoders", "engine"):
        monkeypatch.setattr(f"unibrivl.index.{module}.load_encoder", lambda run, image_tower: encoder)
    return encoder
