"""What every image tower has in common: preprocessing, batches of any sizes, a frozen module, a fingerprint."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as torchvision

from unibrivl.model.image_augment import augment_images, picture_rng
from unibrivl.model.images import IMAGENET_MEAN, IMAGENET_STD, ImageTower, Preprocessing, fingerprint

SQUASHED = Preprocessing(size_px=24, resize="bilinear")
CPU = torch.device("cpu")


class FlatTower(ImageTower):
    """One convolution with a batch norm and dropout behind it."""

    def __init__(self, preprocessing: Preprocessing = SQUASHED, description: dict[str, Any] | None = None) -> None:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5), nn.Flatten())
        super().__init__("flat", module, preprocessing, dim=5 * 22 * 22, description=description or {"tower": "flat"})

    def _encode(self, x_BCHW: Tensor) -> Tensor:
        return self.module(x_BCHW)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a smooth picture with an edge, uint8 (height, width, 3)."""
    y, x = np.linspace(0, 3, height)[:, None, None], np.linspace(0, 2, width)[None, :, None]
    waves = np.sin(x * np.array([1, 2, 3]) + y + seed) + (x > 1)
    return (waves * 60 + 110).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(48, 48), (10, 30), (24, 24), (31, 17)])
def test_the_whole_picture_is_resized_as_torchvision_resizes_tensors(
    resize: Any, antialias: bool, size: tuple[int, int]
) -> None:
    preprocessing = replace(SQUASHED, resize=resize, antialias=antialias)
    frame = picture(*size)
    x_CHW = torch.from_numpy(frame).permute(2, 0, 1).float() / 255
    mode = torchvision.InterpolationMode(resize)
    expected = torchvision.resize(x_CHW, [24, 24], interpolation=mode, antialias=antialias).clamp(0, 1)
    expected = torchvision.normalize(expected, list(IMAGENET_MEAN), list(IMAGENET_STD))
    found = preprocessing.normalised(preprocessing.resized([frame], CPU))
    assert found[0] == pytest.approx(expected, abs=1e-5)


def test_antialiasing_makes_a_difference() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    with_it, without = (replace(SQUASHED, antialias=choice).resized([noise], CPU) for choice in (True, False))
    assert (with_it - without).abs().max() > 0.1


@pytest.mark.parametrize("size", [(48, 48), (50, 31), (20, 41), (24, 24)])
def test_a_centre_crop_keeps_the_aspect(size: tuple[int, int]) -> None:
    preprocessing = replace(SQUASHED, crop_share=24 / 30)
    frame = picture(*size)
    x_CHW = torch.from_numpy(frame).permute(2, 0, 1).float() / 255
    expected = torchvision.center_crop(torchvision.resize(x_CHW, [30], antialias=True), [24, 24])
    assert preprocessing.resized([frame], CPU)[0] == pytest.approx(expected, abs=1e-5)


def test_sizes_may_be_mixed() -> None:
    tower = FlatTower()
    sizes = [(40, 40), (24, 24), (40, 40), (13, 50), (24, 24), (50, 13)]
    frames = [picture(*size, seed=n) for n, size in enumerate(sizes)]
    alone = np.concatenate([tower.embed(frame[None]) for frame in frames])
    found = tower.embed(frames)
    assert found.shape == (6, 2420) and found.dtype == np.float32
    assert found == pytest.approx(alone, abs=1e-5)
    assert np.array_equal(tower.embed(np.stack(frames[:3:2])), tower.embed(frames[:3:2]))


@pytest.mark.parametrize("shape", [(24, 24), (24, 24, 4), (2, 24, 24, 3)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a picture has shape .*, want \(height, width, 3\)"):
        FlatTower().embed([np.zeros(shape, np.uint8)])


def test_nothing_of_the_module_changes() -> None:
    tower = FlatTower()
    before = {name: tensor.clone() for name, tensor in tower.module.state_dict().items()}
    assert any(name.endswith("running_mean") for name in before)
    frames = [picture(30, 30, seed) for seed in range(4)]
    first, second = tower.embed(frames), tower.embed(frames)
    assert np.array_equal(first, second)  # no dropout
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.module.state_dict().items())
    assert not any(m.training for m in tower.module.modules())
    assert not any(p.requires_grad or p.grad is not None for p in tower.module.parameters())
    assert tower.module[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_pictures_are_changed_between_resizing_and_normalising() -> None:
    for preprocessing in (SQUASHED, replace(SQUASHED, scale=1, mean=(127.0,) * 3, std=(128.0,) * 3)):
        tower = FlatTower(preprocessing)
        frames = [picture(40, 30, seed) for seed in range(4)]
        plain = tower.embed(frames)
        found = tower.embed(frames, [picture_rng(5, 0, clip) for clip in range(4)])
        assert np.abs(found - plain).max() > 1e-2
        x_BCHW = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
        x_BCHW = torchvision.resize(x_BCHW, [24, 24], antialias=True)
        x_BCHW = augment_images(x_BCHW, [picture_rng(5, 0, clip) for clip in range(4)]) * 255 / preprocessing.scale
        expected = tower.module(preprocessing.normalised(x_BCHW)).numpy()
        # colours go through two divisions and 255 more or less in float32
        assert found == pytest.approx(expected, abs=1e-4)


def test_bf16_rounds_and_no_more() -> None:
    tower = FlatTower()
    frames = [picture(30, 30)]
    exact = tower.embed(frames)
    rounded = tower.place("cpu", bf16=True).embed(frames)
    assert rounded.dtype == np.float32 and not np.array_equal(exact, rounded)
    assert rounded == pytest.approx(exact, abs=0.05)  # bfloat16 keeps 8 bits, features are of order 1
    assert tower.fingerprint == FlatTower().fingerprint


def test_the_fingerprint_names_description_preprocessing_and_weights() -> None:
    tower = FlatTower()
    assert tower.fingerprint == FlatTower().fingerprint == fingerprint(tower.describe(), tower.module.state_dict())
    others = [
        FlatTower(replace(SQUASHED, antialias=False)), FlatTower(replace(SQUASHED, crop_share=1.0)),
        FlatTower(replace(SQUASHED, std=(1.0, 1.0, 1.0))), FlatTower(description={"tower": "other"}),
    ]  # fmt: skip
    assert len({tower.fingerprint, *(other.fingerprint for other in others)}) == 5
    state = {name: tensor.clone() for name, tensor in tower.module.state_dict().items()}
    state["1.running_mean"][0] += 1e-3
    assert fingerprint(tower.describe(), state) != tower.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_px": 0}, "must be above 0"),
        ({"std": (1.0, 0.0, 1.0)}, "must be above 0"),
        ({"resize": "nearest"}, "resize is 'nearest', want 'bilinear' or 'bicubic'"),
        ({"crop_share": 1.5}, r"crop_share is 1\.5"),
    ],
)
def test_values_that_make_no_input_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SQUASHED, **change)
