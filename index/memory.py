"""What a build may hold in memory, asked before the work and told after it."""

import resource
from pathlib import Path

from .errors import IndexStoreError
from .plan import SearchConfig, estimate_memory

ROW_BYTES = 1500
"""Of both tables of rows, as they are read, selected and written."""
BLOCK_BYTES = 300 * 2**20
"""Sounds, pictures and embeddings in flight."""


def check_memory(rows: int, dim: int, search: SearchConfig) -> None:
    """Refuse a build that memory does not suffice for.

    Raises:
        IndexStoreError: it needs more than `search.memory_gb`, or than the machine has left.
    """
    estimate = estimate_memory(rows, dim, search)
    needed = (estimate.bytes + rows * ROW_BYTES + BLOCK_BYTES) / 1e9
    left = available_gb()
    allowed = search.memory_gb or left
    if allowed is not None and needed > allowed:
        whose = "--memory allows" if search.memory_gb else "this machine has left"
        less = ", or pass --exact, which needs the least" if search.is_approximate(rows, dim) else ""
        raise IndexStoreError(
            f"the build needs about {needed:.1f} GB ({estimate.plan}), {whose} {allowed:.1f}; give more memory{less}"
        )


def available_gb() -> float | None:
    """Return what the system says is available, in 10^9 bytes; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else int(found) * 1024 / 1e9


def peak_rss_mb() -> float:
    """Return the most memory that this process has held, in 2^20 bytes."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
