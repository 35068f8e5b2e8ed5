"""One HTML file that shows retrieval results to a person: pictures, players, scores, tables.

The file holds everything it shows and its content security policy forbids any request. It is a report,
written once: searching happens elsewhere.
"""

import base64
import functools
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jinja2

from ..shards.atomic import write_bytes

Modality = Literal["audio", "image"]

CURVE_BOX = (600, 200)
"""Width and height of a curve's drawing."""
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PROSE = 32  # characters: no figure with its bounds has more
_ALT_CHARACTERS = 160  # a screen reader reads the whole text out


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A clip as the page shows it, as a query or as an answer."""

    title: str
    """Caption of the clip."""
    subtitle: str
    """Labels, language, time span; empty for none."""
    key: str
    """Name of the clip in the index."""
    image: bytes | None
    """A JPEG or PNG file; None where the clip has no picture."""
    audio: bytes | None
    """A FLAC or WAV file; None where the clip has no sound."""
    score: float | None
    """Cosine with the query; None shows no score."""
    rank: int | None
    """Place among the answers, from 1; None shows no place."""
    is_true: bool | None
    """Whether this is the true answer; None means unknown and shows no mark."""

    def __post_init__(self) -> None:
        """Refuse a score that cannot be drawn."""
        if self.score is not None and not math.isfinite(self.score):
            raise ValueError(f"the score of {self.key!r} is {self.score}, expected a finite number")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One query with its answers, best first."""

    heading: str
    """What the reader sees above the query."""
    direction: str
    """From what to what, in words: "sound to picture"."""
    query_modality: Literal["audio", "image", "text"]
    """What was searched with; the query card shows only this one openly, and words as its title."""
    answer_modality: Modality
    """What was searched for; the answers show this one large and the other one small."""
    query: Card
    """The clip that was searched with."""
    answers: tuple[Card, ...]
    """The clips that were found."""
    true_rank: float | None
    """Place of the true answer in the whole gallery, from 1; ties give halves. None where unknown."""
    gallery: int | None
    """How many clips were searched; None where unknown."""
    large: bool = False
    """Shows the pictures of the answers large: they were chosen, and are what the page is about."""

    def __post_init__(self) -> None:
        """Refuse a modality that the page cannot show."""
        for modality, words in ((self.query_modality, ("text",)), (self.answer_modality, ())):
            if modality not in ("audio", "image", *words):
                raise ValueError(f"unknown modality {modality!r}, expected 'audio' or 'image'")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of texts whose first column names the rows."""

    caption: str
    """What the table shows."""
    columns: tuple[str, ...]
    """Column heads."""
    rows: tuple[tuple[str, ...], ...]
    """Cells, each row as long as `columns`."""
    note: str
    """How to read the table; empty for none."""

    def __post_init__(self) -> None:
        """Refuse rows that do not fit the columns."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.caption!r}: a row has {len(row)} cells, expected {len(self.columns)}: {row}"
                )

    @property
    def prose(self) -> frozenset[int]:
        """Return the columns that hold sentences rather than figures."""
        return frozenset(
            column for column in range(1, len(self.columns)) if any(len(row[column]) > _PROSE for row in self.rows)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A line through points, drawn with its first and last value."""

    x_label: str
    y_label: str
    points: tuple[tuple[float, float], ...]
    """At least two, x ascending."""

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if len(self.points) < 2 or not all(math.isfinite(value) for point in self.points for value in point):
            raise ValueError(f"a curve has {len(self.points)} points, expected at least 2 of finite numbers")

    @property
    def path(self) -> str:
        """Return the points of an SVG line, in a box of `CURVE_BOX`."""
        width, height = CURVE_BOX
        xs, ys = zip(*self.points, strict=True)
        spans = [max(max(values) - min(values), 1e-9) for values in (xs, ys)]
        return " ".join(
            f"{(x - min(xs)) / spans[0] * width:.1f},{height - (y - min(ys)) / spans[1] * height:.1f}"
            for x, y in self.points
        )  # fmt: skip

    @property
    def ends(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Return least and largest x and y as texts."""
        xs, ys = zip(*self.points, strict=True)
        return (f"{min(xs):,g}", f"{max(xs):,g}"), (f"{min(ys):z.3f}", f"{max(ys):z.3f}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One wide picture, one curve or one table below the queries."""

    caption: str = ""
    """Of a picture or curve; a table has its own."""
    image: bytes | None = None
    """A JPEG or PNG file, or an SVG of our own."""
    curve: Curve | None = None
    table: Table | None = None
    note: str = ""
    """How to read it; empty for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Everything on one page, in the order in which it appears."""

    title: str
    """Title of the window and first heading."""
    paragraphs: tuple[str, ...]
    """Plain text under the title."""
    tables: tuple[Table, ...]
    """Measurements."""
    questions: tuple[Question, ...]
    """Queries with their answers."""
    facts: tuple[tuple[str, str], ...]
    """Names and values for the record (index, encoder, versions), small at the end."""
    figures: tuple[Figure, ...] = ()
    """Below the queries."""


def render(page: Page) -> str:
    """Return the page as HTML; the same page gives the same text.

    Raises:
        ValueError: a picture or sound is in none of the supported formats.
    """
    style = _read_asset("page.css")
    return _template().render(page=page, style=style, policy=_policy(style))


def write_page(page: Page, path: Path) -> None:
    """Write the page to `path`, whole or not at all."""
    # A caption out of JSON can hold half a surrogate pair, which UTF-8 cannot express: it becomes "?".
    write_bytes(path, render(page).encode("utf-8", errors="replace"))


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "brief": _brief,
        "picture_uri": _picture_uri,
        "sound_uri": _sound_uri,
        "bar_width": _bar_width,
        "verdict": _verdict,
    }
    return environment.from_string(_read_asset("page.html"))


def _read_asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _policy(style: str) -> str:
    """Return a policy that allows our own style, data: media and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; media-src data:; "
        f"style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _picture_uri(shown: Card | Figure) -> str:
    data = shown.image or b""
    if data.startswith(b"\xff\xd8\xff"):
        return _data_uri("image/jpeg", data)
    if data.startswith(_PNG_MAGIC):
        return _data_uri("image/png", data)
    if isinstance(shown, Figure) and data.startswith(b"<svg"):  # drawn by us: pictures of clips never are
        return _data_uri("image/svg+xml", data)
    name = shown.key if isinstance(shown, Card) else shown.caption
    raise ValueError(f"the picture of {name!r} starts with {data[:12]!r}, expected a JPEG or PNG file")


def _sound_uri(card: Card) -> str:
    data = card.audio or b""
    if data.startswith(b"fLaC"):
        return _data_uri("audio/flac", data)
    if data.startswith(b"RIFF") and data[8:12] == b"WAVE":
        return _data_uri("audio/wav", data)
    raise ValueError(f"the sound of {card.key!r} starts with {data[:12]!r}, expected a FLAC or WAV file")


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _brief(text: str) -> str:
    return text if len(text) <= _ALT_CHARACTERS else text[: _ALT_CHARACTERS - 3] + "..."


def _bar_width(score: float) -> str:
    """Return how much of the bar a cosine fills; from zero down it is empty."""
    return f"{100 * min(max(score, 0.0), 1.0):.1f}%"


def _verdict(question: Question) -> str:
    """Return where the true answer came, or nothing where that is unknown."""
    rank = question.true_rank
    if rank is None:
        return ""
    place = f"{rank:,.0f}" if rank == int(rank) else f"{rank:,.1f}"
    size = "" if question.gallery is None else f" of {question.gallery:,}"
    return f"true answer at rank {place}{size}"
