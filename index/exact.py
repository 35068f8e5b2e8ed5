"""Exact search over the rows of one segment, float16, where they are mapped.

A single query is bound by memory: FAISS reads the mapped rows as they lie, nothing is copied. Many queries are bound
by arithmetic: blocks of rows are widened to float32 and multiplied. Every score that leaves comes from the same
routine, so that a row scores the same alone, in a batch and after an approximate search.
Shapes: Q queries, N rows, D dimensions, K answers, B rows of a block.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .library import load_faiss
from .matches import Matches
from .topk import Best

BLOCK_ROWS = 1024
"""Rows widened at a time: 2 MB at 512 dimensions stay in the cache. Larger blocks multiply 5 to 10 % slower."""
BLOCK_QUERIES = 2048
"""Queries multiplied at a time, so that the products stay small."""
SCAN_QUERIES = 3
"""Up to so many queries are scanned; a scan costs about four times a query's share of a multiplication."""
SCAN_SHARE = 0.02
"""Least share of matching rows for which a scan, which looks at each row's bit, beats gathering them."""
SPARE = 8
"""Answers more than asked for that a multiplication yields: its rounding may swap rows of almost equal scores."""

Found = tuple[np.ndarray, np.ndarray]
"""Scores float32 and rows int64, both (Q, K), best first; -inf and -1 where fewer than K match."""


class ExactScan:
    """Exact search over one segment; threads may share it."""

    def __init__(self, vectors_ND: np.ndarray) -> None:
        """Take float16 vectors of unit norm in C order; they are read in place."""
        self.vectors_ND = vectors_ND
        self.flat = _mapped_index(vectors_ND)
        """The rows as FAISS sees them."""

    def search(self, queries_QD: np.ndarray, k: int, matches: Matches | None = None) -> Found:
        """Return the `k` nearest rows, equal scores in the order of rows.

        Args:
            queries_QD: float32, C order.
            k: answers a query.
            matches: the rows that may be found; None: all.
        """
        count = len(self.vectors_ND) if matches is None else matches.count
        wanted = min(k, count)
        if wanted == 0:
            return padded(np.empty((len(queries_QD), 0), np.float32), np.empty((len(queries_QD), 0), np.int64), k)
        dense = matches is None or matches.share >= SCAN_SHARE
        if len(queries_QD) <= SCAN_QUERIES and dense:
            scores, rows = self._scan(queries_QD, wanted, matches)
        else:
            scores, rows = self._multiply(queries_QD, wanted, matches)
        return padded(scores, rows, k)

    def _scan(self, queries_QD: np.ndarray, k: int, matches: Matches | None) -> Found:
        faiss = load_faiss()
        params = None if matches is None else faiss.SearchParameters(sel=matches.selector)
        return ordered(*self.flat.search(queries_QD, k, params=params))

    def _multiply(self, queries_QD: np.ndarray, k: int, matches: Matches | None) -> Found:
        rows = None if matches is None else matches.rows
        count = len(self.vectors_ND) if rows is None else len(rows)
        found = []
        for start in range(0, len(queries_QD), BLOCK_QUERIES):
            queries = queries_QD[start : start + BLOCK_QUERIES]
            places = multiply(self.vectors_ND, queries, min(k + SPARE, count), rows)[1]
            found.append(self.score(queries, places if rows is None else rows[places], k))
        scores, numbers = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return scores, numbers

    def score(self, queries_QD: np.ndarray, rows_QK: np.ndarray, k: int) -> Found:
        """Score given rows as a scan would, and keep the best `k`."""
        scratch_KD = np.empty((rows_QK.shape[1], self.vectors_ND.shape[1]), np.float16)
        index = _mapped_index(scratch_KD)
        found = []
        for query_D, rows in zip(queries_QD, rows_QK, strict=True):
            np.take(self.vectors_ND, rows, axis=0, out=scratch_KD, mode="clip")
            scores, places = index.search(query_D[None], k)
            found.append((scores, rows[places]))
        return ordered(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def multiply(vectors_ND: np.ndarray, queries_QD: np.ndarray, k: int, rows: np.ndarray | None = None) -> Found:
    """Return products and places of the `k` nearest by matrix products of float32 blocks.

    Args:
        vectors_ND: float16.
        queries_QD: float32, at most a few thousand.
        k: at most the number of rows.
        rows: which rows, sorted; places count within them. None: all.
    """
    best = Best(len(queries_QD), k)
    queries_DQ = np.ascontiguousarray(queries_QD.T)
    products_BQ = np.empty((BLOCK_ROWS, len(queries_QD)), np.float32)
    for first, block_BD in widened(vectors_ND, rows, BLOCK_ROWS):
        products = products_BQ[: len(block_BD)]
        np.matmul(block_BD, queries_DQ, out=products)
        best.add(products, first)
    return best.result()


def widened(
    vectors_ND: np.ndarray, rows: np.ndarray | None = None, block_rows: int = BLOCK_ROWS
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the place of its first row and a block of rows as float32; the next block overwrites it.

    torch widens twenty times as fast as NumPy; it gets a copy, since it wants memory that may be written.
    """
    import torch

    count = len(vectors_ND) if rows is None else len(rows)
    size = min(block_rows, count)
    half, wide = (np.empty((size, vectors_ND.shape[1]), dtype) for dtype in (np.float16, np.float32))
    half_BD, wide_BD = torch.from_numpy(half), torch.from_numpy(wide)
    for first in range(0, count, block_rows):
        number = min(block_rows, count - first)
        if rows is None:
            half[:number] = vectors_ND[first : first + number]
        else:
            np.take(vectors_ND, rows[first : first + number], axis=0, out=half[:number], mode="clip")
        wide_BD[:number].copy_(half_BD[:number])
        yield first, wide[:number]


def ordered(scores_QK: np.ndarray, rows_QK: np.ndarray) -> Found:
    """Sort answers by score, equal scores by row."""
    order = np.lexsort((rows_QK, -scores_QK), axis=1)
    return np.take_along_axis(scores_QK, order, axis=1), np.take_along_axis(rows_QK, order, axis=1)


def padded(scores_QK: np.ndarray, rows_QK: np.ndarray, k: int) -> Found:
    """Fill up to `k` answers with -inf and -1."""
    missing = k - scores_QK.shape[1]
    if missing == 0:
        return scores_QK, rows_QK
    width = ((0, 0), (0, missing))
    return (
        np.pad(scores_QK, width, constant_values=np.float32(-np.inf)),
        np.pad(rows_QK, width, constant_values=-1),
    )


def _mapped_index(vectors_ND: np.ndarray) -> Any:
    """Return a FAISS index whose codes are the given memory: the index's own vector becomes a view of it.

    FAISS can read such an index from a file of its own format only; the members set here are those it sets then.
    """
    if vectors_ND.dtype != np.float16 or not vectors_ND.flags.c_contiguous:
        raise ValueError(f"vectors are {vectors_ND.dtype}, want float16 in C order")
    faiss = load_faiss()
    index = faiss.IndexScalarQuantizer(vectors_ND.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    codes, place = index.codes, faiss.cast_integer_to_uint8_ptr(vectors_ND.ctypes.data)
    codes.is_owned = False
    codes.view_data = codes.c_ptr = place
    codes.view_size = codes.c_size = vectors_ND.nbytes
    index.ntotal = len(vectors_ND)
    return index
