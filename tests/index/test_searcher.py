"""The searcher: NumPy's answers whatever the segments, deletions, filters and k; approximate search keeps filters."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.bench.speed_index_data import make_vectors
from unibrivl.index import exact, search
from unibrivl.index.ann import FILE
from unibrivl.index.ann_build import build_ann
from unibrivl.index.errors import IndexStoreError
from unibrivl.index.exact import ExactScan
from unibrivl.index.search import Hits, Searcher

NOWHERE = Path("/nonexistent")
FACTORY = "IVF64,PQ16x4fsr"
PARAMS = {"audio": {"10": {"nprobe": 8, "k_factor": 16}, "100": {"nprobe": 16, "k_factor": 8}}}


@dataclass(frozen=True)
class Held:
    """A segment in memory."""

    id: str
    vectors_ND: np.ndarray
    folder: Path = NOWHERE


@dataclass(frozen=True)
class Kept:
    """A snapshot of one modality in memory."""

    segments: tuple[Held, ...]
    deleted: dict[str, np.ndarray] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)

    def of(self, modality: str) -> tuple[Held, ...]:
        return self.segments if modality == "image" else ()

    def live(self, segment: Held) -> np.ndarray | None:
        if segment.id not in self.deleted:
            return None
        mask = np.ones(len(segment.vectors_ND), bool)
        mask[self.deleted[segment.id]] = False
        return mask


def unit(rng: np.random.Generator, rows: int, dims: int) -> np.ndarray:
    vectors = rng.standard_normal((rows, dims)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def brute_force(segments: Sequence[Held], masks: Sequence[np.ndarray], query: np.ndarray) -> list[float]:
    """Return the cosines of all rows that may be found, best first."""
    kept = [s.vectors_ND[m].astype(np.float64) @ query for s, m in zip(segments, masks, strict=True)]
    return sorted(np.concatenate(kept).tolist(), reverse=True)


def check(hits: Hits, segments: Sequence[Held], masks: Sequence[np.ndarray], queries: np.ndarray, k: int) -> None:
    assert hits.scores_QK.shape == hits.segments_QK.shape == hits.rows_QK.shape == (len(queries), k)
    assert (hits.scores_QK.dtype, hits.segments_QK.dtype, hits.rows_QK.dtype) == (np.float32, np.int32, np.int64)
    assert hits.matched == sum(int(m.sum()) for m in masks)
    for query, scores, numbers, rows in zip(queries, hits.scores_QK, hits.segments_QK, hits.rows_QK, strict=True):
        wanted = brute_force(segments, masks, query)[:k]
        count = len(wanted)
        # float32 sums of up to 32 products of numbers up to 1
        assert scores[:count] == pytest.approx(wanted, abs=1e-5)
        assert np.isneginf(scores[count:]).all() and (rows[count:] == -1).all() and (numbers[count:] == -1).all()
        places = list(zip(numbers[:count].tolist(), rows[:count].tolist(), strict=True))
        assert len(set(places)) == count
        assert all(masks[number][row] for number, row in places), "a deleted or refused row was found"
        assert places == [p for _, p in sorted(zip((-scores[:count]).tolist(), places, strict=True))]


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), max_size=3), dims=st.integers(1, 32), seed=st.integers(0, 2**31),
    num_queries=st.integers(1, 6), k=st.integers(1, 80), keep=st.sampled_from([None, 0.5, 0.1, 0.01, 0.0]),
    delete=st.sampled_from([0.0, 0.3, 1.0]), ties=st.booleans(), block=st.integers(1, 70),
)  # fmt: skip
def test_it_answers_as_numpy_does(
    sizes: list[int], dims: int, seed: int, num_queries: int, k: int, keep: float | None, delete: float, ties: bool,
    block: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    segments = []
    for number, rows in enumerate(sizes):
        vectors = unit(rng, rows, dims).astype(np.float16)
        segments.append(Held(str(number), vectors[rng.integers(0, max(1, rows // 4), rows)] if ties else vectors))
    deleted = {s.id: np.flatnonzero(rng.random(len(s.vectors_ND)) < delete) for s in segments if delete}
    allowed = None if keep is None else {s.id: rng.random(len(s.vectors_ND)) < keep for s in segments}
    kept = Kept(tuple(segments), deleted)
    masks = []
    for segment in segments:
        live = kept.live(segment)
        mask = np.ones(len(segment.vectors_ND), bool) if live is None else live
        masks.append(mask if allowed is None else mask & allowed[segment.id])
    queries = unit(rng, num_queries, dims)
    before = exact.BLOCK_ROWS
    exact.BLOCK_ROWS = block
    try:
        hits = Searcher(kept).search("image", queries, k, allowed=allowed)
    finally:
        exact.BLOCK_ROWS = before
    assert (hits.mode, hits.strategy) == ("exact", "all" if allowed is None or not sizes else "matches")
    if sizes:
        check(hits, segments, masks, queries, k)
    else:
        assert (hits.rows_QK == -1).all() and hits.matched == 0


def test_a_row_scores_the_same_alone_and_in_a_batch() -> None:
    rng = np.random.default_rng(3)
    searcher = Searcher(Kept((Held("a", unit(rng, 3000, 96).astype(np.float16)),)))
    queries = unit(rng, 40, 96)
    batch = searcher.search("image", queries, 20)
    for number, query in enumerate(queries):
        alone = searcher.search("image", query[None], 20)
        assert alone.scores_QK.tobytes() == batch.scores_QK[number].tobytes()
        assert alone.rows_QK.tolist() == batch.rows_QK[number : number + 1].tolist()


def test_equal_rows_come_in_the_order_of_segments_and_rows() -> None:
    same = np.tile(np.float16([1, 0]), (3, 1))
    hits = Searcher(Kept((Held("a", same), Held("b", same)))).search("image", np.float32([[1, 0]]), 5)
    assert list(zip(hits.segments_QK[0].tolist(), hits.rows_QK[0].tolist(), strict=True)) == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 1),
    ]  # fmt: skip


def test_rows_are_read_in_place(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", unit(np.random.default_rng(0), 50, 16).astype(np.float16))
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r+")
    scan = ExactScan(mapped)
    query = mapped[7].astype(np.float32)[None]
    assert scan.search(query, 1)[1].tolist() == [[7]]
    mapped[30] = mapped[7]
    mapped[7] = -mapped[30]
    assert scan.search(query, 1)[1].tolist() == [[30]], "the index holds a copy"


@pytest.mark.parametrize(
    ("queries", "k", "allowed", "message"),
    [
        (np.ones((1, 3), np.float32), 1, None, r"queries have shape \(1, 3\), want \(number, 4\)"),
        (np.ones(4, np.float32), 1, None, r"queries have shape \(4,\)"),
        (np.full((1, 4), np.nan, np.float32), 1, None, "not finite"),
        (np.full((1, 4), np.inf, np.float32), 1, None, "not finite"),
        (np.ones((1, 4), np.float32), 0, None, "k is 0, want at least 1"),
        (np.ones((1, 4), np.float32), 1, {}, "segment a of 5 rows needs a mask of as many, got none"),
        (np.ones((1, 4), np.float32), 1, {"a": np.ones(6, bool)}, r"5 rows needs a mask of as many, got one of shape"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    queries: np.ndarray, k: int, allowed: dict[str, np.ndarray] | None, message: str
) -> None:
    searcher = Searcher(Kept((Held("a", np.zeros((5, 4), np.float16)),)))
    with pytest.raises(ValueError, match=message):
        searcher.search("image", queries, k, allowed=allowed)


def test_vectors_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="vectors are float32, want float16"):
        ExactScan(np.zeros((3, 4), np.float32))
    with pytest.raises(ValueError, match="want float16 in C order"):
        ExactScan(np.zeros((4, 3), np.float16).T)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Held, np.ndarray]:
    """A segment with an ANN index, and queries of the other modality."""
    folder = tmp_path_factory.mktemp("large")
    made = make_vectors(20_000, 64, seed=1, queries=200)
    vectors = made.base_ND.astype(np.float16)
    built = build_ann(ExactScan(vectors), FACTORY, 0)
    faiss.write_index(built.ann.index, str(folder / FILE))
    return Held("large", vectors, folder), made.far_QD


def share_found(hits: Hits, truth: Hits) -> float:
    return float((hits.scores_QK >= truth.scores_QK[:, -1:] - 1e-6).mean())


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("keep", [None, 0.5, 0.1, 0.01, 0.001])
def test_approximate_search_keeps_filters_and_recall(
    large: tuple[Held, np.ndarray], monkeypatch: pytest.MonkeyPatch, keep: float | None, deleted: bool
) -> None:
    segment, queries = large
    monkeypatch.setattr(search, "EXACT_MAX_NUMBERS", 64)  # even one match is searched with the ANN index
    rng = np.random.default_rng(5)
    rows = len(segment.vectors_ND)
    small = Held("small", segment.vectors_ND[:500][::-1].copy())
    gone = {"large": np.flatnonzero(rng.random(rows) < 0.3)} if deleted else {}
    kept = Kept((small, segment), gone, {"search": {"image": {"factory": FACTORY, "params": PARAMS}}})
    allowed = None if keep is None else {s.id: rng.random(len(s.vectors_ND)) < keep for s in kept.segments}
    searcher = Searcher(kept)
    hits = searcher.search("image", queries, 10, allowed=allowed, direction="audio")
    truth = searcher.search("image", queries, 10, allowed=allowed, exact=True)
    assert (hits.mode, truth.mode, hits.matched) == ("ann", "exact", truth.matched)
    assert hits.strategy == ("all" if keep is None else "matches+selector")
    assert hits.params == {"nprobe": 8, "k_factor": 16, "level": 10}
    assert share_found(hits, truth) >= 0.95
    assert ((hits.rows_QK >= 0) == (truth.rows_QK >= 0)).all(), "fewer than k only where fewer match"
    for number, part in enumerate(kept.segments):
        found = hits.rows_QK[hits.segments_QK == number]
        live = kept.live(part)
        assert live is None or live[found].all()
        assert allowed is None or allowed[part.id][found].all()
    same = hits.rows_QK == truth.rows_QK
    assert (hits.scores_QK[same] == truth.scores_QK[same]).all(), "a row scores the same in both modes"


def test_few_matches_are_searched_exactly(large: tuple[Held, np.ndarray]) -> None:
    segment, queries = large
    kept = Kept((segment,), {}, {"search": {"image": {"factory": FACTORY, "params": PARAMS}}})
    allowed = {"large": np.random.default_rng(0).random(len(segment.vectors_ND)) < 0.1}
    hits = Searcher(kept).search("image", queries, 10, allowed=allowed, direction="audio")
    assert (hits.mode, hits.strategy, hits.params) == ("exact", "matches", {})


@pytest.mark.parametrize("ranks", [(0, 8), (12, 24), (24, 40), (40, 64)])
def test_a_filter_that_keeps_other_regions_is_answered(
    large: tuple[Held, np.ndarray], monkeypatch: pytest.MonkeyPatch, ranks: tuple[int, int]
) -> None:
    """A label keeps what is alike, and that may lie far from the question: its lists are none of the nearest."""
    segment, queries = large
    monkeypatch.setattr(search, "EXACT_MAX_NUMBERS", 64)
    searcher = Searcher(Kept((segment,), {}, {"search": {"image": {"factory": FACTORY, "params": PARAMS}}}))
    index = faiss.read_index(str(segment.folder / FILE))
    ivf = faiss.extract_index_ivf(index)
    list_of_row = ivf.quantizer.search(segment.vectors_ND.astype(np.float32), 1)[1][:, 0]
    near_first = ivf.quantizer.search(queries[:40], 64)[1]
    found = []
    for query, lists in zip(queries[:40, None], near_first, strict=True):
        allowed = {"large": np.isin(list_of_row, lists[slice(*ranks)])}
        hits = searcher.search("image", query, 10, allowed=allowed, direction="audio")
        found.append(share_found(hits, searcher.search("image", query, 10, allowed=allowed, exact=True)))
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize(
    ("direction", "k", "params"),
    [
        ("audio", 1, {"nprobe": 8, "k_factor": 16, "level": 10}),
        ("audio", 10, {"nprobe": 8, "k_factor": 16, "level": 10}),
        ("audio", 11, {"nprobe": 16, "k_factor": 8, "level": 100}),
        ("text", 10, {"nprobe": 4, "k_factor": 32, "level": 10}),
        (None, 10, {"nprobe": 8, "k_factor": 32, "level": 10}),  # of every direction the most
        ("never tuned", 100, {"nprobe": 40, "k_factor": 8, "level": 100}),
        ("audio", 101, {}),  # beyond what was verified: exact
    ],
)
def test_parameters_belong_to_a_direction(
    large: tuple[Held, np.ndarray], direction: str | None, k: int, params: dict[str, int]
) -> None:
    segment, queries = large
    text = {"10": {"nprobe": 4, "k_factor": 32}, "100": {"nprobe": 40, "k_factor": 4}}
    settings = {"image": {"factory": FACTORY, "params": PARAMS | {"text": text}}}
    hits = Searcher(Kept((segment,), {}, {"search": settings})).search("image", queries[:2], k, direction=direction)
    assert (hits.params, hits.mode) == (params, "ann" if params else "exact")


def test_threads_share_a_searcher(large: tuple[Held, np.ndarray]) -> None:
    segment, queries = large
    kept = Kept((segment,), {"large": np.arange(50)}, {"search": {"image": {"factory": FACTORY, "params": PARAMS}}})
    searcher = Searcher(kept)
    alone = [searcher.search("image", query[None], 10, direction="audio").rows_QK.tolist() for query in queries]
    with ThreadPoolExecutor(8) as pool:
        fresh = Searcher(kept)
        found = list(
            pool.map(lambda q: fresh.search("image", q[None], 10, direction="audio").rows_QK.tolist(), queries)
        )
    assert found == alone


@pytest.mark.parametrize("content", ["cut", "text", "other vectors"])
def test_an_index_of_something_else_is_refused(large: tuple[Held, np.ndarray], tmp_path: Path, content: str) -> None:
    segment, queries = large
    whole = (segment.folder / FILE).read_bytes()
    vectors = segment.vectors_ND if content != "other vectors" else segment.vectors_ND[:-1]
    (tmp_path / FILE).write_bytes({"cut": whole[: len(whole) // 2], "text": b"no index"}.get(content, whole))
    with pytest.raises(IndexStoreError, match=r"ann\.faiss: .*build the index again"):
        Searcher(Kept((Held("a", vectors, tmp_path),))).search("image", queries[:1], 3)
