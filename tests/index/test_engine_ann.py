"""The engine on an approximate index: mode, parameters and recorded recall told, contents once, filters kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from unibrivl.bench.speed_index_data import make_vectors
from unibrivl.index.ann import FILE, Clock
from unibrivl.index.ann_build import build_ann
from unibrivl.index.engine import Engine
from unibrivl.index.exact import ExactScan
from unibrivl.index.question import Part, Question
from unibrivl.index.search import Searcher

from .memory import MemorySnapshot, memory_segment

DIM, ROWS = 64, 20_000
FACTORY = "IVF64,PQ16x4fsr"
PARAMS = {
    "audio": {"10": {"nprobe": 16, "k_factor": 16}, "100": {"nprobe": 32, "k_factor": 8}},
    "image": {"10": {"nprobe": 8, "k_factor": 16}, "100": {"nprobe": 16, "k_factor": 8}},
}
RECALL = {
    name: {str(level): {"value": value, "low": value - 0.01, "high": value + 0.01} for level, value in values.items()}
    for name, values in {"audio>image": {10: 0.97, 100: 0.965}, "image>image": {10: 0.99, 100: 0.98}}.items()
}
FILTERS = {str(share): {"value": value} for share, value in {0.5: 0.96, 0.1: 0.95, 0.01: 0.94}.items()}


class Embedded:
    """Stands where an encoder would: every part is an embedding already."""

    dim = DIM
    has_text = False

    def __getattr__(self, modality: str) -> Any:
        return lambda values: pytest.fail("an embedding was embedded again")

    def fingerprints(self) -> dict[str, str]:
        return {"audio": "a", "image": "b"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, np.ndarray]:
    """Return an engine whose pictures repeat every content ten times, and queries of the other modality."""
    folder: Path = tmp_path_factory.mktemp("ann")
    vectors = make_vectors(ROWS, DIM, seed=1, queries=100)
    stored = vectors.base_ND.astype(np.float16)
    faiss.write_index(build_ann(ExactScan(stored), FACTORY, 0).ann.index, str(folder / FILE))
    segment = memory_segment("image", 0, stored, [f"c{n % (ROWS // 10)}" for n in range(ROWS)])
    segment.folder = folder
    snapshot = MemorySnapshot(
        (segment,),
        evaluation={
            "directions": {name: {"recall": told, "filters": FILTERS} for name, told in RECALL.items()},
            "segments": {"image": {"sums": {"audio+image": {"recall": {"10": {"value": 0.9}}}}}},
        },
        manifest={"sources": [{"shards": "shards"}], "search": {"image": {"factory": FACTORY, "params": PARAMS}}},
    )  # fmt: skip
    return Engine(snapshot, Embedded()), vectors.far_QD  # type: ignore[arg-type]


def test_answers_are_nearly_those_of_the_exact_scan_and_say_how_they_came(made: tuple[Engine, np.ndarray]) -> None:
    engine, queries = made
    shared = 0
    for query in queries[:50]:
        question = Question(parts=(Part("audio", query),), to="image", k=10)
        fast = engine.ask(question)
        slow = engine.ask(Question(parts=question.parts, to="image", k=10, exact=True))
        assert (fast.mode, fast.recall, fast.recorded) == ("ann", 0.965, {"audio>image": RECALL["audio>image"]})
        assert fast.params["image"]["nprobe"] == 32 and (slow.mode, slow.recall, slow.params) == ("exact", 1.0, {})
        assert len(fast.results["image"]) == len(slow.results["image"]) == 10
        assert all(answer.same_content == 9 for answer in fast.results["image"])
        scores = {answer.item_id: answer.score for answer in slow.results["image"]}
        both = [answer for answer in fast.results["image"] if answer.item_id in scores]
        assert all(answer.score == scores[answer.item_id] for answer in both)
        shared += len(both)
    assert shared >= 0.95 * 50 * 10


def test_a_mixed_question_takes_the_most_thorough_parameters_and_claims_what_was_measured(
    made: tuple[Engine, np.ndarray],
) -> None:
    engine, queries = made
    parts = (Part("audio", queries[0]), Part("image", queries[1], 0.5))
    result = engine.ask(Question(parts=parts, to="image", k=10, distinct=False))
    assert result.params["image"]["nprobe"] == 16
    assert (result.recall, result.recall_note) == (0.9, "audio+image>image, sums of two equal weights, 10 answers")
    assert set(result.recorded) == {"audio>image", "image>image"}
    one = engine.ask(Question(parts=parts[1:], to="image", k=10, distinct=False))
    assert one.params["image"]["nprobe"] == 8 and (one.recall, one.recall_note) == (0.99, "image>image, 10 answers")
    fused = engine.ask(Question(parts=parts, to="image", k=10, distinct=False, fuse="rrf"))
    assert (fused.recall, fused.recall_note) == (0.965, "audio>image, 100 answers")
    assert fused.params["image"] == {"nprobe": 32, "k_factor": 8, "level": 100}
    without = (parts[0], replace(parts[1], minus=True))
    three = (*parts, Part("image", queries[2]))
    for composed, note in ((without, "nothing taken away"), (three, "only sums of two parts were measured")):
        told = engine.ask(Question(parts=composed, to="image", k=10, distinct=False))
        assert told.recall is None and note in told.recall_note
    text = engine.ask(Question(parts=(Part("text", queries[0]),), to="image", k=10, distinct=False))
    assert text.recall is None
    assert text.recall_note == ("no text>image question was measured; it is searched with the most thorough parameters")


@pytest.mark.parametrize(
    ("where", "k", "value", "note"),
    [
        ("duration_s<=15000", 10, 0.97, "audio>image, 10 answers"),
        ("duration_s<=11000", 10, 0.96, "audio>image, 10 answers, a random filter that keeps 50 % (here 55 %)"),
        ("duration_s<=3000", 10, 0.95, "audio>image, 10 answers, a random filter that keeps 10 % (here 15 %)"),
        ("duration_s<=3000", 20, None, "audio>image was measured with filters for 10 answers, not for 20"),
    ],
)
def test_a_filtered_question_tells_the_recall_of_the_filter_most_like_it(
    made: tuple[Engine, np.ndarray], monkeypatch: pytest.MonkeyPatch, where: str, k: int, value: float, note: str
) -> None:
    engine, queries = made
    monkeypatch.setattr("unibrivl.index.search.EXACT_MAX_NUMBERS", 64)
    question = Question(parts=(Part("audio", queries[0]),), to="image", k=k, where=where, distinct=False)
    result = engine.ask(question)
    assert (result.mode, result.filter.strategy) == ("ann", {"image": "selector"})
    sums = engine.ask(replace(question, parts=(*question.parts, Part("image", queries[1]))))
    if "10 answers, a" in note:
        assert (sums.recall, sums.recall_note) == (None, "sums of two parts were measured without filters only")
    assert (result.recall, result.recall_note) == (value, note.replace("not for 20", "not for 100"))
    assert engine.ask(replace(question, exact=True)).recall == 1.0


def test_each_question_of_a_pass_is_searched_with_its_own_parameters(made: tuple[Engine, np.ndarray]) -> None:
    """Once the largest k of a pass decided for all, and one of more than a hundred answers made all exact."""
    engine, queries = made
    questions = [
        Question(parts=(Part("audio", query),), to="image", k=k, distinct=False)
        for query, k in zip(queries, (10, 100, 101, 5), strict=False)
    ]
    together = engine.ask_many(questions)
    assert [result.mode for result in together] == ["ann", "ann", "exact", "ann"]
    assert [result.params.get("image", {}).get("level") for result in together] == [10, 100, None, 10]
    for question, result in zip(questions, together, strict=True):
        alone = engine.ask(question).results["image"]
        assert [(a.item_id, a.score) for a in result.results["image"]] == [(a.item_id, a.score) for a in alone]


def test_refining_is_timed_and_changes_no_answer(made: tuple[Engine, np.ndarray]) -> None:
    engine, queries = made
    searcher, clock = Searcher(engine.snapshot), Clock()
    for k in (1, 10, 100):
        told = [searcher.search("image", queries, k, direction="audio", clock=c) for c in (None, clock)]
        assert (told[0].rows_QK == told[1].rows_QK).all() and (told[0].scores_QK == told[1].scores_QK).all()
    assert clock.refine_s > 0
    question = Question(parts=(Part("audio", queries[0]),), to="image")
    timings = engine.ask(question).timings_ms
    assert list(timings) == ["encode", "search", "refine", "metadata"] and all(ms >= 0 for ms in timings.values())
    assert timings["refine"] > 0 and engine.ask(replace(question, exact=True)).timings_ms["refine"] == 0


@pytest.mark.parametrize("where", ["duration_s<=200", "labels=odd", ["labels=odd", "split=train"]])
def test_filters_hold_and_lists_are_full(made: tuple[Engine, np.ndarray], where: Any) -> None:
    engine, queries = made
    questions = [Question(parts=(Part("audio", query),), to="image", k=20, where=where) for query in queries[:20]]
    for question, result in zip(questions, engine.ask_many(questions), strict=True):
        found = result.results["image"]
        assert len(found) == min(20, result.filter.matched["image"])
        for answer in found:
            segment, row = engine.snapshot.find(answer.item_id)
            assert question.where.mask(segment.rows.slice(row, 1)).all()
        contents = [int(answer.item_id.split("-")[1].split("/")[0]) % (ROWS // 10) for answer in found]
        assert len(set(contents)) == len(contents)
