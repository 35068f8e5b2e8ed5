"""The page of `rerank`: the question, the pictures that were chosen for it, and where all the others came."""

from .cards import WORDS, query_card
from .generation_page import shown_picture
from .media import read_whole_picture
from .page import Card, Figure, Page, Question, Table
from .rerank_files import Reranked, Sorted

MAX_ROWS = 1000
"""Of the table: the first of the ranked list."""


def rerank_page(reranked: Reranked) -> Page:
    """Return the page of a ranked list."""
    result, config = reranked.result, reranked.config
    query = query_card(config.asked, reranked.verifier.snapshot)
    asked = [name for name in ("audio", "image", "text") if any(p["modality"] == name for p in result.query["parts"])]
    shown = {"audio": query.audio, "image": query.image, "text": query.title}
    question = Question(
        heading=f"Nearest to {query.title}", direction=f"{' and '.join(WORDS[name] for name in asked)} to picture",
        query_modality=next(name for name in ("audio", "image", "text") if shown[name]),
        answer_modality="image", query=query, answers=tuple(_card(one) for one in reranked.kept), true_rank=None,
        gallery=None, large=True,
    )  # fmt: skip
    return Page(
        title=f"Pictures for {query.title}", paragraphs=(_summary(reranked),), tables=(), questions=(question,),
        facts=(
            ("index", result.index or "none: a run alone"), ("snapshot", result.snapshot or ""),
            *((f"{modality} model", name[:16]) for modality, name in result.encoder.items()),
        ),
        figures=(Figure(table=_table(reranked)),),
    )  # fmt: skip


def _summary(reranked: Reranked) -> str:
    scored = len(reranked.result.ranked)
    dropped = len(reranked.placed) - scored
    more = f" Dropped unscored: {dropped}; the table says why." if dropped else ""
    return (
        f"{len(reranked.kept)} of {scored} pictures, chosen by how near their embeddings lie to the question's.{more}"
    )


def _card(one: Sorted) -> Card:
    assert one.ranked is not None
    row = one.row()
    details = [] if row["seed"] is None else [f"seed {row['seed']}"]
    if one.ranked.percentile is not None:
        details.append(f"above {one.ranked.percentile:.0f} % of random pairs")
    return Card(
        title=row["prompt"] or one.path.name, subtitle=" · ".join(details), key=one.path.name,
        image=shown_picture(read_whole_picture(one.path)), audio=None, score=one.ranked.score, rank=one.ranked.rank,
        is_true=None,
    )  # fmt: skip


def _table(reranked: Reranked) -> Table:
    shown = reranked.placed[:MAX_ROWS]
    left = len(reranked.placed) - len(shown)
    return Table(
        caption="All pictures, best first", columns=COLUMNS, rows=tuple(cells(one) for one in shown),
        note=f"{left:,} more are not shown." if left else "",
    )  # fmt: skip


COLUMNS = ("", "cosine", "deviations", "above %", "file", "dropped")


def cells(one: Sorted) -> tuple[str, ...]:
    """Return a row of the table, on the page and in the terminal."""
    if one.ranked is None:
        return "", "", "", "", one.path.name, one.dropped
    z, percentile = one.ranked.calibrated, one.ranked.percentile
    return (
        f"{one.ranked.rank}{' kept' if one.kept else ''}", f"{one.ranked.score:z.3f}",
        "" if z is None else f"{z:+z.2f}", "" if percentile is None else f"{percentile:.1f}", one.path.name, "",
    )  # fmt: skip
