"""Choosing from pools: what a pool holds, the controls, and the command beside the code that it calls."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.bench.errors import BenchError
from unibrivl.bench.rerank import (
    COLUMNS,
    RerankBenchConfig,
    draw_pools,
    interval,
    measure_rerank,
    permuted_hits,
    pool_name,
    rows,
)


@given(seed=st.integers(0, 1000), size=st.integers(2, 6))
def test_a_pool_holds_one_true_picture_and_no_related_one(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    near = rng.random((7, 20)) < 0.3
    near[np.arange(7), np.arange(7)] = True
    true = near & (rng.random((7, 20)) < 0.5)
    true[np.arange(7), np.arange(7)] = True
    pools = draw_pools(true, near, size, 3, seed)
    assert pools.query_M.tolist() == np.repeat(np.arange(7), 3).tolist()
    for query, pool, place_of_true in zip(pools.query_M, pools.items_MN, pools.true_M, strict=True):
        assert len(set(pool.tolist())) == size
        is_true = [place == place_of_true for place in range(size)]
        assert true[query, pool].tolist() == near[query, pool].tolist() == is_true
    assert np.array_equal(draw_pools(true, near, size, 3, seed).items_MN, pools.items_MN)


def test_permuted_sounds_choose_by_chance() -> None:
    """With perfect scores, 600 pools of 4: chance is 0.25, the deviation of a mean over 20 permutations below 0.02."""
    true = np.eye(600, dtype=bool)
    pools = draw_pools(true, true, 4, 1, 0)
    assert len(set(pools.true_M.tolist())) == 4
    noise = np.random.default_rng(0).random((600, 600)) * 0.1
    shares = permuted_hits(true + noise, pools, 20, 0)
    assert shares.mean() == pytest.approx(0.25, abs=0.02)
    assert pools.first(true + noise).all()


def test_the_interval_resamples_groups() -> None:
    """Eight equal values in each of eight groups say no more than eight values."""
    values = np.repeat([0, 1, 0, 1, 0, 1, 0, 1], 8)
    groups = [str(number) for number in np.repeat(np.arange(8), 8)]
    few, many = interval(values, groups, 0), interval(values, [str(number) for number in range(64)], 0)
    assert few["mean"] == many["mean"] == 0.5
    assert few["high"] - few["low"] > 2 * (many["high"] - many["low"])


def test_sounds_choose_from_pools_and_the_command_agrees(index: Path) -> None:
    result = measure_rerank(RerankBenchConfig(index=index, sizes=(2, 4), by_command=1, permutations=20))
    told = result.as_dict()
    assert told["coverage"] == {"queries": 6, "groups": 3}
    for size in (2, 4):
        figures, bounds = told["metrics"][pool_name(size)], told["interval"][pool_name(size)]
        assert told["chance"][pool_name(size)]["first"] == 1 / size and told["oracle"][pool_name(size)]["first"] == 1
        assert all(bounds[name][0] <= value <= bounds[name][1] for name, value in figures.items())
        assert figures["above_ridge"] == pytest.approx(figures["first"] - figures["ridge"], abs=2e-6)
        assert told["by_language"][pool_name(size)]["none"]["first"]["mean"] == figures["first"]
        assert result.predictions is not None
        assert np.mean(result.predictions[f"{pool_name(size)}_first"]) == pytest.approx(figures["first"], abs=1e-6)
    assert told["command"]["size"] == 4 and told["command"]["pools"] == told["command"]["same_choice"] == 1
    assert str(index.parent) not in json.dumps(told, allow_nan=False)
    assert all(len(row) == len(COLUMNS) for row in rows(told))
    with pytest.raises(BenchError, match="a sound has 4 unrelated pictures in the gallery, want 9 for its pool"):
        measure_rerank(RerankBenchConfig(index=index, sizes=(10,)))
    with pytest.raises(ValueError, match=r"sizes are \(1,\), want pools of 2 to 1000"):
        RerankBenchConfig(index=index, sizes=(1,))
