"""BriVL's image encoder, in the forms B5 (BriVL 1) and B7 (WenLan 2), under the names of the released weights.

An EfficientNet's feature map is averaged in boxes, the patches attend to each other, and their mean goes through two
layers. The boxes are a fixed grid and the whole picture, so that pooling is one constant matrix.

Shapes: B pictures, S pixels a side, C channels = embedding dimensions, H = W cells a side of the map, P patches.

Source: the public code of BriVL (`models/vl_model.py`) and of WenLan-Video; https://arxiv.org/abs/2103.06561.
"""

from dataclasses import dataclass
from typing import Literal, cast

import timm
import torch
from timm.models.efficientnet import _gen_efficientnet  # the only way to a scaled member of the tf_ family
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from ..shards.checks import check_ranges, check_whole
from .heads import Mlp, self_attention_block

REDUCTION = 32
"""Pixels a cell of every EfficientNet's feature map."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BrivlConfig:
    """What decides an image encoder's function, beside its weights; the defaults are BriVL 1's (B5)."""

    backbone: str = "tf_efficientnet_b5.ns_jft_in1k"
    """Name in timm."""
    channel_multiplier: float | None = None
    """With `depth_multiplier`: scales the backbone, which is then timm's base model (`tf_efficientnet_b0`)."""
    depth_multiplier: float | None = None
    num_classes: int = 1000
    """Of the backbone's classifier, which is stored in released weights and not used."""
    image_px: int = 380
    antialias: bool = True
    """Of the resizing before the encoder; False: as the torchvision of BriVL's time resized tensors."""
    dim: int = 2048
    """Channels of the backbone's map, and width of everything behind it."""
    grid: int = 6
    """Boxes a side; 0: the whole picture alone, as in BriVL-Generation, which masks the others."""
    whole: Literal["first", "last"] = "last"
    """Where the box of the whole picture stands among the patches."""
    roi_grid: int = 4
    """Samples a side of each box."""
    conv: bool = True
    """Whether a 1x1 convolution stands before the average (B5) or not (B7)."""
    heads: int = 4
    layers: int = 4

    def __post_init__(self) -> None:
        """Refuse values that make no encoder."""
        check_whole(
            self, num_classes=(0, 1 << 20), image_px=(REDUCTION + 1, 4096), dim=(1, 1 << 16), grid=(0, 64),
            roi_grid=(1, 64), heads=(1, 1024), layers=(1, 256),
        )  # fmt: skip
        if self.whole not in ("first", "last"):
            raise ValueError(f"whole is {self.whole!r}, want 'first' or 'last'")
        for name in ("antialias", "conv"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}, want true or false")
        if self.dim % self.heads:
            raise ValueError(f"dim is {self.dim}, want a multiple of {self.heads} heads")
        if not isinstance(self.backbone, str):
            raise ValueError(f"backbone is {self.backbone!r}, want a name in timm")
        check_ranges(self, channel_multiplier=(0.01, 10), depth_multiplier=(0.01, 10))
        if (self.channel_multiplier is None) != (self.depth_multiplier is None):
            raise ValueError("give channel_multiplier and depth_multiplier both, or neither")

    @property
    def form(self) -> Literal["b5", "b7"]:
        """Return which of the two published forms the encoder has."""
        return "b5" if self.conv else "b7"

    @property
    def map_side(self) -> int:
        """Return H: strides of 2 with `same` padding round up."""
        return -(-self.image_px // REDUCTION)


B5 = BrivlConfig()
"""BriVL 1 (BriVL-NMI and BriVL-Generation feed 456 pixels)."""
B7 = BrivlConfig(backbone="tf_efficientnet_b7.ns_jft_in1k", image_px=384, dim=2560, grid=5, whole="first", conv=False)
"""WenLan-Video's form of WenLan 2; the UniBriVL paper feeds 360 pixels."""


class BrivlImageEncoder(nn.Module):
    """Pictures to embeddings, not normalised."""

    pool_PM: Tensor

    def __init__(self, config: BrivlConfig) -> None:
        """Build the encoder with random weights.

        Raises:
            ValueError: timm has no such backbone, or its map is not `dim` channels wide.
        """
        super().__init__()
        self.config = config
        self.backbone = _backbone(config)
        if self.backbone.num_features != config.dim:
            raise ValueError(f"dim is {config.dim}, {config.backbone} has {self.backbone.num_features}")
        parts: dict[str, nn.Module] = {}
        if config.conv:
            parts["max_pool"] = nn.Sequential(nn.Conv2d(config.dim, config.dim, 1))
        parts["imgAtt"] = self_attention_block(config.dim, num_layers=config.layers, num_heads=config.heads)
        parts["imgFC"] = Mlp(config.dim, config.dim, config.dim)
        self.learnable = nn.ModuleDict(parts)
        pool_PM = pooling_matrix(boxes(config), config.image_px, config.map_side, config.roi_grid)
        self.register_buffer("pool_PM", pool_PM, persistent=False)

    def forward(self, image_BCHW: Tensor, mask_BP: Tensor | None = None) -> Tensor:
        """Return embeddings (B, C) of normalised pictures (B, 3, S, S).

        Args:
            image_BCHW: pictures.
            mask_BP: true where a patch counts; by default every one does.
        """
        patches_BPC = self.patches(self.backbone.forward_features(image_BCHW))  # type: ignore[operator]
        padding = None if mask_BP is None else ~mask_BP.bool()
        patches_BPC = self.learnable["imgAtt"](normalize(patches_BPC, dim=2), src_key_padding_mask=padding)
        return self.learnable["imgFC"](_mean(patches_BPC, mask_BP))

    def patches(self, map_BCHW: Tensor) -> Tensor:
        """Return the average (B, P, C) of a feature map in every box.

        The convolution is linear and comes before the average, so it may as well come behind it, on P patches instead
        of P times 16 samples.
        """
        pooled_BPC = self.pool_PM @ map_BCHW.flatten(2).transpose(1, 2)
        if not self.config.conv:
            return pooled_BPC
        conv = cast(nn.Conv2d, cast(nn.Sequential, self.learnable["max_pool"])[0])
        return linear(pooled_BPC, conv.weight[:, :, 0, 0], conv.bias)


def boxes(config: BrivlConfig) -> Tensor:
    """Return the boxes (P, 4) as x1, y1, x2, y2 in pixels: columns one after the other, and the whole picture."""
    side = config.image_px / config.grid if config.grid else 0
    grid = [
        (x * side, y * side, (x + 1) * side, (y + 1) * side) for x in range(config.grid) for y in range(config.grid)
    ]
    whole = [(0.0, 0.0, float(config.image_px), float(config.image_px))]
    return torch.tensor(whole + grid if config.whole == "first" else grid + whole, dtype=torch.float64)


def pooling_matrix(boxes_P4: Tensor, image_px: int, map_side: int, roi_grid: int) -> Tensor:
    """Return the matrix (P, H*W) that averages a feature map in each box.

    A row is the average of what `grid_sample` (align_corners=False, zeros outside) takes at `roi_grid` x `roi_grid`
    points. BriVL places the points with denominators of the other convention, W - 1, so that those of boxes at the edge
    lie partly outside and their rows sum to less than 1; the released weights were trained so.
    """
    corners_P4 = boxes_P4.double() * map_side / image_px
    along_x_PW = _samples(corners_P4[:, 0], corners_P4[:, 2], map_side, roi_grid)
    along_y_PH = _samples(corners_P4[:, 1], corners_P4[:, 3], map_side, roi_grid)
    return (along_y_PH[:, :, None] * along_x_PW[:, None, :]).flatten(1).float()


def _samples(low_P: Tensor, high_P: Tensor, size: int, count: int) -> Tensor:
    """Return the mean linear interpolation weights (P, size) of `count` points between two coordinates."""
    ticks = (2 * torch.arange(count, dtype=torch.float64) + 1) / count - 1
    places = ((high_P - low_P)[:, None] * ticks + (low_P + high_P - size + 1)[:, None]) / (size - 1)
    cells = ((places + 1) * size - 1) / 2
    return (1 - (cells[:, :, None] - torch.arange(size, dtype=torch.float64)).abs()).clamp(min=0).mean(dim=1)


def _backbone(config: BrivlConfig) -> nn.Module:
    """Build timm's model with random weights."""
    if config.channel_multiplier is not None and config.depth_multiplier is not None:
        return _gen_efficientnet(
            config.backbone, config.channel_multiplier, config.depth_multiplier,
            pad_type="same", bn_eps=1e-3, num_classes=config.num_classes,
        )  # fmt: skip
    try:
        return timm.create_model(config.backbone, pretrained=False, num_classes=config.num_classes)
    except RuntimeError as e:
        raise ValueError(f"backbone is {config.backbone!r}, timm has no such model") from e


def _mean(patches_BPC: Tensor, mask_BP: Tensor | None) -> Tensor:
    if mask_BP is None:
        return patches_BPC.mean(dim=1)
    weight_BP1 = mask_BP.to(patches_BPC.dtype)[:, :, None]
    return (patches_BPC * weight_BP1).sum(dim=1) / weight_BP1.sum(dim=1)
