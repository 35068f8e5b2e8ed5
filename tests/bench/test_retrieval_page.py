"""The page of a measurement: three drawn questions a direction, the true answers marked, every figure beside chance."""

from pathlib import Path

import numpy as np
import pytest

from unibrivl.bench.retrieval import RetrievalConfig, measure
from unibrivl.bench.retrieval_page import COLUMNS, figure_rows, retrieval_page
from unibrivl.index.page import Page, render


@pytest.fixture(scope="module")
def config(index: Path) -> RetrievalConfig:
    return RetrievalConfig(index=index, query_split="train", gallery_split="train", permutations=5)


def page_of(config: RetrievalConfig) -> Page:
    return retrieval_page(config, measure(config), ("What this can show.",))


def test_six_questions_with_their_true_answers_marked(config: RetrievalConfig) -> None:
    measured, page = measure(config), page_of(config)
    assert [q.direction for q in page.questions] == ["sound to picture"] * 3 + ["picture to sound"] * 3
    for number, question in enumerate(page.questions):
        direction = measured["audio_to_image" if number < 3 else "image_to_audio"]
        assert (question.query_modality, question.answer_modality) == (
            ("audio", "image") if number < 3 else ("image", "audio")
        )
        query = [row["key"] for row in direction.query_rows].index(question.query.key)
        keys = [row["key"] for row in direction.gallery_rows]
        best = np.sort(direction.scores_QG[query])[::-1]
        ranks = [answer.rank or 0 for answer in question.answers]
        assert ranks[:5] == [1, 2, 3, 4, 5] and len(ranks) <= 6
        assert [answer.score for answer in question.answers] == pytest.approx([best[rank - 1] for rank in ranks])
        for answer in question.answers:
            assert answer.is_true == direction.relevant_QG[query, keys.index(answer.key)]
        assert question.true_rank == direction.ranks_Q[query] and question.gallery == 18
        # the true answer is always there to see, behind the five if it is not among them
        marked = [answer.rank or 0 for answer in question.answers if answer.is_true]
        assert min(marked) == question.true_rank
        assert (len(ranks) == 6) == (min(marked) > 5)
    assert len({question.query.key for question in page.questions[:3]}) == 3


def test_the_seed_draws_the_questions(config: RetrievalConfig, index: Path) -> None:
    def drawn(seed: int) -> list[str]:
        other = RetrievalConfig(index=index, query_split="train", gallery_split="train", permutations=2, seed=seed)
        return [question.query.key for question in page_of(other).questions]

    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(seed)) for seed in range(4)}) > 1


def test_the_table_has_every_figure_beside_chance_and_control(config: RetrievalConfig) -> None:
    measured, page = measure(config), page_of(config)
    (table,) = page.tables
    assert table.columns == COLUMNS and len(table.rows) == 6
    assert [row[0] for row in table.rows[:3]] == ["sound to picture", "by chance", "permuted (± sd)"]
    figures = measured["image_to_audio"].as_dict()
    assert table.rows[3:] == tuple(figure_rows("image_to_audio", figures))
    assert table.rows[3][COLUMNS.index("R@10")] == f"{figures['r10']:.3f}"
    assert table.rows[4][COLUMNS.index("R@10")] == f"{figures['chance_r10']:.3f}"
    spread = f"{figures['shuffled_r10']:.3f} ± {figures['shuffled_r10_sd']:.3f}"
    assert table.rows[5][COLUMNS.index("R@10")] == spread
    assert table.rows[5][COLUMNS.index("gallery")] == "18"


def test_it_renders_with_pictures_and_players(config: RetrievalConfig, index: Path) -> None:
    html = render(page_of(config))
    assert "What this can show." in html
    assert html.count("data:image/jpeg") >= 30 and html.count("data:audio/flac") >= 30
    assert "queries of split train, gallery of split train" in html
    assert html.count("true answer at rank") == 6


def test_a_test_split_of_two_gives_as_many_questions_as_there_are(make_index, monkeypatch: pytest.MonkeyPatch) -> None:
    from unibrivl.bench import retrieval_page as module
    from unibrivl.index.page import Card

    def card(snapshot, row, *, score=None, rank=None, is_true=None) -> Card:
        return Card(
            title=row["caption"], subtitle="", key=row["key"], image=None, audio=None, score=score, rank=rank,
            is_true=is_true,
        )  # fmt: skip

    monkeypatch.setattr(module, "clip_card", card)
    index = make_index(np.eye(2), np.eye(2))
    page = page_of(RetrievalConfig(index=index, permutations=2))
    assert len(page.questions) == 4
    assert all(len(question.answers) == 2 and question.true_rank == 1 for question in page.questions)


def test_languages_take_turns(make_index, monkeypatch: pytest.MonkeyPatch) -> None:
    from unibrivl.bench import retrieval_page as module

    monkeypatch.setattr(module, "_question", lambda snapshot, name, direction, query: direction.query_rows[query])
    monkeypatch.setattr(module, "Page", lambda **fields: fields)
    vectors = np.random.default_rng(0).standard_normal((30, 4))
    index = make_index(vectors, vectors, [{"language": "fr" if n < 26 else "es" if n < 28 else ""} for n in range(30)])
    for seed in range(4):
        found = page_of(RetrievalConfig(index=index, permutations=2, seed=seed))
        assert sorted(row["language"] for row in found["questions"][:3]) == ["", "es", "fr"]
