"""Ranks and the figures made of them; pure functions, used by training and benchmarks alike.

Shapes: Q queries, G gallery items.
"""

from dataclasses import asdict, dataclass

import numpy as np


def first_ranks(scores_QG: np.ndarray, relevant_QG: np.ndarray) -> np.ndarray:
    """Return the rank of each query's best relevant item, float64 (Q,), 1 at best.

    A tie counts half: rank = 1 + the irrelevant items that score higher + half of those that score the same, so
    that a model which scores everything alike gets what chance gets, not what the sort order gives.
    """
    if not relevant_QG.any(axis=1).all():
        raise ValueError("a query without a relevant item has no rank")
    if np.isnan(scores_QG).any():
        raise ValueError("a score is no number")
    best_Q1 = np.where(relevant_QG, scores_QG, -np.inf).max(axis=1, keepdims=True)
    higher_Q = ((scores_QG > best_Q1) & ~relevant_QG).sum(axis=1)
    equal_Q = ((scores_QG == best_Q1) & ~relevant_QG).sum(axis=1)
    return 1.0 + higher_Q + equal_Q / 2


def chance_survival(num_relevant_Q: np.ndarray, gallery: int) -> np.ndarray:
    """Return, for r from 0 to G, the chance that a random order has its first relevant item behind rank r, float64.

    Exact, by drawing without replacement, and averaged over the queries: product over i < r of (G - R - i) / (G - i).
    """
    values, counts = np.unique(num_relevant_Q, return_counts=True)
    drawn = np.arange(gallery)
    survival = np.zeros(gallery + 1)
    for relevant, count in zip(values, counts, strict=True):
        steps = np.clip((gallery - relevant - drawn) / (gallery - drawn), 0, 1)
        survival += count * np.concatenate([[1.0], np.cumprod(steps)])
    return survival / counts.sum()


def chance_recall(num_relevant_Q: np.ndarray, gallery: int, k: int) -> float:
    """Return the expected R@k of a random order."""
    return float(1 - chance_survival(num_relevant_Q, gallery)[min(k, gallery)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What ranks come to."""

    r1: float
    r5: float
    r10: float
    medr: float
    mrr: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalScores(Figures):
    """Figures of one direction, beside those of a random order."""

    queries: int
    gallery: int
    chance_r1: float
    chance_r5: float
    chance_r10: float
    chance_medr: float
    chance_mrr: float


def figures(ranks_Q: np.ndarray) -> Figures:
    """Return recall at 1, 5 and 10, median rank and mean reciprocal rank."""
    r1, r5, r10 = (float((ranks_Q <= k).mean()) for k in (1, 5, 10))
    return Figures(r1=r1, r5=r5, r10=r10, medr=float(np.median(ranks_Q)), mrr=float((1 / ranks_Q).mean()))


def score(scores_QG: np.ndarray, relevant_QG: np.ndarray) -> RetrievalScores:
    """Score a direction; `relevant_QG` is boolean, with at least one true item in each row."""
    queries, gallery = scores_QG.shape
    survival = chance_survival(relevant_QG.sum(axis=1), gallery)
    chance = {f"chance_r{k}": float(1 - survival[min(k, gallery)]) for k in (1, 5, 10)}
    chance["chance_medr"] = float(np.argmax(survival <= 0.5))
    chance["chance_mrr"] = float((-np.diff(survival) / np.arange(1, gallery + 1)).sum())
    measured = asdict(figures(first_ranks(scores_QG, relevant_QG)))
    return RetrievalScores(**measured, **chance, queries=queries, gallery=gallery)
