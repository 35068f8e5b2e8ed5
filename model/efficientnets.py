"""Which EfficientNet a set of tensors is, told by its depths and widths.

Source: Tan and Le (arXiv 1905.11946), table 1 and its compound scaling, as timm applies it.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

from timm.models._efficientnet_builder import round_channels

DEPTHS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of B0's seven stages."""
STEM, HEAD = 32, 1280
"""B0's first and last channels."""
FAMILY = {
    "tf_efficientnet_b0": (1.0, 1.0), "tf_efficientnet_b1": (1.0, 1.1), "tf_efficientnet_b2": (1.1, 1.2),
    "tf_efficientnet_b3": (1.2, 1.4), "tf_efficientnet_b4": (1.4, 1.8),
    "tf_efficientnet_b5.ns_jft_in1k": (1.6, 2.2), "tf_efficientnet_b6": (1.8, 2.6),
    "tf_efficientnet_b7.ns_jft_in1k": (2.0, 3.1), "tf_efficientnet_b8": (2.2, 3.6),
}  # fmt: skip
"""timm's names with the multipliers of channels and of depth; the tags of B5 and B7 are those that BriVL took."""
STEPS = [round(step / 20, 2) for step in range(1, 121)]
"""Multipliers that are tried for an EfficientNet outside the family."""


def backbone_options(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return `backbone` and, for one outside the family, its two multipliers.

    Args:
        shapes: of the backbone's tensors, under timm's names.

    Raises:
        ValueError: they are no EfficientNet's.
    """
    stages = {int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")}
    depths = tuple(_depth(shapes, stage) for stage in sorted(stages))
    try:
        widths = shapes["conv_stem.weight"][0], shapes["conv_head.weight"][0]
    except KeyError as e:
        raise ValueError(f"the backbone has no {e.args[0]}, which every EfficientNet has") from None
    for name, (channels, depth) in FAMILY.items():
        if (_widths(channels), _depths(depth)) == (widths, depths):
            return {"backbone": name}
    channels = next((step for step in STEPS if _widths(step) == widths), None)
    depth = next((step for step in STEPS if _depths(step) == depths), None)
    if channels is None or depth is None:
        raise ValueError(f"a backbone of depths {depths} and widths {widths} is no EfficientNet")
    return {"backbone": "tf_efficientnet_b0", "channel_multiplier": channels, "depth_multiplier": depth}


def _depth(shapes: Mapping[str, tuple[int, ...]], stage: int) -> int:
    return len({name.split(".")[2] for name in shapes if name.startswith(f"blocks.{stage}.")})


def _widths(multiplier: float) -> tuple[int, int]:
    return int(round_channels(STEM, multiplier)), int(round_channels(HEAD, multiplier))


def _depths(multiplier: float) -> tuple[int, ...]:
    return tuple(ceil(depth * multiplier) for depth in DEPTHS)
