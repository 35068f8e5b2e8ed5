"""Tuning: the ladder of lists, and the cheapest setting that reaches a recall; checking on other queries raises it."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.index.ann import Setting
from unibrivl.index.recall import Recall
from unibrivl.index.tune import LADDER_STEP, Trial, Tuned, ladder, tune, verify


@given(st.integers(1, 300), st.integers(0, 3000))
def test_the_ladder_climbs_from_least_to_most(least: int, more: int) -> None:
    steps = list(ladder(least, least + more))
    assert steps[0] == least and steps[-1] == least + more
    assert steps == sorted(set(steps))
    assert all(after <= max(before + 1, LADDER_STEP * before + 1) for before, after in pairwise(steps))


@dataclass(frozen=True)
class Model(Trial):
    """Recall and cost by formula: lists and candidates each bound what is found."""

    parts: tuple[()] = ()
    asked: None = None
    truth_QK: np.ndarray = field(default_factory=lambda: np.zeros(0))
    seed: int = 0
    ceiling: float = 1.0

    @property
    def nlist(self) -> int:
        return 256

    def run(self, setting: Setting) -> Tuned:
        recall = self.ceiling * (1 - 0.5 ** (1 + setting.k_factor / 2)) * (1 - 0.9**setting.nprobe)
        return Tuned(setting, Recall(recall, recall - 0.005, recall), setting.nprobe + setting.k_factor, 0.0)


@pytest.mark.parametrize("wanted", [0.7, 0.9, 0.95])
def test_the_cheapest_of_all_settings_is_found(wanted: float) -> None:
    model = Model()
    best, reached = tune(model, 10, wanted)
    settings = [Setting(nprobe=n, k_factor=f) for n in range(1, 257) for f in (2, 4, 8, 16, 32)]
    cheapest = min(t.cpu_s for t in map(model.run, settings) if t.recall.low >= wanted)
    assert best is not None and best.recall.low >= wanted and reached >= wanted
    assert best.cpu_s <= LADDER_STEP * cheapest + 1, "the ladder is that coarse"


def test_what_no_setting_reaches_is_told() -> None:
    best, reached = tune(Model(ceiling=0.9), 10, 0.95)
    assert best is None and 0.85 <= reached <= 0.9
    assert verify(Model(ceiling=0.9), Setting(nprobe=4, k_factor=2), 0.95) is None


def test_a_setting_is_raised_until_it_holds() -> None:
    kept = verify(Model(), Setting(nprobe=100, k_factor=16), 0.9)
    assert kept is not None and (kept.setting.nprobe, kept.setting.k_factor) == (100, 16)
    raised = verify(Model(), Setting(nprobe=10, k_factor=4), 0.95)
    assert raised is not None and raised.recall.low >= 0.95 and raised.setting.k_factor > 4
