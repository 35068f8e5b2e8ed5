"""The page of `bench volume`: the gate, the figures of every level, and the curves over gain."""

from typing import Any

from ..index.page import Curve, Figure, Page, Table
from .volume import COLUMNS, REMOVED, rows, summary

CURVES = {
    "as_saved": "As it would be saved, clipped at full scale",
    "peak_safe": "From a softer master that no gain clips",
}


def volume_page(told: dict[str, Any]) -> Page:
    """Return the page of a result as plain values."""
    table = Table(
        caption="Levels", columns=COLUMNS, rows=tuple(rows(told)),
        note="Cosine and norm are against the same sound at 0 dB (noise: without it). Score moved is the mean change "
        "of a cosine with the pictures of a fixed pool; same first, how often the same of them stays first.",
    )  # fmt: skip
    shown = {} if told["verdict"] == REMOVED else CURVES
    return Page(
        title="What loudness does", tables=(), questions=(),
        paragraphs=tuple(line[0].upper() + line[1:] for line in summary(told)),
        facts=(
            ("index", told["config"]["index"]), ("snapshot", told["index"]["snapshot"]),
            ("sounds", str(told["config"]["sounds"])), ("seed", str(told["config"]["seed"])),
            *((f"{modality} model", one[:16]) for modality, one in told["index"]["fingerprints"].items()),
        ),
        figures=(*(_curve(told, name, caption) for name, caption in shown.items()), Figure(table=table)),
    )  # fmt: skip


def _curve(told: dict[str, Any], name: str, caption: str) -> Figure:
    points = tuple((point["level_db"], point["cosine"]["mean"]) for point in told["arms"][name])
    curve = Curve(x_label="gain in dB", y_label="cosine with 0 dB", points=points)
    return Figure(caption=caption, curve=curve)
