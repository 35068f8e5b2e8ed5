"""The shape of every result of the tables, its intervals, its per-sample predictions, and two runs compared by them.

A row whose weights or data are missing says which files are expected and bears no number.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..shards.atomic import write_file, write_json
from .environment import environment
from .errors import BenchError, NeedsError

STATUSES = ("ok", "partial", "needs-weights", "needs-data")
RESAMPLES = 2000
"""Of a bootstrap."""
LEVEL = 0.95
T_975 = {4: 2.776, 9: 2.262, 19: 2.093, 29: 2.045, 49: 2.010}
"""Student's t by degrees of freedom; 1.96 far above them, that of the next lower ones between them."""
BLOCK_VALUES = 1 << 22
"""Resampled values held at once."""
ITEM = "item"
GROUP = "group"
Progress = Callable[[int, int, str], None]
"""Called with steps done, of how many, and what it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A row of a table: what was measured, how, and what bounds it."""

    bench: str
    protocol: str
    """In words, with every choice that decides the number."""
    tower: str
    metrics: dict[str, Any] = field(default_factory=dict)
    chance: dict[str, Any] = field(default_factory=dict)
    oracle: dict[str, Any] = field(default_factory=dict)
    coverage: dict[str, Any] = field(default_factory=dict)
    interval: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    status: str = "ok"
    expected: tuple[str, ...] = ()
    """Files that are missing, where the status is `needs-weights` or `needs-data`."""
    config: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    """Fields of one bench only."""
    predictions: pa.Table | None = None
    """One row a sample: `item`, a column for each figure whose mean is the metric, and what else there is to know."""

    def __post_init__(self) -> None:
        """Refuse an unknown status, and numbers where something is missing."""
        if self.status not in STATUSES:
            raise ValueError(f"status is {self.status!r}, want one of {', '.join(STATUSES)}")
        if self.status.startswith("needs-") == (not self.expected):
            raise ValueError(f"status is {self.status!r} with {len(self.expected)} expected files")
        if self.expected and (self.metrics or self.interval or self.predictions is not None):
            raise ValueError(f"a row with status {self.status} bears numbers")
        if self.predictions is not None and ITEM not in self.predictions.column_names:
            raise ValueError(f"predictions have no column {ITEM!r}")

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        names = (
            "bench", "protocol", "tower", "metrics", "chance", "oracle", "coverage", "interval", "seed", "status",
            "config",
        )  # fmt: skip
        told = {name: getattr(self, name) for name in names} | self.more
        if self.expected:
            told["expected"] = list(self.expected)
        return told | {"environment": environment()}


def measured(measure: Callable[[], Result], *, bench: str, protocol: str, tower: str, seed: int = 0) -> Result:
    """Return what `measure` returns, or the row without numbers where weights or data are missing."""
    try:
        return measure()
    except NeedsError as e:
        return Result(
            bench=bench, protocol=protocol, tower=tower, seed=seed, status=e.status, expected=e.expected,
            more={"reason": str(e)},
        )  # fmt: skip


def predictions_path(out: Path) -> Path:
    """Return where the predictions of the result file `out` lie."""
    return out.with_name(f"{out.stem}.predictions.parquet")


def write_result(out: Path, result: Result) -> None:
    """Write a result as JSON, its predictions as Parquet beside it first."""
    if result.predictions is not None:
        about = {"bench": result.bench, "protocol": result.protocol, "tower": result.tower, "seed": result.seed}
        table = result.predictions.replace_schema_metadata({"unibrivl": json.dumps(about, sort_keys=True)})
        write_file(predictions_path(out), lambda f: pq.write_table(table, f, compression="zstd"))
    write_json(out, result.as_dict())


def bootstrap(values: np.ndarray, seed: int, groups: np.ndarray | None = None, *, digits: int = 4) -> list[float]:
    """Return the bounds that hold 95 % of the means of resampled samples.

    Args:
        values: of each sample, float (samples,).
        seed: of the draws.
        groups: for samples that belong together, what they share (samples,); whole groups are drawn then.
        digits: that are kept behind the point.
    """
    return bounds(resampled_means(np.asarray(values, dtype=np.float64), seed, groups), digits)


