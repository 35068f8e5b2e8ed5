"""Exact search over a segment: blocks of float16 are widened and multiplied through FAISS.

Shapes: Q queries, N rows, D dimensions, K answers.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from .. import UnibrivlError

BLOCK_ROWS = 65_536
"""Rows widened to float32 at a time: 335 MB at 1,280 dimensions."""


def search(vectors_ND: np.ndarray, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines (Q, K) float32 and row numbers (Q, K) int64 of the nearest rows, best first.

    Args:
        vectors_ND: float16, unit norm.
        queries_QD: float32, unit norm.
        k: answers a query; fewer come where there are fewer rows.
    """
    faiss = _faiss()
    queries = np.ascontiguousarray(queries_QD, dtype=np.float32)
    if queries.shape[1] != vectors_ND.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} dimensions, the segment has {vectors_ND.shape[1]}")
    scores, rows = [], []
    for start in range(0, len(vectors_ND), BLOCK_ROWS):
        block = np.ascontiguousarray(vectors_ND[start : start + BLOCK_ROWS], dtype=np.float32)
        found = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        scores.append(found[0])
        rows.append(found[1] + start)
    all_scores, all_rows = np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)
    order = np.lexsort((all_rows, -all_scores), axis=1)[:, :k]
    return np.take_along_axis(all_scores, order, axis=1), np.take_along_axis(all_rows, order, axis=1)


def search_distinct(
    vectors_ND: np.ndarray, contents: list[str], query_D: np.ndarray, k: int
) -> list[tuple[float, int, int]]:
    """Return up to `k` answers with different contents: cosine, row, and how many more rows hold the same content.

    A picture that many clips share would else fill the whole list.
    """
    wanted = min(len(vectors_ND), 4 * k)
    while True:
        scores, rows = search(vectors_ND, query_D[None], wanted)
        best: dict[str, tuple[float, int]] = {}
        for cosine, row in zip(scores[0].tolist(), rows[0].tolist(), strict=True):
            best.setdefault(contents[row], (cosine, row))
        if len(best) >= k or wanted == len(vectors_ND):
            return [(cosine, row, contents.count(content) - 1) for content, (cosine, row) in list(best.items())[:k]]
        wanted = min(len(vectors_ND), 2 * wanted)


def _faiss() -> Any:
    if all(_is_installed(name) for name in ("faiss-cpu", "faiss-gpu")):
        raise UnibrivlError(
            "faiss-cpu and faiss-gpu are both installed and overwrite each other; uninstall one of them"
        )
    try:
        import faiss
    except ImportError as e:
        raise UnibrivlError(
            "FAISS is not installed: run pip install 'unibrivl[cpu]' (or 'unibrivl[gpu]'; not both)"
        ) from e
    return faiss


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
