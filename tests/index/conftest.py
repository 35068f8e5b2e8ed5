"""The encoder of a short run, loaded once."""

from pathlib import Path
from typing import Any

import pytest
import soundfile

from unibrivl.model.embed import Encoder, load_encoder

from ..conftest import tone


@pytest.fixture(scope="session")
def encoder(run: Path) -> Encoder:
    return load_encoder(run)


@pytest.fixture
def one_encoder(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    """Load the run once for all tests that are not about loading it."""
    for module in ("build", "encoders", "engine", "verifier"):
        monkeypatch.setattr(f"unibrivl.index.{module}.load_encoder", lambda run, image_tower: encoder)
    return encoder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a diffusion pipeline without a safety checker; do not write there."""
    from unibrivl.bench.tiny_pipeline import TinyPipelineConfig, make_tiny_pipeline

    return make_tiny_pipeline(TinyPipelineConfig(out=tmp_path_factory.mktemp("pipelines") / "tiny"))


@pytest.fixture(scope="session")
def tiny_pipeline(tiny: Path) -> Any:
    """Return it loaded."""
    from unibrivl.index.pipelines import PipelineConfig, open_pipeline

    return open_pipeline(PipelineConfig(name=str(tiny)))


@pytest.fixture(scope="session")
def beep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sound file of one second."""
    path = tmp_path_factory.mktemp("sounds") / "beep.wav"
    soundfile.write(path, tone(1.0, 440, 16_000), 16_000, subtype="PCM_16")
    return path
