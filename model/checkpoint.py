"""One file holds a run's whole state: `checkpoint.safetensors`, replaced whole after every few steps.

Tensors `model.*` are the model, with queues and momentum copies where it has them; `optimizer.*` what else it takes to
go on. The metadata holds configuration and step as JSON. No pickle is involved, and a reader checks format,
configuration and every tensor's shape.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..shards.atomic import write_bytes
from .errors import CheckpointError
from .loss import LossConfig
from .unibrivl import IN_BATCH_ONLY, TRAINING_ONLY, UniBriVL

RUN_FORMAT = 1
CHECKPOINT_FILE = "checkpoint.safetensors"


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


def save_checkpoint(run: Path, state: RunState, model: UniBriVL, optimizer: torch.optim.Optimizer) -> None:
    """Write the checkpoint of `run`, whole or not at all."""
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    names = [name for name, _ in model.named_parameters()]
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{names[index]}.{what}": tensor for what, tensor in values.items()}
    metadata = {
        "format": str(RUN_FORMAT),
        "config": json.dumps(state.config, sort_keys=True),
        "facts": json.dumps(state.facts, sort_keys=True),
        "step": str(state.step),
        "steps": str(state.steps),
    }
    write_bytes(run / CHECKPOINT_FILE, save(tensors, metadata))


def read_state(run: Path) -> RunState:
    """Return a checkpoint's metadata.

    Raises:
        CheckpointError: `run` has no checkpoint, or it is damaged or of another format.
    """
    with _opened(run) as file:
        metadata = file.metadata() or {}
    try:
        if metadata["format"] != str(RUN_FORMAT):
            raise CheckpointError(f"{run}: run format {metadata['format']}, this program reads {RUN_FORMAT}")
        config, facts = json.loads(metadata["config"]), json.loads(metadata["facts"])
        tower = config["language_tower"]
        if not (isinstance(tower["name"], str) and isinstance(tower["options"], dict)):
            raise ValueError("no language tower")
        if not isinstance(facts.get("image_fingerprint", ""), str):
            raise ValueError("no image tower")
        facts["image_dim"] = int(facts["image_dim"])
        return RunState(config, facts, int(metadata["step"]), int(metadata["steps"]))
    except (KeyError, ValueError, TypeError) as e:
        raise CheckpointError(f"{run / CHECKPOINT_FILE}: not a checkpoint of unibrivl ({e}); train again") from e


def load_model(run: Path) -> tuple[UniBriVL, RunState]:
    """Return the trained model, in eval mode, without what only training needs (queues, momentum copies).

    Raises:
        CheckpointError: as `read_state`, or a tensor is missing, superfluous or of another shape.
    """
    state = read_state(run)
    tower = state.config["language_tower"]
    model = UniBriVL(tower["name"], tower["options"], state.facts["image_dim"], _inference_loss(run, state))
    restore(run, model)
    return model.eval(), state


def _inference_loss(run: Path, state: RunState) -> LossConfig:
    """Return the configuration of f and g; runs of earlier versions have none, and the defaults."""
    if "loss" not in state.config:
        return IN_BATCH_ONLY
    try:
        return LossConfig(**state.config["loss"]).without_queue()
    except (TypeError, ValueError) as e:
        raise CheckpointError(f"{run / CHECKPOINT_FILE}: not a checkpoint of unibrivl (loss: {e}); train again") from e


def restore(run: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Load the checkpoint's tensors into a model and, if given, its optimiser.

    Without an optimiser, queues and momentum copies of the checkpoint may lack a place in the model.

    Raises:
        CheckpointError: a tensor is missing, superfluous or of another shape.
    """
    unwanted = ()
    if optimizer is None:
        parts = {name for name, _ in model.named_children()}
        unwanted = ("optimizer.", *(f"model.{part}." for part in TRAINING_ONLY if part not in parts))
    with _opened(run) as file:
        names = [name for name in file.keys() if not name.startswith(unwanted)]  # noqa: SIM118  (no mapping)
        tensors = {name: file.get_tensor(name) for name in names}
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as e:
        first = str(e).splitlines()[-1].strip()
        raise CheckpointError(f"{run / CHECKPOINT_FILE}: does not fit the model ({first})") from e
    if optimizer is not None:
        _restore_optimizer(run, model, optimizer, tensors)


def _restore_optimizer(
    run: Path, model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for index, (name, parameter) in enumerate(model.named_parameters()):
        if not parameter.requires_grad:
            continue  # momentum copies, a fixed temperature
        values = {what: tensors.get(f"optimizer.{name}.{what}") for what in ("step", "exp_avg", "exp_avg_sq")}
        present = {what: tensor for what, tensor in values.items() if tensor is not None}
        if len(present) != len(values):
            raise CheckpointError(f"{run / CHECKPOINT_FILE}: the optimiser's state of {name} is missing")
        if not present["exp_avg"].shape == present["exp_avg_sq"].shape == parameter.shape:
            raise CheckpointError(f"{run / CHECKPOINT_FILE}: the optimiser's state of {name} has another shape")
        state[index] = present
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _opened(run: Path) -> Any:
    path = run / CHECKPOINT_FILE
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise CheckpointError(f"{run} is no run: it has no {CHECKPOINT_FILE}; make one with `unibrivl train`") from None
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"{path}: damaged ({e}); train again") from e
