"""Where to look for the picture that fits best: n seeds, more seeds looked at early, or the noise around the best.

All three spend what n whole pictures cost, counted in pictures that pass the network.

Source: zero-order search of arXiv 2501.09732, section 3.2, with neighbours of unit variance; pruning by the denoised
estimate x0.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .errors import GenerateError
from .pictures import Candidate, Made, Pictures
from .studio import Progress, Studio

METHODS = ("best-of-n", "prune", "zero-order")
MAX_PICTURES = 10_000
PREVIEW_SHARE = 0.2
"""Of the steps, before an estimate is scored; how it was chosen: docs/generate.md."""
FINALIST_SHARE = 0.25
"""Of n, that pruning finishes."""
START_SHARE = 0.25
"""Of n, that the zero-order search draws before it looks around the best."""

Score = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Cosines (C,) of pictures uint8 (H, W, 3) with the sound."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """How candidates are found."""

    method: str = "best-of-n"
    n: int = 20
    """Candidates a prompt; the other methods spend as many evaluations of the network as so many pictures take."""
    seed: int = 0
    """The first seed; the others count up from it."""
    preview_steps: int | None = None
    """Of `prune`: steps before an estimate is scored; None: a fifth of all."""
    finalists: int | None = None
    """Of `prune`: pictures that are finished; None: a quarter of `n`."""
    neighbours: int = 2
    """Of `zero-order`: noises that are tried around the best before the best of them takes its place."""
    mix: float = 0.3
    """Of `zero-order`: share of new noise in a neighbour, above 0 to 1; 1 would be a new noise."""

    def __post_init__(self) -> None:
        """Refuse what cannot be searched.

        Raises:
            GenerateError: no picture would be made.
        """
        if self.method not in METHODS:
            raise ValueError(f"search is {self.method!r}, want {', '.join(METHODS)}")
        if self.n < 1:
            raise GenerateError(f"there are no candidates: -n is {self.n}, want 1 to {MAX_PICTURES}")
        if self.n > MAX_PICTURES:
            raise ValueError(f"n is {self.n}, want 1 to {MAX_PICTURES}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed is {self.seed}, want 0 to {2**31 - 1}")
        if self.neighbours < 1 or not 0 < self.mix <= 1:
            raise ValueError(f"neighbours is {self.neighbours} and mix {self.mix}, want 1 or more, and above 0 to 1")
        for name in ("preview_steps", "finalists"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}, want at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """What became of a candidate."""

    candidate: Candidate
    made: Made | None
    """None where it was pruned."""
    estimate: Made | None = None
    """What pruning looked at."""
    estimate_score: float | None = None
    """Cosine of the estimate with the sound."""
    score: float | None = None
    """Cosine of the picture with the sound; None where it was dropped."""
    dropped: str = ""
    """Why it was, before anything was scored; empty where it was not."""

    @property
    def evaluations(self) -> int:
        """Return the pictures that passed the network for it."""
        return sum(one.evaluations for one in (self.made, self.estimate) if one is not None)


def search(studio: Studio, config: SearchConfig, score: Score, progress: Progress) -> list[Tried]:
    """Return what was tried, for each prompt in the order of the trials.

    Raises:
        PipelineError, GenerateError: as `Studio.make`.
    """
    methods = {"best-of-n": _best_of_n, "prune": _prune, "zero-order": _zero_order}
    tried: list[Tried] = []
    for number in range(len(studio.prompts)):
        tried += methods[config.method](studio, config, number, score, progress)
    return tried


def _best_of_n(studio: Studio, config: SearchConfig, prompt: int, score: Score, progress: Progress) -> list[Tried]:
    seeds = range(config.seed, config.seed + config.n)
    return _finished(studio, [Candidate(prompt=prompt, seeds=(seed,)) for seed in seeds], score, progress)


def _prune(studio: Studio, config: SearchConfig, prompt: int, score: Score, progress: Progress) -> list[Tried]:
    steps, finalists, looked_at = pruning_plan(config, studio.shot.steps)
    seeds = range(config.seed, config.seed + looked_at)
    candidates = [Candidate(prompt=prompt, seeds=(seed,)) for seed in seeds]
    estimates = studio.estimate(candidates, steps, progress)
    scores = score(Pictures(estimates))
    best = set(np.argsort(-scores, kind="stable")[:finalists].tolist())
    chosen = [candidate for number, candidate in enumerate(candidates) if number in best]
    finished = {one.candidate: one for one in _finished(studio, chosen, score, progress)}
    pruned = f"pruned after {steps} of {studio.shot.steps} steps"
    return [
        replace(
            finished.get(candidate, Tried(candidate=candidate, made=None, dropped=pruned)),
            estimate=estimate, estimate_score=float(value),
        )
        for candidate, estimate, value in zip(candidates, estimates, scores, strict=True)
    ]  # fmt: skip


def pruning_plan(config: SearchConfig, steps: int) -> tuple[int, int, int]:
    """Return steps before an estimate, pictures that are finished, and candidates that are looked at.

    Together they cost at most what `n` whole pictures do. Finalists begin anew: each is the picture of its seed.

    Raises:
        GenerateError: nothing is left to be looked at.
    """
    looked_steps = min(config.preview_steps or max(1, round(PREVIEW_SHARE * steps)), steps)
    finalists = config.finalists or max(1, int(FINALIST_SHARE * config.n))
    looked_at = (config.n - finalists) * steps // looked_steps
    if looked_at < finalists:
        raise GenerateError(
            f"pruning with -n {config.n} leaves {max(looked_at, 0)} candidates to look at for {finalists} to finish; "
            "raise -n, or lower --finalists or --preview-steps"
        )
    return looked_steps, finalists, looked_at


def _zero_order(studio: Studio, config: SearchConfig, prompt: int, score: Score, progress: Progress) -> list[Tried]:
    start = max(1, int(START_SHARE * config.n))
    seeds = range(config.seed, config.seed + start)
    tried = _finished(studio, [Candidate(prompt=prompt, seeds=(seed,)) for seed in seeds], score, progress)
    for first, count in _rounds(start, config):
        pivot = max(tried, key=lambda one: -np.inf if one.score is None else one.score).candidate
        fresh = range(config.seed + first, config.seed + first + count)
        around = [Candidate(prompt=prompt, seeds=(*pivot.seeds, seed)) for seed in fresh]
        tried += _finished(studio, around, score, progress)
    return tried


def _rounds(start: int, config: SearchConfig) -> Iterator[tuple[int, int]]:
    """Yield the first number and the count of the pictures of each round."""
    for first in range(start, config.n, config.neighbours):
        yield first, min(config.neighbours, config.n - first)


def _finished(
    studio: Studio, candidates: Sequence[Candidate], score: Score, progress: Progress
) -> list[Tried]:  # fmt: skip
    """Make candidates, drop what is not to be scored, and score the rest."""
    made = studio.make(candidates, progress)
    kept = [one for one in made if not one.dropped]
    values = dict(zip((one.candidate for one in kept), score(Pictures(kept)).tolist(), strict=True))
    return [
        Tried(candidate=one.candidate, made=one, score=values.get(one.candidate), dropped=one.dropped) for one in made
    ]
