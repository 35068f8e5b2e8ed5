"""The engine on a real index: composed questions, calibrated scores, filters, another encoder, reopening."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from unibrivl.index.calibrate import Background, Calibrator
from unibrivl.index.compose import compose, embed_parts
from unibrivl.index.engine import Engine, open_engine
from unibrivl.index.errors import IndexMismatchError, IndexStoreError, QueryError
from unibrivl.index.question import Part, Question
from unibrivl.index.snapshot import open_snapshot
from unibrivl.model.embed import Encoder

from .memory import MemorySnapshot, memory_segment, unit


@pytest.fixture
def engine(index: Path, one_encoder: Encoder) -> Engine:
    return open_engine(index)


def stored(engine: Engine, modality: str, row: int) -> np.ndarray:
    return engine.snapshot.of(modality)[0].vectors_ND[row].astype(np.float32)


def item(engine: Engine, modality: str, row: int) -> str:
    return engine.snapshot.of(modality)[0].rows["item_id"][row].as_py()


def test_parts_of_all_kinds_have_length_one(engine: Engine) -> None:
    sound = (0.3 * np.random.default_rng(0).standard_normal(9000)).astype(np.float32)
    picture = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    vector = stored(engine, "image", 3)
    parts = [Part("image", picture), Part("audio", sound), Part("image", vector), Part("audio", sound[:4000])]
    found = engine.embed(parts)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert found[1] == pytest.approx(engine.encoder.audio([sound])[0], abs=1e-5)
    assert found[0] == pytest.approx(engine.encoder.image([picture])[0], abs=1e-5)
    assert found[2] == pytest.approx(vector / np.linalg.norm(vector), abs=1e-6)


def test_a_sound_as_long_as_an_embedding_is_still_a_sound(engine: Engine) -> None:
    sound = (0.3 * np.random.default_rng(0).standard_normal(engine.encoder.dim)).astype(np.float32)
    assert embed_parts(engine.encoder, [Part("audio", sound)])[0] == pytest.approx(
        engine.encoder.audio([sound])[0], abs=1e-5
    )


def test_an_embedding_that_is_not_finite_is_named(engine: Engine) -> None:
    with pytest.raises(QueryError, match=r"part 2: its embedding is not finite"):
        engine.embed([Part("image", stored(engine, "image", 0)), Part("audio", np.full(16_000, np.nan, np.float32))])
    with pytest.raises(QueryError, match=r"my\.wav: its embedding is not finite"):
        engine.embed([Part("audio", np.full(16_000, np.nan, np.float32), name="my.wav")])


def test_two_items_together_find_both_and_one_taken_away_falls(engine: Engine) -> None:
    first, second = Part("image", stored(engine, "image", 2)), Part("image", stored(engine, "image", 9))
    together = engine.ask(Question(parts=(first, second), to="image", k=24)).results["image"]
    assert {answer.item_id for answer in together[:2]} == {item(engine, "image", 2), item(engine, "image", 9)}
    for answer in together:
        assert answer.parts is not None and len(answer.parts) == 2
    minus = Part("image", second.value, 0.5, minus=True)
    apart = engine.ask(Question(parts=(first, minus), to="image", k=24)).results["image"]
    assert apart[0].item_id == item(engine, "image", 2)
    rank = {answer.item_id: answer.rank for answer in apart}
    assert rank[item(engine, "image", 9)] > 12


def test_the_score_of_a_composed_question_is_the_cosine_with_the_weighted_sum(engine: Engine) -> None:
    parts = (Part("image", stored(engine, "image", 2), 2.0), Part("audio", stored(engine, "audio", 5), 0.5))
    unit_parts = [part.value / np.linalg.norm(part.value) for part in parts]
    total = 2 * unit_parts[0] + 0.5 * unit_parts[1]
    for answer in engine.ask(Question(parts=parts, to="audio", k=3)).results["audio"]:
        segment, row = engine.snapshot.find(answer.item_id)
        vector = segment.vectors_ND[row].astype(np.float32)
        assert answer.score == pytest.approx(vector @ total / np.linalg.norm(total), abs=1e-5)
        assert answer.parts == pytest.approx([vector @ part for part in unit_parts], abs=1e-5)


def test_ranks_can_be_fused_instead(engine: Engine) -> None:
    parts = (Part("image", stored(engine, "image", 2)), Part("audio", stored(engine, "audio", 5)))
    answers = engine.ask(Question(parts=parts, to="image", k=24, fuse="rrf")).results["image"]
    fused = [answer.fused for answer in answers]
    assert fused == sorted(fused, reverse=True) and len(answers) == 24
    for answer in answers:
        assert answer.parts is not None
        assert answer.score == pytest.approx(sum(answer.parts) / 2, abs=1e-5)


def test_parts_that_cancel_each_other_are_no_question(engine: Engine) -> None:
    vector = stored(engine, "image", 2)
    parts = (Part("image", vector), Part("image", vector, minus=True))
    with pytest.raises(QueryError, match="the parts cancel each other"):
        engine.ask(Question(parts=parts))
    with pytest.raises(QueryError, match="only take away"):
        Question(parts=(Part("image", vector, 0.0),))


@pytest.mark.parametrize("weight", [1e-300, 1e-4, 100.0, 1e308])
@pytest.mark.parametrize("fuse", ["sum", "rrf"])
def test_only_the_proportion_of_weights_counts(engine: Engine, weight: float, fuse: str) -> None:
    """Once, parts that were all light gave cosines near zero, and all heavy ones no number."""

    def ask(weight: float, *kinds: str) -> list[list[float]]:
        parts = tuple(Part(kind, stored(engine, kind, 2), weight * (n + 1)) for n, kind in enumerate(kinds))
        result = engine.ask(Question(parts=parts, k=5, fuse=fuse))
        return [[a.score, a.calibrated] for answers in result.results.values() for a in answers]

    for kinds in (("image",), ("image", "audio")):
        # the calibrated score is a cosine over a small deviation, hence the relative tolerance
        assert np.array(ask(weight / 2, *kinds)) == pytest.approx(np.array(ask(1.0, *kinds)), rel=1e-3, abs=1e-4)


def test_a_filter_keeps_its_rows_and_says_how_many_there_were(engine: Engine) -> None:
    part = Part("image", stored(engine, "image", 2))
    result = engine.ask(Question(parts=(part,), k=24, where=["split=test", "labels=tone"]))
    for answers in result.results.values():
        assert len(answers) == 6 and {answer.split for answer in answers} == {"test"}
    assert result.filter.matched == {"image": 6, "audio": 6}
    assert result.query["where"] == {
        "and": [{"column": "split", "op": "=", "value": "test"}, {"column": "labels", "op": "=", "value": "tone"}]
    }
    none = engine.ask(Question(parts=(part,), where="caption~nowhere"))
    assert none.results == {"image": [], "audio": []} and none.merged == []
    with pytest.raises(QueryError, match="did you mean 'tone'"):
        engine.ask(Question(parts=(part,), where="labels=tnoe"))


def test_both_lists_are_merged_by_calibrated_score(engine: Engine) -> None:
    result = engine.ask(Question(parts=(Part("image", stored(engine, "image", 2)),), k=6))
    assert result.merged is not None and len(result.merged) == 6
    every = {a.item_id: a for answers in result.results.values() for a in answers}
    best = sorted((answer.calibrated for answer in every.values()), reverse=True)[:6]
    assert [place.calibrated for place in result.merged] == best
    for place in result.merged:
        answer = every[place.item_id]
        assert (place.modality, place.place, place.percentile) == (answer.modality, answer.rank, answer.percentile)
    assert engine.ask(Question(parts=(Part("image", stored(engine, "image", 2)),), to="image")).merged is None


def test_merging_does_not_prefer_the_modality_with_the_higher_cosines() -> None:
    """Pictures lie 0.5 nearer to every question than sounds; calibrated, the outstanding sound comes first."""
    rng = np.random.default_rng(0)
    query = unit(rng, 1, 64)[0].astype(np.float32)
    crowd = unit(rng, 300, 64).astype(np.float32)
    pictures = crowd + 0.7 * query
    sounds = np.concatenate([crowd[:299], (query + 0.9 * crowd[299])[None]])
    vectors = [(v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float16) for v in (pictures, sounds)]
    segments = [
        memory_segment(modality, 0, v, [f"{n}" for n in range(300)])
        for modality, v in zip(("image", "audio"), vectors, strict=True)
    ]
    snapshot = MemorySnapshot(tuple(segments))
    composed = compose(Question(parts=(Part("audio", query),)), query[None])
    calibrator = Calibrator(snapshot)  # type: ignore[arg-type]
    best = {}
    for modality, v in zip(("image", "audio"), vectors, strict=True):
        (background,) = calibrator.backgrounds([composed], modality)
        cosines = v.astype(np.float32) @ query
        best[modality] = background.calibrated(cosines).max()
        assert background.source == "sampled"
        assert background.mean == pytest.approx(cosines.mean(), abs=1e-3)
        assert background.percentiles(np.array([cosines.max(), cosines.min() - 1])) == pytest.approx([100, 0])
    assert best["audio"] > best["image"] + 1


def test_what_the_build_recorded_goes_before_a_sample() -> None:
    segment = memory_segment("image", 0, unit(np.random.default_rng(0), 5, 8), list("abcde"))
    told = {"audio>image": {"mean": 0.25, "sd": 0.5, "quantiles": np.linspace(-1, 1, 101).tolist()}}
    calibrator = Calibrator(MemorySnapshot((segment,), evaluation={"background": told}))  # type: ignore[arg-type]
    vector = unit(np.random.default_rng(1), 1, 8)[0].astype(np.float32)
    one = compose(Question(parts=(Part("audio", vector),)), vector[None])
    two = compose(Question(parts=(Part("audio", vector), Part("audio", -vector, 0.5))), np.stack([vector, -vector]))
    background, sampled, other = (
        *calibrator.backgrounds([one, two], "image"),
        *calibrator.backgrounds([compose(Question(parts=(Part("text", vector),)), vector[None])], "image"),
    )
    assert (background.mean, background.sd, background.source) == (0.25, 0.5, "recorded")
    assert background.calibrated(np.array([0.75])) == pytest.approx([1])
    assert background.percentiles(np.array([0.0])) == pytest.approx([50])
    assert sampled.source == other.source == "sampled"


def test_what_was_deleted_is_in_no_background() -> None:
    """Nine of ten rows point one way and are deleted: the others alone are the background."""
    vectors = np.zeros((500, 8), np.float16)
    vectors[:, 0] = 1
    vectors[::10] = unit(np.random.default_rng(0), 50, 8)
    segment = memory_segment("image", 0, vectors, [str(n) for n in range(500)])
    dead = {segment.id: np.arange(500) % 10 > 0}
    query = np.float32([1, 0, 0, 0, 0, 0, 0, 0])
    composed = compose(Question(parts=(Part("audio", query),)), query[None])
    (background,) = Calibrator(MemorySnapshot((segment,), dead)).backgrounds([composed], "image")  # type: ignore[arg-type]
    cosines = vectors[::10].astype(np.float32) @ query
    assert (background.mean, background.sd) == (pytest.approx(cosines.mean()), pytest.approx(cosines.std()))
    everything = {segment.id: np.ones(500, bool)}
    (nothing,) = Calibrator(MemorySnapshot((segment,), everything)).backgrounds([composed], "image")  # type: ignore[arg-type]
    assert nothing.calibrated(np.array([0.5])) == [0.5]


def test_a_background_without_any_deviation_still_gives_numbers() -> None:
    background = Background(0.5, 0.0, np.full(101, 0.5), "sampled")
    assert np.isfinite(background.calibrated(np.array([0.5, 1.0]))).all()


def test_text_is_refused_by_a_run_without_it(engine: Engine) -> None:
    assert not engine.has_text
    with pytest.raises(QueryError, match=r"run reads no text: want an image tower with a text side \(clip:DIR"):
        engine.ask(Question(parts=(Part("text", "a dog"),)))


def test_another_encoder_is_accepted_only_by_word_and_every_answer_says_so(
    index: Path, one_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = {name: np.roll(vector, 1) for name, vector in one_encoder.canaries().items()}
    monkeypatch.setattr(Encoder, "canaries", lambda self: turned)
    with pytest.raises(IndexMismatchError, match="embeds the audio canary"):
        open_engine(index)
    engine = open_engine(index, accept_other_encoder=True)
    result = engine.ask(Question(parts=(Part("image", stored(engine, "image", 0)),)))
    assert result.other_encoder is not None and "canary" in result.other_encoder
    assert engine.reopen().other_encoder == engine.other_encoder


def test_reopening_takes_the_snapshot_of_now_and_keeps_the_encoder(
    index: Path, one_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(index, tmp_path / "index")
    engine = open_engine(tmp_path / "index")
    again = engine.reopen()
    assert again.encoder is engine.encoder and again.snapshot is not engine.snapshot
    name = (tmp_path / "index" / "CURRENT").read_text().strip()
    path = tmp_path / "index" / "snapshots" / name / "manifest.json"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(IndexStoreError, match="damaged"):
        engine.reopen()
    monkeypatch.setattr(Encoder, "fingerprints", lambda self: {"audio": "0" * 64, "image": "1" * 64})
    with pytest.raises(IndexMismatchError, match="was built by the audio model"):
        open_engine(index)
    shutil.rmtree(tmp_path / "index")
    shutil.copytree(index, tmp_path / "index")
    with pytest.raises(IndexMismatchError, match="was built by the audio model"):
        engine.reopen()


def test_results_are_plain_values(engine: Engine) -> None:
    parts = (Part("image", stored(engine, "image", 2), name="a"), Part("audio", stored(engine, "audio", 5)))
    for result in engine.ask_many([Question(parts=parts, fuse=fuse, where="split=test") for fuse in ("sum", "rrf")]):
        told = json.loads(json.dumps(result.as_dict(), allow_nan=False))
        assert told["mode"] == "exact" and told["recall"] == 1.0 and told["partial"] is False
        assert told["snapshot"] == open_snapshot(engine.snapshot.root).id
    assert engine.ask_many([]) == []
