"""Vectors for the index bench: seeded, of unit norm, clustered, and with a gap that makes queries foreign."""

import numpy as np
import pytest

from unibrivl.bench.speed_index_data import make_vectors


def test_equal_seeds_give_equal_vectors_of_unit_norm() -> None:
    first, again, other = (make_vectors(500, 32, seed, queries=20) for seed in (0, 0, 1))
    for name in ("base_ND", "near_QD", "far_QD"):
        vectors = getattr(first, name)
        assert vectors.dtype == np.float32 and vectors.tobytes() == getattr(again, name).tobytes()
        assert not np.array_equal(vectors, getattr(other, name))
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)  # float32
    assert (len(first.base_ND), len(first.near_QD), len(first.far_QD)) == (500, 20, 20)


def test_queries_of_the_other_modality_lie_apart_and_still_have_neighbours() -> None:
    made = make_vectors(5000, 64, 0, queries=300)
    near, far = (np.sort(queries @ made.base_ND.T, axis=1) for queries in (made.near_QD, made.far_QD))
    assert near.mean() > 0.05 and far.mean() < -0.05, "the gap"
    # one row of a topic is far nearer than rows of others: deviations are about 0.2
    for cosines in (near, far):
        assert (cosines[:, -1] - cosines.mean(axis=1)).mean() > 2 * cosines.std(axis=1).mean()
