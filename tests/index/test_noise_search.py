"""Searches beyond best-of-n: what they cost, that they climb, and what they refuse."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.index.errors import GenerateError
from unibrivl.index.noise_search import SearchConfig, Tried, pruning_plan, search
from unibrivl.index.pipelines import Pipeline
from unibrivl.index.studio import Studio

from .generating import COST, SHOT, make_studio


def redness(pictures: Any) -> np.ndarray:
    """A verifier that anybody can check: how much more red than green there is."""
    return np.array([float(one[..., 0].mean() - one[..., 1].mean()) for one in pictures])


def run(pipeline: Pipeline, folder: Path, config: SearchConfig) -> tuple[list[Tried], int]:
    studio = make_studio(pipeline, folder)
    tried = search(studio, config, redness, lambda done, total, text: None)
    return tried, sum(one.evaluations for one in tried) + studio.probes


def best(tried: list[Tried], prompt: int = 0) -> float:
    return max(one.score for one in tried if one.score is not None and one.candidate.prompt == prompt)


def test_pruning_finishes_what_looked_best_and_spends_no_more(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    config = SearchConfig(method="prune", n=8, preview_steps=1, finalists=3)
    tried, spent = run(tiny_pipeline, tmp_path, config)
    assert spent == 2 * 8 * COST, "as best-of-8, for both prompts"
    for prompt in (0, 1):
        ours = [one for one in tried if one.candidate.prompt == prompt]
        assert len(ours) == 20 and [one.candidate.seed for one in ours] == list(range(20))
        order = sorted(ours, key=lambda one: -(one.estimate_score or 0))
        assert {one.candidate for one in ours if one.made} == {one.candidate for one in order[:3]}
        assert {one.dropped for one in order[3:]} == {"pruned after 1 of 4 steps"}
        for one in order[:3]:
            assert one.made is not None and one.score == redness([one.made.picture])[0]


def test_what_was_looked_at_is_not_made_again(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    config = SearchConfig(method="prune", n=4, preview_steps=1, finalists=2)
    studio = make_studio(tiny_pipeline, tmp_path)
    first = search(studio, config, redness, lambda done, total, text: None)
    assert studio.found == 0
    second = search(studio, config, redness, lambda done, total, text: None)
    assert studio.found == 2 * (8 + 2)
    assert [(one.candidate, one.score, one.evaluations) for one in first] == [
        (one.candidate, one.score, one.evaluations) for one in second
    ]


def test_zero_order_search_climbs_from_the_best(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    config = SearchConfig(method="zero-order", n=9, neighbours=2)
    tried, spent = run(tiny_pipeline, tmp_path, config)
    ours = [one for one in tried if one.candidate.prompt == 0]
    assert [len(one.candidate.seeds) for one in ours[:3]] == [1, 1, 2] and len(ours) == 9
    assert [one.candidate.seed for one in ours] == list(range(9)) and spent == 2 * 9 * COST
    for start in (2, 4, 6, 8):
        pivot = max(ours[:start], key=lambda one: one.score or -math.inf).candidate.seeds
        assert all(one.candidate.seeds == (*pivot, one.candidate.seed) for one in ours[start : start + 2])
    climbed = [max(one.score or 0 for one in ours[:count]) for count in range(2, 10)]
    assert all(later >= earlier for earlier, later in pairwise(climbed))


def test_a_search_goes_on_where_it_was(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    """The pivot's noise is found again although its picture is not made again."""
    config = SearchConfig(method="zero-order", n=6)
    studio = make_studio(tiny_pipeline, tmp_path)
    whole = search(studio, config, redness, lambda done, total, text: None)
    lost = [one.made for one in whole if one.made is not None and one.candidate.seed in (3, 5)]
    pictures = [one.picture for one in lost]
    for one in lost:
        one.path.unlink()
    again = Studio(tiny_pipeline, studio.prompts, SHOT, studio.folder, studio.estimates)
    after = search(again, config, redness, lambda done, total, text: None)
    assert again.found == 8 and [one.candidate for one in after] == [one.candidate for one in whole]
    for one, picture in zip(lost, pictures, strict=True):
        assert np.abs(one.picture.astype(int) - picture).max() <= 1


def test_both_beat_best_of_n_at_equal_cost(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    """On average over 8 starts of a smooth verifier; figures with a real one are `unibrivl bench noise-search`'s."""
    gains: dict[str, list[float]] = {"prune": [], "zero-order": []}
    for start in range(4):
        plain, cost = run(tiny_pipeline, tmp_path / f"{start}-plain", SearchConfig(n=10, seed=1000 * start))
        for name, options in (("prune", {"preview_steps": 1, "finalists": 4}), ("zero-order", {})):
            config = SearchConfig(method=name, n=10, seed=1000 * start, **options)
            tried, spent = run(tiny_pipeline, tmp_path / f"{start}-{name}", config)
            assert spent <= cost
            gains[name] += [best(tried, prompt) - best(plain, prompt) for prompt in (0, 1)]
    assert all(np.mean(values) > 0 for values in gains.values()), gains


@given(n=st.integers(1, 200), steps=st.integers(1, 60), looked=st.integers(1, 60) | st.none())
def test_a_plan_of_pruning_never_costs_more(n: int, steps: int, looked: int | None) -> None:
    config = SearchConfig(method="prune", n=n, preview_steps=looked)
    try:
        each, finalists, candidates = pruning_plan(config, steps)
    except GenerateError as e:
        assert "raise -n" in str(e)
        return
    assert candidates * each + finalists * steps <= n * steps and finalists <= candidates


def test_what_cannot_be_searched() -> None:
    with pytest.raises(GenerateError, match="there are no candidates: -n is 0"):
        SearchConfig(n=0)
    for changes, told in (
        ({"method": "luck"}, "search is 'luck', want best-of-n, prune, zero-order"),
        ({"seed": -1}, "seed is -1"), ({"mix": 0.0}, r"mix 0\.0, want"), ({"neighbours": 0}, "neighbours is 0"),
        ({"finalists": 0}, "finalists is 0"), ({"preview_steps": 0}, "preview_steps is 0"), ({"n": 10**6}, "n is"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            SearchConfig(**changes)
    with pytest.raises(GenerateError, match="leaves 1 candidates to look at for 3 to finish"):
        pruning_plan(SearchConfig(method="prune", n=4, finalists=3, preview_steps=4), SHOT.steps)
