"""Reranking: candidates in the order of their cosines, beside the background of the index."""

import json
from pathlib import Path

import numpy as np
import pytest

from unibrivl.index.engine import Engine, open_engine
from unibrivl.index.errors import IndexMismatchError, QueryError
from unibrivl.index.question import Part
from unibrivl.index.rerank import MAX_CANDIDATES, rerank
from unibrivl.model.embed import Encoder


@pytest.fixture
def engine(index: Path, one_encoder: Encoder) -> Engine:
    return open_engine(index)


def test_candidates_come_in_the_order_of_their_cosines(engine: Engine) -> None:
    images = engine.snapshot.of("image")[0].vectors_ND.astype(np.float32)
    query = Part("audio", engine.snapshot.of("audio")[0].vectors_ND[4].astype(np.float32), name="my sound")
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    candidates = [Part("image", images[n], name=f"stored {n}") for n in range(5)] + [Part("image", picture, name="new")]
    result = rerank(engine, [query], candidates)
    vectors = np.concatenate([images[:5], engine.encoder.image([picture])])
    cosines = vectors @ query.value / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query.value)
    order = np.argsort(-cosines).tolist()
    assert [one.candidate for one in result.ranked] == order
    assert [one.name for one in result.ranked] == [candidates[n].name for n in order]
    assert [one.score for one in result.ranked] == pytest.approx(cosines[order], abs=1e-4)
    told = engine.snapshot.evaluation["background"]["audio>image"]
    for one in result.ranked:
        assert one.calibrated == pytest.approx((one.score - told["mean"]) / told["sd"], abs=0.02)
        assert one.percentile == pytest.approx(np.searchsorted(told["quantiles"], one.score), abs=2)
    assert result.calibration == "recorded"
    told = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert told["query"] == {
        "parts": [{"modality": "audio", "name": "my sound", "weight": 1.0, "minus": False}], "to": "image"
    }  # fmt: skip


def test_candidates_of_another_model_are_refused_and_both_named(engine: Engine) -> None:
    part = Part("image", engine.snapshot.of("image")[0].vectors_ND[0].astype(np.float32))
    ours = engine.fingerprints["image"]
    assert rerank(engine, [part], [part], fingerprints={"image": ours}).ranked[0].score == pytest.approx(1, abs=1e-3)
    with pytest.raises(IndexMismatchError, match=rf"by the image model ffffffffffff, .* by {ours[:12]};"):
        rerank(engine, [part], [part], fingerprints={"image": "f" * 64})


def test_what_cannot_be_sorted_is_refused(engine: Engine) -> None:
    part = Part("image", engine.snapshot.of("image")[0].vectors_ND[0].astype(np.float32))
    for candidates in ([], [part, Part("audio", part.value)], [part] * (MAX_CANDIDATES + 1)):
        with pytest.raises(QueryError, match=f"{len(candidates)} candidates .*want 1 to 10000 of one modality"):
            rerank(engine, [part], candidates)