def t_interval(values: np.ndarray) -> dict[str, float]:
    """Return a mean with its 95 % interval by Student's t: for few samples, of which a bootstrap knows too little."""
    mean, freedom = float(values.mean()), len(values) - 1
    t = next((T_975[known] for known in sorted(T_975, reverse=True) if known <= freedom), 12.7)
    half = t * float(values.std(ddof=1)) / math.sqrt(len(values))
    return {"mean": round(mean, 6), "low": round(mean - half, 6), "high": round(mean + half, 6)}


def bounds(resampled: np.ndarray, digits: int = 4) -> list[float]:
    """Return the bounds that hold 95 % of resampled figures."""
    return [round(float(value), digits) for value in np.quantile(resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))]


def resampled_means(values: np.ndarray, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return the mean of each of `RESAMPLES` draws with replacement, float64 (RESAMPLES,)."""
    if not len(values):
        raise ValueError("no values to resample")
    number = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    counts = np.bincount(number)
    sums = np.bincount(number, values)
    rng = np.random.Generator(np.random.Philox(key=seed))
    means, block = [], max(1, BLOCK_VALUES // len(counts))
    for start in range(0, RESAMPLES, block):
        drawn = rng.choice(len(counts), (min(block, RESAMPLES - start), len(counts)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two runs on the same samples; positive where the second is greater."""

    metric: str
    first: float
    second: float
    difference: float
    interval: list[float]
    """Of the difference, by resampling samples in pairs."""
    p: float
    """Of a two-sided sign-flip test: how often chance alone differs as much."""
    samples: int
    groups: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def compare(first: Path, second: Path, metric: str | None = None, seed: int = 0) -> Comparison:
    """Compare two result files by their predictions, sample by sample.

    Where the predictions say which samples belong together (`group`), whole groups are drawn and flipped.

    Raises:
        BenchError: predictions are missing, are of other benches or samples, or lack the metric.
    """
    tables = [_read_predictions(out) for out in (first, second)]
    benches = [_about(table)["bench"] for table in tables]
    if benches[0] != benches[1]:
        raise BenchError(f"{first} is of bench {benches[0]}, {second} of {benches[1]}; want the same")
    metric = metric or _first_metric(tables[0], first)
    for table, path in zip(tables, (first, second), strict=True):
        if metric not in table.column_names:
            raise BenchError(f"{path}: its predictions have no {metric!r}; they have {', '.join(table.column_names)}")
    tables = [table.sort_by(ITEM) for table in tables]
    if not tables[0][ITEM].equals(tables[1][ITEM]):
        raise BenchError(f"{first} and {second} measured other samples ({len(tables[0])} and {len(tables[1])})")
    values = [np.asarray(table[metric].to_numpy(), dtype=np.float64) for table in tables]
    has_groups = GROUP in tables[0].column_names
    groups = tables[0][GROUP].to_numpy() if has_groups else np.arange(len(values[0]))
    return _compared(metric, values[0], values[1], groups, seed)


def _compared(metric: str, first: np.ndarray, second: np.ndarray, groups: np.ndarray, seed: int) -> Comparison:
    change = second - first
    means = resampled_means(change, seed, groups)
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], change)
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
    as_far, block = 0, max(1, BLOCK_VALUES // len(sums))
    for start in range(0, RESAMPLES, block):
        flips = 1 - 2 * rng.integers(0, 2, (min(block, RESAMPLES - start), len(sums)), dtype=np.int8)
        as_far += int((abs(flips @ sums) >= abs(sums.sum()) - 1e-9).sum())
    return Comparison(
        metric=metric, first=round(float(first.mean()), 6), second=round(float(second.mean()), 6),
        difference=round(float(change.mean()), 6), interval=bounds(means, 6),
        p=round((1 + as_far) / (1 + RESAMPLES), 6), samples=len(change), groups=len(sums),
    )  # fmt: skip


def _read_predictions(out: Path) -> pa.Table:
    path = predictions_path(out)
    if not path.is_file():
        raise BenchError(f"{path}: there is no such file; measure again with --out {out.name} to have it")
    try:
        return pq.read_table(path)
    except pa.ArrowException as e:
        raise BenchError(f"{path}: not readable as Parquet ({e}); measure again") from e


def _about(table: pa.Table) -> dict[str, Any]:
    return json.loads((table.schema.metadata or {}).get(b"unibrivl", b'{"bench": null}'))


def _first_metric(table: pa.Table, path: Path) -> str:
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    if not floats:
        raise BenchError(f"{path}: its predictions hold no figure")
    return floats[0]
