"""Bars and histograms of the report as numbers that its template draws: every length is a percentage."""

from dataclasses import dataclass
from typing import Any

from ..shards.histogram import Histogram

MINUS = "\N{MINUS SIGN}"
MAX_BARS = 8
"""Values of a property of the media that are shown; the rest is summed up."""

CHARTS: dict[str, dict[str, Any]] = {
    "duration_s": {"title": "Length", "form": "{:g} s"},
    "rms_dbfs": {"title": "Loudness (RMS)", "form": "{:g} dBFS"},
    "peak_dbfs": {"title": "Peak", "form": "{:g} dBFS"},
    "silent_ratio": {"title": "Silence (below \N{MINUS SIGN}60 dBFS)", "form": "{:g} %", "factor": 100},
    "clip_ratio": {"title": "Part at full scale", "form": "{:g} %", "factor": 100},
    "frame_luma_mean": {"title": "Brightness (0 to 255)", "form": "{:g}"},
    "frame_luma_std": {"title": "Contrast", "form": "{:g}"},
    "pad_ms": {"title": "Silence filled in", "form": "{:g} ms"},
}
"""Measure to the words of its chart, in the order of the page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A named count, drawn as a bar or a part of one."""

    name: str
    count: int
    note: str
    """A few words beside the name."""
    kind: str
    """Class of its colour."""
    begin: str
    length: str
    rail: str
    """Length of the paler bar behind it."""

    @classmethod
    def of(
        cls, name: str, count: int, *, of: int, begin: int = 0, rail: int | None = None, note: str | None = None,
        kind: str = "plain",
    ) -> "Bar":  # fmt: skip
        """Return the bar of `count` where `of` fills the width; `note` None says which share that is."""
        return cls(
            name=name, count=count, note=share(count, of) if note is None else note, kind=kind,
            begin=_percent(begin, of), length=_percent(count, of), rail=_percent(of if rail is None else rail, of),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One bin of a histogram."""

    span: str
    """What it holds, such as `-24 to -20 dBFS`."""
    count: int
    x: str
    width: str
    y: str
    height: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A histogram ready to be drawn; without columns where every clip measures the same."""

    title: str
    summary: str
    """The quantiles as a sentence."""
    columns: tuple[Column, ...]
    first: str
    last: str
    """Ends of the axis."""
    most: int
    """Count of the highest column."""


def share(count: int, of: int) -> str:
    """Return a share in percent, never 0 for some and never 100 for not all."""
    if not of or not count:
        return "0 %"
    if count == of:
        return "100 %"
    percent = 100 * count / of
    return "< 0.1 %" if percent < 0.1 else "> 99.9 %" if percent > 99.9 else f"{percent:.1f} %"


def bars(counts: dict[str, int]) -> list[Bar]:
    """Return a bar for each of the most frequent values and one for all others."""
    total = sum(counts.values())
    shown = [*counts.items()][:MAX_BARS]
    drawn = [Bar.of(name, count, of=total) for name, count in shown]
    if rest := total - sum(count for _, count in shown):
        drawn.append(Bar.of(f"{len(counts) - len(shown):,} others", rest, of=total))
    return drawn


def draw_chart(histogram: Histogram, *, title: str, form: str, factor: float = 1) -> Chart:
    """Return the chart of a histogram whose values are shown times `factor` in the words of `form`."""

    def say(value: float) -> str:
        return form.format(_number(value * factor)).replace("-", MINUS)

    edges, most = histogram.edges, max(histogram.counts)
    width = 100 / len(histogram.counts)
    columns = []
    for n, count in enumerate(histogram.counts):
        height = max(100 * count / most, 2) if count else 0  # a few clips among millions stay visible
        columns.append(
            Column(
                span=f"{say(edges[n])} to {say(edges[n + 1])}", count=count, x=f"{n * width:.3f}%",
                width=f"{0.9 * width:.3f}%", y=f"{100 - height:.2f}%", height=f"{height:.2f}%",
            )
        )  # fmt: skip
    if histogram.least == histogram.most:
        return Chart(
            title=title, summary=f"{say(histogram.most)} everywhere.", columns=(), first="", last="", most=most
        )
    summary = (
        f"Median {say(histogram.median)}; nine in ten from {say(histogram.p05)} to {say(histogram.p95)}; "
        f"all from {say(histogram.least)} to {say(histogram.most)}."
    )
    return Chart(
        title=title, summary=summary, columns=tuple(columns), first=say(edges[0]), last=say(edges[-1]), most=most
    )


def _number(value: float) -> float:
    """Round to three digits: more say nothing on a page."""
    return float(f"{value:.3g}")


def _percent(count: int, of: int) -> str:
    return f"{100 * count / of if of else 0:.3f}%"
