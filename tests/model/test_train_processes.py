"""Several processes, and SIGKILL at any instant: what resumes is bit for bit what was never disturbed."""

import dataclasses
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unibrivl.model import towers
from unibrivl.model.checkpoint import CHECKPOINT_FILE, load_model, read_state
from unibrivl.model.errors import TrainError
from unibrivl.model.loss import LossConfig
from unibrivl.model.train import train
from unibrivl.model.train_config import TrainConfig

from .tiny import TinyConfig, TinyImageTower, TinyTower, assert_same_run, metrics

DEADLINE_S = 120


def work(rank: int, world: int, port: int, config: TrainConfig, pause_s: float) -> None:
    """Train as one process of a group, as torchrun would start it."""
    towers.LANGUAGE_TOWERS["tiny"] = (TinyConfig, TinyTower)
    towers.IMAGE_TOWERS["colours"] = TinyImageTower  # type: ignore[assignment]
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    if world > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    try:
        train(config, lambda done, total, text: time.sleep(pause_s))
    except TrainError as e:  # standard error is that of the server, which may be of an earlier test
        config.out.with_name(f"error-{rank}").write_text(str(e))
        raise


@contextmanager
def started(config: TrainConfig, world: int, pause_s: float = 0.0) -> Iterator[list[ForkServerProcess]]:
    """Start the processes of a run; end them in any case."""
    # a server that has the imports forks the processes: importing in each would take most of the test's time
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "unibrivl.model.train"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = [context.Process(target=work, args=(rank, world, port, config, pause_s)) for rank in range(world)]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def run_to_its_end(config: TrainConfig, world: int) -> None:
    with started(config, world) as processes:
        for process in processes:
            process.join(DEADLINE_S)
        assert [process.exitcode for process in processes] == [0] * world


def kill_at(config: TrainConfig, world: int, step: int, delay_s: float) -> None:
    """Let a run make `step` steps and a little more, and kill all of its processes."""
    log, deadline = config.out / "metrics.jsonl", time.monotonic() + DEADLINE_S
    with started(config, world, pause_s=0.02) as processes:
        while not log.exists() or f'"step": {step},' not in log.read_text():
            assert all(process.is_alive() for process in processes) and time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(delay_s)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        # another process may have failed by then: its partner was gone
        assert processes[0].exitcode == -signal.SIGKILL and all(process.exitcode for process in processes)


@pytest.fixture
def config(shards_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_tower: str) -> TrainConfig:
    """Return a configuration with everything that has a state: queues, momentum copies, accumulation, draws."""
    monkeypatch.setitem(towers.IMAGE_TOWERS, "colours", TinyImageTower)
    return TrainConfig(
        shards=shards_copy, out=tmp_path / "run", language_tower=tiny_tower, image_tower="colours", epochs=8,
        batch_size=2, accumulate=2, loss=LossConfig(queue_size=11), image_draws=2, val_share=0.2, validate_every=2,
        checkpoint_every=2, warmup_steps=2,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_killed_at_random_and_run_again_is_bit_for_bit_undisturbed(
    config: TrainConfig, tmp_path: Path, world: int
) -> None:
    undisturbed = dataclasses.replace(config, out=tmp_path / "undisturbed")
    run_to_its_end(undisturbed, world)
    steps = read_state(undisturbed.out).steps
    assert steps == 16 // world
    chosen = np.random.default_rng(world)
    for step in sorted(chosen.choice(np.arange(1, steps - 1), 3, replace=False).tolist()):
        kill_at(config, world, step, delay_s=float(chosen.uniform(0, 0.04)))
    if (config.out / CHECKPOINT_FILE).exists():
        place = read_state(config.out).place["reader"]
        assert place["consumed"] > 0 or place["epoch"] > 0  # what comes next is kept, too
    run_to_its_end(config, world)
    assert_same_run(config.out, undisturbed.out)
    tensors = load_file(config.out / CHECKPOINT_FILE)
    assert tensors["model.queues.filled"] == 11 and {"model.key_g.0.weight", "model.queues.ids"} <= tensors.keys()


@pytest.mark.slow
def test_a_queue_smaller_than_the_step_of_all_processes_is_one_line(config: TrainConfig) -> None:
    with started(dataclasses.replace(config, loss=LossConfig(queue_size=5)), 2) as processes:
        for process in processes:
            process.join(DEADLINE_S)
        assert all(process.exitcode for process in processes)
    told = [path.read_text() for path in config.out.parent.glob("error-*")]  # the first may tear the other away
    assert told and all("queue_size is 5, smaller than the 8 clips that 2 processes make" in line for line in told)


@pytest.mark.slow
def test_two_processes_train_on_all_clips_and_share_the_batch(config: TrainConfig, tmp_path: Path) -> None:
    run_to_its_end(config, 2)
    state = read_state(config.out)
    assert state.facts["processes"] == 2
    steps = [entry for entry in metrics(config.out) if "loss" in entry]
    assert len(steps) == state.steps == 8
    assert steps[0]["candidates"] > 2.5  # four pairs of two processes, though related ones do not count
    validation = next(entry for entry in metrics(config.out) if "validation" in entry)["validation"]
    assert validation["audio_to_image"]["queries"] == 8
    assert not load_model(config.out)[0].training
    with pytest.raises(TrainError, match="holds a run with processes 2, not 1; give the same options"):
        train(config)
