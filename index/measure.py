"""What `eval.json` says of a direction: recall at several numbers of answers, with filters, and how fast.

Shapes: Q queries, K answers.
"""

import time
from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from .ann import LEVELS, Setting
from .recall import PERFECT, recalls, summarize
from .search import Hits, most_thorough, search_parts
from .tune import Trial

RECALL_AT = (1, 10, 100)
SELECTIVITIES = (0.5, 0.1, 0.01, 0.001)
"""Shares of the rows that random filters keep."""
FILTER_QUERIES = 200
SINGLE_QUERIES = 300
SUMS = 500
"""Questions of two parts that are measured, of each pair of modalities."""
PERCENTILES = {"p50": 50, "p95": 95, "p99": 99}


def exact_direction(target: float) -> dict[str, Any]:
    """Return the entry of a direction that is searched exactly: nothing to measure, nothing that varies."""
    return {
        "queries": 0, "source": "exact search", "target": target,
        "recall": {str(k): PERFECT.as_dict() for k in RECALL_AT},
        "filters": {f"{share:g}": PERFECT.as_dict() for share in SELECTIVITIES},
    }  # fmt: skip


def measure_direction(trial: Trial, settings: list[Setting], target: float) -> dict[str, Any]:
    """Return the entry of a direction that is searched approximately.

    Args:
        trial: the queries that verify, their true scores, the segments as they are served.
        settings: one a level.
        target: recall that was asked for.
    """
    first = settings[0]
    singles = _time_singles(trial, first)
    return {
        "queries": len(trial.asked.queries_QD), "source": trial.asked.source, "target": target,
        "recall": {str(k): _recall(trial, settings, k) for k in RECALL_AT},
        "filters": {f"{share:g}": _filtered_recall(trial, first, share) for share in SELECTIVITIES},
        "ms": {name: round(float(np.percentile(singles, at)) * 1e3, 4) for name, at in PERCENTILES.items()},
        "qps_single": round(len(singles) / float(singles.sum()), 1),
        "qps_batch": round(len(trial.asked.queries_QD) / min(trial.run(first, fill=True).wall_s for _ in range(3)), 1),
    }  # fmt: skip


def measure_sums(trials: Mapping[str, Trial], settings: Mapping[str, Sequence[Setting]]) -> dict[str, dict[str, Any]]:
    """Return the recall of questions of two parts, equally heavy, by their modalities, such as `audio+image`.

    Args:
        trials: by query modality: the queries that verify, and the segments as they are served.
        settings: by query modality, one a level; two modalities together take the most thorough, as serving does.
    """
    found = {}
    for first, second in combinations_with_replacement(sorted(trials), 2):
        trial, others_QD = trials[first], trials[second].asked.queries_QD
        number = min(len(trial.asked.queries_QD), len(others_QD), SUMS)
        sums_QD = trial.asked.queries_QD[:number] + np.roll(others_QD[:number], 1, axis=0)
        sums_QD /= np.maximum(np.linalg.norm(sums_QD, axis=1, keepdims=True), np.float32(1e-6))
        truth_QK = search_parts(trial.parts, sums_QD, LEVELS[-1], None).scores_QK
        recall = {}
        for place, level in enumerate(LEVELS):
            same = settings[first] if first == second else [most_thorough(s[place] for s in settings.values())]
            setting = next(s for s in same if s.level == level)
            hits = search_parts(trial.parts, sums_QD, level, setting)
            recall[str(level)] = summarize(recalls(hits.scores_QK, truth_QK, level), trial.seed).as_dict()
        found[f"{first}+{second}"] = {"queries": number, "recall": recall}
    return found


def _recall(trial: Trial, settings: list[Setting], k: int) -> dict[str, float]:
    setting = next(s for s in settings if k <= s.level)
    hits = search_parts(trial.parts, trial.asked.queries_QD, k + trial.asked.spare, setting)
    return summarize(recalls(trial.asked.scores(hits), trial.truth_QK, k), trial.seed).as_dict()


def _filtered_recall(trial: Trial, setting: Setting, share: float) -> dict[str, float]:
    """Return the recall among rows that a random filter keeps, the way such a filter is searched."""
    rng = np.random.default_rng([trial.seed, round(1 / share)])
    allowed = {part.id: rng.random(len(part.scan.vectors_ND)) < share for part in trial.parts}
    asked = trial.asked.part(0, FILTER_QUERIES)

    def find(how: Setting | None) -> Hits:
        return search_parts(trial.parts, asked.queries_QD, setting.level + asked.spare, how, allowed)

    return summarize(
        recalls(asked.scores(find(setting)), asked.scores(find(None)), setting.level), trial.seed
    ).as_dict()


def _time_singles(trial: Trial, setting: Setting) -> np.ndarray:
    """Return the seconds that each query takes alone."""
    queries = [query[None] for query in trial.asked.queries_QD[:SINGLE_QUERIES]]
    seconds = []
    for query in queries:
        began = time.perf_counter()
        search_parts(trial.parts, query, setting.level, setting)
        seconds.append(time.perf_counter() - began)
    return np.array(seconds)
