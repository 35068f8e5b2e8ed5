"""The processes, devices and precision of a run, by way of accelerate.

Started alone a command is one process; under `accelerate launch` or `torchrun` it is one of several.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import InitProcessGroupKwargs
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .train_config import TrainConfig

PATIENCE = timedelta(hours=12)
"""How long a process waits for another, such as for the one that embeds more pictures than the others."""


@contextmanager
def accelerated(config: TrainConfig) -> Iterator[Accelerator]:
    """Yield accelerate's view of this process; afterwards another run may choose other settings."""
    cpu = config.device == "cpu" or not torch.cuda.is_available()
    precision = "bf16" if config.precision == "bf16" else "no"
    try:
        yield Accelerator(
            cpu=cpu, mixed_precision=precision, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)]
        )
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def shared(accelerator: Accelerator, model: nn.Module, alike: list[str]) -> nn.Module:
    """Return the model as several processes call it; as it is, but for precision, where there is one.

    Args:
        accelerator: of this process.
        model: on its device.
        alike: names of buffers that are the same in every process by themselves, and so are not sent around.
    """
    if accelerator.num_processes > 1:
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, alike)
    return accelerator.prepare_model(model)
