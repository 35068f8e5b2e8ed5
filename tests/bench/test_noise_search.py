"""The comparison of searches: equal cost, paired intervals, nothing of this machine in the result."""

import json
from pathlib import Path

import numpy as np
import pytest

from unibrivl.bench.errors import BenchError
from unibrivl.bench.noise_search import COLUMNS, NoiseSearchConfig, measure_noise_search, rows
from unibrivl.bench.protocol import t_interval

from ..index.generating import another_run


def test_every_method_spends_the_same_and_is_judged(index: Path, run: Path, tmp_path: Path) -> None:
    config = NoiseSearchConfig(index=index, judge=another_run(run, tmp_path), sounds=5, n=5, steps=4)
    told = measure_noise_search(config).as_dict()
    assert set(told["metrics"]) == set(told["methods"]) == {"best-of-n", "prune", "zero-order"}
    cost = 5 * 4 * 2
    for name, one in told["methods"].items():
        assert cost * 0.8 <= one["evaluations"] <= cost, name
        assert len(one["scores"]) == 5
        assert told["metrics"][name]["score"] == pytest.approx(np.mean(one["scores"]), abs=1e-6)
        assert len(one["judged"]) == 5 and np.abs(one["judged"]).max() <= 1
    assert told["metrics"]["best-of-n"]["score_above"] == 0
    assert told["interval"]["best-of-n"]["score_above"] == [0, 0]
    assert told["judge"]["shared_with_verifier"] == ["image"]
    text = json.dumps(told, allow_nan=False)
    assert str(index.parent) not in text and str(tmp_path) not in text
    assert all(len(row) == len(COLUMNS) for row in rows(told))
    with pytest.raises(BenchError, match="sounds in split none, want 5"):
        measure_noise_search(NoiseSearchConfig(index=index, judge=tmp_path, sounds=5, split="none"))


def test_the_interval_is_students() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    assert t_interval(values) == {"mean": 5.5, "low": pytest.approx(3.334149, abs=2e-4),
                                "high": pytest.approx(7.665851, abs=2e-4)}  # fmt: skip
    with pytest.raises(ValueError, match="sounds is 2, want 5 to 1000"):
        NoiseSearchConfig(index=Path(), judge=Path(), sounds=2)
