"""Exact search: the same as NumPy, whatever the blocks and k."""

import builtins
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl import UnibrivlError
from unibrivl.index import exact as module
from unibrivl.index.exact import ExactScan
from unibrivl.index.library import load_faiss
from unibrivl.index.search import Part, checked, search_parts

SIZES = {"rows": st.integers(1, 40), "dims": st.integers(1, 12), "seed": st.integers(0, 2**31)}


def search(vectors_ND: np.ndarray, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and rows of the nearest rows of one segment."""
    parts = (Part("", ExactScan(np.ascontiguousarray(vectors_ND)), None, None),)
    hits = search_parts(parts, checked(queries_QD, k, parts), min(k, len(vectors_ND)), None)
    return hits.scores_QK, hits.rows_QK


def unit(rng: np.random.Generator, rows: int, dims: int) -> np.ndarray:
    vectors = rng.standard_normal((rows, dims)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(max_examples=80, deadline=None)
@given(**SIZES, queries=st.integers(1, 4), k=st.integers(1, 60), block=st.integers(1, 50), ties=st.booleans())
def test_it_equals_brute_force(rows: int, dims: int, seed: int, queries: int, k: int, block: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng, rows, dims).astype(np.float16)
    if ties:
        vectors = vectors[rng.integers(0, max(1, rows // 3), rows)]
    asked = unit(rng, queries, dims)
    cosines = asked.astype(np.float64) @ vectors.astype(np.float64).T
    before = module.BLOCK_ROWS
    module.BLOCK_ROWS = block
    try:
        scores, found = search(vectors, asked, k)
    finally:
        module.BLOCK_ROWS = before
    assert scores.shape == found.shape == (queries, min(k, rows))
    assert scores.dtype == np.float32 and found.dtype == np.int64
    # float32 sums of up to 12 products of numbers up to 1
    assert scores == pytest.approx(-np.sort(-cosines, axis=1)[:, :k], abs=1e-5)
    assert scores == pytest.approx(np.take_along_axis(cosines, found, axis=1), abs=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == len(row) for row in found.tolist())


def test_equal_scores_come_in_the_order_of_rows() -> None:
    vectors = np.tile(np.float16([1, 0]), (6, 1))
    assert search(vectors, np.float32([[1, 0]]), 6)[1].tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_wrong_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match=r"queries have shape \(1, 3\), want \(number, 4\)"):
        search(np.zeros((5, 4), np.float16), np.zeros((1, 3), np.float32), 2)


def test_a_missing_faiss_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **options: object):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *args, **options)

    load_faiss.cache_clear()
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnibrivlError, match=r"pip install 'unibrivl\[cpu\]'"):
        search(np.zeros((2, 3), np.float16), np.zeros((1, 3), np.float32), 1)


def test_two_packages_of_faiss_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    load_faiss.cache_clear()
    monkeypatch.setattr("unibrivl.index.library.version", lambda name: "1.15.1")
    with pytest.raises(UnibrivlError, match=r"faiss-cpu and faiss-gpu are both installed.*uninstall one"):
        search(np.eye(2, dtype=np.float16), np.eye(2, dtype=np.float32), 1)
