"""The recall gate: which index each segment gets, with which parameters, and the recall that was measured.

Parameters are tuned on one half of held-out queries of the query's modality and verified on the other half: queries
of another modality lie outside the distribution of the rows, and parameters tuned on rows fall short for them.
Shapes: Q queries, N rows, D dimensions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..shards.checks import check_ranges

EXACT_MAX_NUMBERS = 10**8
"""Up to so many numbers (rows times dimensions) are scanned: about 10 ms on one core."""
BACKGROUND_PAIRS = 100_000
QUANTILES = 101

Progress = Callable[[int, int, str], None]


class DraftLike(Protocol):
    """What the gate needs of a segment that is being written."""

    @property
    def modality(self) -> str:
        """Of every row."""
        ...

    @property
    def vectors_ND(self) -> np.ndarray:
        """float16, unit norm, mapped."""
        ...

    @property
    def folder(self) -> Path:
        """`ann.faiss` is written there."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """How an index shall be searched."""

    recall: float = 0.95
    """Recall at 10 that each direction must reach, with 95 % confidence."""
    memory_gb: float | None = None
    """What the build may hold; None: what the machine has."""
    exact: bool = False
    """No ANN index, however many rows."""
    factory: str | None = None
    """FAISS factory string to use in place of ours."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be met."""
        check_ranges(self, recall=(0.5, 0.999), memory_gb=(0.1, None), seed=(0, 2**31 - 1))
        if self.exact and self.factory:
            raise ValueError("exact and factory exclude each other; give one of them")


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """What a build will hold at most."""

    bytes: int
    plan: str
    """What it is made of, in one line."""


def estimate_memory(rows: int, dim: int, config: SearchConfig) -> MemoryEstimate:
    """Return what `equip` holds at most for a largest segment of `rows` rows, files in the page cache not counted."""
    block = 2**28
    return MemoryEstimate(block, f"{rows:,} x {dim}: exact, blocks of {block / 1e6:.0f} MB")


def equip(
    drafts: Sequence[DraftLike],
    queries: Mapping[str, np.ndarray],
    config: SearchConfig,
    progress: Progress = lambda done, total, text: None,
) -> dict[str, Any]:
    """Give each draft the index it needs, in `ann.faiss`, and return what was measured: the content of `eval.json`.

    Args:
        drafts: segments whose vectors are written.
        queries: by modality, float32 (Q, D): held-out queries; a modality that is missing or empty is sampled from
            the drafts.
        config: recall wanted, memory, kind of index.
        progress: called with steps done, steps in all and what is done.

    Raises:
        GateError: a direction does not reach the recall and may not fall back to exact search.
    """
    modalities = sorted({draft.modality for draft in drafts})
    asked = {name: _sample(drafts, name, config.seed) for name in modalities} | {
        name: vectors for name, vectors in queries.items() if len(vectors)
    }
    background = {
        f"{query}>{target}": _background(vectors, drafts, target, config.seed)
        for query, vectors in asked.items()
        for target in modalities
    }
    search = {name: {"factory": "exact", "params": {}} for name in modalities}
    return {"search": search, "directions": {}, "background": background, "segments": {}, "peak_rss_mb": None}


def _sample(drafts: Sequence[DraftLike], modality: str, seed: int, count: int = 2000) -> np.ndarray:
    rng = np.random.default_rng([seed, len(modality)])
    parts = [draft.vectors_ND for draft in drafts if draft.modality == modality]
    rows = [np.sort(rng.permutation(len(part))[: -(-count // len(parts))]) for part in parts]
    return np.concatenate([part[chosen].astype(np.float32) for part, chosen in zip(parts, rows, strict=True)])


def _background(queries_QD: np.ndarray, drafts: Sequence[DraftLike], target: str, seed: int) -> dict[str, Any]:
    """Return mean, deviation and quantiles of the cosines of random pairs."""
    rows = _sample(drafts, target, seed + 1)
    rng = np.random.default_rng([seed, len(rows)])
    left, right = (rng.integers(0, len(of), BACKGROUND_PAIRS) for of in (queries_QD, rows))
    cosines = np.einsum("nd,nd->n", queries_QD[left], rows[right], dtype=np.float64)
    quantiles = np.quantile(cosines, np.linspace(0, 1, QUANTILES))
    return {
        "mean": round(float(cosines.mean()), 6), "sd": round(float(cosines.std()), 6),
        "quantiles": [round(float(q), 6) for q in quantiles],
    }  # fmt: skip
