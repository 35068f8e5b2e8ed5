"""Turns rows of an index and the media in its shards into the cards of a results page."""

import io
import os
from pathlib import Path
from typing import Any

import soundfile
from PIL import Image

from ..shards import SAMPLE_RATE, Sample
from ..shards.reader import read_sample
from .media import read_picture, read_sound
from .page import Card, Page, Question
from .query import QueryConfig, QueryResult
from .snapshot import Snapshot, open_snapshot

PICTURE_PX = 256
"""Side of a query picture on the page."""
WORDS = {"audio": "sound", "image": "picture"}


def stored_sample(snapshot: Snapshot, row: dict[str, Any]) -> Sample:
    """Read the clip of an index row from the shards that the index was made of.

    Raises:
        ShardError: the shards are damaged.
        FileNotFoundError: they were moved away.
    """
    path = snapshot.root / snapshot.manifest["shards"] / "shards" / f"{row['shard']}.tar"
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_sample(fd, path, row["key"], row["tar_offset"], row["tar_len"])
    finally:
        os.close(fd)


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


def query_page(config: QueryConfig, result: QueryResult) -> Page:
    """Return the page of one answered query."""
    snapshot = open_snapshot(config.index)
    asked = "audio" if config.audio else "image"
    questions = []
    for modality, found in result.results.items():
        rows = snapshot.segment(modality).rows
        position = {item: n for n, item in enumerate(rows["item_id"].to_pylist())}
        cards = [
            clip_card(snapshot, rows.slice(position[a.item_id], 1).to_pylist()[0], score=a.score, rank=a.rank)
            for a in found
        ]
        questions.append(
            Question(
                heading=f"The nearest {WORDS[modality]}s", direction=f"{WORDS[asked]} to {WORDS[modality]}",
                query=_query_card(config), answers=tuple(cards), true_rank=None, gallery=len(rows),
                query_modality=asked, answer_modality=modality,  # type: ignore[arg-type]
            )
        )  # fmt: skip
    return Page(
        title=f"What is near {(config.audio or config.image or Path()).name}",
        paragraphs=(), tables=(), questions=tuple(questions),
        facts=(
            ("index", result.index), ("snapshot", result.snapshot),
            ("search", f"{result.mode}, recall {result.recall:g}"),
            ("audio model", result.encoder["audio"][:16]), ("image model", result.encoder["image"][:16]),
        ),
    )  # fmt: skip


def _query_card(config: QueryConfig) -> Card:
    path = config.audio or config.image
    assert path is not None
    image = audio = None
    buffer = io.BytesIO()
    if config.audio:
        soundfile.write(buffer, read_sound(config.audio), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        audio = buffer.getvalue()
    else:
        Image.fromarray(read_picture(path, PICTURE_PX)).save(buffer, "PNG")
        image = buffer.getvalue()
    return Card(
        title=path.name, subtitle="", key=path.name, image=image, audio=audio, score=None, rank=None, is_true=None
    )
