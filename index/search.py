"""Search over a snapshot: every segment of a modality, the deleted left out, filters kept, one list of hits.

What one segment does stands in `exact.py` and `ann.py`. Shapes: Q queries, N rows, D dimensions, K answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from .exact import scan

Mode = Literal["exact", "ann"]


class Searchable(Protocol):
    """What search needs of a segment."""

    @property
    def id(self) -> str:
        """Name within the snapshot."""
        ...

    @property
    def vectors_ND(self) -> np.ndarray:
        """float16, unit norm, mapped."""
        ...

    @property
    def folder(self) -> Path:
        """May hold `ann.faiss`."""
        ...


class Collection(Protocol):
    """What search needs of a snapshot."""

    @property
    def manifest(self) -> dict[str, Any]:
        """Holds `search`: factory and parameters of each modality."""
        ...

    def of(self, modality: str) -> Sequence[Searchable]:
        """Return the segments of a modality."""
        ...

    def live(self, segment: Any) -> np.ndarray | None:
        """Return which rows are not deleted, bool (N,); None: all."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Hits:
    """The nearest rows of each query, best first; equal scores in the order of segments and rows."""

    scores_QK: np.ndarray
    """float32 cosines; -inf where fewer than K match."""
    segments_QK: np.ndarray
    """int32, numbers within `snapshot.of(modality)`; -1 where fewer than K match."""
    rows_QK: np.ndarray
    """int64, numbers within the segment; -1 where fewer than K match."""
    mode: Mode
    """`ann` where at least one segment was searched by its ANN index."""
    strategy: str
    """How the filter was met: `all`, `matches`, `selector`, or several joined by `+`."""
    params: dict[str, int] = field(default_factory=dict)
    """Of the ANN search: `nprobe`, `k_factor`."""
    matched: int = 0
    """Rows that were allowed and not deleted."""


class Searcher:
    """Searches one snapshot; any number of threads may share it."""

    def __init__(self, snapshot: Collection) -> None:
        """Search `snapshot`, which stays open meanwhile."""
        self.snapshot = snapshot

    def search(
        self,
        modality: str,
        queries_QD: np.ndarray,
        k: int,
        *,
        allowed: Mapping[str, np.ndarray] | None = None,
        direction: str | None = None,
        exact: bool = False,
    ) -> Hits:
        """Return the `k` nearest rows of `modality` to each query.

        Args:
            modality: of the rows.
            queries_QD: float32, unit norm.
            k: answers a query; fewer come only where fewer rows match.
            allowed: by segment id, bool (N,): the rows that may be found; None: all.
            direction: the modality of the queries, whose parameters were tuned apart; None: the most thorough ones.
            exact: scan every row although an ANN index is there.

        Raises:
            ValueError: queries of another dimension or not finite, `k` under 1, or a segment is missing in `allowed`.
        """
        segments = self.snapshot.of(modality)
        found = [scan(s.vectors_ND, queries_QD, k, self._matches(s, allowed)) for s in segments]
        scores, numbers, rows = merge(found, len(queries_QD), k)
        strategy = "all" if allowed is None else "matches"
        return Hits(scores_QK=scores, segments_QK=numbers, rows_QK=rows, mode="exact", strategy=strategy)

    def _matches(self, segment: Searchable, allowed: Mapping[str, np.ndarray] | None) -> np.ndarray | None:
        """Return the rows that may be found, sorted; None: all."""
        live = self.snapshot.live(segment)
        if allowed is None:
            return None if live is None else np.flatnonzero(live)
        if segment.id not in allowed:
            raise ValueError(f"allowed lacks segment {segment.id[:12]}; give one mask a segment")
        mask = allowed[segment.id]
        return np.flatnonzero(mask if live is None else mask & live)


def merge(
    found: Sequence[tuple[np.ndarray, np.ndarray]], num_queries: int, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge scores and rows of several segments into the best `k`: scores, segments and rows, each (Q, K)."""
    padding = np.full((num_queries, k), -np.inf, np.float32), np.full((num_queries, k), -1, np.int64)
    parts = [*found, padding]
    scores = np.concatenate([scores for scores, _ in parts], axis=1)
    rows = np.concatenate([rows for _, rows in parts], axis=1)
    numbers = np.concatenate([np.full(r.shape, n, np.int32) for n, (_, r) in enumerate(parts)], axis=1)
    numbers[rows < 0] = -1
    order = np.lexsort((rows, numbers, -scores), axis=1)[:, :k]
    scores, numbers, rows = (np.take_along_axis(a, order, axis=1) for a in (scores, numbers, rows))
    return scores, numbers, rows


def search(vectors_ND: np.ndarray, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines (Q, K) float32 and row numbers (Q, K) int64 of the nearest rows of one segment, best first.

    Args:
        vectors_ND: float16, unit norm.
        queries_QD: float32, unit norm.
        k: answers a query; fewer come where there are fewer rows.
    """
    return scan(vectors_ND, queries_QD, k)


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
