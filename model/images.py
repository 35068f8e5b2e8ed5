"""What every frozen image tower has in common: preprocessing, one frozen copy, batches of any sizes, a fingerprint.

Shapes: B pictures, H and W pixels, S pixels a side of what the tower sees, D features.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .image_augment import augment_images

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """How pictures become a tower's input; every choice that a library's version could change is pinned here."""

    size_px: int
    resize: Literal["bilinear", "bicubic"]
    antialias: bool = True
    """False: as torchvision before 0.17 resized tensors."""
    crop_share: float | None = None
    """Side of the centre square that is kept, as a share of the shorter side; None: all, the aspect not kept."""
    scale: float = 255
    """What divides the pixels before `mean` and `std` apply."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Refuse values that make no input."""
        if self.size_px < 1 or self.scale <= 0 or min(self.std) <= 0:
            raise ValueError(f"size_px {self.size_px}, scale {self.scale}, std {self.std}: all must be above 0")
        if self.resize not in ("bilinear", "bicubic"):
            raise ValueError(f"resize is {self.resize!r}, want 'bilinear' or 'bicubic'")
        if self.crop_share is not None and not 0 < self.crop_share <= 1:
            raise ValueError(f"crop_share is {self.crop_share}, want above 0 to 1, or None")

    def resized(self, frames: Sequence[np.ndarray] | np.ndarray, device: torch.device) -> Tensor:
        """Return float (B, 3, S, S) in 0 to 255 / `scale`, of uint8 (H, W, 3) pictures; equal sizes go together."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, frame in enumerate(frames):
            groups[frame.shape].append(number)
        x_BCHW = torch.empty(len(frames), 3, self.size_px, self.size_px, device=device)
        for shape, numbers in groups.items():
            if len(shape) != 3 or shape[2] != 3:
                raise ValueError(f"a picture has shape {shape}, want (height, width, 3)")
            group = torch.from_numpy(np.stack([frames[number] for number in numbers])).to(device)
            x_BCHW[numbers] = self._resize(group.permute(0, 3, 1, 2).float() / self.scale)
        return x_BCHW

    def normalised(self, x_BCHW: Tensor) -> Tensor:
        """Subtract the mean and divide by the deviation of each channel."""
        mean, std = (torch.tensor(v, device=x_BCHW.device)[:, None, None] for v in (self.mean, self.std))
        return (x_BCHW - mean) / std

    def _resize(self, x_BCHW: Tensor) -> Tensor:
        """Resize to a square, or the shorter side to its size and cut the middle out of the result."""
        height, width = x_BCHW.shape[-2:]
        size = (self.size_px, self.size_px)
        if self.crop_share is not None:
            shorter = round(self.size_px / self.crop_share)
            size = (shorter * height // min(height, width), shorter * width // min(height, width))
        if size != (height, width):
            x_BCHW = interpolate(x_BCHW, size=size, mode=self.resize, antialias=self.antialias, align_corners=False)
            x_BCHW = x_BCHW.clamp(0, 255 / self.scale)  # bicubic overshoots
        top, left = round((size[0] - self.size_px) / 2), round((size[1] - self.size_px) / 2)
        return x_BCHW[:, :, top : top + self.size_px, left : left + self.size_px]


class ImageTower(ABC):
    """A frozen image tower: one copy, in eval mode, without gradients."""

    def __init__(
        self, name: str, module: nn.Module, preprocessing: Preprocessing, *, dim: int, description: dict[str, Any]
    ) -> None:
        """Freeze a module whose weights are loaded.

        Args:
            name: as `image_tower` takes it, with the folder or file where there is one.
            module: holds every weight.
            preprocessing: of its pictures.
            dim: D.
            description: what, beside weights and preprocessing, decides the output; never a path.
        """
        self.name = name
        self.preprocessing = preprocessing
        self.embed_dim = dim
        self.module = module.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.bf16 = torch.device("cpu"), False
        self._description = description
        self.fingerprint = fingerprint(self.describe(), self.module.state_dict())

    def describe(self) -> dict[str, Any]:
        """Return what, beside the weights, decides the output; device and precision only round it."""
        return {**self._description, "preprocessing": asdict(self.preprocessing), "dim": self.embed_dim}

    def place(self, device: str | torch.device, *, bf16: bool = False) -> Self:
        """Move the tower to a device, and choose whether it computes under bfloat16 autocast."""
        self.device, self.bf16 = torch.device(device), bf16
        self.module.to(self.device)
        return self

    @torch.inference_mode()
    def embed(
        self, frames: Sequence[np.ndarray] | np.ndarray, rngs: Sequence[np.random.Generator] | None = None
    ) -> np.ndarray:
        """Return float32 (B, D), not normalised, of uint8 RGB pictures.

        Args:
            frames: (B, H, W, 3), or a list of (H, W, 3) of any sizes; at least one.
            rngs: one generator a picture, from `picture_rng`, to change their colours as in training.
        """
        x_BCHW = self.preprocessing.resized(frames, self.device)
        if rngs is not None:
            share = self.preprocessing.scale / 255
            x_BCHW = augment_images(x_BCHW * share, rngs) / share
        x_BCHW = self.preprocessing.normalised(x_BCHW).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            features_BD = self._encode(x_BCHW)
        return features_BD.float().cpu().numpy()

    @abstractmethod
    def _encode(self, x_BCHW: Tensor) -> Tensor:
        """Return features (B, D) of preprocessed pictures."""


def fingerprint(description: dict[str, Any], state: dict[str, Tensor]) -> str:
    """Return a SHA-256 over a tower's description and every one of its tensors."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for key in sorted(state):
        digest.update(f"{key} {tuple(state[key].shape)}".encode())
        digest.update(state[key].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
