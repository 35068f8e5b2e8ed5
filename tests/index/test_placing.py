"""Rows put into lists that were found before: FAISS's own bytes, with any number of threads and in any parts."""

from collections.abc import Iterator

import faiss
import numpy as np
import pytest

from unibrivl.bench.speed_index_data import make_vectors
from unibrivl.index.ann_build import Lists, build_ann
from unibrivl.index.assign import assign_rows
from unibrivl.index.exact import ExactScan
from unibrivl.index.placing import can_place
from unibrivl.index.plan import ADD_ROWS, ASSIGN_ROWS, factories

ROWS, DIM = ADD_ROWS + 1000, 32
CHOSEN = [f"IVF64,{factory.split(',')[1]}" for factory in factories(10**6, DIM)]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return make_vectors(ROWS, DIM, seed=4, queries=10).base_ND.astype(np.float16)


@pytest.fixture
def threads() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    yield
    faiss.omp_set_num_threads(before)


def test_a_placed_row_is_one_that_was_added(vectors: np.ndarray) -> None:
    kinds = [*CHOSEN, "IVF64_HNSW32,PQ8x4fsr", "IVF64,PQ16x4fs", "IVF64,PQ7x4fsr", "IVF64,Flat", "IVF64,SQfp16"]
    kinds += ["IVF64,PQ2", "IVF64,SQ4"]
    for factory in kinds:
        width = 28 if "PQ7" in factory else DIM  # an odd number of pieces
        rows_ND = np.ascontiguousarray(vectors[:, :width])
        index = build_ann(ExactScan(rows_ND), factory, 0).ann.index
        assert can_place(index)
        placed = faiss.serialize_index(index)
        index.reset()
        index.add(rows_ND.astype(np.float32))
        assert np.array_equal(placed, faiss.serialize_index(index)), factory


@pytest.mark.parametrize("factory", ["IVF64,RaBitQfs", "IVF64,PQ2,RFlat", "IVF64(PQ8x4),SQ8"])
def test_what_cannot_be_placed_is_added(vectors: np.ndarray, factory: str) -> None:
    built = build_ann(ExactScan(vectors), factory, 0)
    assert built.ann.index.ntotal == ROWS


def test_the_lists_of_one_index_are_those_of_the_next(vectors: np.ndarray) -> None:
    scan, found = ExactScan(vectors), list[Lists]()

    def assign(quantizer: object, vectors_ND: np.ndarray) -> np.ndarray:
        assert not found, "they were found before"
        return assign_rows(quantizer, vectors_ND)

    for kind in ("IVF64", "IVF64_HNSW32"):
        found.clear()
        first = build_ann(scan, f"{kind},PQ8x4fsr", 0, None, assign)
        found.append(first.lists)
        second = build_ann(scan, f"{kind},SQ8", 0, first.lists, assign)
        alone = build_ann(scan, f"{kind},SQ8", 0)
        assert np.array_equal(faiss.serialize_index(second.ann.index), faiss.serialize_index(alone.ann.index))


def test_no_thread_and_no_part_moves_a_row_to_another_list(vectors: np.ndarray, threads: None) -> None:
    """Every row is as near to two centroids, but for rounding."""
    near = vectors[:200].astype(np.float32)
    quantizer = faiss.IndexFlatIP(DIM)
    quantizer.add(np.concatenate([near, near * np.float32(1 + 2**-23), np.roll(near, 7, axis=0)]))
    found = []
    for count in (1, 2, 5):
        faiss.omp_set_num_threads(count)
        found.append(assign_rows(quantizer, vectors))
    parts = [assign_rows(quantizer, vectors[first : first + ASSIGN_ROWS]) for first in range(0, ROWS, ASSIGN_ROWS)]
    assert all(np.array_equal(found[0], other) for other in (*found[1:], np.concatenate(parts)))


def test_a_graph_of_centroids_is_the_same_each_time(vectors: np.ndarray, threads: None) -> None:
    faiss.omp_set_num_threads(4)
    first, second = (build_ann(ExactScan(vectors), "IVF1024_HNSW32,PQ8x4fsr", 0).ann.index for _ in range(2))
    assert np.array_equal(faiss.serialize_index(first), faiss.serialize_index(second))
