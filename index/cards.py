"""Turns rows of an index and the media in its shards into the cards of a results page."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile
from PIL import Image

from ..shards import SAMPLE_RATE
from .answers import QueryResult
from .clips import stored_sample
from .media import read_picture, read_sound
from .page import Card, Page, Question
from .query import Asked, QueryConfig
from .snapshot import Snapshot

PICTURE_PX = 256
"""Side of a query picture on the page."""
WORDS = {"audio": "sound", "image": "picture", "text": "words"}


def clip_card(
    snapshot: Snapshot, row: dict[str, Any], *, score: float | None = None, rank: int | None = None,
    is_true: bool | None = None,
) -> Card:  # fmt: skip
    """Return the card of an index row."""
    sample = stored_sample(snapshot, row)
    span = f"{row['start_ms'] / 1000:g} to {row['end_ms'] / 1000:g} s"
    sound = sample.members["flac" if "flac" in sample.members else "wav"]
    details = [", ".join(row["labels"]), row["language"], span]
    return Card(
        title=row["caption"] or row["key"], subtitle=" · ".join(d for d in details if d), key=row["key"],
        image=sample.members["jpg"], audio=sound, score=score, rank=rank, is_true=is_true,
    )  # fmt: skip


def query_page(config: QueryConfig, snapshot: Snapshot, result: QueryResult) -> Page:
    """Return the page of one answered question."""
    asked = [name for name in ("audio", "image", "text") if any(p["modality"] == name for p in result.query["parts"])]
    query = query_card(config.asked, snapshot)
    questions = []
    for modality, found in result.results.items():
        cards = []
        for answer in found:
            segment, row = snapshot.find(answer.item_id)
            fields = segment.rows.slice(row, 1).to_pylist()[0]
            cards.append(clip_card(snapshot, fields, score=answer.score, rank=answer.rank))
        questions.append(
            Question(
                heading=f"The nearest {WORDS[modality]}s",
                direction=f"{' and '.join(WORDS[name] for name in asked)} to {WORDS[modality]}",
                query=query, answers=tuple(cards), true_rank=None, gallery=result.filter.matched[modality],
                query_modality=asked[0], answer_modality=modality,  # type: ignore[arg-type]
            )
        )  # fmt: skip
    recall = "not recorded" if result.recall is None else f"{result.recall:g}"
    return Page(
        title=f"What is near {query.title}", paragraphs=() if result.other_encoder is None else (result.other_encoder,),
        tables=(), questions=tuple(questions),
        facts=(
            ("index", result.index), ("snapshot", result.snapshot), ("search", f"{result.mode}, recall {recall}"),
            *((f"{modality} model", name[:16]) for modality, name in result.encoder.items()),
        ),
    )  # fmt: skip


def query_card(all_asked: Sequence[Asked], snapshot: Snapshot | None) -> Card:
    """Return the card of a question: the names of its parts, its first sound and its first picture."""
    audio = image = None
    for asked in all_asked:
        if asked.kind == "item" and snapshot is not None:
            segment, row = snapshot.find(asked.value)
            card = clip_card(snapshot, segment.rows.slice(row, 1).to_pylist()[0])
            audio, image = audio or card.audio, image or card.image
        buffer = io.BytesIO()
        if asked.kind == "audio" and audio is None:
            soundfile.write(buffer, read_sound(Path(asked.value)), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            audio = buffer.getvalue()
        elif asked.kind == "image" and image is None:
            Image.fromarray(read_picture(Path(asked.value), PICTURE_PX)).save(buffer, "PNG")
            image = buffer.getvalue()
    title = " ".join(("-" if a.minus else "+") * (n > 0 or a.minus) + _named(a) for n, a in enumerate(all_asked))
    return Card(title=title, subtitle="", key="", image=image, audio=audio, score=None, rank=None, is_true=None)


def _named(asked: Asked) -> str:
    name = Path(asked.value).name if asked.kind in ("audio", "image") else asked.value
    return f"{asked.weight:g} {name}" if asked.weight != 1 else name
