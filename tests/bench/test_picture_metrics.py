"""Distances of pictures: closed forms, equal sets, the order of rows, and scipy beside our own root."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.bench.picture_metrics import (
    frechet_distance,
    inception_score,
    kernel_distance,
    softmax,
    unbiased_mmd,
)


def with_moments(mean_D: np.ndarray, root_DD: np.ndarray, count: int = 400) -> np.ndarray:
    """Return rows whose mean is `mean_D` and whose covariance is root root^T, exactly."""
    drawn = np.random.default_rng(0).standard_normal((count, len(mean_D)))
    drawn -= drawn.mean(axis=0)
    white = drawn @ np.linalg.inv(np.linalg.cholesky(np.cov(drawn, rowvar=False))).T
    return white @ root_DD.T + mean_D


def test_normal_distributions_are_as_far_as_their_formula_says() -> None:
    """Commuting covariances: |m1 - m2|^2 + sum (s1 - s2)^2; rounding of float64 only."""
    s1, s2 = np.array([1.0, 2.0, 0.5]), np.array([3.0, 0.1, 0.5])
    first = with_moments(np.zeros(3), np.diag(s1))
    second = with_moments(np.array([1.0, -2.0, 0.0]), np.diag(s2))
    assert frechet_distance(first, second) == pytest.approx(5 + ((s1 - s2) ** 2).sum(), abs=1e-9)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    assert frechet_distance(first @ turn, second @ turn) == pytest.approx(5 + ((s1 - s2) ** 2).sum(), abs=1e-9)


def test_the_root_is_scipys() -> None:
    """Covariances that do not commute, and fewer rows than dimensions: scipy's root is inexact there by 1e-4 or so."""
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(0)
    for count, tolerance in ((200, 1e-8), (6, 1e-3)):
        first, second = (rng.standard_normal((count, 10)) @ rng.standard_normal((10, 10)) for _ in range(2))
        c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
        root = np.real(linalg.sqrtm(c1 @ c2))
        wanted = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root)
        assert frechet_distance(first, second) == pytest.approx(wanted, rel=tolerance)


@given(seed=st.integers(0, 1000), count=st.integers(3, 30), dim=st.integers(1, 6))
def test_equal_sets_and_other_orders(seed: int, count: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((2, count, dim))
    order = rng.permutation(count)
    assert frechet_distance(first, first[order]) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first[order]), abs=1e-6)
    whole = kernel_distance(first, second, size=count)
    assert whole[0] == pytest.approx(kernel_distance(first[order], second, size=count)[0], abs=1e-9) and whole[1] == 0
    probabilities = softmax(rng.standard_normal((count, dim)) * 3)
    score = inception_score(probabilities)
    assert score == pytest.approx(inception_score(probabilities[order]), abs=1e-9) and 1 - 1e-9 <= score <= dim + 1e-9


def test_the_unbiased_mmd_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((5, 4)), rng.standard_normal((7, 4))

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 4 + 1) ** 3)

    own = [np.mean([k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]) for s in (first, second)]
    wanted = sum(own) - 2 * np.mean([k(x, y) for x in first for y in second])
    assert unbiased_mmd(first, second) == pytest.approx(wanted, abs=1e-12)


def test_one_distribution_has_no_kernel_distance_and_two_have() -> None:
    """1,000 rows of each, subsets of 100: the mean of 100 subsets of one distribution is within 0.02 of zero."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 1000, 8))
    same, deviation = kernel_distance(first, second, size=100)
    assert abs(same) < 0.02 and deviation > 0
    assert kernel_distance(first, second, size=100) == (same, deviation)
    assert kernel_distance(first, second, size=100, seed=1) != (same, deviation)
    assert kernel_distance(first, second + 1, size=100)[0] > 1
    for size in (1, 1001):
        with pytest.raises(ValueError, match=rf"size is {size}, want 2 to 1000"):
            kernel_distance(first, second, size=size)


def test_the_inception_score_counts_classes() -> None:
    assert inception_score(np.eye(5)) == pytest.approx(5)
    assert inception_score(np.full((4, 5), 0.2)) == pytest.approx(1)
    assert inception_score(np.eye(5)[[0, 0, 1, 1]]) == pytest.approx(2)
    with pytest.raises(ValueError, match="do not add up to 1"):
        inception_score(np.ones((2, 2)))
    with pytest.raises(ValueError, match="want at least two rows"):
        frechet_distance(np.ones((1, 2)), np.ones((2, 2)))
