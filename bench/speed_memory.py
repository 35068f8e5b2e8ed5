"""Watches how much memory the worker processes of a running command hold."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MIN_SAMPLES = 20
"""Processes seen less often are no workers, or none that could grow."""
MIN_GROWTH_SAMPLES = 100
"""About five seconds: a worker that lived less has hardly done anything but start."""
HELPERS = (b"resource_tracker", b"forkserver")


class MemoryWatch:
    """Called with a process id again and again, it notes the resident memory of each of that process's children."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.clips = 0
        """Of the run that was watched."""
        self._seen: dict[int, list[int]] = defaultdict(list)
        self._helpers: set[int] = set()

    def __call__(self, pid: int) -> None:
        """Note every descendant of `pid`."""
        for child in _descendants(pid):
            if child in self._helpers:
                continue
            try:
                if child not in self._seen and any(
                    name in Path(f"/proc/{child}/cmdline").read_bytes() for name in HELPERS
                ):
                    self._helpers.add(child)
                    continue
                pages = int(Path(f"/proc/{child}/statm").read_text(encoding="ascii").split()[1])
            except (OSError, IndexError):  # it has ended meanwhile
                continue
            self._seen[child].append(pages * PAGE_BYTES)

    def growth_mb(self) -> float | None:
        """Return how much the worker that grew most has grown, in MB; None if none was seen long enough.

        Of a worker's life: the median of its last tenth less that of its third, when it has started and committed its
        first shard.
        """
        growths = [_growth(series) for series in self._workers() if len(series) >= MIN_GROWTH_SAMPLES]
        return round(max(growths) / 1e6, 2) if growths else None

    def as_dict(self) -> dict[str, Any]:
        """Return clips, workers and their largest size."""
        series = self._workers()
        most = max((max(values) for values in series), default=0)
        return {"clips": self.clips, "workers": len(series), "max_rss_mb": round(most / 1e6, 1)}

    def _workers(self) -> list[list[int]]:
        return [series for series in self._seen.values() if len(series) >= MIN_SAMPLES]


def _growth(series: list[int]) -> float:
    tenth = len(series) // 10
    return median(series[-tenth:]) - median(series[2 * tenth : 3 * tenth])


def _descendants(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in path.read_text(encoding="ascii").split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from _descendants(child)
