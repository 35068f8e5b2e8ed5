"""Sorts pictures or sounds that need not be in the index by how near they are to a question.

Their scores stand beside the index's background, so that "0.3" says whether that is much: deviations above the mean of
random pairs of that direction, and percent of random pairs that lie below. Shapes: C candidates, D dimensions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .compose import compose
from .engine import describe
from .errors import IndexMismatchError, QueryError
from .question import Part, Question
from .verifier import BareRun, Verifier

MAX_CANDIDATES = 10_000
DIGITS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """One candidate in its place."""

    rank: int
    candidate: int
    """Its number among the candidates as they were given, from 0."""
    name: str
    score: float
    """Cosine with the question."""
    calibrated: float | None
    """Deviations above the mean of random pairs; None without an index, or where it has nothing of the modality."""
    percentile: float | None
    """Percent of random pairs with a lower cosine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankResult:
    """What `rerank` returns."""

    index: str | None
    """None where a run stood alone, without an index."""
    snapshot: str | None
    encoder: dict[str, str]
    other_encoder: str | None
    query: dict[str, Any]
    calibration: str | None
    """`recorded` at the build, or `sampled` for this question."""
    ranked: list[Ranked]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def rerank(
    engine: Verifier,
    parts: Sequence[Part],
    candidates: Sequence[Part],
    *,
    fingerprints: Mapping[str, str] | None = None,
) -> RerankResult:
    """Sort candidates by their cosine with the combined parts, best first; equal ones stay in their order.

    Args:
        engine: embeds the parts and the candidates that are no embeddings yet; an index has the background, too.
        parts: what is compared with.
        candidates: pictures or sounds, all of one modality.
        fingerprints: by modality, of what made the candidates that are embeddings; None: they are the index's own.

    Raises:
        QueryError: the parts make no question, or the candidates are none, too many or of two modalities.
        IndexMismatchError: another model made the candidates' embeddings.
    """
    modalities = {candidate.modality for candidate in candidates}
    if len(modalities) != 1 or len(candidates) > MAX_CANDIDATES:
        what = " and ".join(sorted(modalities)) or "nothing"
        raise QueryError(f"{len(candidates)} candidates ({what}), want 1 to {MAX_CANDIDATES} of one modality")
    target = modalities.pop()
    _refuse_others(engine, target, fingerprints)
    question = Question(parts=tuple(parts))
    composed = compose(question, engine.embed(parts))
    scores_C = engine.embed(candidates) @ composed.query_D
    background = None
    if not isinstance(engine, BareRun) and engine.snapshot.of(target):
        background = engine.calibrator.backgrounds([composed], target)[0]
    order = np.argsort(-scores_C, kind="stable")
    ranked = [
        Ranked(
            rank=rank, candidate=number, name=candidates[number].name, score=round(float(scores_C[number]), DIGITS),
            calibrated=None if background is None else _one(background.calibrated(scores_C[number])),
            percentile=None if background is None else _one(background.percentiles(scores_C[number])),
        )
        for rank, number in enumerate(order.tolist(), 1)
    ]  # fmt: skip
    return RerankResult(
        index=None if engine.snapshot is None else str(engine.snapshot.root),
        snapshot=None if engine.snapshot is None else engine.snapshot.id, encoder=engine.fingerprints,
        other_encoder=engine.other_encoder, query={"parts": describe(question)["parts"], "to": target},
        calibration=None if background is None else background.source, ranked=ranked,
    )  # fmt: skip


def _refuse_others(engine: Verifier, modality: str, fingerprints: Mapping[str, str] | None) -> None:
    if fingerprints is None:
        return
    made, ours = fingerprints.get(modality, "nothing known"), engine.fingerprints[modality]
    if made != ours:
        place = engine.encoder.run if engine.snapshot is None else engine.snapshot.root
        raise IndexMismatchError(
            f"the candidates were embedded by the {modality} model {made[:12]}, {place} by {ours[:12]}; "
            "embed them with that run"
        )


def _one(value: Any) -> float:
    return round(float(value), DIGITS)
