"""Brings the processes of a run together, also those that a launcher has started again.

torchrun keeps one store for all of its attempts, where the addresses of dead processes remain (torch 2.13): a process
that reads one before its new owner has overwritten it connects to nobody, and the attempt fails. So the living agree
first on a name under which nothing stands yet.
"""

import os
import time
from datetime import timedelta
from uuid import uuid4

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from .errors import LostProcessError

MEETING = timedelta(minutes=30)
"""How long a process waits for the others to start."""
POLL_S = 0.02


def meet(backend: str, patience: timedelta) -> None:
    """Join the process group that the environment describes, if it does so and it was not joined yet.

    Args:
        backend: of torch.distributed.
        patience: how long a process waits for another in what follows.

    Raises:
        LostProcessError: another one did not come.
        RuntimeError: the one that leads did not come, or is gone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    store, rank, num_processes = next(rendezvous("env://", timeout=MEETING))
    name = _welcomed(store, rank) if rank else _welcome(store, num_processes)
    store = PrefixStore(name, store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=num_processes, timeout=patience)


def _welcomed(store: Store, rank: int) -> str:
    """Say that this process is here; return the name that the first process answers."""
    own = uuid4().hex
    store.set(f"here/{rank}", own)
    name = store.get(f"welcome/{own}").decode()
    store.set(f"joined/{name}/{rank}", "")
    return name


def _welcome(store: Store, num_processes: int) -> str:
    """Tell all others a new name, the dead ones too, until as many as there should be have joined under it."""
    name, deadline = uuid4().hex, time.monotonic() + MEETING.total_seconds()
    missing = list(range(1, num_processes))
    while missing:
        if time.monotonic() > deadline:
            raise LostProcessError(
                f"process {missing[0]} of {num_processes} did not start within {MEETING.total_seconds():g} s; see what "
                "it said, and start all of them again"
            )
        for rank in missing:
            if store.check([f"here/{rank}"]):
                store.set(f"welcome/{store.get(f'here/{rank}').decode()}", name)
        time.sleep(POLL_S)
        missing = [rank for rank in missing if not store.check([f"joined/{name}/{rank}"])]
    return name
