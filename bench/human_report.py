"""`bench human report`: whose answers count, and what they say of the systems.

Valid raters answered every trial, did not withdraw, and chose the photo in enough of the catch trials; the first of
them to finish count, as many as the study wanted. While there are fewer, no figure is computed. People and simulated
raters are never counted together, and whatever comes of simulated ones says so in every row.

Shapes: R raters, I items.
"""

from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np

from .environment import environment
from .human import PROTOCOL, Study, Trial
from .human_answers import CHOICES, Answers, Session
from .human_stats import cluster_bootstrap, coin_p, krippendorff_alpha, mcnemar_p, wilson

PICTURE, FOIL, NEITHER = range(len(CHOICES))
SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class Counted:
    """The sessions that count, and how many do not, by reason."""

    valid: list[Session]
    left_out: dict[str, int]


def valid_sessions(study: Study, answers: Answers, *, simulated: bool) -> Counted:
    """Return the sessions that count, by the rules that were frozen with the study."""
    sessions = answers.of(simulated=simulated)
    finished = [s for s in answers.finished if s.is_simulated == simulated and not s.is_withdrawn]
    attentive = [session for session in finished if catches_passed(study, session) >= study.config.catch_pass]
    withdrawn = sum(session.is_withdrawn for session in sessions)
    left_out = {
        "withdrawn": withdrawn, "unfinished": len(sessions) - withdrawn - len(finished),
        "failed_catches": len(finished) - len(attentive), "beyond": max(0, len(attentive) - study.config.raters),
    }  # fmt: skip
    return Counted(attentive[: study.config.raters], left_out)


def catches_passed(study: Study, session: Session) -> float:
    """Return in which share of the catch trials a rater chose the photo of the right class."""
    passed = [session.answers[trial.trial].choice == "picture" for trial in study.catches]
    return sum(passed) / len(passed)


def measure(study: Study, answers: Answers, *, simulated: bool | None = None) -> dict[str, Any]:
    """Return the result, in the shape of all results of `bench`.

    Args:
        study: as it was frozen.
        answers: to it.
        simulated: of the simulated raters; None: of them if no person has begun yet.
    """
    if simulated is None:
        simulated = bool(answers.sessions) and not answers.of(simulated=False)
    counted = valid_sessions(study, answers, simulated=simulated)
    enough = len(counted.valid) >= study.config.raters
    metrics, interval = _figures(study, counted.valid) if enough else ({}, {})
    mark = f" ({SIMULATED})" if simulated else ""
    return {
        "bench": "human", "protocol": f"{PROTOCOL}{mark}", "tower": f"{study.systems[0]}{mark}",
        "metrics": metrics, "chance": {"agree": round(1 / 3, 4), "preference": 0.5},
        "oracle": {"agree": 1.0, "preference": 1.0}, "coverage": _coverage(study, answers, counted, simulated),
        "interval": interval | {"level": study.config.level}, "seed": study.config.seed,
        "status": SIMULATED if simulated else "ok" if enough else "insufficient", "simulated": simulated,
        "study": study.sha256, "title": study.config.title, "environment": environment(),
    }  # fmt: skip


def _coverage(study: Study, answers: Answers, counted: Counted, simulated: bool) -> dict[str, Any]:
    given = [answer for session in counted.valid for answer in session.answers.values()]
    return {
        "raters": len(counted.valid), "wanted": study.config.raters, "begun": len(answers.of(simulated=simulated)),
        "left_out": counted.left_out, "trials": len(study.rated), "catches": len(study.catches),
        "classes": len({trial.category for trial in study.rated}), "answers": len(given),
        "median_s": round(median(answer.time_ms for answer in given) / 1000, 2) if given else None,
        "replays": sum(answer.replays for answer in given), "half_lines": answers.torn,
    }  # fmt: skip


