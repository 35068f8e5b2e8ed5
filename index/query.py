"""`query`: sounds, pictures, texts and items of the index, alone or together; the nearest clips, and how found.

What a question means stands in `question.py`, how it is answered in `engine.py`; here files become questions.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .answers import QueryResult
from .engine import Engine, open_engine
from .errors import QueryError
from .media import read_picture, read_sound
from .milvus import check_uri
from .question import Part, Question
from .verifier import Verifier, frame_px

KINDS = ("audio", "image", "text", "item")
MINUS = "minus_"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One thing to search with, as a person names it."""

    kind: str
    """`audio` or `image` for a file, `text`, or `item` for something that the index holds."""
    value: str
    weight: float = 1.0
    minus: bool = False

    def __post_init__(self) -> None:
        """Refuse an unknown kind."""
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, want {', '.join(KINDS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryConfig:
    """What `unibrivl query` was asked."""

    index: Path
    asked: tuple[Asked, ...] = ()
    to: str = "both"
    """Which modality is searched."""
    k: int = 10
    where: Any = None
    """A filter, as `parse_where` takes it."""
    exact: bool = False
    fuse: str = "sum"
    distinct: bool = True
    near: float | None = None
    run: Path | None = None
    """Where the run lies, if it was moved."""
    image_tower: str | None = None
    """The image tower's name where its weights lie now, if they were moved."""
    accept_other_encoder: bool = False
    """Goes on with an encoder that did not build the index; every answer says so."""
    milvus: str | None = None
    """Server or file of Milvus that searches the vectors; None: they are searched here."""

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        if self.milvus is not None:
            check_uri("milvus", self.milvus)
        if self.asked:
            question_of(self, tuple(Part("audio", None, a.weight, a.minus) for a in self.asked))

    def open(self) -> Engine:
        """Open the index.

        Raises:
            IndexStoreError, IndexMismatchError, CheckpointError: the index or its encoder is not in order.
            MilvusError: Milvus cannot be reached, or does not hold the snapshot.
        """
        return open_engine(
            self.index, self.run, self.image_tower, accept_other_encoder=self.accept_other_encoder, milvus=self.milvus
        )  # fmt: skip


def asked_of(values: dict[str, tuple[str, ...]], weights: dict[str, tuple[float, ...]]) -> tuple[Asked, ...]:
    """Return what options or columns name.

    Args:
        values: files, texts and items by kind; `minus_` before a kind takes them away.
        weights: by kind, in the order of its values; the last one goes for all that follow. 1 where none is given.

    Raises:
        ValueError: there is nothing to ask with, or a weight of a kind that is not asked with.
    """
    if extra := [kind for kind in weights if not values.get(kind)]:
        raise ValueError(f"weight names {extra[0]!r}, but nothing of that kind is asked with")
    asked = []
    for kind, named in values.items():
        given = weights.get(kind, ()) or (1.0,)
        if len(given) > len(named):
            raise ValueError(f"weight has {len(given)} numbers for {len(named)} of {kind}")
        for number, value in enumerate(named):
            weight = given[min(number, len(given) - 1)]
            kept = Asked(kind=kind.removeprefix(MINUS), value=value, weight=weight, minus=kind.startswith(MINUS))
            asked.append(kept)
    if not asked:
        raise ValueError("give something to search with: --audio FILE, --image FILE, --text WORDS or --item ID")
    return tuple(asked)


def question_of(config: QueryConfig, parts: tuple[Part, ...]) -> Question:
    """Return the question that a configuration asks with decoded parts."""
    return Question(
        parts=parts, to=config.to, k=config.k, where=config.where, exact=config.exact, fuse=config.fuse,
        distinct=config.distinct, near=config.near,
    )  # fmt: skip


def read_part(engine: Verifier, asked: Asked) -> Part:
    """Return a part with its file decoded.

    Raises:
        QueryError: the file is not readable, or an item is asked of a run without an index.
        IndexStoreError: the index holds no such item.
    """
    name: dict[str, Any] = {"weight": asked.weight, "minus": asked.minus, "name": asked.value}
    if asked.kind == "audio":
        return Part("audio", read_sound(Path(asked.value)), **name)
    if asked.kind == "image":
        return Part("image", read_picture(Path(asked.value), frame_px(engine)), **name)
    if asked.kind == "item":
        if engine.snapshot is None:
            raise QueryError(f"{asked.value}: a run alone holds no items; name the index that does")
        segment, row = engine.snapshot.find(asked.value)
        return Part(segment.modality, segment.vectors_ND[row].astype("float32"), **name)
    return Part("text", asked.value, **name)


def ask(config: QueryConfig) -> tuple[Engine, QueryResult]:
    """Open the index, answer one question; return both.

    Raises:
        QueryError: a file is not readable, or the parts or the filter make no question.
        IndexStoreError, IndexMismatchError, CheckpointError: the index or its encoder is not in order.
    """
    if not config.asked:
        raise QueryError("there is nothing to search with; give a sound, a picture, a text or an item")
    marks = [time.perf_counter()]
    engine = config.open()
    marks.append(time.perf_counter())
    parts = tuple(read_part(engine, asked) for asked in config.asked)
    marks.append(time.perf_counter())
    result = engine.ask(question_of(config, parts))
    before = {name: round(1000 * (marks[n + 1] - marks[n]), 3) for n, name in enumerate(("open", "decode"))}
    return engine, replace(result, timings_ms=before | result.timings_ms)


def run_query(config: QueryConfig) -> QueryResult:
    """Answer one question, as `ask`."""
    return ask(config)[1]
