"""The processes, devices and precision of a run, by way of accelerate.

Started alone a command is one process; under `accelerate launch` or `torchrun` it is one of several. One that dies
ends the others, since what is left of a step is of no use to anybody.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import nn
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.nn.parallel import DistributedDataParallel

from .errors import LostProcessError, TrainError
from .rendezvous import meet
from .train_config import TrainConfig

PATIENCE = timedelta(hours=12)
"""How long a process waits for another, such as for the one that embeds more pictures than the others."""
STEP_PATIENCE = timedelta(minutes=30)
"""The same once training has begun: longer than a validation, or than writing a checkpoint to a slow disk."""
SHARDED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
"""Variables by which `accelerate launch` asks for parts of a model, other than those that `sharded` makes."""


@contextmanager
def accelerated(config: TrainConfig) -> Iterator[Accelerator]:
    """Yield accelerate's view of this process; afterwards another run may choose other settings.

    Raises:
        TrainError: accelerate was told to shard the model by itself.
    """
    _refuse_sharding()
    cpu = config.device == "cpu" or not torch.cuda.is_available()
    precision = "bf16" if config.precision == "bf16" else "no"
    try:
        if cpu:
            meet("gloo", PATIENCE)
        accelerator = Accelerator(
            cpu=cpu, mixed_precision=precision, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)]
        )
        wait_no_longer_than(PATIENCE)  # an earlier run of this process may have been less patient
        yield accelerator
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def _refuse_sharding() -> None:
    for name in SHARDED:
        if os.environ.get(name, "false").lower() == "true":
            raise TrainError(
                f"{name} is set, and accelerate's own way of sharding a model is not used here; leave out what sets "
                "it, such as --use_fsdp of accelerate launch, and give --set sharded=true"
            )


@contextmanager
def watched(out: Path) -> Iterator[None]:
    """Say in one line that another process has died or hangs, in place of what gloo or NCCL say of it.

    Raises:
        LostProcessError: so it is.
    """
    try:
        yield
    except RuntimeError as e:
        if not isinstance(e, dist.DistError) and "/gloo/" not in str(e):
            raise
        reason = re.sub(r"\[/[^]]*\] ", "", str(e).partition("\n")[0]).partition(". ")[0]
        raise LostProcessError(
            f"another process of the run in {out} is gone or hangs ({reason}); its last checkpoint is kept: start it "
            "again, with as many processes or another number"
        ) from e


def wait_no_longer_than(patience: timedelta) -> None:
    """Set how long this process waits for another from now on."""
    if dist.is_initialized():
        _set_pg_timeout(patience)


def check_alike(accelerator: Accelerator, seen: dict[str, Any]) -> None:
    """Refuse processes that would go on from different places, or on different clips.

    Args:
        accelerator: of this process.
        seen: by name, what must be the same in all.

    Raises:
        TrainError: it is not, as when a machine has a folder of its own in the place of a shared one.
    """
    if accelerator.num_processes == 1:
        return
    first, *others = gather_object([seen])
    for number, theirs in enumerate(others, start=1):
        for name in (name for name in first if theirs[name] != first[name]):
            raise TrainError(
                f"process {number} has {name} {theirs[name]}, process 0 {first[name]}; give all the same options, "
                "shards and --out, in folders that every machine sees"
            )


def of_first(accelerator: Accelerator, value: float) -> float:
    """Return the first process's value in all of them: of what machines of other makes may differ in the last bits."""
    return gather_object([value])[0] if accelerator.num_processes > 1 else value


def shared(accelerator: Accelerator, model: nn.Module, alike: list[str], *, sharded: bool = False) -> nn.Module:
    """Return the model as several processes call it; as it is, but for precision, where there is one or it is sharded.

    Args:
        accelerator: of this process.
        model: on its device.
        alike: names of buffers that are the same in every process by themselves, and so are not sent around.
        sharded: whether its parts exchange their gradients by themselves.
    """
    if sharded:
        return accelerator.prepare_model(model, evaluation_mode=True)  # precision, and nothing else
    if accelerator.num_processes > 1:
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, alike)
    return accelerator.prepare_model(model)
