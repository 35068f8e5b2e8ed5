"""Lists of answers: those of a plain NumPy scan over several segments, with filters, deletions and equal contents."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.index.ann import Clock
from unibrivl.index.compose import compose
from unibrivl.index.errors import IndexStoreError, QueryError
from unibrivl.index.question import Part, Question
from unibrivl.index.retrieve import MAX_FILTERS, RRF_CONSTANT, RRF_DEPTH, Found, Retriever
from unibrivl.index.where import parse_where

from .memory import MemorySnapshot, memory_segment, unit

DIM = 16
FILTERS = [None, "labels=odd", ["split=train", "duration_s>=3"], "duration_s>1000"]


def make_snapshot(seed: int, sizes: list[int], contents: int, dead_share: float) -> MemorySnapshot:
    rng = np.random.default_rng(seed)
    segments, dead = [], {}
    for number, size in enumerate(sizes):
        for modality in ("image", "audio"):
            hashes = [f"c{rng.integers(contents)}" for _ in range(size)]
            segments.append(memory_segment(modality, number, unit(rng, size, DIM), hashes))
            dead[segments[-1].id] = rng.random(size) < dead_share
    return MemorySnapshot(tuple(segments), dead)


def ask(snapshot: MemorySnapshot, *questions: Question) -> list[dict[str, Found]]:
    composed = [compose(q, np.stack([part.value for part in q.parts])) for q in questions]
    return Retriever(snapshot).lists(list(zip(questions, composed, strict=True)), Clock())


def vector(seed: int) -> np.ndarray:
    return unit(np.random.default_rng([7, seed]), 1, DIM)[0].astype(np.float32)


def scanned(snapshot: MemorySnapshot, question: Question, target: str) -> list[tuple[int, int]]:
    """Return segment and row of every answer by the meaning of a question."""
    places, vectors, contents = [], [], []
    for number, segment in enumerate(snapshot.of(target)):
        kept = ~snapshot.dead.get(segment.id, np.zeros(len(segment.rows), bool))
        if question.where is not None:
            kept = kept & question.where.mask(segment.rows)
        hashes = segment.rows["content_sha256"].to_pylist()
        for row in np.flatnonzero(kept):
            places.append((number, int(row)))
            vectors.append(segment.vectors_ND[row].astype(np.float32))
            contents.append(hashes[row])
    parts_PD = np.stack([part.value / np.linalg.norm(part.value) for part in question.parts])
    weights_P = np.array([part.signed_weight for part in question.parts])
    if not places:
        return []
    cosines_PN = parts_PD @ np.stack(vectors).T
    if question.fuse == "rrf":
        fused: dict[int, float] = defaultdict(float)
        depth = max(RRF_DEPTH, question.k)
        lists = [np.argsort(-cosines, kind="stable")[:depth].tolist() for cosines in cosines_PN]
        added = {place for weight, of in zip(weights_P, lists, strict=True) if weight > 0 for place in of}
        for weight, of in zip(weights_P, lists, strict=True):
            for rank, place in enumerate(of, 1):
                if place in added:
                    fused[place] += weight / (RRF_CONSTANT + rank)
        order = sorted(fused, key=lambda place: (-fused[place], place))
    else:
        order = np.argsort(-(weights_P @ cosines_PN), kind="stable").tolist()
    seen: set[str] = set()
    listed = []
    for place in order:
        if not question.distinct or contents[place] not in seen:
            listed.append(places[place])
        seen.add(contents[place])
    return listed[: question.k]


def listed(found: Found) -> list[tuple[int, int]]:
    places = found.listed.places
    return list(zip(found.segments_K[places].tolist(), found.rows_K[places].tolist(), strict=True))


@settings(deadline=None, max_examples=60)  # the first call loads FAISS
@given(
    seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    contents=st.sampled_from([2, 10, 10**6]), dead_share=st.sampled_from([0.0, 0.3, 1.0]),
    where=st.sampled_from(FILTERS), k=st.sampled_from([1, 3, 200]), distinct=st.booleans(),
    fuse=st.sampled_from(["sum", "rrf"]), num_parts=st.integers(1, 3), minus=st.booleans(),
)  # fmt: skip
def test_lists_are_those_of_a_plain_scan(
    seed: int, sizes: list[int], contents: int, dead_share: float, where: Any, k: int, distinct: bool, fuse: str,
    num_parts: int, minus: bool,
) -> None:  # fmt: skip
    snapshot = make_snapshot(seed, sizes, contents, dead_share)
    parts = tuple(
        Part("audio", vector(seed + n), 1.0 + n, minus and n == num_parts - 1 and n > 0) for n in range(num_parts)
    )
    question = Question(parts=parts, k=k, where=where, distinct=distinct, fuse=fuse)
    try:
        (found,) = ask(snapshot, question)
    except QueryError:
        assert where is not None  # the tiny table has no such label
        return
    assert list(found) == ["image", "audio"]
    for target, one in found.items():
        assert listed(one) == scanned(snapshot, question, target)


def test_what_only_a_part_with_minus_found_is_no_answer() -> None:
    """Lists of a hundred out of 600 rows overlap in part only."""
    snapshot = make_snapshot(5, [400, 200], 10**6, 0.0)
    parts = (Part("audio", vector(1)), Part("image", -vector(1), 0.5, minus=True), Part("image", vector(2)))
    question = Question(parts=parts, to="image", k=100, fuse="rrf")
    found = ask(snapshot, question)[0]["image"]
    assert listed(found) == scanned(snapshot, question, "image")
    assert len(listed(found)) == 100


def test_questions_of_one_pass_are_answered_as_if_alone() -> None:
    snapshot = make_snapshot(3, [40, 25], 20, 0.2)
    questions = [
        Question(
            parts=(Part("audio" if n % 2 else "image", vector(n)), Part("image", vector(n + 50)))[: 1 + n % 2],
            to=("image", "audio", "both")[n % 3], k=1 + n, where=FILTERS[n % 3], fuse="rrf" if n % 4 == 3 else "sum",
            exact=n % 5 == 0, distinct=n % 2 == 0,
        )
        for n in range(12)
    ]  # fmt: skip
    together = ask(snapshot, *questions)
    for question, found in zip(questions, together, strict=True):
        (alone,) = ask(snapshot, question)
        assert list(found) == list(alone)
        for target, one in found.items():
            assert listed(one) == listed(alone[target]) == scanned(snapshot, question, target)
            assert one.matched == alone[target].matched


def test_content_that_fills_the_list_does_not_hide_others() -> None:
    """A hundred copies stand before the other answers: more is fetched until the list is full."""
    rng = np.random.default_rng(0)
    query = vector(0)
    copies = np.repeat(query[None].astype(np.float16), 100, axis=0)
    segment = memory_segment("image", 0, np.concatenate([copies, unit(rng, 5, DIM)]), ["same"] * 100 + list("abcde"))
    snapshot = MemorySnapshot((segment,))
    found = ask(snapshot, Question(parts=(Part("image", query),), to="image", k=4))[0]["image"]
    assert len(found.listed.places) == 4 and listed(found)[0] == (0, 0)
    every = ask(snapshot, Question(parts=(Part("image", query),), to="image", k=200, distinct=False))[0]["image"]
    assert len(every.listed.places) == 105
    assert every.listed.first[:3] == [None, 0, 0] and every.listed.first[100:] == [None] * 5


def test_near_leaves_out_what_lies_by_a_better_answer() -> None:
    base = vector(1)
    other = vector(2)
    close = base + 0.05 * other
    vectors = np.stack([base, close / np.linalg.norm(close), other]).astype(np.float16)
    snapshot = MemorySnapshot((memory_segment("image", 0, vectors, ["a", "b", "c"]),))
    question = Question(parts=(Part("image", base),), to="image", k=3, near=0.98)
    found = ask(snapshot, question)[0]["image"]
    assert listed(found) == [(0, 0), (0, 2)] and found.listed.similar == [1, 0]


def test_contents_that_are_not_known_are_not_equal() -> None:
    vectors = unit(np.random.default_rng(0), 4, DIM)
    segment = memory_segment("image", 0, vectors, ["", "", "", "a"])
    found = ask(MemorySnapshot((segment,)), Question(parts=(Part("image", vector(0)),), to="image"))[0]["image"]
    assert len(found.listed.places) == 4


def test_a_modality_that_is_not_there_is_named_and_both_takes_what_there_is() -> None:
    snapshot = MemorySnapshot((memory_segment("image", 0, unit(np.random.default_rng(0), 3, DIM), list("abc")),))
    assert list(ask(snapshot, Question(parts=(Part("audio", vector(0)),)))[0]) == ["image"]
    with pytest.raises(IndexStoreError, match="memory holds no audio embeddings"):
        ask(snapshot, Question(parts=(Part("audio", vector(0)),), to="audio"))


def test_filters_are_counted_without_the_deleted_and_kept_for_the_next_question() -> None:
    snapshot = make_snapshot(0, [30], 10**6, 0.5)
    retriever = Retriever(snapshot)
    where = parse_where("labels=odd")
    matches = retriever.matches(where, "image")
    segment = snapshot.of("image")[0]
    odd = np.arange(30) % 2 == 1
    assert matches.count == int((odd & ~snapshot.dead[segment.id]).sum())
    assert retriever.matches(parse_where("labels=odd"), "image") is matches
    for n in range(MAX_FILTERS):
        retriever.matches(parse_where(f"duration_s>{n}"), "image")
    assert retriever.matches(where, "image") is not matches
