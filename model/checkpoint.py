"""One file holds a run's whole state: `checkpoint.safetensors`, replaced whole after every few steps.

`best.safetensors` is what was best in validation: the model alone, without what only training needs.

Tensors `model.*` are the model, with queues and momentum copies where it has them; `optimizer.*` what else it takes to
go on. The metadata holds configuration and step as JSON. No pickle is involved, and a reader checks seal, format,
configuration and every tensor's shape.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..shards.checks import parse_json
from .errors import CheckpointError
from .imported import tensor_sizes
from .loss import LossConfig
from .sealed import SEAL, check_sealed, write_sealed
from .sharding import read_part, whole
from .unibrivl import IN_BATCH_ONLY, TRAINING_ONLY, UniBriVL
from .weights import check_shapes, fit_weights

RUN_FORMAT = 1
CHECKPOINT_FILE = "checkpoint.safetensors"
BEST_FILE = "best.safetensors"
REMEDY = "put a copy in its place, or delete it and train again"
MAX_WIDTH = 1 << 16
"""Of an image tower's output."""
FILES = {"last": CHECKPOINT_FILE, "best": BEST_FILE}
ENTRIES = ("format", "config", "facts", "place", "step", "steps", SEAL)
"""Of the metadata. A seal whose name is damaged must not pass for none."""


@dataclass(frozen=True, slots=True)
class RunState:
    """The metadata of a checkpoint."""

    config: dict[str, Any]
    """The training configuration, as given."""
    facts: dict[str, Any]
    """What training found: image tower, widths, plan of the shards, versions."""
    step: int
    """Optimiser steps made."""
    steps: int
    """Optimiser steps that make the run complete."""
    place: dict[str, Any] = field(default_factory=dict)
    """Where it stands: `reader`, the state of the loader, and `best`, the best validation so far."""


