"""The best K of many products, kept while blocks of them come by: sorting all of them would cost more than they did.

Shapes: B rows of a block, Q queries, K answers.
"""

import numpy as np

PENDING = 4
"""Times Q x K products may wait before they are sorted out."""


class Best:
    """Running best K products of each query; equal products keep the lower place."""

    def __init__(self, num_queries: int, k: int) -> None:
        """Start with nothing."""
        self.k = k
        self._floor_Q = np.full(num_queries, -np.inf, np.float32)
        """Products must exceed it to be among the best."""
        self._limit = PENDING * num_queries * k
        self._waiting = 0
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, products_BQ: np.ndarray, first: int) -> None:
        """Take in a block whose rows have the places `first` and on."""
        hits = np.flatnonzero(products_BQ > self._floor_Q)
        if len(hits) > self._limit and len(products_BQ) > self.k:
            least_Q = np.partition(products_BQ, -self.k, axis=0)[-self.k]
            self._floor_Q = np.maximum(self._floor_Q, np.nextafter(least_Q, np.float32(-np.inf)))
            hits = np.flatnonzero(products_BQ > self._floor_Q)
        places, queries = np.divmod(hits, products_BQ.shape[1])
        self._parts.append((queries, products_BQ.ravel()[hits], places + first))
        self._waiting += len(hits)
        if self._waiting > self._limit:
            self._sort_out()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return products float32 and places int64, both (Q, K), best first; -inf and -1 where fewer came."""
        queries, products, places, ranks = self._sort_out()
        products_QK = np.full((len(self._floor_Q), self.k), -np.inf, np.float32)
        places_QK = np.full(products_QK.shape, -1, np.int64)
        products_QK[queries, ranks] = products
        places_QK[queries, ranks] = places
        return products_QK, places_QK

    def _sort_out(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Drop what is not among the best K; return queries, products, places and ranks of what is."""
        empty = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
        queries, products, places = (np.concatenate(parts) for parts in zip(empty, *self._parts, strict=True))
        order = np.lexsort((places, -products, queries))
        queries, products, places = queries[order], products[order], places[order]
        ranks = np.arange(len(queries)) - np.searchsorted(queries, queries)
        kept = ranks < self.k
        queries, products, places, ranks = queries[kept], products[kept], places[kept], ranks[kept]
        last = ranks == self.k - 1
        self._floor_Q[queries[last]] = products[last]
        self._parts, self._waiting = [(queries, products, places)], len(queries)
        return queries, products, places, ranks
