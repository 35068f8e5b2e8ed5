"""How fast each parameter learns: warm-up and cosine over the steps, layer by layer over the depth."""

import math
from typing import Any

from torch import nn

from .train_config import TrainConfig
from .unibrivl import UniBriVL

HEAD = "head"
"""Name of the group of a language tower that is new, and so learns at the full rate."""


def rate_share(config: TrainConfig, step: int, steps: int) -> float:
    """Return the share of the peak rate at a step (from 0): linear warm-up, then a half cosine to zero, or flat."""
    warmup = min(config.warmup_steps, steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


def depth_groups(tower: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    """Return a language tower's parameters by depth, the input first; all in one where it does not say."""
    layers = getattr(tower, "layers", None)
    return layers() if callable(layers) else [("all", list(tower.parameters()))]  # type: ignore[return-value]


def parameter_groups(model: UniBriVL, config: TrainConfig) -> list[dict[str, Any]]:
    """Return what trains as groups for an optimiser, each with its `rate` (share of the peak) and `weight_decay`.

    The tower's last layer has `tower_lr`, each layer below it `layer_decay` of the one above; what the tower calls its
    head, f, g and the temperatures have 1. Vectors and scalars (biases, norms, temperatures) do not decay.
    """
    layers = [parameters for name, parameters in depth_groups(model.language) if name != HEAD]
    rates: dict[int, float] = {}
    for height, parameters in enumerate(reversed(layers)):
        rates |= dict.fromkeys(map(id, parameters), config.tower_lr * config.layer_decay**height)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rates.get(id(parameter), 1.0), decay), []).append(parameter)
    return [
        {"params": parameters, "rate": rate, "weight_decay": decay, "lr": config.lr * rate}
        for (rate, decay), parameters in groups.items()
    ]