def save_checkpoint(
    run: Path, state: RunState, model: UniBriVL, optimizer: torch.optim.Optimizer, *, writes: bool = True
) -> None:
    """Write the checkpoint of `run`, whole or not at all.

    Args:
        run: folder of the run.
        state: for the metadata.
        model: where it is in parts, every process must call this.
        optimizer: of the model.
        writes: whether this process is the one that writes.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    names = _trained_names(model, optimizer)
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{names[index]}.{what}": tensor for what, tensor in values.items()}
    _write(run / CHECKPOINT_FILE, tensors, state, writes)


def save_best(run: Path, state: RunState, model: UniBriVL, *, writes: bool = True) -> None:
    """Write the model as the best of `run`, whole or not at all; arguments as of `save_checkpoint`."""
    unwanted = tuple(f"{part}." for part in TRAINING_ONLY)
    weights = {f"model.{k}": v for k, v in model.state_dict().items() if not k.startswith(unwanted)}
    _write(run / BEST_FILE, weights, state, writes)


def _write(path: Path, tensors: dict[str, Tensor], state: RunState, writes: bool) -> None:
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = whole(tensor)  # one after another, and only the writer keeps them, off its device
        if writes:
            kept[name] = found.contiguous().cpu()
    if not writes:
        return
    metadata = {
        "format": str(RUN_FORMAT),
        "config": json.dumps(state.config, sort_keys=True),
        "facts": json.dumps(state.facts, sort_keys=True),
        "place": json.dumps(state.place, sort_keys=True),
        "step": str(state.step),
        "steps": str(state.steps),
    }
    write_sealed(path, kept, metadata)


def _trained_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Return the names of the optimiser's parameters, in the order of its groups."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def read_state(run: Path, which: str = "last") -> RunState:
    """Return the metadata of a run's `last` or `best` checkpoint.

    Raises:
        CheckpointError: `run` has no checkpoint, or it is damaged or of another format.
    """
    path = run / FILES[which]
    with _opened(path) as file:
        metadata = file.metadata() or {}
    try:
        if metadata["format"] != str(RUN_FORMAT):
            raise CheckpointError(f"{run}: run format {metadata['format']}, this program reads {RUN_FORMAT}")
        if strange := sorted(metadata.keys() - set(ENTRIES)):
            raise ValueError(f"it has an entry {strange[0][:80]!r}")
        return _checked(RunState(
            parse_json(metadata["config"]), parse_json(metadata["facts"]), int(metadata["step"]),
            int(metadata["steps"]), parse_json(metadata.get("place", "{}")),
        ))  # fmt: skip
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as e:
        raise CheckpointError(f"{path}: not a checkpoint of unibrivl ({e}); {REMEDY}") from e


def _checked(state: RunState) -> RunState:
    """Return the state if it can be one.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: it cannot.
    """
    tower = state.config["language_tower"]
    if not (isinstance(tower["name"], str) and isinstance(tower["options"], dict)):
        raise ValueError("no language tower")
    if not isinstance(state.facts.get("image_fingerprint", ""), str):
        raise ValueError("no image tower")
    state.facts["image_dim"] = int(state.facts["image_dim"])
    if not 0 < state.facts["image_dim"] <= MAX_WIDTH:
        raise ValueError(f"image_dim is {state.facts['image_dim']}")
    if not 0 <= state.step <= state.steps:
        raise ValueError(f"step {state.step} of {state.steps}")
    if not isinstance(state.place.get("reader", {}), dict):
        raise ValueError("no place of the reader")
    best = state.place.get("best")
    if best is not None and not all(isinstance(number, int | float) for number in (best["step"], *best.values())):
        raise ValueError("no best validation")
    return state


def load_model(run: Path, which: str = "last") -> tuple[UniBriVL, RunState]:
    """Return the trained model, in eval mode, without what only training needs (queues, momentum copies).

    Args:
        run: folder of the run.
        which: `last`, or `best` in validation.

    Raises:
        CheckpointError: as `read_state`, or a tensor is missing, superfluous or of another shape.
    """
    state = read_state(run, which)
    tower = state.config["language_tower"]
    loss = _inference_loss(run, state)

    def build() -> UniBriVL:
        return UniBriVL(tower["name"], tower["options"], state.facts["image_dim"], loss)

    unwanted = tuple(f"{part}." for part in TRAINING_ONLY)
    sizes = {name.removeprefix("model."): size for name, size in tensor_sizes(run / FILES[which], "model.").items()}
    check_shapes(build, {k: v for k, v in sizes.items() if not k.startswith(unwanted)}, run / FILES[which])
    model = build()
    restore(run, model, which=which)
    return model.eval(), state


def _inference_loss(run: Path, state: RunState) -> LossConfig:
    """Return the configuration of f and g; runs of earlier versions have none, and the defaults."""
    if "loss" not in state.config:
        return IN_BATCH_ONLY
    try:
        return LossConfig(**state.config["loss"]).without_queue()
    except (TypeError, ValueError) as e:
        raise CheckpointError(f"{run / CHECKPOINT_FILE}: not a checkpoint of unibrivl (loss: {e}); {REMEDY}") from e


def restore(
    run: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None, *, which: str = "last"
) -> None:
    """Load the checkpoint's tensors into a model and, if given, its optimiser: of what is in parts, the own part alone.

    Without an optimiser, queues and momentum copies of the checkpoint may lack a place in the model.

    Raises:
        CheckpointError: the file is damaged, or a tensor is missing, superfluous or of another shape.
    """
    path, unwanted = run / FILES[which], ()
    try:
        check_sealed(path)
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path}: damaged ({e}); {REMEDY}") from e
    if optimizer is None:
        parts = {name for name, _ in model.named_children()}
        unwanted = ("optimizer.", *(f"model.{part}." for part in TRAINING_ONLY if part not in parts))
    places = _places(model)
    with _opened(path) as file:
        names = [name for name in file.keys() if not name.startswith(unwanted)]  # noqa: SIM118  (no mapping)
        tensors = {name: read_part(file, name, places.get(name)) for name in names}
    fit_weights(model, {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}, path)
    if optimizer is not None:
        _restore_optimizer(path, model, optimizer, tensors)


def _places(model: nn.Module) -> dict[str, Tensor]:
    """Return by name in a checkpoint what its tensors are for, where they may be in parts."""
    places: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        places |= dict.fromkeys((f"optimizer.{name}.exp_avg", f"optimizer.{name}.exp_avg_sq"), parameter)
    return places


def _restore_optimizer(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    parameters = dict(model.named_parameters())
    state: dict[int, dict[str, Tensor]] = {}
    for index, name in enumerate(_trained_names(model, optimizer)):
        if not parameters[name].requires_grad:
            continue  # momentum copies, a fixed temperature
        values = {what: tensors.get(f"optimizer.{name}.{what}") for what in ("step", "exp_avg", "exp_avg_sq")}
        present = {what: tensor for what, tensor in values.items() if tensor is not None}
        if len(present) != len(values):
            raise CheckpointError(f"{path}: the optimiser's state of {name} is missing")
        if not present["exp_avg"].shape == present["exp_avg_sq"].shape == parameters[name].shape:
            raise CheckpointError(f"{path}: the optimiser's state of {name} has another shape")
        state[index] = present
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} is no run: it has no {path.name}; make one with `unibrivl train`"
        ) from None
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"{path}: damaged ({e}); {REMEDY}") from e
