"""A model in parts: the same losses and checkpoints as one that is whole, resumable either way, and smaller."""

import dataclasses
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from unibrivl.model import towers
from unibrivl.model.checkpoint import BEST_FILE, CHECKPOINT_FILE, load_model, read_state
from unibrivl.model.loss import LossConfig
from unibrivl.model.schedule import parameter_groups
from unibrivl.model.sharding import shard
from unibrivl.model.train import train
from unibrivl.model.train_config import TrainConfig
from unibrivl.model.unibrivl import UniBriVL

from .group import Fault, Orders, keys_of_steps, losses, run_to_its_end, strike
from .tiny import TINY_SPEECHLM, StillConfig, StillTower, TinyImageTower, assert_same_run, metrics

DOCS = Path(__file__).parents[2] / "docs" / "train.md"
KEY_BIASES = ("k_proj.bias", "in_proj_bias")
"""They change no attention: their gradients are rounding, of which Adam makes steps as large as any."""


@pytest.fixture(scope="module", autouse=True)
def _tiny_towers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(towers.LANGUAGE_TOWERS, "still", (StillConfig, StillTower))
        patch.setitem(towers.IMAGE_TOWERS, "colours", TinyImageTower)
        yield


@pytest.fixture(scope="module")
def still(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Return a configuration in which nothing is drawn; three steps an epoch, a queue that wraps."""
    folder = tmp_path_factory.mktemp("sharding")
    copy = shutil.copytree(shards, folder / "shards", ignore=shutil.ignore_patterns("frozen"))
    return TrainConfig(
        shards=copy, out=folder / "one" / "run", language_tower="still", image_tower="colours", epochs=3, batch_size=6,
        loss=LossConfig(queue_size=11, dropout=0), val_share=0, checkpoint_every=2, warmup_steps=2, layer_decay=0.9,
    )  # fmt: skip


@pytest.fixture(scope="module")
def restless(still: TrainConfig) -> TrainConfig:
    """Return one with all that is drawn: masks, dropout, and layers that one process drops and another does not."""
    network = TINY_SPEECHLM["network"] | {"layerdrop": 0.5, "dropout": 0.2}
    return dataclasses.replace(
        still, language_tower="speechlm-base", tower_options=TINY_SPEECHLM | {"network": network},
        loss=LossConfig(queue_size=20), accumulate=2, epochs=4, validate_every=2, checkpoint_every=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def parts(restless: TrainConfig) -> TrainConfig:
    """Return the configuration of a run that two processes made in parts."""
    config = dataclasses.replace(restless, out=restless.out.parents[1] / "parts", sharded=True)
    run_to_its_end(config, 2)
    return config


@pytest.fixture(scope="module")
def one(still: TrainConfig) -> Path:
    """Return the folder of what one process made, and of what it saw."""
    still.out.parent.mkdir()
    run_to_its_end(still, 1, Orders(record=still.out.parent))
    return still.out.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    "story",
    [
        ((3, True, Fault(rank=1, step=4)), (2, True, None)),
        ((2, True, Fault(rank=0, step=6)), (1, False, None)),
        ((2, False, Fault(rank=1, step=5)), (3, True, None)),
    ],
    ids=lambda story: "-".join(f"{world}{'s' * sharded}{'!' if fault else ''}" for world, sharded, fault in story),
)
def test_any_number_of_processes_in_parts_or_not_make_the_same_steps(
    still: TrainConfig, one: Path, tmp_path: Path, story: Sequence[tuple[int, bool, Fault | None]]
) -> None:
    config, expected = dataclasses.replace(still, out=tmp_path / "run"), keys_of_steps(still, one, 1)
    for number, (world, sharded, fault) in enumerate(story):
        orders = Orders(record=tmp_path / str(number), fault=fault)
        (tmp_path / str(number)).mkdir()
        config = dataclasses.replace(config, sharded=sharded)
        if fault:
            strike(config, world, orders)
            assert read_state(config.out).step == (fault.step - 1) // 2 * 2
        else:
            run_to_its_end(config, world, orders)
        seen = keys_of_steps(config, tmp_path / str(number), world)
        assert seen and all(expected[step] == keys for step, keys in seen.items())
    assert len(losses(config.out)) == 9
    np.testing.assert_allclose(losses(config.out), losses(one / "run"), rtol=1e-5)


def assert_close_runs(found: Path, expected: Path) -> None:
    ours, theirs = (load_file(run / CHECKPOINT_FILE) for run in (found, expected))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape and ours[name].dtype == tensor.dtype
        if not any(bias in name for bias in KEY_BIASES):
            torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert read_state(found) == read_state(expected)
    for mine, other in zip(metrics(found), metrics(expected), strict=True):
        if "loss" in other:
            flat = [[*e.pop("temperature"), *e.values()] for e in (mine, other)]
            np.testing.assert_allclose(flat[0], flat[1], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_a_checkpoint_of_parts_is_that_of_whole_models(parts: TrainConfig, tmp_path: Path, world: int) -> None:
    """Clipping over all parts, copies that follow by parts, groups of rates, queues, accumulation, dropped layers."""
    apart = parts if world == 2 else dataclasses.replace(parts, out=tmp_path / "parts")
    together = dataclasses.replace(parts, out=tmp_path / "whole", sharded=False)
    run_to_its_end(together, world)
    if world != 2:
        run_to_its_end(apart, world)
    assert_close_runs(apart.out, together.out)
    assert load_file(apart.out / BEST_FILE).keys() == load_file(together.out / BEST_FILE).keys()
    audio = torch.rand(2, 16_000, generator=torch.Generator().manual_seed(0)) - 0.5
    ours, theirs = (load_model(config.out)[0].embed_audio(audio) for config in (apart, together))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_killed_and_run_again_in_parts_is_bit_for_bit_undisturbed(parts: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(parts, out=tmp_path / "run")
    strike(config, 2, Orders(fault=Fault(rank=1, step=4)))
    assert read_state(config.out).step == 3
    run_to_its_end(config, 2)
    assert_same_run(config.out, parts.out)


def test_one_process_keeps_the_whole_model_and_says_so(
    still: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        train(dataclasses.replace(still, out=tmp_path / "run", epochs=1, sharded=True))
    assert "sharded is true, but there is one process" in caplog.text
    assert read_state(tmp_path / "run").step == 3


@contextmanager
def imagined(world: int) -> Iterator[None]:
    """Make this process the first of a group that exchanges nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


def held(config: TrainConfig, world: int, device: str) -> int:
    """Return the bytes of parameters, gradients and the optimiser's state that a process keeps behind a step."""
    with torch.device(device):
        model = UniBriVL(config.language_tower, config.tower_options, 2560, config.loss)
    with imagined(world):
        if world > 1:
            shard(model, torch.device("cpu"))
        optimizer = torch.optim.AdamW(parameter_groups(model, config))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        parameters = [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None)]
        moments = [value for state in optimizer.state.values() for value in state.values()]
        own = [t.to_local() if isinstance(t, DTensor) else t for t in (*parameters, *moments)]
        return sum(tensor.numel() * tensor.element_size() for tensor in own)


