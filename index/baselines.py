"""What a choice is worth: the chosen picture beside the first seed, a random one, and the one that fits the words.

Shapes: C candidates.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .generation import Generation, Placed

DIGITS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """One way to choose, and what it comes to."""

    name: str
    score: float
    """Cosine with the sound."""
    z: float | None
    """Deviations above random pairs."""
    judged: float | None
    """What the judge says of the same picture."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def baselines(generation: Generation) -> tuple[Baseline, ...]:
    """Return the ways to choose; without a single scored picture there are none.

    Pruning finishes only what it has chosen already, so that it knows neither a first nor a random picture.
    """
    scored = [one for one in generation.placed if one.ranked is not None]
    if not scored:
        return ()
    found = [_of("chosen: nearest to the sound", scored[:1])]
    drawn = [one for one in scored if len(one.tried.candidate.seeds) == 1]
    if generation.config.search.method != "prune" and drawn:
        first = min(drawn, key=lambda one: (one.tried.candidate.seed, one.tried.candidate.prompt))
        found += [_of("first seed", [first]), _of(f"random: mean of {len(drawn)}", drawn)]
    worded = [one for one in scored if one.worded is not None]
    if worded:
        found.append(_of("nearest to its prompt, by the run", [max(worded, key=lambda one: one.worded or 0.0)]))
    judged = [one for one in scored if one.judged is not None]
    if judged:
        found.append(_of("the judge's own choice", [max(judged, key=lambda one: one.judged or 0.0)]))
    return tuple(found)


def gain_curve(generation: Generation) -> list[tuple[int, float]]:
    """Return what is to be expected of the best of 1, 2, ... seeds; empty where candidates were not drawn alike."""
    scores = [one.ranked.score for one in generation.placed if one.ranked is not None]
    if generation.config.search.method != "best-of-n" or not scores:
        return []
    return [(n, round(value, DIGITS)) for n, value in enumerate(expected_best(scores), 1)]


def spent_curve(generation: Generation) -> list[tuple[int, float]]:
    """Return the best cosine so far against evaluations of the network, in the order of the trials of one prompt.

    Empty for several prompts, where the order means nothing.
    """
    if len(generation.prompts) > 1:
        return []
    order = sorted(generation.placed, key=_when)
    spent = sum(one.tried.estimate.evaluations for one in order if one.tried.estimate is not None)
    curve: list[tuple[int, float]] = []
    for one in order:
        spent += 0 if one.tried.made is None else one.tried.made.evaluations
        if one.ranked is not None:
            curve.append((spent, max(one.ranked.score, curve[-1][1] if curve else one.ranked.score)))
    return curve


def expected_best(scores: Sequence[float]) -> list[float]:
    """Return the expected largest of n scores drawn without putting back, for n from 1 to C.

    The i-th smallest is the largest of n in C(i - 1, n - 1) of C(C, n) draws.

    >>> [round(value, 3) for value in expected_best([0.0, 1.0, 2.0])]
    [1.0, 1.667, 2.0]
    """
    ascending_C = np.sort(np.asarray(scores, np.float64))
    count = len(ascending_C)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    found = []
    for n in range(1, count + 1):
        i = np.arange(n - 1, count)
        chosen = factorials[i] - factorials[n - 1] - factorials[i - n + 1]
        shares = np.exp(chosen - (factorials[count] - factorials[n] - factorials[count - n]))
        found.append(float(shares @ ascending_C[n - 1 :]))
    return found


def _of(name: str, chosen: Sequence[Placed]) -> Baseline:
    ranked = [one.ranked for one in chosen if one.ranked is not None]
    z = [one.calibrated for one in ranked if one.calibrated is not None]
    judged = [one.judged for one in chosen if one.judged is not None]
    return Baseline(
        name=name, score=round(float(np.mean([one.score for one in ranked])), DIGITS),
        z=round(float(np.mean(z)), DIGITS) if z else None,
        judged=round(float(np.mean(judged)), DIGITS) if judged else None,
    )  # fmt: skip


def _when(one: Placed) -> tuple[int, int]:
    return one.tried.candidate.prompt, one.tried.candidate.seed
