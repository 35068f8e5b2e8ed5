"""The pictures of a run: `plot.png`, loss and retrieval at a glance, and `curves.html`, everything on one page."""

import html
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..shards.atomic import write_bytes
from .journal import read_metrics

PLOT_FILE = "plot.png"
PAGE_FILE = "curves.html"
MAX_POINTS = 1000
"""Of a line; more are averaged, so that the page of a long run stays small."""
DIRECTIONS = (("audio_to_image", "sound to picture", "tab:blue"), ("image_to_audio", "picture to sound", "tab:orange"))
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>body {{ font: 16px/1.5 sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
svg {{ width: 100%; height: auto }} pre {{ white-space: pre-wrap; background: #f4f4f4; padding: 1rem }}
td, th {{ padding: 0 1rem 0 0; text-align: right }} td:first-child, th:first-child {{ text-align: left }}</style></head>
<body><h1>{title}</h1>
<p>{summary}</p>
{table}
{figure}
<h2>Configuration</h2>
<pre>{config}</pre></body></html>
"""


def write_curves(run: Path, described: dict[str, Any]) -> None:
    """Draw a run's `metrics.jsonl` as `plot.png` and `curves.html` in its folder.

    Args:
        run: folder of the run.
        described: the configuration, shown on the page.
    """
    entries = read_metrics(run)
    steps = [e for e in entries if "loss" in e]
    looks = [e for e in entries if "validation" in e]
    write_bytes(run / PLOT_FILE, _glance(steps, looks))
    write_bytes(run / PAGE_FILE, _page(run.name, steps, looks, described).encode())


def _glance(steps: list[dict[str, Any]], looks: list[dict[str, Any]]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_loss(left, steps)
    _draw_retrieval(right, looks, "r10", "R@10")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _page(name: str, steps: list[dict[str, Any]], looks: list[dict[str, Any]], described: dict[str, Any]) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "unibrivl", "svg.fonttype": "none"}):  # the same run gives the same bytes
        figure = Figure(figsize=(13, 15))
        figure.subplots_adjust(left=0.06, right=0.98, top=0.97, bottom=0.05, hspace=0.4, wspace=0.15)
        axes = figure.subplots(4, 2).flat
        _draw_loss(next(axes), steps)
        _draw_retrieval(next(axes), looks, "r10", "R@10")
        _draw_retrieval(next(axes), looks, "mrr", "MRR")
        _draw(next(axes), steps, "Temperature", "", _terms("temperature", steps))
        _draw(next(axes), steps, "Learning rate", "", {"peak group": _values("lr", steps)})
        _draw(next(axes), steps, "Norm of the gradient, before clipping", "", {"norm": _values("grad_norm", steps)})
        _draw(next(axes), steps, "Throughput", "clips/s", {"clips": _values("clips_per_s", steps)})
        _draw(next(axes), steps, "Waiting for data", "s a step", {"wait": _values("data_wait_s", steps)})
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    last = steps[-1] if steps else {"step": 0, "epoch": 0}
    return PAGE.format(
        title=html.escape(f"Run {name}"),
        summary=f"{last['step']} steps, {last['epoch']:.1f} epochs.",
        table=_table(looks),
        figure=drawing[drawing.index("<svg") :],
        config=html.escape(json.dumps(described, indent=2, sort_keys=True)),
    )


def _table(looks: list[dict[str, Any]]) -> str:
    """Return the last validation as a table."""
    if not looks:
        return ""
    rows = []
    for direction, label, _ in DIRECTIONS:
        scores = looks[-1]["validation"][direction]
        for who, prefix in ((label, ""), ("by chance", "chance_")):
            cells = "".join(f"<td>{scores[prefix + figure]:.3f}</td>" for figure in ("r1", "r5", "r10", "medr", "mrr"))
            rows.append(f"<tr><td>{who}</td>{cells}<td>{scores['gallery']}</td></tr>")
    heads = "".join(f"<th>{head}</th>" for head in ("", "R@1", "R@5", "R@10", "median rank", "MRR", "gallery"))
    what = html.escape(f"Last validation, on {looks[-1]['validated_on']}")
    return f"<table><caption>{what}</caption><tr>{heads}</tr>{''.join(rows)}</table>"


def _values(name: str, steps: list[dict[str, Any]]) -> list[float]:
    return [e[name] for e in steps]


def _terms(name: str, steps: list[dict[str, Any]]) -> dict[str, list[float]]:
    return {label: [e[name][n] for e in steps] for n, label in enumerate(("of L(a, f(v))", "of L(g(a), v)"))}


def _draw_loss(axes: Any, steps: list[dict[str, Any]]) -> None:
    terms = {"L(a, f(v))": _values("loss_audio_space", steps), "L(g(a), v)": _values("loss_image_space", steps)}
    _draw(axes, steps, "Training loss, by term", "nats", terms)


def _draw(axes: Any, steps: list[dict[str, Any]], title: str, unit: str, lines: dict[str, list[float]]) -> None:
    epochs = _thinned([e["epoch"] for e in steps])
    for label, values in lines.items():
        axes.plot(epochs, _thinned(values), label=label, linewidth=1.2)
    axes.set(title=title, xlabel="epoch", ylabel=unit)
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend(frameon=False)


def _thinned(values: list[float]) -> list[float]:
    """Average neighbours until no more than MAX_POINTS values are left."""
    size = -(-len(values) // MAX_POINTS)
    return [float(np.mean(values[start : start + size])) for start in range(0, len(values), size)] if values else []


def _draw_retrieval(axes: Any, looks: list[dict[str, Any]], figure: str, name: str) -> None:
    epochs = [e["epoch"] for e in looks]
    for direction, label, colour in DIRECTIONS:
        scores = [e["validation"][direction] for e in looks]
        axes.plot(epochs, [s[figure] for s in scores], marker="o", markersize=3, label=label, color=colour)
        chance = [s[f"chance_{figure}"] for s in scores]
        axes.plot(epochs, chance, linestyle="--", linewidth=1, label=f"{label}, chance", color=colour, alpha=0.6)
    if looks:
        gallery = looks[-1]["validation"]["audio_to_image"]["gallery"]
        axes.set_title(f"{name} among {gallery} clips ({looks[-1]['validated_on']})", wrap=True)
        highest = max(e["validation"][d][figure] for e in looks for d in e["validation"])
        axes.set_ylim(0, min(1.0, math.ceil(12 * max(highest, 0.1)) / 10))
    axes.set(xlabel="epoch", ylabel=name)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
