"""How the measures of a shard set's clips are spread: bins at round numbers and a few quantiles."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers

MAX_BINS = 24
_DECIBELS, _SHARES = np.arange(-80, 1, 4), np.arange(21) / 20
FIXED: dict[str, tuple[str, np.ndarray]] = {
    "rms_dbfs": ("dBFS", _DECIBELS),
    "peak_dbfs": ("dBFS", _DECIBELS),
    "silent_ratio": ("share", _SHARES),
    "clip_ratio": ("share", _SHARES / 100),
    "frame_luma_mean": ("luma", np.arange(0, 257, 16)),
    "frame_luma_std": ("luma", np.arange(0, 129, 8)),
}
"""Columns of the sidecar with unit and bins of their own, so that sets can be compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """How one measure is spread over the clips that came."""

    unit: str
    edges: tuple[float, ...]
    """Bounds of the bins, one more than `counts`; a bin holds its lower bound, the last one both."""
    counts: tuple[int, ...]
    """Clips by bin; the first and the last also take what lies beyond them."""
    least: float
    p05: float
    median: float
    p95: float
    most: float


def measure_histograms(came: pa.Table) -> dict[str, Histogram]:
    """Return a histogram for each measure that any of the clips has; `came` has the columns of the sidecar."""
    found = {name: _histogram(came[name], unit, edges) for name, (unit, edges) in FIXED.items()}
    found["duration_s"] = _histogram(pc.divide(came["duration_ms"].cast(pa.float64()), 1000), "s", None)
    found["pad_ms"] = _histogram(came["pad_ms"], "ms", None)
    found["fps"] = _histogram(came["src_fps"], "1/s", None)
    return {name: histogram for name, histogram in found.items() if histogram is not None}


def _histogram(values: pa.ChunkedArray, unit: str, edges: np.ndarray | None) -> Histogram | None:
    x = values.drop_null().to_numpy().astype(np.float64)
    x = x[np.isfinite(x)]
    if not len(x):
        return None
    bounds = _round_edges(float(x.min()), float(x.max())) if edges is None else edges.astype(np.float64)
    counts, _ = np.histogram(x.clip(bounds[0], bounds[-1]), bounds)
    least, p05, median, p95, most = (float(f"{v:.6g}") for v in np.quantile(x, (0, 0.05, 0.5, 0.95, 1)))
    return Histogram(
        unit=unit, edges=tuple(bounds.tolist()), counts=tuple(counts.tolist()),
        least=least, p05=p05, median=median, p95=p95, most=most,
    )  # fmt: skip


def _round_edges(least: float, most: float) -> np.ndarray:
    """Return bounds at round numbers around `least` to `most`, for at most `MAX_BINS` bins."""
    step = 10.0 ** math.floor(math.log10(max(most - least, 1e-6) / MAX_BINS))
    step = next(step * f for f in (1, 2, 5, 10, 20) if (most - least) / (step * f) <= MAX_BINS - 2)
    step = max(step, 0.001) if most > least else 1.0  # nothing is measured finer than in thousandths
    first = math.floor(least / step)
    last = max(math.ceil(most / step), first + 1)
    return np.array([n * step for n in range(first, last + 1)]).round(9)
