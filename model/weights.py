"""Weights of others, read without running anything that a file could contain, and fitted name by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import CheckpointError

SHOWN = 3
"""Names that a message lists."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.safetensors` file, or of a torch file that holds a state dict and nothing to run.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file; give a .safetensors or .pth file of weights")
    try:
        found: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"{path}: damaged ({e}); get it again") from e
    except Exception as e:  # torch.load raises whatever its unpickler meets
        raise CheckpointError(
            f"{path}: not readable as weights (damaged, or with objects that weights_only=True refuses); "
            "get it again, or give a .safetensors file"
        ) from e
    return _state_dict(path, found)


def fit_weights(module: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Load weights into a module; every name and shape must fit.

    Raises:
        CheckpointError: names are missing or superfluous, or a shape differs.
    """
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as e:
        first = str(e).splitlines()[1].strip() if "\n" in str(e) else str(e)
        raise CheckpointError(f"{source}: does not fit the model ({first})") from e
    if missing or unexpected:
        faults = [_names("missing", missing), _names("superfluous", unexpected)]
        raise CheckpointError(f"{source}: does not fit the model ({', '.join(filter(None, faults))})")


def _state_dict(path: Path, found: Any) -> dict[str, Tensor]:
    """Unwrap what trainers wrap a state dict in: `state_dict` or `model`, and the prefix `module.`."""
    for wrapper in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise CheckpointError(f"{path}: holds no state dict; give a file of named tensors")
    prefix = "module." if all(name.startswith("module.") for name in found) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def _names(what: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}" if names else ""
