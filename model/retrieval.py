"""Ranks and the figures made of them; pure functions, used by training and benchmarks alike.

Shapes: Q queries, G gallery items.
"""

from dataclasses import dataclass

import numpy as np


def first_ranks(scores_QG: np.ndarray, relevant_QG: np.ndarray) -> np.ndarray:
    """Return the rank of each query's best relevant item, float64 (Q,), 1 at best.

    A tie counts half: rank = 1 + the irrelevant items that score higher + half of those that score the same, so
    that a model which scores everything alike gets what chance gets, not what the sort order gives.
    """
    if not relevant_QG.any(axis=1).all():
        raise ValueError("a query without a relevant item has no rank")
    best_Q1 = np.where(relevant_QG, scores_QG, -np.inf).max(axis=1, keepdims=True)
    higher_Q = ((scores_QG > best_Q1) & ~relevant_QG).sum(axis=1)
    equal_Q = ((scores_QG == best_Q1) & ~relevant_QG).sum(axis=1)
    return 1.0 + higher_Q + equal_Q / 2


def chance_recall(num_relevant_Q: np.ndarray, gallery: int, k: int) -> float:
    """Return the expected R@k of a random order, exactly: mean of 1 - C(G - R, k) / C(G, k)."""
    k = min(k, gallery)
    miss_Q = np.ones(len(num_relevant_Q))
    for i in range(k):
        miss_Q *= np.clip((gallery - num_relevant_Q - i) / (gallery - i), 0, 1)
    return float(1 - miss_Q.mean())


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """Figures of one direction."""

    r1: float
    r5: float
    r10: float
    medr: float
    mrr: float
    queries: int
    gallery: int
    chance_r1: float
    chance_r5: float
    chance_r10: float


def score(scores_QG: np.ndarray, relevant_QG: np.ndarray) -> RetrievalScores:
    """Score a direction; `relevant_QG` is boolean, with at least one true item in each row."""
    ranks = first_ranks(scores_QG, relevant_QG)
    queries, gallery = scores_QG.shape
    r1, r5, r10 = (float((ranks <= k).mean()) for k in (1, 5, 10))
    chance_r1, chance_r5, chance_r10 = (chance_recall(relevant_QG.sum(axis=1), gallery, k) for k in (1, 5, 10))
    return RetrievalScores(
        r1=r1, r5=r5, r10=r10, medr=float(np.median(ranks)), mrr=float((1 / ranks).mean()), queries=queries,
        gallery=gallery, chance_r1=chance_r1, chance_r5=chance_r5, chance_r10=chance_r10,
    )  # fmt: skip
