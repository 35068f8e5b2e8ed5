"""Average precision, AUC and d-prime against published values, plain rules and exact expectations."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.bench.class_metrics import auc, average_precision, d_prime, random_order_ap

GOLDEN = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
"""The example of scikit-learn's documentation: average precision 0.83, AUC 0.75."""
SAMPLES = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12)


def test_the_documented_example() -> None:
    assert average_precision(*GOLDEN) == pytest.approx(5 / 6)
    assert auc(*GOLDEN) == 0.75


@given(SAMPLES)
def test_each_distinct_score_is_one_step(samples: list[tuple[int, bool]]) -> None:
    scores, truth = (np.array(values) for values in zip(*samples, strict=True))
    if not truth.any():
        with pytest.raises(ValueError, match="without positives"):
            average_precision(scores, truth)
        return
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= threshold
        recall = (taken & truth).sum() / truth.sum()
        total += (recall - before) * (taken & truth).sum() / taken.sum()
        before = recall
    assert average_precision(scores.astype(float), truth) == pytest.approx(total)


@given(SAMPLES)
def test_auc_is_the_share_of_pairs_in_order(samples: list[tuple[int, bool]]) -> None:
    scores, truth = (np.array(values) for values in zip(*samples, strict=True))
    if truth.all() or not truth.any():
        with pytest.raises(ValueError, match="no AUC"):
            auc(scores, truth)
        return
    pairs = scores[truth][:, None] - scores[~truth]
    assert auc(scores, truth) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_equal_scores_give_the_share_of_positives() -> None:
    truth = np.arange(15_446) < 50
    assert average_precision(np.zeros(15_446), truth) == pytest.approx(50 / 15_446)
    assert round(50 / 15_446, 4) == 0.0032  # VGGSound's


@pytest.mark.parametrize(("positives", "samples"), [(1, 1), (1, 4), (2, 5), (3, 6), (5, 5)])
def test_a_random_order_is_the_mean_over_all(positives: int, samples: int) -> None:
    truth = np.arange(samples) < positives
    each = [average_precision(np.array(order, dtype=float), truth) for order in permutations(range(samples))]
    assert random_order_ap(positives, samples) == pytest.approx(np.mean(each))


def test_a_random_order_on_vggsound_gives_more_than_the_share_of_positives() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(15_446) < 50
    drawn = [average_precision(rng.random(15_446), truth) for _ in range(300)]
    exact = random_order_ap(50, 15_446)
    assert round(exact, 4) == 0.0038
    assert abs(np.mean(drawn) - exact) < 4 * np.std(drawn) / np.sqrt(300)


def test_d_prime() -> None:
    assert d_prime(0.5) == pytest.approx(0, abs=1e-12)
    assert d_prime(0.7602499389) == pytest.approx(1, abs=1e-6)  # the normal's share below sqrt(1/2)
    assert d_prime(1.0) is None
