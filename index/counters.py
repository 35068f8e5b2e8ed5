"""What the server counts, in the text format of Prometheus (version 0.0.4)."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[tuple[str, str], ...]


class Histogram:
    """Counts values by size."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """Begin at zero; `bounds` are the largest values of the buckets, ascending."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str, labels: Labels) -> list[str]:
        """Return the buckets, each with all smaller ones, the sum and the count."""
        lines, so_far = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            so_far += count
            told = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f"{name}_bucket{_braces((*labels, ('le', told)))} {so_far}")
        return [*lines, f"{name}_sum{_braces(labels)} {self.total:.6f}", f"{name}_count{_braces(labels)} {so_far}"]


class Counters:
    """Everything that is counted; used in the event loop only."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.requests = Counter[tuple[str, int]]()
        """By route and status."""
        self.seconds: dict[str, Histogram] = {}
        """By route, from the first byte to the last."""
        self.batches = Histogram(SIZES)
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        """By name, what it tells and where it is read."""

    def note(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self.requests[route, status] += 1
        self.seconds.setdefault(route, Histogram(SECONDS)).add(seconds)

    def text(self) -> str:
        """Return all counts for `/metrics`."""
        lines = _head("unibrivl_requests_total", "counter", "Answered requests.")
        for (route, status), count in sorted(self.requests.items()):
            lines.append(f"unibrivl_requests_total{_braces((('route', route), ('status', str(status))))} {count}")
        lines += _head("unibrivl_request_seconds", "histogram", "From the first byte of a request to the last.")
        for route, histogram in sorted(self.seconds.items()):
            lines += histogram.lines("unibrivl_request_seconds", (("route", route),))
        lines += _head("unibrivl_batch_questions", "histogram", "Questions answered in one pass.")
        lines += self.batches.lines("unibrivl_batch_questions", ())
        for name, (told, read) in sorted(self.gauges.items()):
            lines += [*_head(name, "gauge", told), f"{name} {read():g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, told: str) -> list[str]:
    return [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]


def _braces(labels: Labels) -> str:
    escaped = ((n, v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for n, v in labels)
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}" if labels else ""
