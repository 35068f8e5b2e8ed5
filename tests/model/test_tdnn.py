"""The tdnn tower: shapes, what it is blind to and what it hears."""

import math

import pytest
import torch

from unibrivl.model.tdnn import TdnnConfig
from unibrivl.model.towers import language_options, language_tower


@pytest.mark.parametrize(
    ("options", "bands", "columns"),
    [({"clip_s": 1.0}, 64, 101), ({"clip_s": 0.1, "hop": 400, "num_mels": 20, "width": 8}, 20, 5)],
)
def test_shapes(options: dict[str, float], bands: int, columns: int) -> None:
    tower = language_tower("tdnn", options).eval()
    audio = torch.rand(2, tower.num_samples, generator=torch.Generator().manual_seed(0)) - 0.5
    assert tower.features(audio).shape == (2, 1, bands, columns)
    with torch.inference_mode():
        assert tower(audio).shape == (2, tower.embed_dim) == (2, 512)


def test_it_hears_what_but_not_when() -> None:
    torch.manual_seed(0)
    tower = language_tower("tdnn", {"clip_s": 2.0}).eval()
    burst = torch.sin(2 * math.pi * 500 * torch.arange(3200) / 16_000)
    other = torch.sin(2 * math.pi * 2500 * torch.arange(3200) / 16_000)
    sounds = torch.zeros(3, 32_000)
    sounds[0, 8_000:11_200], sounds[1, 17_600:20_800], sounds[2, 8_000:11_200] = burst, burst, other
    with torch.inference_mode():
        early, late, higher = tower(sounds)  # 60 columns later, and a stride of 2
    assert torch.allclose(early, late, atol=1e-4)
    assert (early - higher).norm() > 100 * (early - late).norm()


def test_every_parameter_learns() -> None:
    tower = language_tower("tdnn", {"clip_s": 0.5, "width": 8})
    tower(torch.randn(4, tower.num_samples)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tower.parameters())


@pytest.mark.parametrize("options", [{"clip_s": 0}, {"hop": 1}, {"num_mels": 3}, {"width": 1}, {"dropout": 1.0}])
def test_values_that_make_no_network_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="want"):
        TdnnConfig(**options)
    assert language_options("tdnn", {})["width"] == 256
