"""How much of the true answers a search finds, with its interval.

Recall counts scores, not rows: an answer that scores as high as the K-th true one is right, whichever of several
equal rows it is (as ann-benchmarks counts). Shapes: Q queries, K answers.
"""

from dataclasses import dataclass

import numpy as np

EPSILON = 2e-6
"""Scores this close count as equal: sums of float32 products of unit vectors differ so much by their order."""
RESAMPLES = 1000
INTERVAL = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Recall:
    """Mean recall of many queries, and its 95 % interval by bootstrap over queries."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Return rounded values for JSON."""
        return {"value": round(self.value, 5), "low": round(self.low, 5), "high": round(self.high, 5)}


PERFECT = Recall(1.0, 1.0, 1.0)


def recalls(found_QK: np.ndarray, truth_QK: np.ndarray, k: int) -> np.ndarray:
    """Return the recall at `k` of each query, float64 (Q,).

    Args:
        found_QK: scores of what was found, best first, -inf where nothing was.
        truth_QK: true scores, best first, at least `k` columns; -inf where fewer rows match.
        k: answers that count.
    """
    truth = truth_QK[:, :k]
    possible_Q = np.isfinite(truth).sum(axis=1)
    least_Q = np.where(np.isfinite(truth), truth, np.inf).min(axis=1, initial=np.inf)
    found = found_QK[:, :k]
    right_Q = (np.isfinite(found) & (found >= least_Q[:, None] - EPSILON)).sum(axis=1)
    return np.where(possible_Q > 0, np.minimum(right_Q, possible_Q) / np.maximum(possible_Q, 1), 1.0)


def summarize(recalls_Q: np.ndarray, seed: int) -> Recall:
    """Return mean and interval over queries."""
    rng = np.random.default_rng(seed)
    values, counts = np.unique(recalls_Q, return_counts=True)
    drawn = rng.multinomial(len(recalls_Q), counts / len(recalls_Q), size=RESAMPLES)
    means = drawn @ values / len(recalls_Q)
    low, high = np.quantile(means, INTERVAL)
    return Recall(float(recalls_Q.mean()), float(low), float(high))
