"""The processes of a run, as torchrun would start them, that write down what they train on and may be struck."""

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unibrivl.model import towers
from unibrivl.model import train as train_module
from unibrivl.model.checkpoint import CHECKPOINT_FILE, read_state
from unibrivl.model.curves import PAGE_FILE
from unibrivl.model.errors import TrainError
from unibrivl.model.train import TrainResult, train
from unibrivl.model.train_config import TrainConfig
from unibrivl.shards import ClipShards

from .tiny import StillConfig, StillTower, TinyConfig, TinyImageTower, TinyTower, metrics

DEADLINE_S = 120
PROMPTLY_S = 60
"""For what takes a tenth of a second on a quiet machine, and would be 30 minutes of patience."""
GONE = "another process of the run in {} is gone or hangs ("


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A signal that a process sends to itself in the middle of a step, where the others wait for it."""

    rank: int
    step: int
    signal: int = signal.SIGKILL
    marker: Path | None = None
    """Made before."""

    def strike(self, rank: int, step: int) -> None:
        if (rank, step) == (self.rank, self.step):
            if self.marker:
                self.marker.touch()
            os.kill(os.getpid(), self.signal)


@dataclass(frozen=True, kw_only=True, slots=True)
class Orders:
    """What the processes do beside training."""

    pause_s: float = 0.0
    """After each step."""
    record: Path | None = None
    """Folder for the clips of every step."""
    fault: Fault | None = None
    patience_s: float = DEADLINE_S
    """How long a process waits for another."""


class Witness:
    """Knows the step that is being made, and its clips."""

    def __init__(self, config: TrainConfig, rank: int, orders: Orders) -> None:
        self.step = read_state(config.out).step + 1 if (config.out / CHECKPOINT_FILE).exists() else 1
        self.rank, self.orders, self.seen = rank, orders, []
        self.real = train_module.training_audio

    def training_audio(self, sounds: list[np.ndarray], positions: np.ndarray, *args: Any, **options: Any) -> Any:
        if self.orders.fault:
            self.orders.fault.strike(self.rank, self.step)
        self.seen.append(positions.tolist())
        return self.real(sounds, positions, *args, **options)

    def progress(self, done: int, total: int, text: str) -> None:
        if not text.startswith("loss"):
            return
        if self.orders.record:
            with (self.orders.record / f"{self.rank}.jsonl").open("a") as f:
                f.write(json.dumps({"step": done, "clips": self.seen}) + "\n")
        self.step, self.seen = done + 1, []
        time.sleep(self.orders.pause_s)


def register_tiny_towers() -> None:
    """Let options name the towers of these tests, in a process of its own."""
    towers.LANGUAGE_TOWERS["tiny"] = (TinyConfig, TinyTower)
    towers.LANGUAGE_TOWERS["still"] = (StillConfig, StillTower)
    towers.IMAGE_TOWERS["colours"] = TinyImageTower  # type: ignore[assignment]
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def observed(config: TrainConfig, rank: int, orders: Orders) -> TrainResult:
    """Train as ordered; the process is of no other use afterwards."""
    witness = Witness(config, rank, orders)
    train_module.training_audio = witness.training_audio
    # most of the time of such a run; test_curves draws
    train_module.write_curves = lambda out, described: (out / PAGE_FILE).touch()
    train_module.STEP_PATIENCE = timedelta(seconds=orders.patience_s)
    return train(config, witness.progress)


def work(rank: int, world: int, port: int, config: TrainConfig, orders: Orders) -> None:
    """Train as one process of a group."""
    register_tiny_towers()
    if world > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    try:
        observed(config, rank, orders)
    except TrainError as e:  # standard error is that of the server, which may be of an earlier test
        config.out.with_name(f"error-{rank}").write_text(str(e))
        raise SystemExit(1) from e


@contextmanager
def started(config: TrainConfig, world: int, orders: Orders = Orders()) -> Iterator[list[ForkServerProcess]]:
    """Start the processes of a run; end them in any case."""
    with started_apart([config] * world, orders) as processes:
        yield processes


@contextmanager
def started_apart(configs: list[TrainConfig], orders: Orders = Orders()) -> Iterator[list[ForkServerProcess]]:
    """Start a process for each configuration, as if they were of one run."""
    # a server that has the imports forks the processes: importing in each would take most of the test's time
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "unibrivl.model.train", "torch.distributed.fsdp"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = [
        context.Process(target=work, args=(rank, len(configs), port, config, orders))
        for rank, config in enumerate(configs)
    ]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def ended(processes: list[ForkServerProcess], deadline_s: float = DEADLINE_S) -> list[int | None]:
    """Return the exit codes, None of a process that goes on after the deadline."""
    deadline = time.monotonic() + deadline_s
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
    return [process.exitcode for process in processes]


def run_to_its_end(config: TrainConfig, world: int, orders: Orders = Orders()) -> None:
    with started(config, world, orders) as processes:
        codes = ended(processes)
    assert codes == [0] * world, {path.name: path.read_text() for path in config.out.parent.glob("error-*")}


def keys_of_steps(config: TrainConfig, records: Path, world: int) -> dict[int, list[str]]:
    """Return the keys of the clips of each step that all processes finished, in their order."""
    with ClipShards(config.shards, split=config.split) as clips:
        keys = clips.catalog.table["key"].to_pylist()
    logs = [(records / f"{rank}.jsonl").read_text().splitlines() for rank in range(world)]
    steps = [{entry["step"]: entry["clips"] for entry in map(json.loads, lines)} for lines in logs]
    whole = sorted(set.intersection(*(set(of_rank) for of_rank in steps)))
    return {step: [keys[p] for parts in zip(*(of[step] for of in steps), strict=True) for part in parts for p in part]
            for step in whole}  # fmt: skip


def losses(run: Path) -> np.ndarray:
    return np.array([entry["loss"] for entry in metrics(run) if "loss" in entry])


def strike(config: TrainConfig, world: int, orders: Orders) -> None:
    """Let a process of a run be killed in the middle of a step; the others end by themselves, and say why."""
    assert orders.fault
    with started(config, world, orders) as processes:
        codes = ended(processes, PROMPTLY_S)
    assert codes == [-signal.SIGKILL if rank == orders.fault.rank else 1 for rank in range(world)]
    told = [path.read_text() for path in config.out.parent.glob("error-*")]
    assert len(told) == world - 1
    assert all(line.startswith(GONE.format(config.out)) and "\n" not in line for line in told)
