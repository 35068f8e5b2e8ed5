"""Average precision, AUC and what is made of them; pure functions.

Average precision is the sum over distinct scores of the gain in recall times the precision there, so that ties are one
step (scikit-learn's `average_precision_score` is defined alike). Scores that are all the same give the share of
positives; a random order gives a little more, and by how much is known exactly.

Shapes: N samples, E runs of equal scores, P positives of a class.
"""

import math
from statistics import NormalDist

import numpy as np


def average_precision(scores_N: np.ndarray, relevant_N: np.ndarray) -> float:
    """Return the average precision of one class; `relevant_N` boolean, at least one true."""
    if not relevant_N.any():
        raise ValueError("a class without positives has no average precision")
    order = np.argsort(-scores_N, kind="stable")
    ordered, hits_N = scores_N[order], relevant_N[order].cumsum()
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # of each run of equal scores
    hits_E = hits_N[ends]
    return float((np.diff(hits_E, prepend=0) * hits_E / (ends + 1)).sum() / hits_E[-1])


def auc(scores_N: np.ndarray, relevant_N: np.ndarray) -> float:
    """Return the chance that a positive scores above a negative, ties half; both must be there."""
    ordered = np.sort(scores_N)
    positive = scores_N[relevant_N]
    below = np.searchsorted(ordered, positive, "left")
    upto = np.searchsorted(ordered, positive, "right")
    middles = (below + upto + 1) / 2
    num_p, num_n = len(positive), len(scores_N) - len(positive)
    if not num_p or not num_n:
        raise ValueError("a class without positives or negatives has no AUC")
    return float((middles.sum() - num_p * (num_p + 1) / 2) / (num_p * num_n))


def d_prime(mean_auc: float) -> float | None:
    """Return the distance of two unit normals with this AUC: sqrt(2) times its quantile; None: beyond all numbers."""
    return math.sqrt(2) * NormalDist().inv_cdf(mean_auc) if 0 < mean_auc < 1 else None


def random_order_ap(positives: int, samples: int) -> float:
    """Return the expected average precision of a random order without ties, exactly.

    The mean over ranks k of the expected precision there, given a hit: (1 + (k - 1) (P - 1) / (N - 1)) / k.
    """
    if samples == 1:
        return 1.0
    harmonic = float((1 / np.arange(1, samples + 1)).sum())
    return (harmonic + (positives - 1) / (samples - 1) * (samples - harmonic)) / samples