def test_behind_a_validation_nothing_stays_together(restless: TrainConfig) -> None:
    """What follows changes parameters: one that is together would lose the change, and one of inference refuse it."""
    model = UniBriVL(restless.language_tower, restless.tower_options, 12, restless.loss).eval()
    with imagined(2):
        shard(model, torch.device("cpu"))
        assert not model.embed_audio(torch.rand(2, 16_000)).requires_grad
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        model.train().begin_step()
        sounds, pictures = torch.rand(2, 16_000), torch.rand(2, 12)
        terms = model(sounds, pictures, torch.arange(2), lambda x, y: x[:, None] == y)
        terms.total.backward()
        assert all(isinstance(parameter.grad, DTensor) for parameter in model.f.parameters())


@pytest.mark.parametrize("world", [2, 3])
def test_a_process_keeps_its_share(restless: TrainConfig, world: int) -> None:
    assert held(restless, world, "cpu") / held(restless, 1, "cpu") == pytest.approx(1 / world, rel=0.1)


@pytest.mark.slow
def test_what_the_docs_say_of_speechlm_large_is_counted() -> None:
    """No such model is built: tensors on `meta` have sizes alone."""
    for queue in (0, 9600):
        config = TrainConfig(
            shards=Path("s"), out=Path("o"), language_tower="speechlm-large", loss=LossConfig(queue_size=queue)
        )
        counted = " | ".join(f"{held(config, world, 'meta') / 1e9:.2f}" for world in (1, 2, 4, 8))
        assert f"| {queue:,} | {counted} |" in DOCS.read_text(encoding="utf-8")
