"""Ranks and figures: by hand, and against counting every order there is."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.model.retrieval import chance_recall, chance_survival, figures, first_ranks, score


def test_ranks_by_hand() -> None:
    scores = np.array([
        [0.9, 0.1, 0.5, 0.3],  # best: first
        [0.9, 0.1, 0.5, 0.3],  # two are higher than 0.3
        [0.9, 0.1, 0.5, 0.3],  # worst
        [0.2, 0.7, 0.7, 0.7],  # ties with two irrelevant ones
        [0.2, 0.7, 0.7, 0.7],  # of two relevant ones the better one counts, tied with one irrelevant
        [0.2, 0.1, 0.4, 0.4],  # two relevant ones on top: their own tie costs nothing
    ])  # fmt: skip
    relevant = np.array([
        [1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1],
    ], dtype=bool)  # fmt: skip
    assert first_ranks(scores, relevant).tolist() == [1, 3, 4, 2, 1.5, 1]


def test_a_query_without_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="without a relevant item"):
        first_ranks(np.zeros((2, 3)), np.array([[True, False, False], [False] * 3]))


@pytest.mark.parametrize("where", ["relevant", "irrelevant"])
def test_a_score_that_is_no_number_is_refused(where: str) -> None:
    """NaN is above and below nothing, so a broken model would come out as a perfect one."""
    scores = np.zeros((1, 3))
    scores[0, 0 if where == "relevant" else 1] = np.nan
    with pytest.raises(ValueError, match=r"nan|NaN|finite|number"):
        first_ranks(scores, np.array([[True, False, False]]))


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 2**31))
def test_ranks_lie_between_the_best_and_the_worst_order_of_ties(queries: int, gallery: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (queries, gallery)) / 4
    relevant = rng.random((queries, gallery)) < 0.3
    relevant[:, rng.integers(gallery)] = True
    for rank, row, truth in zip(first_ranks(scores, relevant), scores, relevant, strict=True):
        best = row[truth].max()
        optimistic, pessimistic = 1 + (row[~truth] > best).sum(), 1 + (row[~truth] >= best).sum()
        assert rank == (optimistic + pessimistic) / 2


def test_a_collapsed_model_gets_what_chance_gets() -> None:
    gallery = 101
    found = score(np.full((gallery, gallery), 0.7), np.eye(gallery, dtype=bool))
    assert found.medr == (gallery + 1) / 2
    assert found.r1 == found.r5 == found.r10 == 0


def test_a_perfect_model_and_a_worst_one() -> None:
    relevant = np.eye(20, dtype=bool)
    best = score(relevant.astype(np.float32), relevant)
    assert (best.r1, best.r5, best.r10, best.medr, best.mrr) == (1, 1, 1, 1, 1)
    assert (best.queries, best.gallery) == (20, 20)
    worst = score(-relevant.astype(np.float32), relevant)
    assert (worst.r1, worst.r10, worst.medr, worst.mrr) == (0, 0, 20, pytest.approx(1 / 20))


def test_figures_by_hand() -> None:
    found = figures(np.array([1, 1.5, 5, 10, 11, 100]))
    assert (found.r1, found.r5, found.r10, found.medr) == (1 / 6, 3 / 6, 4 / 6, 7.5)
    assert found.mrr == pytest.approx((1 + 1 / 1.5 + 1 / 5 + 1 / 10 + 1 / 11 + 1 / 100) / 6)


def first_of_every_order(relevant: int, gallery: int) -> np.ndarray:
    """Return the rank of the first relevant item in each of the equally likely placements."""
    return np.array([1 + min(places) for places in combinations(range(gallery), relevant)])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_chance_is_a_count_of_every_order(data: st.DataObject) -> None:
    gallery = data.draw(st.integers(1, 8))
    counts = np.array(data.draw(st.lists(st.integers(1, gallery), min_size=1, max_size=4)))
    orders = [first_of_every_order(int(count), gallery) for count in counts]
    for k in (1, 2, 5, 10):
        expected = np.mean([(firsts <= k).mean() for firsts in orders])
        assert chance_recall(counts, gallery, k) == pytest.approx(expected, abs=1e-12)
    expected = [np.mean([(firsts > r).mean() for firsts in orders]) for r in range(gallery + 1)]
    assert chance_survival(counts, gallery) == pytest.approx(np.array(expected), abs=1e-12)


@pytest.mark.parametrize("relevant", [1, 2, 5])
def test_the_other_figures_of_chance_are_counts_too(relevant: int) -> None:
    gallery = 9
    truth = np.zeros((3, gallery), dtype=bool)
    truth[:, :relevant] = True
    found = score(np.random.default_rng(0).random((3, gallery)), truth)
    firsts = first_of_every_order(relevant, gallery)
    assert found.chance_mrr == pytest.approx((1 / firsts).mean(), abs=1e-12)
    # the least rank that half of all orders reach
    assert found.chance_medr == min(r for r in range(1, gallery + 1) if (firsts <= r).mean() >= 0.5 - 1e-12)
    assert (found.chance_r1, found.chance_r5) == (
        pytest.approx((firsts <= 1).mean(), abs=1e-12), pytest.approx((firsts <= 5).mean(), abs=1e-12),
    )  # fmt: skip
