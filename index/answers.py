"""What a question is answered with: plain values for JSON, the page and the server."""

from dataclasses import asdict, dataclass
from typing import Any

TOLD = (
    "item_id", "modality", "key", "caption", "labels", "language", "split", "group", "media_id", "start_ms", "end_ms",
    "duration_s", "shard",
)  # fmt: skip
"""Columns of an item that an answer repeats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One item that was found."""

    rank: int
    item_id: str
    modality: str
    score: float
    """Cosine with the question; with `rrf` the weighted mean of the cosines with its parts."""
    calibrated: float
    """Deviations of the cosine above that of random pairs in this direction: compares across modalities."""
    percentile: float
    """Percent of random pairs with a lower cosine."""
    parts: list[float] | None
    """Cosine with each part; None where there is one."""
    fused: float | None
    """What `rrf` sorts by; None for `sum`."""
    key: str
    caption: str
    labels: list[str]
    language: str
    split: str
    group: str
    media_id: str
    start_ms: int
    end_ms: int
    duration_s: float
    shard: str
    clip: dict[str, Any] | None
    """Where its media lie: `tar`, and `offset` and `length` in bytes of a stretch of it that is a tar of its own. None
    where that is not known. The server tells addresses instead, `media` and `thumb`."""
    same_content: int
    """How many more items hold the very same sound or picture; they are not listed, unless `distinct` is off."""
    similar: int
    """How many more answers were left out because they lie as near to this one as `near` says."""
    duplicate_of: str | None
    """The better answer with the same content, where such are listed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """One place of the list over both modalities; the answer itself stands in the list of its modality."""

    rank: int
    item_id: str
    modality: str
    place: int
    """Rank within the list of its modality."""
    calibrated: float
    percentile: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterReport:
    """What the filter and the deletions left to be found, and how the search met that."""

    matched: dict[str, int]
    """Items, by modality."""
    strategy: dict[str, str]
    """By modality: `all`, `matches` (exact on what matches), `selector` (inside the ANN index), `milvus`, `milvus ids`
    and `milvus filter` (by Milvus, the filter told as keys or as an expression)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryResult:
    """What `query --json` prints and the server sends."""

    index: str
    snapshot: str
    encoder: dict[str, str]
    """Fingerprints of what embedded the question."""
    other_encoder: str | None
    """What is wrong with that encoder, where it was accepted all the same: such answers mean little."""
    query: dict[str, Any]
    """What was asked: parts, and how they were combined."""
    mode: str
    """`exact`, or `ann` where at least one list came through an ANN index."""
    params: dict[str, dict[str, Any]]
    """Of the ANN search, by modality that was searched; with `rrf` the largest of any part."""
    recall: float | None
    """What the build measured of such questions, the lowest of the lists; 1 for exact search, None if nothing was."""
    recall_note: str
    """Which questions were measured: direction, number of answers, filter; without a recall, why there is none."""
    recorded: dict[str, dict[str, Any]]
    """All recall that the build measured without filters, by direction searched."""
    timings_ms: dict[str, float]
    """Of the pass that answered this question, with all that came with it: `decode` files, `encode` them, `search`,
    `refine` what the ANN index proposed (no part of `search`; 0 where all is compared), gather the `metadata`."""
    partial: bool
    """Whether some of the index was not searched; it always is."""
    filter: FilterReport
    calibration: dict[str, str]
    """By modality: `recorded` at the build or `sampled` for this question."""
    results: dict[str, list[Answer]]
    """By modality, best first."""
    merged: list[Merged] | None
    """Both lists in one, by calibrated score; None where one modality was searched."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)
