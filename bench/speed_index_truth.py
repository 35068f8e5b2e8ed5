"""What is nearest, for `bench speed index`: engines do not grade themselves. Shapes: N rows, Q queries, F filters."""

import numpy as np

from .speed_index_engines import K

TIE = 2e-6
"""Cosines that differ by less are equal: what float32 rounds."""
BLOCK_QUERIES = 100


class Truth:
    """What is nearest, by the vectors' own cosines."""

    def __init__(self, base_ND: np.ndarray, queries_QD: np.ndarray, masks_FN: np.ndarray) -> None:
        """Compare every query with every row."""
        self.base_ND, self.queries_QD = base_ND, queries_QD
        shape = (1 + len(masks_FN), len(queries_QD))
        self.masks = [np.ones(len(base_ND), bool), *masks_FN]
        self.counts = [min(K, int(mask.sum())) for mask in self.masks]
        self.last = np.full(shape, np.inf, np.float32)
        """Least cosine of an answer that belongs there, by filter and query; the first is none."""
        for start in range(0, len(queries_QD), BLOCK_QUERIES):
            scores = queries_QD[start : start + BLOCK_QUERIES] @ base_ND.T
            for number, (mask, count) in enumerate(zip(self.masks, self.counts, strict=True)):
                if count:
                    some = scores if number == 0 else scores[:, mask]
                    self.last[number, start : start + BLOCK_QUERIES] = np.partition(some, -count, axis=1)[:, -count]

    def recall(self, rows_QK: np.ndarray, share: int | None = None) -> float:
        """Return which part of the answers that belong there was found; each row counts once."""
        number = 0 if share is None else share + 1
        count = self.counts[number]
        if not count:
            return 1.0
        there = (rows_QK >= 0) & self.masks[number][rows_QK]
        scores = np.einsum("qkd,qd->qk", self.base_ND[rows_QK], self.queries_QD[: len(rows_QK)])
        there &= scores >= self.last[number, : len(rows_QK), None] - TIE
        ordered = np.sort(rows_QK, axis=1)
        twice = ((np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)).sum(axis=1)
        return float(np.clip(there.sum(axis=1) - twice, 0, count).mean() / count)
