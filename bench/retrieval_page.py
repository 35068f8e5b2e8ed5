"""The page of `bench retrieval`: the figures of both directions and six queries with their answers."""

from typing import Any

import numpy as np

from ..index.cards import WORDS, clip_card
from ..index.page import Page, Question, Table
from ..index.snapshot import Snapshot, open_snapshot
from .retrieval import DIRECTIONS, Direction, RetrievalConfig

EXAMPLES = 3
"""A direction."""
TOP = 5

COLUMNS = ("direction", "R@1", "R@5", "R@10", "median rank", "MRR", "queries", "gallery")
FIGURES = ("r1", "r5", "r10", "medr", "mrr")


def figure_rows(name: str, figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a direction's rows of the table: measured and its controls; `figures` as a result file has them."""
    asked, sought = DIRECTIONS[name]

    def cell(prefix: str, figure: str) -> str:
        digits = 1 if figure == "medr" else 3
        text = f"{figures[prefix + figure]:.{digits}f}"
        return f"{text} ± {figures[f'{prefix}{figure}_sd']:.{digits}f}" if prefix == "shuffled_" else text

    counts = (str(figures["queries"]), str(figures["gallery"]))
    controls = {"chance_": "by chance", "shuffled_": "permuted (± sd)", "ridge_": "linear map of mean log-mel"}
    return [(f"{WORDS[asked]} to {WORDS[sought]}", *(cell("", f) for f in FIGURES), *counts)] + [
        (what, *(cell(prefix, f) for f in FIGURES), *counts)
        for prefix, what in controls.items()
        if f"{prefix}r1" in figures
    ]


def retrieval_page(config: RetrievalConfig, measured: dict[str, Direction], paragraphs: tuple[str, ...]) -> Page:
    """Return the page; the example queries are drawn by the seed, never chosen."""
    snapshot = open_snapshot(config.index)
    table = Table(
        caption=f"Held-out retrieval: queries of split {config.query_split}, gallery of split {config.gallery_split}",
        columns=COLUMNS,
        rows=tuple(row for name, direction in measured.items() for row in figure_rows(name, direction.as_dict())),
        note=(
            "Permuted: the same embeddings with the true answers handed to other queries, "
            f"{config.permutations} times. Ties count half."
        ),
    )
    questions = [
        _question(snapshot, name, direction, int(query))
        for name, direction in measured.items()
        for query in _draw(direction, config.seed)
    ]
    return Page(
        title="Sounds that find pictures, pictures that find sounds",
        paragraphs=paragraphs, tables=(table,), questions=tuple(questions),
        facts=(
            ("index", str(config.index)), ("snapshot", snapshot.id), ("search", "exact"), ("seed", str(config.seed)),
            ("audio model", snapshot.manifest["encoder"]["fingerprints"]["audio"][:16]),
            ("image model", snapshot.manifest["encoder"]["fingerprints"]["image"][:16]),
        ),
    )  # fmt: skip


def _draw(direction: Direction, seed: int) -> list[int]:
    """Draw example queries, from each language (and from sounds without one) in turn."""
    order = np.random.Generator(np.random.Philox(key=seed + 1)).permutation(len(direction.query_rows)).tolist()
    by_language: dict[str, list[int]] = {}
    for query in order:
        by_language.setdefault(direction.query_rows[query]["language"], []).append(query)
    turns = [queries for _, queries in sorted(by_language.items(), reverse=True)]
    drawn: list[int] = []
    while len(drawn) < min(EXAMPLES, len(order)):
        drawn += [queries.pop(0) for queries in turns if queries]
    return drawn[:EXAMPLES]


def _question(snapshot: Snapshot, name: str, direction: Direction, query: int) -> Question:
    asked, sought = DIRECTIONS[name]
    row = direction.query_rows[query]
    order = np.argsort(-direction.scores_QG[query], kind="stable")
    first_true = int(np.argmax(direction.relevant_QG[query, order]))
    shown = [*range(min(TOP, len(order)))] + [first_true] * (first_true >= TOP)  # the true one is always there to see
    answers = [
        clip_card(
            snapshot, direction.gallery_rows[g], rank=place + 1, score=float(direction.scores_QG[query, g]),
            is_true=bool(direction.relevant_QG[query, g]),
        )
        for place, g in ((place, int(order[place])) for place in shown)
    ]  # fmt: skip
    return Question(
        heading=row["caption"] or row["key"], direction=f"{WORDS[asked]} to {WORDS[sought]}",
        query=clip_card(snapshot, row), answers=tuple(answers), true_rank=float(direction.ranks_Q[query]),
        gallery=len(direction.gallery_rows), query_modality=asked, answer_modality=sought,  # type: ignore[arg-type]
    )  # fmt: skip
