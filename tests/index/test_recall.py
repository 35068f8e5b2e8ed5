"""Recall counts scores: equal rows are equally right; its interval covers the true value."""

import numpy as np
import pytest

from unibrivl.index.recall import recalls, summarize

LOST = -np.inf


@pytest.mark.parametrize(
    ("found", "truth", "k", "wanted"),
    [
        ([0.9, 0.8], [0.9, 0.8], 2, 1.0),
        ([0.9, 0.7], [0.9, 0.8], 2, 0.5),
        ([0.8, 0.8], [0.8, 0.8], 1, 1.0),  # another row, as good
        ([0.8 - 1e-6, LOST], [0.8, 0.1], 1, 1.0),  # rounding
        ([0.8 - 1e-5, LOST], [0.8, 0.1], 1, 0.0),
        ([LOST, LOST], [0.9, 0.8], 2, 0.0),
        ([0.9, LOST], [0.9, LOST], 2, 1.0),  # one row matches in all
        ([LOST, LOST], [LOST, LOST], 2, 1.0),  # none does
        ([0.9, 0.9, 0.9], [0.9, 0.5, 0.1], 2, 1.0),
    ],
)
def test_of_one_query(found: list[float], truth: list[float], k: int, wanted: float) -> None:
    assert recalls(np.float32([found]), np.float32([truth]), k).tolist() == [wanted]


def test_the_interval_covers_the_true_recall() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        recall = summarize(rng.binomial(10, 0.95, 300) / 10, seed)
        assert recall.low <= recall.value <= recall.high
        covered += recall.low <= 0.95 <= recall.high
    # 190 of 200 are expected; under 178 or none missed at all would be three deviations off
    assert 178 <= covered < 200


def test_the_interval_narrows_with_queries() -> None:
    few, many = (summarize(np.tile([1.0, 0.9], n), 0) for n in (50, 5000))
    assert many.high - many.low < (few.high - few.low) / 5
