"""Pictures changed in colour for training, between resizing and normalising, as BriVL does.

A picture's changes are drawn from a generator of its own, so that a clip is changed alike whatever the batch.

Source: BriVL's `dataset/xybDataset.py`: jitter 0.4, 0.4, 0.4, 0.1 with probability 0.8, grey with 0.2.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

JITTER_SHARE = 0.8
BRIGHTNESS = CONTRAST = SATURATION = 0.4
"""A factor is drawn from 1 - this to 1 + this."""
HUE = 0.1
"""Of the circle of colours, either way."""
GREY_SHARE = 0.2
PICTURE_STREAM = 1
"""Apart from the numbers that `clip_rng` draws for the sound of the same clip."""


def picture_rng(seed: int, draw: int, clip: int) -> np.random.Generator:
    """Return the generator that belongs to the picture of a clip in a draw (an epoch, or a cached variant)."""
    philox = np.random.Philox(key=[seed, (draw << 40) + clip], counter=[0, 0, 0, PICTURE_STREAM])
    return np.random.Generator(philox)


def augment_images(x_BCHW: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
    """Return the pictures (B, 3, H, W), float in 0 to 1, each changed by its own generator.

    Raises:
        ValueError: there is not one generator a picture.
    """
    if len(rngs) != len(x_BCHW):
        raise ValueError(f"{len(rngs)} generators for {len(x_BCHW)} pictures, want one each")
    return torch.stack([_augment(image, rng) for image, rng in zip(x_BCHW, rngs, strict=True)])


def _augment(image_CHW: Tensor, rng: np.random.Generator) -> Tensor:
    """Change one picture; every number is drawn whether or not it is used."""
    jittered, grey = rng.random(2) < (JITTER_SHARE, GREY_SHARE)
    changes: list[tuple[Callable[[Tensor, float], Tensor], float]] = [
        (transforms.adjust_brightness, rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS)),
        (transforms.adjust_contrast, rng.uniform(1 - CONTRAST, 1 + CONTRAST)),
        (transforms.adjust_saturation, rng.uniform(1 - SATURATION, 1 + SATURATION)),
        (transforms.adjust_hue, rng.uniform(-HUE, HUE)),
    ]
    order = rng.permutation(len(changes))
    if jittered:
        for number in order:
            change, amount = changes[number]
            image_CHW = change(image_CHW, amount)
    return transforms.rgb_to_grayscale(image_CHW, num_output_channels=3) if grey else image_CHW