def _figures(study: Study, sessions: list[Session]) -> tuple[dict[str, Any], dict[str, Any]]:
    chosen = {name: [trial for trial in study.rated if trial.system == name] for name in study.systems}
    outcomes = {name: _outcomes(sessions, trials) for name, trials in chosen.items()}
    figures = {name: _system(study, trials, outcomes[name]) for name, trials in chosen.items()}
    by_system = {name: metrics for name, (metrics, _) in figures.items()}
    intervals = {name: interval for name, (_, interval) in figures.items()}
    passed = [catches_passed(study, session) for session in sessions]
    pairs = [
        _pair(study, (first, chosen[first], outcomes[first]), (second, chosen[second], outcomes[second]))
        for first, second in combinations(study.systems, 2)
    ]
    primary = study.systems[0]
    metrics = by_system[primary] | {"catches_passed": round(sum(passed) / len(passed), 4)}
    return metrics | {"by_system": by_system, "pairs": pairs}, intervals[primary] | {"by_system": intervals}


def _outcomes(sessions: list[Session], trials: list[Trial]) -> np.ndarray:
    """Return the choices as their numbers (R, I)."""
    return np.array([[CHOICES.index(session.answers[t.trial].choice) for t in trials] for session in sessions])


def _system(study: Study, trials: list[Trial], outcomes_RI: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of one system and their intervals: by Wilson, and with raters and items drawn anew."""
    config = study.config
    counts = [int((outcomes_RI == choice).sum()) for choice in range(len(CHOICES))]
    chosen, decided, total = counts[PICTURE], counts[PICTURE] + counts[FOIL], outcomes_RI.size
    alpha = krippendorff_alpha([_names(trial, outcomes_RI[:, i]) for i, trial in enumerate(trials)])
    metrics = {
        **dict(zip(CHOICES, counts, strict=True)), "answers": total, "items": len(trials),
        "agree": _rounded(chosen / total), "disagree": _rounded(counts[FOIL] / total),
        "undecided": _rounded(counts[NEITHER] / total),
        "preference": _rounded(chosen / decided) if decided else None, "p": coin_p(chosen, decided),
        "alpha": None if alpha is None else _rounded(alpha),
    }  # fmt: skip
    parts = (outcomes_RI == PICTURE).astype(np.float64)
    wholes = {"agree": np.ones_like(parts), "preference": (outcomes_RI != NEITHER).astype(np.float64)}
    interval = {
        name: _bounds(cluster_bootstrap(
            parts, whole, seed=config.seed, resamples=config.resamples, level=config.level
        ))
        for name, whole in wholes.items()
    }  # fmt: skip
    interval |= {"agree_wilson": _bounds(wilson(chosen, total, config.level))}
    return metrics, interval | {"preference_wilson": _bounds(wilson(chosen, decided, config.level))}


def _names(trial: Trial, outcomes_R: np.ndarray) -> list[str]:
    """Return which of the two files each rater chose.

    Agreement is about files, not about right and wrong: raters who all choose the right picture agree perfectly, while
    values that are all "right" would leave nothing to agree about. Blind names serve as labels of equal frequency.
    """
    first, second = ("a", "b") if trial.picture < trial.foil else ("b", "a")
    return [(first, second, "neither")[outcome] for outcome in outcomes_R]


Column = tuple[str, list[Trial], np.ndarray]


def _pair(study: Study, first: Column, second: Column) -> dict[str, Any]:
    """Compare two systems by the sounds that both were asked for, rater by rater."""
    config, places = study.config, {trial.item: i for i, trial in enumerate(second[1])}
    shared = [(i, places[trial.item]) for i, trial in enumerate(first[1]) if trial.item in places]
    told: dict[str, Any] = {"first": first[0], "second": second[0], "items": len(shared)}
    if not shared:
        return told
    one_RI, other_RI = (side[2][:, [pair[k] for pair in shared]] == PICTURE for k, side in enumerate((first, second)))
    only_first, only_second = int((one_RI & ~other_RI).sum()), int((other_RI & ~one_RI).sum())
    difference_RI = one_RI.astype(np.float64) - other_RI
    bounds = cluster_bootstrap(
        difference_RI, np.ones_like(difference_RI), seed=config.seed, resamples=config.resamples, level=config.level
    )
    return told | {
        "only_first": only_first, "only_second": only_second, "p": mcnemar_p(only_first, only_second),
        "difference": _rounded(float(difference_RI.mean())), "difference_interval": _bounds(bounds),
    }  # fmt: skip


def _rounded(value: float) -> float:
    return round(float(value), 4)


def _bounds(bounds: tuple[float, float] | None) -> list[float] | None:
    return None if bounds is None else [_rounded(bound) for bound in bounds]
