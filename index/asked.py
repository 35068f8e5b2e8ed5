"""The queries that the recall gate asks: held-out ones where there are any, else rows of the index itself.

Queries have the modality of the questions to come, not that of the rows: they lie elsewhere in the space.
Shapes: Q queries, N rows, D dimensions, K answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .exact import widened
from .search import Hits

NUM_QUERIES = 2000
"""Half of them tune, half verify."""
GIVEN, SAMPLED, LEFT_OUT = "held-out queries", "rows of that modality", "rows, each left out of its own answers"


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries of one modality put to the rows of one modality."""

    queries_QD: np.ndarray
    """float32, unit norm."""
    source: str
    """Where they come from."""
    own_Q2: np.ndarray | None = None
    """Segment and row that each query is itself, where the rows hold it; it does not count as an answer."""

    @property
    def spare(self) -> int:
        """How many more answers to fetch than are wanted."""
        return 0 if self.own_Q2 is None else 1

    def scores(self, hits: Hits) -> np.ndarray:
        """Return the scores of what was found, `spare` columns fewer: without the query itself."""
        if self.own_Q2 is None:
            return hits.scores_QK
        itself = (hits.segments_QK == self.own_Q2[:, :1]) & (hits.rows_QK == self.own_Q2[:, 1:])
        itself[~itself.any(axis=1), -1] = True  # not found: the last answer goes
        return hits.scores_QK[~itself].reshape(len(itself), -1)

    def part(self, start: int, stop: int | None = None, step: int | None = None) -> "Asked":
        """Return some of the queries."""
        chosen = slice(start, stop, step)
        own = None if self.own_Q2 is None else self.own_Q2[chosen]
        return Asked(np.ascontiguousarray(self.queries_QD[chosen]), self.source, own)


def gather_queries(
    vectors: Mapping[str, Sequence[np.ndarray]], given: Mapping[str, np.ndarray], target: str, seed: int,
    sources: Mapping[str, str] | None = None,
) -> dict[str, Asked]:  # fmt: skip
    """Return queries by modality for the rows of modality `target`.

    Args:
        vectors: of the segments, by modality.
        given: held-out queries by modality; those that are missing or empty are sampled from the segments.
        target: modality of the rows.
        seed: of the samples.
        sources: by modality, where given queries come from, if they are not held out.
    """
    asked = {}
    for modality in sorted(vectors.keys() | given.keys()):
        if modality in given and len(given[modality]):
            chosen = np.random.default_rng(seed).permutation(len(given[modality]))[:NUM_QUERIES]
            asked[modality] = Asked(
                np.ascontiguousarray(given[modality][chosen], dtype=np.float32), (sources or {}).get(modality, GIVEN)
            )
        elif modality in vectors:
            queries, own = sample_rows(vectors[modality], NUM_QUERIES, seed)
            is_target = modality == target
            asked[modality] = Asked(queries, LEFT_OUT if is_target else SAMPLED, own if is_target else None)
    return asked


def sample_rows(segments: Sequence[np.ndarray], number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a seeded sample of rows of several segments in random order, float32, and segment and row of each."""
    starts = np.cumsum([0, *(len(vectors) for vectors in segments)])
    rng = np.random.default_rng([seed, starts[-1]])
    chosen = np.sort(rng.choice(starts[-1], min(number, starts[-1]), replace=False))
    segment_Q = np.searchsorted(starts, chosen, side="right") - 1
    own_Q2 = np.stack([segment_Q, chosen - starts[segment_Q]], axis=1)
    queries = np.empty((len(chosen), segments[0].shape[1]), np.float32)
    for number_of, vectors in enumerate(segments):
        mine = np.flatnonzero(segment_Q == number_of)
        for first, block_BD in widened(vectors, own_Q2[mine, 1]):
            queries[mine[first : first + len(block_BD)]] = block_BD
    shuffled = rng.permutation(len(chosen))
    return queries[shuffled], own_Q2[shuffled]
