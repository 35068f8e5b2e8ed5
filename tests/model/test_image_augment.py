"""Pictures are changed in colour, by a generator of their own, whatever the batch."""

import numpy as np
import pytest
import torch
from torch import Tensor

from unibrivl.model.batches import clip_rng
from unibrivl.model.image_augment import augment_images, picture_rng


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def rngs(clips: list[int], *, seed: int = 3, draw: int = 0) -> list[np.random.Generator]:
    return [picture_rng(seed, draw, clip) for clip in clips]


def test_a_picture_is_changed_alike_in_any_batch() -> None:
    x_BCHW, clips = pictures(9), list(range(9))
    found = augment_images(x_BCHW, rngs(clips))
    order = [5, 0, 8, 3]
    assert torch.equal(augment_images(x_BCHW[order], rngs(order)), found[order])
    assert torch.equal(augment_images(x_BCHW[4:5], rngs([4])), found[4:5])


def test_it_is_pure() -> None:
    x_BCHW = pictures(20)
    before = x_BCHW.clone()
    torch.manual_seed(1)
    first = augment_images(x_BCHW, rngs(list(range(20))))
    torch.manual_seed(2)
    second = augment_images(x_BCHW, rngs(list(range(20))))
    assert torch.equal(first, second) and torch.equal(x_BCHW, before)
    assert first.shape == x_BCHW.shape and first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 1


def test_seed_draw_and_clip_each_change_the_result() -> None:
    image = pictures(1)
    clips = range(40)
    drawn = [
        [augment_images(image, [picture_rng(seed, draw, clip + shift)]) for clip in clips]
        for seed, draw, shift in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    for other in drawn[1:]:
        assert sum(torch.equal(a, b) for a, b in zip(drawn[0], other, strict=True)) < 8  # both left alone: 0.16 ** 2


def test_a_picture_and_its_sound_are_drawn_from_other_numbers() -> None:
    assert (picture_rng(1, 2, 3).random(8) != clip_rng(1, 2, 3).random(8)).all()


def test_as_many_are_grey_or_left_alone_as_asked() -> None:
    count = 2000
    x_BCHW = pictures(1).expand(count, -1, -1, -1)
    found = augment_images(x_BCHW, rngs(list(range(count))))
    grey = (found.amax(dim=1) - found.amin(dim=1)).amax(dim=(1, 2)) < 1e-6
    same = (found - x_BCHW).abs().amax(dim=(1, 2, 3)) == 0
    # standard errors are below 0.01
    assert grey.float().mean().item() == pytest.approx(0.2, abs=0.035)
    assert same.float().mean().item() == pytest.approx(0.2 * 0.8, abs=0.035)


class Fixed:
    """A generator whose every number is given: jitter or not, grey or not, four amounts, an order."""

    def __init__(self, jitter: bool, grey: bool, amounts: tuple[float, ...], order: list[int]) -> None:
        self.coins = np.array([0.0 if jitter else 1.0, 0.0 if grey else 1.0])
        self.amounts, self.order = list(amounts), order
        self.bounds: list[tuple[float, float]] = []

    def random(self, count: int) -> np.ndarray:
        assert count == 2
        return self.coins

    def uniform(self, low: float, high: float) -> float:
        self.bounds.append((low, high))
        return self.amounts.pop(0)

    def permutation(self, count: int) -> list[int]:
        assert count == 4
        return self.order


def test_amounts_and_order_are_those_that_were_drawn() -> None:
    x_BCHW = pictures(1) * 0.5
    neutral = (1.0, 1.0, 1.0, 0.0)
    brighter = Fixed(True, False, (1.3, 1.0, 1.0, 0.0), [3, 2, 1, 0])
    assert augment_images(x_BCHW, [brighter]) == pytest.approx((x_BCHW * 1.3).clamp(0, 1), abs=1e-5)
    assert brighter.bounds == [pytest.approx(b) for b in ((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1))]
    assert augment_images(x_BCHW, [Fixed(True, False, neutral, [0, 1, 2, 3])]) == pytest.approx(x_BCHW, abs=1e-5)
    grey = augment_images(x_BCHW, [Fixed(False, True, neutral, [0, 1, 2, 3])])
    luma = (x_BCHW * torch.tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
    assert grey == pytest.approx(luma.expand(-1, 3, -1, -1), abs=1e-5)
    amounts = (1.4, 0.6, 1.2, 0.05)
    one, other = (
        augment_images(x_BCHW, [Fixed(True, False, amounts, order)]) for order in ([0, 1, 2, 3], [1, 0, 3, 2])
    )
    assert (one - other).abs().max() > 1e-3


def test_there_is_one_generator_a_picture() -> None:
    with pytest.raises(ValueError, match="2 generators for 3 pictures, want one each"):
        augment_images(pictures(3), rngs([0, 1]))
