"""Ranks of retrieval between two modalities, exact and by blocks, so that 15,446 squared fits any machine.

Item i of one side belongs to item i of the other. Two scores within `TOLERANCE` are tied: a matrix product sums the
same numbers in another order at the edge of a tile, and equal embeddings must tie all the same. A tie counts half:
rank = 1 + higher + tied / 2, over irrelevant items, of the best relevant one.

A tie's middle is not what chance gives: with everything tied its reciprocal rank is 2 / (N + 1), where that of a random
order is H(N) / N. So the figures are given a second time with ties broken at random, in expectation; embeddings that
have collapsed then score exactly chance, and without ties both are the same.

Shapes: N items, D dimensions, B queries of a block, M members of the largest class.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..model.retrieval import chance_survival, figures

TOLERANCE = 1e-6
BLOCK = 1024
KS = (1, 5, 10)
SCORINGS = ("instance", "class", "class_without_self")
"""What answers truly: the same clip; any of its class; any other of its class."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Of one direction and scoring; queries that nothing could answer are left out."""

    queries: np.ndarray
    """Which items asked, int64 (Q,)."""
    higher_Q: np.ndarray
    """Irrelevant items that score higher than the best relevant one."""
    tied_Q: np.ndarray
    """Irrelevant items that score the same."""
    best_Q: np.ndarray
    """Relevant items that score the same, itself included."""
    relevant_Q: np.ndarray
    """All relevant items."""
    gallery: int

    @property
    def ranks(self) -> np.ndarray:
        """Return float64 (Q,), 1 at best."""
        return 1.0 + self.higher_Q + self.tied_Q / 2

    def figures(self) -> dict[str, Any]:
        """Return recall, median rank and mean reciprocal rank, and how many queries had a tie."""
        told = {name: round(value, 6) for name, value in asdict(figures(self.ranks)).items()}
        return told | {"queries": len(self.queries), "tied": int((self.tied_Q > 0).sum())}

    def ties_broken(self) -> dict[str, float]:
        """Return the expected figures when ties are broken at random."""
        sums = np.zeros(1 + len(KS))
        triples = np.stack([self.higher_Q, self.tied_Q, self.best_Q], axis=1)
        for (higher, tied, best), count in zip(*np.unique(triples, axis=0, return_counts=True), strict=True):
            sums += count * _expected(int(higher), int(tied), int(best))
        names = ("mrr", *(f"r{k}" for k in KS))
        return {name: round(float(value), 6) for name, value in zip(names, sums / len(self.queries), strict=True)}

    def chance(self) -> dict[str, float]:
        """Return the exact figures of a random order."""
        survival = chance_survival(self.relevant_Q, self.gallery)
        told = {"mrr": float((-np.diff(survival) / np.arange(1, self.gallery + 1)).sum())}
        told |= {f"r{k}": float(1 - survival[min(k, self.gallery)]) for k in KS}
        return {name: round(value, 6) for name, value in told.items()} | {"medr": float(np.argmax(survival <= 0.5))}


@lru_cache(maxsize=4096)
def _expected(higher: int, tied: int, best: int) -> np.ndarray:
    """Return the expected reciprocal rank and recalls of the first relevant among the tied, in random order."""
    if not tied:
        return np.array([1 / (1 + higher), *(float(higher < k) for k in KS)])
    survival = chance_survival(np.array([best]), tied + best)
    place = higher + np.arange(1, tied + best + 1)
    share = -np.diff(survival)
    return np.array([(share / place).sum(), *(share[place <= k].sum() for k in KS)])


def cross_ranks(queries_ND: np.ndarray, gallery_ND: np.ndarray, classes: np.ndarray) -> dict[str, Ranks]:
    """Return the ranks under every scoring, of float32 unit vectors; `classes` int64 (N,)."""
    members_CM = _members(classes)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in SCORINGS}
    for start in range(0, len(queries_ND), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(queries_ND)))
        scores_BN = queries_ND[rows] @ gallery_ND.T
        for name, counted in _block(scores_BN, rows, members_CM[classes[rows]]).items():
            parts[name].append(counted)
    found = {}
    for name, blocks in parts.items():
        higher, tied, best, relevant = np.concatenate(blocks, axis=1)
        asked = np.flatnonzero(relevant)
        gallery = len(gallery_ND) - (name == "class_without_self")
        found[name] = Ranks(asked, higher[asked], tied[asked], best[asked], relevant[asked], gallery)
    return found


def _members(classes: np.ndarray) -> np.ndarray:
    """Return int64 (classes, M): the items of each class, -1 where it has fewer."""
    order = np.argsort(classes, kind="stable")
    counts = np.bincount(classes)
    members = np.full((len(counts), counts.max()), -1)
    place = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    members[classes[order], place] = order
    return members


def _block(scores_BN: np.ndarray, rows: np.ndarray, members_BM: np.ndarray) -> dict[str, np.ndarray]:
    """Return, for each scoring, int64 (4, B): higher, tied, best and relevant."""
    own_BM = np.where(members_BM >= 0, np.take_along_axis(scores_BN, members_BM, axis=1), -np.inf)
    is_self_BM = members_BM == rows[:, None]
    itself_B1 = scores_BN[np.arange(len(rows)), rows][:, None]
    others_BM = np.where(is_self_BM, -np.inf, own_BM)
    return {
        "instance": _counts(scores_BN, itself_B1, itself_B1),
        "class": _counts(scores_BN, own_BM, own_BM),
        "class_without_self": _counts(scores_BN, others_BM, own_BM),
    }


def _counts(scores_BN: np.ndarray, relevant_BM: np.ndarray, left_out_BM: np.ndarray) -> np.ndarray:
    """Count among the scores, without those of `left_out`, what lies above the best relevant one and beside it."""
    best_B1 = relevant_BM.max(axis=1, keepdims=True)
    above, level = best_B1 + np.float32(TOLERANCE), best_B1 - np.float32(TOLERANCE)
    higher = np.count_nonzero(scores_BN > above, axis=1) - np.count_nonzero(left_out_BM > above, axis=1)
    not_below = np.count_nonzero(scores_BN >= level, axis=1) - np.count_nonzero(left_out_BM >= level, axis=1)
    at_best = np.count_nonzero(relevant_BM >= level, axis=1)
    return np.stack([higher, not_below - higher, at_best, np.count_nonzero(relevant_BM > -np.inf, axis=1)])
