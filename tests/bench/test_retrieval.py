"""Held-out retrieval: the rule of a true answer, the control, and both ends of the scale."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from unibrivl.bench.errors import BenchError
from unibrivl.bench.retrieval import Direction, RetrievalConfig, measure
from unibrivl.index.snapshot import open_snapshot

FIGURES = ("r1", "r5", "r10", "medr", "mrr")


def random_vectors(count: int, dims: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dims)).astype(np.float32)


def test_a_perfect_model_finds_everything(make_index) -> None:
    vectors = random_vectors(40)
    measured = measure(RetrievalConfig(index=make_index(vectors, vectors), permutations=20))
    assert list(measured) == ["audio_to_image", "image_to_audio"]
    for direction in measured.values():
        scores = direction.scores
        assert (scores.r1, scores.r10, scores.medr, scores.mrr) == (1, 1, 1, 1)
        assert (scores.queries, scores.gallery) == (40, 40)
        assert scores.chance_r10 == pytest.approx(10 / 40)
        assert direction.ranks_Q.tolist() == [1] * 40
        assert direction.scores_QG.diagonal() == pytest.approx(1, abs=2e-3)


def test_the_directions_are_not_mixed_up(make_index) -> None:
    """Sounds 0 to 2 all lie near picture 0, the first of them farthest from it."""
    pictures = np.eye(4)
    sounds = np.array([[1, 0.4, 0, 0], [1, 0.1, 0, 0], [1, 0, 0.2, 0], [0, 0, 0, 1]])
    measured = measure(RetrievalConfig(index=make_index(sounds, pictures), permutations=5))
    assert measured["audio_to_image"].ranks_Q.tolist() == [1, 2, 2, 1]
    assert measured["image_to_audio"].ranks_Q.tolist() == [3, 2, 1, 1]


def test_random_embeddings_lie_at_chance_in_measurement_and_control(make_index) -> None:
    index = make_index(random_vectors(120, seed=1), random_vectors(120, seed=2))
    for direction in measure(RetrievalConfig(index=index, permutations=200)).values():
        scores, control = dataclasses.asdict(direction.scores), direction.shuffled
        for figure in ("r1", "r5", "r10", "mrr"):
            chance, spread = scores[f"chance_{figure}"], control[f"shuffled_{figure}_sd"]
            assert spread > 0
            assert abs(scores[figure] - chance) <= 4 * spread, figure
            assert abs(control[f"shuffled_{figure}"] - chance) <= 4 * spread / np.sqrt(200), figure
        assert abs(scores["medr"] - scores["chance_medr"]) <= 4 * control["shuffled_medr_sd"]


def test_the_control_of_a_perfect_model_lies_at_chance_too(make_index) -> None:
    vectors = random_vectors(60)
    for direction in measure(RetrievalConfig(index=make_index(vectors, vectors))).values():
        control = direction.shuffled
        assert control["shuffled_r10"] == pytest.approx(
            direction.scores.chance_r10, abs=4 * control["shuffled_r10_sd"] / np.sqrt(200)
        )
        assert direction.scores.r10 > control["shuffled_r10"] + 10 * control["shuffled_r10_sd"]


def relevance(direction: Direction) -> dict[str, set[str]]:
    """Return the keys of the true answers of each query."""
    gallery = np.array([row["key"] for row in direction.gallery_rows])
    return {
        row["key"]: set(gallery[truth].tolist())
        for row, truth in zip(direction.query_rows, direction.relevant_QG, strict=True)
    }


def name(*numbers: int) -> set[str]:
    return {f"gen_clip{n}_000000000" for n in numbers}


def test_clips_of_a_group_answer_each_other(make_index) -> None:
    rows = [{"group": "cat"}, {"group": "cat"}, {"group": "dog"}, {"group": "cat"}]
    index = make_index(random_vectors(4), random_vectors(4), rows)
    for direction in measure(RetrievalConfig(index=index, permutations=2)).values():
        found = relevance(direction)
        assert [found[key] for key in sorted(found)] == [name(0, 1, 3), name(0, 1, 3), name(2), name(0, 1, 3)]


def test_moments_of_one_film_answer_by_overlap(make_index) -> None:
    film = {"group": "film", "media_id": "film"}
    rows = [film | {"start_ms": start, "end_ms": start + 10_000} for start in (0, 2500, 5000, 30_000)]
    index = make_index(random_vectors(4), random_vectors(4), rows)
    found = relevance(measure(RetrievalConfig(index=index, permutations=2))["audio_to_image"])
    # 7.5 of 12.5 s is over half, 5 of 15 s is not
    assert [found[key] for key in sorted(found)] == [name(0, 1), name(0, 1, 2), name(1, 2), name(3)]


def test_equal_contents_are_one_item_with_the_answers_of_all(make_index) -> None:
    """Clips 0 and 1 show one picture in two groups; clips 2 and 3 have one sound."""
    rows = [{"image_content": "same"}, {"image_content": "same"}, {"audio_content": "one"}, {"audio_content": "one"}]
    vectors = random_vectors(4)
    vectors[1], vectors[3] = vectors[0], vectors[2]
    measured = measure(RetrievalConfig(index=make_index(vectors, vectors, rows), permutations=2))
    sounds = measured["audio_to_image"]
    assert (sounds.scores.queries, sounds.scores.gallery) == (3, 3)
    assert relevance(sounds) == {
        "gen_clip0_000000000": name(0), "gen_clip1_000000000": name(0), "gen_clip2_000000000": name(2, 3),
    }  # fmt: skip
    pictures = measured["image_to_audio"]
    assert relevance(pictures) == {
        "gen_clip0_000000000": name(0, 1), "gen_clip2_000000000": name(2), "gen_clip3_000000000": name(2),
    }  # fmt: skip
    assert sounds.scores_QG.shape == sounds.relevant_QG.shape == (3, 3)


def test_queries_and_gallery_may_be_of_different_splits(make_index) -> None:
    rows = [{"split": "train", "group": f"g{n % 3}"} for n in range(6)] + [{"split": "test", "group": "g1"}] * 2
    rows.append({"split": "test", "group": "alone"})
    for number, row in enumerate(rows):
        rows[number] = row | {"audio_content": f"sound {number}", "image_content": f"picture {number}"}
    index = make_index(random_vectors(9), random_vectors(9), rows)
    config = RetrievalConfig(index=index, query_split="test", gallery_split="train", permutations=2)
    found = relevance(measure(config)["audio_to_image"])
    # clip 8 has no true answer among the gallery and is no query
    assert found == {f"gen_clip{n}_000000000": name(1, 4) for n in (6, 7)}
    assert measure(config)["image_to_audio"].scores.gallery == 6


def test_a_split_that_is_not_there_is_named(make_index) -> None:
    index = make_index(random_vectors(3), random_vectors(3), [{"split": "eval"}, {"split": "train"}, {}])
    for change in ({"query_split": "val"}, {"gallery_split": "val"}):
        with pytest.raises(BenchError, match=f"{index} has no split 'val'; it has eval, test, train"):
            measure(RetrievalConfig(index=index, **change))
    with pytest.raises(BenchError, match="no audio of split test has a true image to be found"):
        measure(RetrievalConfig(index=index, gallery_split="train"))


def test_the_seed_decides_the_control(make_index) -> None:
    index = make_index(random_vectors(30, seed=1), random_vectors(30, seed=2))

    def figures(seed: int) -> dict[str, dict[str, float]]:
        config = RetrievalConfig(index=index, seed=seed, permutations=10)
        return {name: direction.as_dict() for name, direction in measure(config).items()}

    assert figures(3) == figures(3)
    assert figures(3)["audio_to_image"]["shuffled_mrr"] != figures(4)["audio_to_image"]["shuffled_mrr"]
    assert figures(3)["audio_to_image"]["mrr"] == figures(4)["audio_to_image"]["mrr"]


def test_the_figures_for_json_are_plain_numbers(make_index) -> None:
    index = make_index(random_vectors(30, seed=1), random_vectors(30, seed=2))
    found = measure(RetrievalConfig(index=index, permutations=3))["audio_to_image"].as_dict()
    assert set(found) >= {*FIGURES, "queries", "gallery", "chance_r10", "shuffled_r10", "shuffled_r10_sd"}
    assert {type(value) for value in found.values()} == {int, float}
    assert found["queries"] == found["gallery"] == 30


def test_a_control_without_a_spread_is_refused() -> None:
    with pytest.raises(ValueError, match="permutations is 1, want at least 2"):
        RetrievalConfig(index=Path("index"), permutations=1)


def test_the_tiny_index_is_measured(index: Path) -> None:
    measured = measure(RetrievalConfig(index=index, permutations=5))
    for direction in measured.values():
        assert direction.scores.queries == direction.scores.gallery == 6
        assert (direction.relevant_QG.sum(axis=1) == 2).all()  # the corpus has two clips a group


def test_the_linear_control_is_fitted_on_other_splits_and_measured_on_the_same_queries(index: Path) -> None:
    splits = set(open_snapshot(index).items("audio").rows["split"].to_pylist())
    assert splits >= {"train", "test"}
    plain = measure(RetrievalConfig(index=index, permutations=2))
    measured = measure(RetrievalConfig(index=index, permutations=2, ridge=True))
    for name, direction in measured.items():
        assert not plain[name].ridge
        assert set(direction.ridge) == {f"ridge_{figure}" for figure in FIGURES}
        assert 1 <= direction.ridge["ridge_medr"] <= direction.scores.gallery
        assert direction.as_dict()["ridge_r10"] == round(direction.ridge["ridge_r10"], 6)


def test_a_linear_control_needs_clips_of_another_split(make_index) -> None:
    index = make_index(random_vectors(4), random_vectors(4))
    with pytest.raises(BenchError, match="no clips outside split test to fit a linear map on"):
        measure(RetrievalConfig(index=index, ridge=True))
