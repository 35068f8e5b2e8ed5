"""The wav2clip tower: shapes, names and what it refuses."""

import math

import pytest
import torch
import torchvision

from unibrivl.model.errors import CheckpointError
from unibrivl.model.towers import language_options, language_tower
from unibrivl.model.wav2clip import Wav2clipConfig, Wav2clipTower


@pytest.mark.parametrize(
    ("options", "bands", "columns"),
    [
        ({"clip_s": 1.0}, 257, 46),
        ({"clip_s": 1.0, "hop": 706, "num_mels": 32}, 32, 23),
        ({"clip_s": 2.5, "num_mels": 64}, 64, 114),
        ({"clip_s": 0.1, "hop": 160, "num_mels": 0}, 257, 11),
    ],
)
def test_shapes(options: dict[str, float], bands: int, columns: int) -> None:
    tower = language_tower("wav2clip", options).eval()
    num_samples = round(options["clip_s"] * 16_000)
    assert tower.num_samples == num_samples
    audio = torch.rand(2, num_samples, generator=torch.Generator().manual_seed(0)) - 0.5
    features = tower.features(audio)
    assert features.shape == (2, 1, bands, columns)
    assert columns == num_samples // options.get("hop", 353) + 1
    with torch.inference_mode():
        assert tower(audio).shape == (2, tower.embed_dim) == (2, 512)


def test_the_encoder_has_the_names_of_torchvisions_resnet18() -> None:
    ours = Wav2clipTower(Wav2clipConfig(clip_s=1.0)).encoder.state_dict()
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    assert set(ours) == {name for name in theirs if not name.startswith("fc.")}
    for name, tensor in ours.items():
        assert tensor.shape == ((64, 1, 7, 7) if name == "conv1.weight" else theirs[name].shape), name


def test_the_front_end_is_a_log_power_spectrogram() -> None:
    tower = Wav2clipTower(Wav2clipConfig(clip_s=1.0))
    assert tower.features(torch.zeros(1, 16_000)) == pytest.approx(math.log(1e-7))
    time_s = torch.arange(16_000) / 16_000
    bands = tower.features(torch.sin(2 * math.pi * 1000 * time_s)[None])[0, 0, :, 10]
    assert bands.argmax() == 32  # 1000 Hz at 16000 / 512 Hz a band
    louder = tower.features(torch.sin(2 * math.pi * 1000 * time_s)[None] * 2)[0, 0, 32, 10]
    assert (louder - bands[32]).item() == pytest.approx(math.log(4), abs=1e-3)  # power, so twice the double


@pytest.mark.parametrize(
    "options", [{"clip_s": 0}, {"clip_s": 700}, {"clip_s": math.nan}, {"hop": 1}, {"num_mels": -1}, {"num_mels": 999}]
)
def test_values_that_make_no_spectrogram_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="want "):
        Wav2clipConfig(**options)


def test_defaults_are_those_of_wav2clip() -> None:
    assert language_options("wav2clip", {}) == {
        "clip_s": 10.0,
        "hop": 353,
        "num_mels": 0,
        "standardize": False,
        "weights": "",
    }
    assert language_options("wav2clip", {"hop": 160})["hop"] == 160


@pytest.mark.parametrize("num_mels", [1, 64, 114])
def test_every_number_of_mel_bands_that_is_accepted_has_no_empty_band(num_mels: int) -> None:
    """torchaudio warns of filters without a single frequency, and warnings are errors here."""
    tower = Wav2clipTower(Wav2clipConfig(clip_s=1.0, num_mels=num_mels))
    filters = tower.spectrogram.mel_scale.fb
    assert (filters.sum(dim=0) > 0).all()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(CheckpointError, match="'speechlm' is unknown; known: wav2clip"):
        language_options("speechlm", {})
    with pytest.raises(CheckpointError, match="mels"):
        language_options("wav2clip", {"mels": 3})
