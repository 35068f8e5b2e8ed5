"""The engine on an approximate index: mode, parameters and recorded recall told, contents once, filters kept."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from unibrivl.bench.speed_index_data import make_vectors
from unibrivl.index.ann import FILE
from unibrivl.index.ann_build import build_ann
from unibrivl.index.engine import Engine
from unibrivl.index.exact import ExactScan
from unibrivl.index.question import Part, Question

from .memory import MemorySnapshot, memory_segment

DIM, ROWS = 64, 20_000
FACTORY = "IVF64,PQ16x4fsr"
PARAMS = {
    "audio": {"10": {"nprobe": 16, "k_factor": 16}, "100": {"nprobe": 32, "k_factor": 8}},
    "image": {"10": {"nprobe": 8, "k_factor": 16}, "100": {"nprobe": 16, "k_factor": 8}},
}
RECALL = {
    "audio>image": {"10": {"value": 0.97, "low": 0.96, "high": 0.98}},
    "image>image": {"10": {"value": 0.99, "low": 0.98, "high": 1.0}},
}


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
        (segment,), evaluation={"directions": {name: {"recall": told} for name, told in RECALL.items()}},
        manifest={"sources": [], "shards": "", "search": {"image": {"factory": FACTORY, "params": PARAMS}}},
    )  # fmt: skip
    return Engine(snapshot, Embedded()), vectors.far_QD  # type: ignore[arg-type]


def test_answers_are_nearly_those_of_the_exact_scan_and_say_how_they_came(made: tuple[Engine, np.ndarray]) -> None:
    engine, queries = made
    shared = 0
    for query in queries[:50]:
        question = Question(parts=(Part("audio", query),), to="image", k=10)
        fast = engine.ask(question)
        slow = engine.ask(Question(parts=question.parts, to="image", k=10, exact=True))
        assert (fast.mode, fast.recall, fast.recorded) == ("ann", 0.97, {"audio>image": RECALL["audio>image"]})
        assert fast.params["image"]["nprobe"] == 32 and (slow.mode, slow.recall, slow.params) == ("exact", 1.0, {})
        assert len(fast.results["image"]) == len(slow.results["image"]) == 10
        assert all(answer.same_content == 9 for answer in fast.results["image"])
        scores = {answer.item_id: answer.score for answer in slow.results["image"]}
        both = [answer for answer in fast.results["image"] if answer.item_id in scores]
        assert all(answer.score == scores[answer.item_id] for answer in both)
        shared += len(both)
    assert shared >= 0.95 * 50 * 10


def test_a_mixed_question_takes_the_most_thorough_parameters_and_tells_the_lowest_recall(
    made: tuple[Engine, np.ndarray],
) -> None:
    engine, queries = made
    parts = (Part("audio", queries[0]), Part("image", queries[1], 0.5))
    result = engine.ask(Question(parts=parts, to="image", k=10, distinct=False))
    assert result.params["image"]["nprobe"] == 16 and result.recall == 0.97
    assert set(result.recorded) == {"audio>image", "image>image"}
    one = engine.ask(Question(parts=parts[1:], to="image", k=10, distinct=False))
    assert one.params["image"]["nprobe"] == 8 and one.recall == 0.99


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
