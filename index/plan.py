"""Which index a segment may get, and what building it takes: factory strings, training sample, memory.

Starting points by size are those of the design notes; the recall gate measures the candidates and chooses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..shards.checks import check_ranges
from .library import load_faiss
from .search import EXACT_MAX_NUMBERS

GRAPH_ROWS = 2_000_000
"""From so many rows the lists themselves are found through a graph: a scan of their centroids would take longer."""
POINTS_PER_LIST = (39, 64)
"""Training vectors a list: FAISS warns under 39; more than 64 changed recall by less than its interval."""
TRAIN_MIN = 65_536
"""Least training vectors where there are as many: the short codes are trained on them too."""
ADD_ROWS = 16_384
"""Rows widened and added at a time."""
ASSIGN_ROWS = 4096
"""Rows whose lists a thread finds at a time; FAISS multiplies as many."""
PLACING_BYTES = 20
"""Of a row while it is put into its list: the list's number, and the order of rows by list and of their codes."""
PROGRAM_BYTES = 600 * 2**20
"""Interpreter, torch, FAISS and NumPy."""
GROWTH = 2
"""Inverted lists grow by doubling."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """How an index shall be searched."""

    recall: float = 0.95
    """Recall at 10 and at 100 that each direction must reach, with 95 % confidence."""
    memory_gb: float | None = None
    """What the build may hold, in 10^9 bytes; None: what the machine has."""
    exact: bool = False
    """No ANN index, however many rows."""
    factory: str | None = None
    """FAISS factory string of an inverted-file index to use in place of ours, however few rows."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be met."""
        check_ranges(self, recall=(0.5, 0.999), memory_gb=(0.1, None), seed=(0, 2**31 - 1))
        if self.exact and self.factory:
            raise ValueError("exact and factory exclude each other; give one of them")
        if self.factory and not self.factory.split(",")[0].startswith("IVF"):
            raise ValueError(f"factory is {self.factory!r}, want an inverted-file index such as 'IVF1024,PQ128x4fsr'")

    def asked(self) -> dict[str, Any]:
        """Return what decides the index, for its manifest."""
        return {"recall": self.recall, "exact": self.exact, "factory": self.factory, "seed": self.seed}

    def is_approximate(self, rows: int, dim: int) -> bool:
        """Tell whether a segment of this size gets an ANN index."""
        return not self.exact and (self.factory is not None or rows * dim > EXACT_MAX_NUMBERS)


def as_asked(before: Mapping[str, Any], given: Mapping[str, Any]) -> SearchConfig:
    """Return what an index was asked for before, as its manifest has it, changed by what is given now.

    Raises:
        ValueError: as `SearchConfig`; `exact` and `factory` put each other out only where one is of before.
    """
    kept = dict(before)
    if given.get("exact"):
        kept.pop("factory", None)
    if given.get("factory"):
        kept.pop("exact", None)
    return SearchConfig(**kept | dict(given))


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """What a build will hold at most."""

    bytes: int
    plan: str
    """What it is made of, in one line."""


def factories(rows: int, dim: int) -> list[str]:
    """Return candidates for a segment, the most promising first."""
    lists = f"IVF{num_lists(rows)}" + ("_HNSW32" if rows >= GRAPH_ROWS else "")
    short = [f"{lists},PQ{dim // 4}x4fsr"] if dim % 4 == 0 else []
    return [*short, f"{lists},SQ8"]


def num_lists(rows: int) -> int:
    """Return the power of two next to four times the root of the rows."""
    return int(2 ** np.clip(np.round(np.log2(4 * np.sqrt(rows))), 2, 18))


def train_rows(rows: int, points: int = POINTS_PER_LIST[1]) -> int:
    """Return how many vectors the centroids and codes are trained on."""
    return min(rows, max(TRAIN_MIN, points * num_lists(rows)))


def estimate_memory(rows: int, dim: int, config: SearchConfig) -> MemoryEstimate:
    """Return what `equip` holds at most.

    Args:
        rows: of the largest segment; segments are built one after the other.
        dim: of the vectors.
        config: memory and kind of index.

    Returns:
        Bytes of the process; mapped vectors are not counted, since the system may drop them.
    """
    if not config.is_approximate(rows, dim):
        return MemoryEstimate(
            PROGRAM_BYTES, f"{rows:,} rows of {dim} numbers: exact search, nothing beside the program"
        )
    sample = train_rows(rows) * dim * 4
    codes = rows * GROWTH * sum(code_bytes(name, dim) + 8 for name in chosen_factories(rows, dim, config))
    centroids = 4 * num_lists(rows) * dim * 4
    block = 3 * ADD_ROWS * (dim * 4 + 4096) + assigning_threads() * ASSIGN_ROWS * (dim * 6 + 4096)
    codes += rows * PLACING_BYTES
    total = PROGRAM_BYTES + max(2 * sample, codes + block) + centroids
    parts = f"program {_mb(PROGRAM_BYTES)}, training {_mb(2 * sample)}, codes {_mb(codes + block)}"
    return MemoryEstimate(total, f"{rows:,} rows of {dim} numbers: {_mb(total)} ({parts}, lists {_mb(centroids)})")


def assigning_threads() -> int:
    """Return how many blocks of rows are assigned at one time: one a thread of FAISS's."""
    return int(load_faiss().omp_get_max_threads())


def chosen_factories(rows: int, dim: int, config: SearchConfig) -> list[str]:
    """Return the candidates that are tried: the one asked for, or those that memory has room for."""
    if config.factory is not None:
        return [config.factory]
    names = factories(rows, dim)
    if config.memory_gb is None:
        return names
    room = config.memory_gb * 1e9 - PROGRAM_BYTES
    needed = np.cumsum([rows * GROWTH * (code_bytes(name, dim) + 8) for name in names])
    return [name for name, size in zip(names, needed, strict=True) if size <= room] or names[:1]


def code_bytes(factory: str, dim: int) -> int:
    """Return about how many bytes a vector's code takes."""
    code = factory.split(",")[-1]
    if code.startswith("PQ"):
        pieces, _, bits = code[2:].partition("x")
        width = int("".join(c for c in bits.partition("f")[0] if c.isdigit()) or 8)
        return -(-int(pieces) * width // 8)
    return {"SQ8": dim, "SQ4": -(-dim // 2), "SQfp16": 2 * dim}.get(code, 4 * dim)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
