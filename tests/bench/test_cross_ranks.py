"""Ranks by blocks are those of the plain rule, ties count half, and collapsed embeddings score what chance scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.bench import cross_ranks as module
from unibrivl.bench.cross_ranks import SCORINGS, cross_ranks
from unibrivl.bench.encoders import KnownEncoder, unit
from unibrivl.model.retrieval import chance_survival, first_ranks


def relevant(classes: np.ndarray, scoring: str) -> np.ndarray:
    own = np.eye(len(classes), dtype=bool)
    same = classes[:, None] == classes
    return {"instance": own, "class": same, "class_without_self": same & ~own}[scoring]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(1, 4), st.integers(0, 2**16))
def test_blocks_give_the_ranks_of_the_plain_rule(count: int, num_classes: int, seed: int) -> None:
    """Vectors of few small whole numbers, so that scores tie often and exactly."""
    rng = np.random.default_rng(seed)
    queries, gallery = (rng.integers(-1, 2, (count, 3)).astype(np.float32) for _ in range(2))
    classes = rng.integers(0, num_classes, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", 7)
        found = cross_ranks(queries, gallery, classes)
    scores = queries @ gallery.T
    for scoring in SCORINGS:
        wanted = relevant(classes, scoring)
        asked = np.flatnonzero(wanted.any(axis=1))
        ranks = found[scoring]
        assert ranks.queries.tolist() == asked.tolist()
        if not len(asked):
            continue
        held = scores[asked].copy()
        if scoring == "class_without_self":  # the clip itself is no item there
            held[np.arange(len(asked)), asked] = -np.inf
        assert ranks.ranks.tolist() == first_ranks(held, wanted[asked]).tolist()
        assert ranks.relevant_Q.tolist() == wanted[asked].sum(axis=1).tolist()


def test_collapsed_embeddings_score_exactly_chance() -> None:
    """Any two products of equal vectors tie, whatever order the numbers are summed in."""
    classes = np.arange(1100) % 9
    vectors = np.tile(unit(np.random.default_rng(0).standard_normal((1, 512))), (1100, 1))
    for scoring, ranks in cross_ranks(vectors, vectors, classes).items():
        chance = ranks.chance()
        assert ranks.ties_broken() == {name: chance[name] for name in ("mrr", "r1", "r5", "r10")}, scoring
        assert ranks.figures()["tied"] == 1100
    instance = cross_ranks(vectors, vectors, classes)["instance"]
    assert set(instance.ranks.tolist()) == {(1100 + 1) / 2}  # the middle, and never first
    assert instance.figures()["mrr"] == pytest.approx(2 / 1101, abs=1e-6)


def test_ties_broken_at_random_are_the_mean_over_all_orders() -> None:
    """Two relevant items tie with three others behind one that scores higher."""
    queries = np.eye(6, 2, dtype=np.float32)
    gallery = np.array([[0.5, 0], [0.5, 0], [0.5, 0], [0.5, 0], [0.5, 0], [1, 0]], dtype=np.float32)
    ranks = cross_ranks(queries, gallery, np.array([0, 0, 1, 2, 3, 4]))["class"]
    assert (ranks.higher_Q[0], ranks.tied_Q[0], ranks.best_Q[0]) == (1, 3, 2)
    rng = np.random.default_rng(0)
    drawn = [1 + 1 + min(rng.permutation(5)[:2]) for _ in range(20_000)]
    expected = module._expected(1, 3, 2)
    assert expected[0] == pytest.approx(np.mean(1 / np.array(drawn)), abs=0.004)  # 4 deviations
    assert expected[2] == pytest.approx(1)


def test_chance_is_the_exact_one() -> None:
    ranks = cross_ranks(np.eye(50, dtype=np.float32), np.eye(50, dtype=np.float32), np.arange(50))["instance"]
    assert ranks.chance()["mrr"] == pytest.approx((1 / np.arange(1, 51)).sum() / 50, abs=1e-6)
    assert ranks.chance()["r5"] == pytest.approx(1 - chance_survival(np.array([1]), 50)[5])
    assert ranks.figures() == {
        "r1": 1, "r5": 1, "r10": 1, "medr": 1, "mrr": 1, "queries": 50, "tied": 0,
    }  # fmt: skip


def test_the_oracle_is_at_the_ceiling_and_random_at_chance() -> None:
    classes = np.arange(600) % 20
    for name in ("oracle", "random"):
        encoder = KnownEncoder(name=name)
        audio, image = (encoder.embed_known(m, classes, np.arange(600)) for m in ("audio", "image"))
        for scoring, ranks in cross_ranks(audio, image, classes).items():
            mrr, chance = ranks.figures()["mrr"], ranks.chance()["mrr"]
            if name == "oracle":
                assert mrr == 1, scoring
            else:
                assert abs(mrr - chance) < 4 * np.std(1 / ranks.ranks) / np.sqrt(600), scoring


def test_one_identical_tie_is_rank_one_and_a_half() -> None:
    """Of other tools one gives reciprocal rank 1.0 here, and two give 0.5."""
    vectors = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    ranks = cross_ranks(vectors, vectors, np.arange(3))["instance"]
    assert ranks.ranks.tolist() == [1.5, 1.5, 1.0] and ranks.ties_broken()["mrr"] == pytest.approx((0.75 * 2 + 1) / 3)
