"""Several processes, and SIGKILL at any instant: what resumes is bit for bit what was never disturbed."""

import dataclasses
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from unibrivl.model import towers
from unibrivl.model.checkpoint import CHECKPOINT_FILE, load_model, read_state
from unibrivl.model.loss import LossConfig
from unibrivl.model.train_config import TrainConfig

from .group import DEADLINE_S, Orders, ended, run_to_its_end, started
from .tiny import TinyImageTower, assert_same_run, metrics


def kill_at(config: TrainConfig, world: int, step: int, delay_s: float) -> None:
    """Let a run make `step` steps and a little more, and kill all of its processes."""
    log, deadline = config.out / "metrics.jsonl", time.monotonic() + DEADLINE_S
    with started(config, world, Orders(pause_s=0.02)) as processes:
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
        shards=shards_copy, out=tmp_path / "run", language_tower=tiny_tower, image_tower="colours", epochs=24,
        batch_size=4, accumulate=2, loss=LossConfig(queue_size=11), image_draws=2, val_share=0.2, validate_every=2,
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
    assert steps == 24
    chosen = np.random.default_rng(world)
    # a busy machine may look away for some steps: those that are left take a quarter of a second
    for step in sorted(chosen.choice(np.arange(1, steps - 9), 3, replace=False).tolist()):
        kill_at(config, world, step, delay_s=float(chosen.uniform(0, 0.04)))
    if (config.out / CHECKPOINT_FILE).exists():
        place = read_state(config.out).place["reader"]
        assert place["consumed"] > 0 or place["epoch"] > 0  # what comes next is kept, too
    run_to_its_end(config, world)
    assert_same_run(config.out, undisturbed.out)
    tensors = load_file(config.out / CHECKPOINT_FILE)
    assert tensors["model.queues.filled"] == 11 and {"model.key_g.0.weight", "model.queues.ids"} <= tensors.keys()


def test_a_batch_that_cannot_be_shared_out_is_one_line(config: TrainConfig) -> None:
    with started(dataclasses.replace(config, batch_size=5), 2) as processes:
        assert ended(processes) == [1, 1]
    told = [path.read_text() for path in config.out.parent.glob("error-*")]
    assert len(told) == 2 and all("batch_size is 5, want a multiple of the 2 processes and 2 clips" in t for t in told)
    assert not config.out.exists()


@pytest.mark.slow
def test_two_processes_train_on_all_clips_and_share_the_batch(config: TrainConfig, tmp_path: Path) -> None:
    run_to_its_end(config, 2)
    state = read_state(config.out)
    assert state.facts["made_with"]["processes"] == 2
    steps = [entry for entry in metrics(config.out) if "loss" in entry]
    assert len(steps) == state.steps == 24
    assert steps[0]["candidates"] > 2.5  # four pairs of two processes, though related ones do not count
    validation = next(entry for entry in metrics(config.out) if "validation" in entry)["validation"]
    assert validation["audio_to_image"]["queries"] == 8
    assert not load_model(config.out)[0].training
