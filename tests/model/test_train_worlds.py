"""A run over any number of processes, of which one may die: the same clips at every step, and the same loss."""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from unibrivl.model import towers
from unibrivl.model.checkpoint import CHECKPOINT_FILE, read_state
from unibrivl.model.loss import LossConfig
from unibrivl.model.train_config import TrainConfig

from .group import (
    GONE,
    PROMPTLY_S,
    Fault,
    Orders,
    ended,
    keys_of_steps,
    losses,
    run_to_its_end,
    started,
    started_apart,
    strike,
)
from .tiny import TinyConfig, TinyImageTower, TinyTower, assert_same_run


@pytest.fixture(scope="module", autouse=True)
def _tiny_towers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(towers.LANGUAGE_TOWERS, "tiny", (TinyConfig, TinyTower))
        patch.setitem(towers.IMAGE_TOWERS, "colours", TinyImageTower)
        yield


@pytest.fixture(scope="module")
def config(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Return a configuration without batch norm and dropout; 18 clips, three steps an epoch, a queue that wraps."""
    folder = tmp_path_factory.mktemp("worlds")
    copy = shutil.copytree(shards, folder / "shards", ignore=shutil.ignore_patterns("frozen"))
    return TrainConfig(
        shards=copy, out=folder / "one" / "run", language_tower="tiny", tower_options={"norm": False},
        image_tower="colours", epochs=4, batch_size=6, loss=LossConfig(queue_size=11, dropout=0), image_draws=2,
        val_share=0, checkpoint_every=2, warmup_steps=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def one(config: TrainConfig) -> Path:
    """Return the folder of what one process made, and of what it saw."""
    config.out.parent.mkdir()
    run_to_its_end(config, 1, Orders(record=config.out.parent))
    return config.out.parent


def test_one_process_sees_every_clip_once_an_epoch(config: TrainConfig, one: Path) -> None:
    steps = keys_of_steps(config, one, 1)
    assert list(steps) == list(range(1, 13))
    for first in range(1, 13, 3):
        epoch = [key for step in range(first, first + 3) for key in steps[step]]
        assert len(epoch) == len(set(epoch)) == 18


@pytest.mark.slow
@pytest.mark.parametrize(
    "story",
    [
        ((2, None),),
        ((3, None),),
        ((2, Fault(rank=1, step=6)), (1, None)),
        ((1, Fault(rank=0, step=4)), (2, Fault(rank=0, step=8)), (3, None)),
        ((3, Fault(rank=2, step=9)), (2, None)),
    ],
    ids=lambda story: "-".join(f"{world}{'!' if fault else ''}" for world, fault in story),
)
def test_any_number_of_processes_and_any_death_make_the_same_steps(
    config: TrainConfig, one: Path, tmp_path: Path, story: Sequence[tuple[int, Fault | None]]
) -> None:
    config = dataclasses.replace(config, out=tmp_path / "run")
    expected, made = keys_of_steps(config, one, 1), {}
    for number, (world, fault) in enumerate(story):
        records = tmp_path / str(number)
        records.mkdir()
        if fault:
            strike(config, world, Orders(record=records, fault=fault))
            assert read_state(config.out).step == (fault.step - 1) // 2 * 2
        else:
            run_to_its_end(config, world, Orders(record=records))
        seen = keys_of_steps(config, records, world)
        assert all(expected[step] == keys for step, keys in seen.items())  # also of steps that are made again
        made |= seen
    assert made.keys() == expected.keys()
    # sums in another order; measured up to 3e-7
    np.testing.assert_allclose(losses(config.out), losses(one / "run"), rtol=1e-5)
    ours, theirs = (load_file(run / CHECKPOINT_FILE) for run in (config.out, one / "run"))
    assert ours["model.queues.ids"].equal(theirs["model.queues.ids"])


@pytest.mark.slow
def test_micro_batches_stand_in_the_queue_as_one_process_would_put_them(config: TrainConfig, tmp_path: Path) -> None:
    found = []
    for world in (1, 3):
        out = tmp_path / str(world) / "run"
        out.parent.mkdir()
        loss = dataclasses.replace(config.loss, queue_size=20)
        run_to_its_end(dataclasses.replace(config, out=out, accumulate=3, loss=loss), world)
        found.append((losses(out), load_file(out / CHECKPOINT_FILE)["model.queues.ids"].tolist()))
    assert found[0][1] == found[1][1]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)  # as above


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others_when_their_patience_does(config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, out=tmp_path / "run")
    fault = Fault(rank=1, step=3, signal=signal.SIGSTOP)
    with started(config, 2, Orders(fault=fault, patience_s=3)) as processes:
        assert ended(processes[:1], PROMPTLY_S) == [1]
    told = (tmp_path / "error-0").read_text()
    assert told.startswith(GONE.format(config.out) + "Timed out waiting") and "start it again" in told
    assert read_state(config.out).step == 2


@pytest.mark.slow
def test_a_machine_without_the_shared_folder_is_one_line(config: TrainConfig, one: Path, tmp_path: Path) -> None:
    shutil.copytree(one / "run", tmp_path / "a" / "run")
    apart = [dataclasses.replace(config, out=tmp_path / name / "run") for name in ("a", "b")]
    apart[1].out.parent.mkdir()
    with started_apart(apart) as processes:
        assert ended(processes, PROMPTLY_S) == [1, 1]
    told = [(one.out.parent / f"error-{rank}").read_text() for rank, one in enumerate(apart)]
    assert all("process 1 has checkpoint step None, process 0 12; give all" in line for line in told)


def launch(config: TrainConfig, marker: Path, *launcher: str) -> subprocess.Popen[str]:
    """Start a launcher with a run in which process 1 dies once, in its sixth step."""
    words = [
        "train", str(config.shards), "--out", str(config.out), "--language-tower", "tiny", "--image-tower", "colours",
        "--epochs", "4", "--batch-size", "6", "--val-share", "0", "--checkpoint-every", "2",
        *(word for option in ("norm=false", "loss.queue_size=11", "loss.dropout=0", "image_draws=2", "warmup_steps=2")
          for word in ("--set", option)),
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "-m", "tests.model.launched", str(marker), "1", "6", *words],
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_torchrun_restarts_a_run_that_ends_as_if_undisturbed(config: TrainConfig, tmp_path: Path) -> None:
    undisturbed = dataclasses.replace(config, out=tmp_path / "undisturbed")
    run_to_its_end(undisturbed, 2)
    config, marker = dataclasses.replace(config, out=tmp_path / "run"), tmp_path / "struck"
    checkpoint, steps = config.out / CHECKPOINT_FILE, []
    torchrun = ("torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1", "--rdzv-backend=c10d")
    with launch(config, marker, *torchrun, "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1") as process:
        while process.poll() is None:
            if checkpoint.exists():  # it is whole at every instant
                assert load_file(checkpoint).keys() and steps.append(read_state(config.out).step) is None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        said = process.communicate()[0]
    assert process.returncode == 0, said
    assert marker.exists() and set(steps) <= set(range(2, 13, 2)) and len(set(steps)) > 2
    assert_same_run(config.out, undisturbed.out)
