"""Exact search over the rows of one segment: blocks of float16 are widened and multiplied through FAISS.

Shapes: Q queries, N rows, D dimensions, K answers.
"""

import numpy as np

from .library import load_faiss

BLOCK_ROWS = 65_536
"""Rows widened to float32 at a time: 335 MB at 1,280 dimensions."""


def scan(
    vectors_ND: np.ndarray, queries_QD: np.ndarray, k: int, matches: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines (Q, K) float32 and row numbers (Q, K) int64 of the nearest rows, best first.

    Args:
        vectors_ND: float16, unit norm.
        queries_QD: float32, unit norm.
        k: answers a query; fewer come where fewer rows match.
        matches: the rows that may be found, sorted; None: all.
    """
    faiss = load_faiss()
    queries = np.ascontiguousarray(queries_QD, dtype=np.float32)
    if queries.shape[1] != vectors_ND.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} dimensions, the segment has {vectors_ND.shape[1]}")
    rows = np.arange(len(vectors_ND)) if matches is None else matches
    found = [(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))]
    for start in range(0, len(rows), BLOCK_ROWS):
        taken = rows[start : start + BLOCK_ROWS]
        block = np.ascontiguousarray(vectors_ND[taken], dtype=np.float32)
        scores, places = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        found.append((scores, taken[places]))
    all_scores, all_rows = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    order = np.lexsort((all_rows, -all_scores), axis=1)[:, :k]
    return np.take_along_axis(all_scores, order, axis=1), np.take_along_axis(all_rows, order, axis=1)
