"""The picture of a run: loss and validation retrieval over its epochs."""

import io
import json
import math
from pathlib import Path
from typing import Any

from ..shards.atomic import write_bytes


def write_plot(metrics: Path, target: Path) -> None:
    """Draw `metrics.jsonl` as a PNG: loss on the left, R@10 of both directions beside chance on the right."""
    from matplotlib.figure import Figure

    entries = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [e for e in entries if "loss" in e]
    looks = [e for e in entries if "validation" in e]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_loss(left, steps)
    _draw_retrieval(right, looks)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_bytes(target, buffer.getvalue())


def _draw_loss(axes: Any, steps: list[dict[str, Any]]) -> None:
    epochs = [e["epoch"] for e in steps]
    for name, label in (("loss_audio_space", "L(a, f(v))"), ("loss_image_space", "L(g(a), v)")):
        axes.plot(epochs, [e[name] for e in steps], label=label, linewidth=1.2)
    axes.set(title="Training loss, by term", xlabel="epoch", ylabel="nats")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _draw_retrieval(axes: Any, looks: list[dict[str, Any]]) -> None:
    epochs = [e["epoch"] for e in looks]
    for direction, label in (("audio_to_image", "sound to picture"), ("image_to_audio", "picture to sound")):
        axes.plot(epochs, [e["validation"][direction]["r10"] for e in looks], marker="o", markersize=3, label=label)
    if looks:
        last = looks[-1]["validation"]["audio_to_image"]
        axes.axhline(last["chance_r10"], color="grey", linestyle="--", linewidth=1, label="chance")
        axes.set_title(f"R@10 among {last['gallery']} clips ({looks[-1]['validated_on']})", wrap=True)
        highest = max(e["validation"][d]["r10"] for e in looks for d in e["validation"])
        axes.set_ylim(0, min(1.0, math.ceil(12 * max(highest, 0.1)) / 10))
    axes.set(xlabel="epoch", ylabel="R@10")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
