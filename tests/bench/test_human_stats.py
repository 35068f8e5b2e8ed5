"""The statistics of the human test beside published values, and their own laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.bench.human_stats import cluster_bootstrap, coin_p, krippendorff_alpha, mcnemar_p, wilson


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_newcombes_method_3(successes: int, count: int, low: float, high: float) -> None:
    """Newcombe 1998, table I, to its four digits."""
    assert wilson(successes, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(pair: tuple[int, int]) -> None:
    successes, count = pair
    bounds, mirrored = wilson(successes, count), wilson(count - successes, count)
    assert bounds is not None and mirrored is not None
    assert 0 <= bounds[0] <= successes / count <= bounds[1] <= 1
    assert mirrored == pytest.approx((1 - bounds[1], 1 - bounds[0]))


def test_nothing_has_no_interval() -> None:
    assert wilson(0, 0) is None
    assert cluster_bootstrap(np.zeros((2, 3)), np.zeros((2, 3)), seed=0, resamples=100) is None


@pytest.mark.parametrize(("successes", "count", "p"), [(8, 10, 0.109375), (5, 10, 1.0), (0, 6, 0.03125), (0, 0, 1.0)])
def test_the_coin_is_exact(successes: int, count: int, p: float) -> None:
    assert coin_p(successes, count) == pytest.approx(p)
    assert coin_p(count - successes, count) == coin_p(successes, count)


def test_large_counts_neither_overflow_nor_stop() -> None:
    assert coin_p(30_000, 40_000) == 0.0
    assert 0.9 < coin_p(20_010, 40_000) < 1


@pytest.mark.parametrize(("only_first", "only_second", "p"), [(1, 7, 0.070), (6, 16, 0.052), (0, 0, 1.0)])
def test_mcnemar_is_the_exact_conditional_test(only_first: int, only_second: int, p: float) -> None:
    """1 and 7: Fagerland, Lydersen, Laake 2013; 6 and 16: twice the sum of C(22, k) for k to 6, over 2^22."""
    assert mcnemar_p(only_first, only_second) == pytest.approx(p, abs=5e-4)


def units(*observers: str) -> list[list[str]]:
    rows = [observer.split() for observer in observers]
    return [[value for value in unit if value != "*"] for unit in zip(*rows, strict=True)]


@pytest.mark.parametrize(
    ("observers", "alpha"),
    [
        (("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"), 0.095),
        (("a a b b d c c c e d d a", "b a b b b c c c e d d d"), 0.692),
        (
            (
                "1 2 3 3 2 1 4 1 2 * * *",
                "1 2 3 3 2 2 4 1 2 5 * 3",
                "* 3 3 3 2 3 4 2 2 5 1 *",
                "1 2 3 3 2 4 4 1 2 5 1 *",
            ),
            0.743,
        ),
    ],
    ids=["A: binary", "B: nominal", "C: four observers, missing values"],
)
def test_alpha_is_krippendorffs(observers: tuple[str, ...], alpha: float) -> None:
    """The examples of "Computing Krippendorff's Alpha-Reliability" (2011), to its three digits."""
    assert krippendorff_alpha(units(*observers)) == pytest.approx(alpha, abs=5e-4)


def test_alpha_at_its_ends() -> None:
    assert krippendorff_alpha([["a", "a", "a"], ["b", "b"]]) == 1.0
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None
    assert krippendorff_alpha([["a"], ["b"]]) is None
    assert krippendorff_alpha([["a", "b"], ["b", "a"]]) == pytest.approx(-0.5)


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=0, max_size=4), max_size=8), st.permutations("abc"))
def test_alpha_knows_no_names_and_no_order(values: list[list[str]], names: list[str]) -> None:
    renamed = [["abc"[names.index(value)] for value in reversed(unit)] for unit in reversed(values)]
    first, second = krippendorff_alpha(values), krippendorff_alpha(renamed)
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert first == pytest.approx(second) and first <= 1 + 1e-9


def test_the_bootstrap_knows_both_kinds_of_clusters() -> None:
    """Where raters differ, or sounds do, answers of one cluster are no independent evidence: it must be far wider."""
    by_rater = np.repeat(np.arange(10) % 2, 40).reshape(10, 40).astype(float)
    for parts in (by_rater, by_rater.T):
        bounds = cluster_bootstrap(parts, np.ones_like(parts), seed=0, resamples=4000)
        naive = wilson(int(parts.sum()), parts.size)
        assert bounds is not None and naive is not None
        assert bounds[1] - bounds[0] > 4 * (naive[1] - naive[0])
    constant = cluster_bootstrap(np.ones((5, 6)), np.ones((5, 6)), seed=0, resamples=200)
    assert constant == (1.0, 1.0)


def test_the_bootstrap_covers_a_planted_share() -> None:
    """150 studies of 12 raters, 12 sounds, with effects of both: at least 90 % hold their mean; 95 % are wanted."""
    rng = np.random.Generator(np.random.Philox(key=7))
    held = 0
    for study in range(150):
        logit = np.log(3) + 0.5 * rng.normal(size=(12, 1)) + 0.5 * rng.normal(size=(1, 12))
        parts = (rng.random((12, 12)) < 1 / (1 + np.exp(-logit))).astype(float)
        bounds = cluster_bootstrap(parts, np.ones_like(parts), seed=study, resamples=1000)
        assert bounds is not None
        held += bounds[0] <= 0.7297 <= bounds[1]  # the mean share of such logits, by 4 million draws
    assert held >= 135


def test_the_bootstrap_is_a_function_of_its_seed() -> None:
    parts = np.random.default_rng(0).random((6, 8))
    first, second, other = (
        cluster_bootstrap(parts, np.ones_like(parts), seed=seed, resamples=500) for seed in (1, 1, 2)
    )
    assert first == second != other
