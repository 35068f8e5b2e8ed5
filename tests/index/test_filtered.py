"""Filters that have to do with the question: recall holds wherever the matching rows lie, at every selectivity.

A random filter leaves a thinned-out copy of the rows, which is what parameters are tuned for. A label does not: what it
keeps is alike, may lie far from the question, and may all be about equally far.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pytest

from unibrivl.bench.speed_index_data import make_vectors
from unibrivl.index import search
from unibrivl.index.ann import FILE
from unibrivl.index.ann_build import build_ann
from unibrivl.index.exact import ExactScan
from unibrivl.index.recall import recalls
from unibrivl.index.search import Searcher

ROWS, DIM, QUERIES, K = 60_000, 32, 40, 10
FACTORY = "IVF256,PQ8x4fsr"
# What the gate tunes for held-out questions of the other modality and 0.95 at 10 and at 100.
PARAMS = {"audio": {"10": {"nprobe": 11, "k_factor": 32}, "100": {"nprobe": 19, "k_factor": 8}}}


@dataclass(frozen=True)
class Held:
    id: str
    vectors_ND: np.ndarray
    folder: Path


@dataclass(frozen=True)
class Kept:
    segment: Held
    manifest: dict[str, object]

    def of(self, modality: str) -> tuple[Held, ...]:
        return (self.segment,)

    def live(self, segment: Held) -> None:
        return None


@dataclass(frozen=True)
class World:
    """An index, questions, and what filters are made of."""

    searcher: Searcher
    queries: np.ndarray
    vectors_ND: np.ndarray
    by_nearness: np.ndarray
    """Rows of each question, nearest first."""
    list_of_row: np.ndarray
    lists_by_nearness: np.ndarray


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("filtered")
    made = make_vectors(ROWS, DIM, seed=4, queries=QUERIES)
    stored, queries = made.base_ND.astype(np.float16), made.far_QD
    index = build_ann(ExactScan(stored), FACTORY, 0).ann.index
    faiss.write_index(index, str(folder / FILE))
    ivf = faiss.extract_index_ivf(index)
    wide = stored.astype(np.float32)
    settings = {"search": {"image": {"factory": FACTORY, "params": PARAMS}}}
    return World(
        Searcher(Kept(Held("i", stored, folder), settings)), queries, wide, np.argsort(-(queries @ wide.T), axis=1),
        ivf.quantizer.search(wide, 1)[1][:, 0], ivf.quantizer.search(queries, ivf.nlist)[1],
    )  # fmt: skip


def rows_of(rows: np.ndarray) -> np.ndarray:
    mask = np.zeros(ROWS, bool)
    mask[rows] = True
    return mask


def in_lists(world: World, lists: np.ndarray, count: int) -> np.ndarray:
    """Keep the rows of the first lists that hold so many."""
    sizes = np.bincount(world.list_of_row, minlength=len(lists))[lists]
    return np.isin(world.list_of_row, lists[: np.searchsorted(np.cumsum(sizes), count) + 1])


def around(world: World, row: int, count: int) -> np.ndarray:
    return rows_of(np.argsort(-(world.vectors_ND @ world.vectors_ND[row]))[:count])


Kind = Callable[[World, np.random.Generator, int, int], np.ndarray]
# Of world, generator, number of the question and rows to keep: which are kept.
KINDS: dict[str, Kind] = {
    "random": lambda w, rng, q, n: rng.random(ROWS) < n / ROWS,
    "farthest": lambda w, rng, q, n: rows_of(w.by_nearness[q, -n:]),
    "all about equally far": lambda w, rng, q, n: rows_of(w.by_nearness[q, (ROWS - n) // 3 :][:n]),
    "random but for the nearest": lambda w, rng, q, n: (
        (rng.random(ROWS) < n / ROWS) & ~rows_of(w.by_nearness[q, :1000])
    ),
    "around a row": lambda w, rng, q, n: around(w, int(rng.integers(ROWS)), n),
    "few lists": lambda w, rng, q, n: in_lists(w, rng.permutation(w.lists_by_nearness[q]), n),
    "farthest lists": lambda w, rng, q, n: in_lists(w, w.lists_by_nearness[q, ::-1], n),
    "some near, most far": lambda w, rng, q, n: (
        (rng.random(ROWS) < n / 2 / ROWS) | rows_of(w.by_nearness[q, -n // 2 :])
    ),
}


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("kind", KINDS)
def test_the_recall_holds(world: World, monkeypatch: pytest.MonkeyPatch, kind: str, share: float) -> None:
    monkeypatch.setattr(search, "EXACT_MAX_NUMBERS", K * DIM)  # even eleven matches go to the ANN index
    rng = np.random.default_rng([round(1 / share), *kind.encode()])
    found, truth = [], []
    for number, query in enumerate(world.queries[:, None]):
        allowed = {"i": KINDS[kind](world, rng, number, max(20, round(share * ROWS)))}
        hits = world.searcher.search("image", query, K, allowed=allowed, direction="audio")
        assert (hits.mode, hits.strategy) == ("ann", "selector") and allowed["i"][hits.rows_QK].all()
        found.append(hits.scores_QK)
        truth.append(world.searcher.search("image", query, K, allowed=allowed, exact=True).scores_QK)
    assert recalls(np.concatenate(found), np.concatenate(truth), K).mean() >= 0.95


@pytest.mark.parametrize("k", [K, 100])
@pytest.mark.parametrize("share", [0.999, 0.5, 0.1])
def test_random_filters_are_searched_approximately(
    world: World, monkeypatch: pytest.MonkeyPatch, share: float, k: int
) -> None:
    """The recall above comes from the ANN index where that has it; so it is where few rows were deleted."""
    monkeypatch.setattr(search, "EXACT_MAX_NUMBERS", K * DIM)
    scanned = 0

    def spy(self: ExactScan, queries: np.ndarray, *rest: object) -> object:
        nonlocal scanned
        scanned += len(queries)
        return scan(self, queries, *rest)

    scan = ExactScan.search
    monkeypatch.setattr(ExactScan, "search", spy)
    allowed = {"i": np.random.default_rng(1).random(ROWS) < share}
    world.searcher.search("image", world.queries, k, allowed=allowed, direction="audio")
    assert scanned <= 0.1 * QUERIES
