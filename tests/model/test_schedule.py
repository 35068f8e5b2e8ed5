"""Rates over steps and depth: warm-up, cosine, decay by layer; vectors do not decay."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from unibrivl.model.loss import LossConfig
from unibrivl.model.schedule import parameter_groups, rate_share
from unibrivl.model.train_config import TrainConfig
from unibrivl.model.unibrivl import UniBriVL

CONFIG = TrainConfig(shards=Path("s"), out=Path("o"), lr=0.1, weight_decay=0.3)


@given(st.integers(1, 300), st.integers(0, 400))
def test_the_rate_rises_to_the_peak_and_falls_to_nearly_zero(steps: int, warmup: int) -> None:
    config = dataclasses.replace(CONFIG, warmup_steps=warmup)
    shares = [rate_share(config, step, steps) for step in range(steps)]
    top = min(warmup, steps)
    assert all(0 < share <= 1 for share in shares)
    assert shares[:top] == sorted(shares[:top]) and shares[top:] == sorted(shares[top:], reverse=True)
    assert shares[top - 1] == 1.0 if top else shares[0] == 1.0
    if top < steps:
        last = (steps - 1 - top) / (steps - top)
        assert shares[-1] == pytest.approx((1 + math.cos(math.pi * last)) / 2)


def test_a_constant_rate_stays() -> None:
    config = dataclasses.replace(CONFIG, schedule="constant", warmup_steps=2)
    assert [rate_share(config, step, 5) for step in range(5)] == [0.5, 1, 1, 1, 1]


class Deep(nn.Module):
    """A tower of three layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.top = nn.Linear(4, 4)

    def layers(self) -> list[tuple[str, list[nn.Parameter]]]:
        groups = [(f"layer {n}", list(block.parameters())) for n, block in enumerate(self.blocks)]
        return [*groups, ("head", list(self.top.parameters()))]


def rates(model: UniBriVL, config: TrainConfig) -> dict[str, tuple[float, float]]:
    """Return rate and decay by name of parameter."""
    groups = parameter_groups(model, config)
    found = {id(p): (group["rate"], group["weight_decay"]) for group in groups for p in group["params"]}
    return {name: found[id(p)] for name, p in model.named_parameters() if id(p) in found}


@pytest.fixture
def deep(tiny_tower: str) -> UniBriVL:
    model = UniBriVL(tiny_tower, {}, 6, LossConfig(queue_size=8, learned_temperature=False))
    model.language = Deep()  # type: ignore[assignment]
    return model


def test_lower_layers_learn_slower(deep: UniBriVL) -> None:
    found = rates(deep, dataclasses.replace(CONFIG, tower_lr=0.5, layer_decay=0.1))
    by_layer = [found[f"language.blocks.{n}.weight"][0] for n in range(3)]
    assert by_layer == pytest.approx([0.005, 0.05, 0.5])
    for name in ("language.top.weight", "f.0.weight", "g.3.weight"):
        assert found[name][0] == 1.0


def test_vectors_do_not_decay_and_what_is_frozen_is_left_out(deep: UniBriVL) -> None:
    deep.language.blocks[0].requires_grad_(False)
    found = rates(deep, CONFIG)
    assert not any(name.startswith(("language.blocks.0", "key_", "log_scale")) for name in found)
    for name, parameter in deep.named_parameters():
        if name in found:
            assert found[name][1] == (0.3 if parameter.ndim > 1 else 0.0), name
    trained = {name for name, parameter in deep.named_parameters() if parameter.requires_grad}
    assert found.keys() == trained


def test_a_tower_that_does_not_tell_its_layers_is_one(tiny_tower: str) -> None:
    model = UniBriVL(tiny_tower, {}, 6)
    found = rates(model, dataclasses.replace(CONFIG, tower_lr=0.25, layer_decay=0.1))
    assert {rate for name, (rate, _) in found.items() if name.startswith("language.")} == {0.25}


def test_groups_are_what_an_optimiser_takes(deep: UniBriVL) -> None:
    optimizer = torch.optim.AdamW(parameter_groups(deep, CONFIG), lr=1.0)
    assert all(group["lr"] == pytest.approx(0.1 * group["rate"]) for group in optimizer.param_groups)
