"""Weights of others, read without running anything that a file could contain, and fitted name by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CheckpointError
from .foreign import is_state_dict, read_foreign

SHOWN = 3
"""Names that a message lists."""
Shape = tuple[int, ...]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of safetensors, or of a torch file that holds a state dict and nothing to run.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    return _state_dict(path, read_foreign(path).content)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Return each tensor's shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_shapes(build: Callable[[], nn.Module], found: Mapping[str, Shape], source: Path) -> None:
    """Refuse weights that do not fit a network before it takes any memory: a configuration can claim every size.

    Raises:
        CheckpointError: as `fit_weights`, or the configuration makes no network.
    """
    try:
        with torch.device("meta"):
            wanted = shapes_of(build().state_dict())
    except (RuntimeError, ValueError, TypeError) as e:
        first = (str(e).splitlines() or [type(e).__name__])[0]
        raise CheckpointError(f"{source}: its configuration makes no network ({first[:200]})") from e
    _compare(wanted, found, source)


def fit_weights(module: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Load weights into a module; every name and shape must fit.

    Raises:
        CheckpointError: names are missing or superfluous, or a shape differs.
    """
    _compare(shapes_of(module.state_dict()), shapes_of(weights), source)
    module.load_state_dict(weights)


def _compare(wanted: Mapping[str, Shape], found: Mapping[str, Shape], source: Path) -> None:
    reshaped = [
        f"{name} {found[name]}, want {shape}" for name, shape in wanted.items() if found.get(name, shape) != shape
    ]
    faults = [
        _names("missing", [name for name in wanted if name not in found]),
        _names("superfluous", [name for name in found if name not in wanted]),
        _names("of another shape", reshaped),
    ]
    if any(faults):
        raise CheckpointError(f"{source}: does not fit the model ({', '.join(filter(None, faults))})")


def _state_dict(path: Path, found: Any) -> dict[str, Tensor]:
    """Unwrap what trainers wrap a state dict in: `state_dict` or `model`, and the prefix `module.`."""
    for wrapper in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not is_state_dict(found):
        raise CheckpointError(f"{path}: holds no state dict; give a file of named tensors")
    prefix = "module." if all(name.startswith("module.") for name in found) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def _names(what: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}" if names else ""
