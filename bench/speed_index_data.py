"""Vectors to measure an index with: two modalities in one space, clustered, with a gap between them.

Pictures and sounds of one clip share topics, yet each modality sits in a cone of its own, as contrastive models leave
them: queries of the other modality are out of the distribution of the rows that they search.
Shapes: N rows, Q queries, D dimensions.
"""

from dataclasses import dataclass

import numpy as np

TOPICS_PER_ROW = 1 / 100
"""One topic to a hundred rows: as many as a large collection has."""
TOPIC_SPREAD = 0.75
"""Length of what is a row's own beside its topic's unit vector."""
GAP = 0.9
"""Length of the vector between the two modalities beside a topic's."""
RANK_SHARE = 0.25
"""Share of the dimensions that the contents vary in: embeddings have fewer degrees of freedom than numbers."""
BLOCK_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Vectors:
    """What `make_vectors` returns; all float32, unit norm."""

    base_ND: np.ndarray
    near_QD: np.ndarray
    """In-distribution queries: of the modality of the rows."""
    far_QD: np.ndarray
    """Out-of-distribution queries: of the other modality."""


def make_vectors(rows: int, dim: int, seed: int, queries: int = 2000) -> Vectors:
    """Return rows of one modality, and held-out queries of it and of another.

    Args:
        rows: of the base.
        dim: of the space, at least 8.
        seed: equal seeds give equal vectors.
        queries: of each kind.
    """
    rng = np.random.default_rng([seed, rows, dim])
    rank = max(4, int(dim * RANK_SHARE))
    space_RD = np.linalg.qr(rng.standard_normal((dim, rank)))[0].T.astype(np.float32)
    scales_R = (1 / np.sqrt(1 + np.arange(rank))).astype(np.float32)
    topics_TR = _unit(rng.standard_normal((max(4, int(rows * TOPICS_PER_ROW)), rank), dtype=np.float32) * scales_R)
    weights_T = 1 / (10 + np.arange(len(topics_TR)))
    gap_D = _unit(rng.standard_normal((1, dim), dtype=np.float32))[0] * np.float32(GAP)
    tilt_RR = np.linalg.qr(rng.standard_normal((rank, rank)))[0].astype(np.float32)
    tilt_RR = 0.9 * np.eye(rank, dtype=np.float32) + 0.1 * tilt_RR

    def draw(count: int, sign: float, out_ND: np.ndarray) -> np.ndarray:
        for start in range(0, count, BLOCK_ROWS):
            number = min(BLOCK_ROWS, count - start)
            chosen = rng.choice(len(topics_TR), number, p=weights_T / weights_T.sum())
            own = _unit(rng.standard_normal((number, rank), dtype=np.float32) * np.sqrt(scales_R))
            content = topics_TR[chosen] + np.float32(TOPIC_SPREAD) * own
            content = content if sign > 0 else content @ tilt_RR
            noise = rng.standard_normal((number, dim), dtype=np.float32) * np.float32(0.3 / np.sqrt(dim))
            out_ND[start : start + number] = _unit(content @ space_RD + np.float32(sign / 2) * gap_D + noise)
        return out_ND

    base, near, far = (np.empty((count, dim), np.float32) for count in (rows, queries, queries))
    return Vectors(draw(rows, 1, base), draw(queries, 1, near), draw(queries, -1, far))


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
