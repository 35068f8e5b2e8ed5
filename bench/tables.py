"""`bench table`: result files beside the paper's rows and the strongest known numbers, each with its protocol.

`references.json` holds what others report, from their own pages; nothing of it was measured here. A row whose weights
or data are missing says so, a table of the paper without a row of ours says that it was not measured, and simulated
answers are called that wherever they stand.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..index.page import Page, Table
from .errors import BenchError
from .figures import flat

PAPER, MODERN = "paper-protocol", "modern-protocol"
COLUMNS = ("tower", "figure", "value", "95 %", "chance", "covered", "protocol", "from")
HEADLINES: dict[str, tuple[str, ...]] = {
    "esc50": ("accuracy",),
    "urbansound8k": ("accuracy",),
    "vggsound": ("map", "top1"),
    "vggsound-retrieval": tuple(
        f"{direction} {scoring} mrr"
        for direction in ("audio_to_image", "image_to_audio")
        for scoring in ("instance", "class", "class_without_self")
    ),
    "class-pictures": ("r1",),
    "clotho": ("cider", "bleu1", "bleu4", "meteor", "rouge_l"),
}
"""What a bench's table shows; of others, every figure that has an interval, or all."""
REFERENCES = Path(__file__).with_name("references.json")
ROW_FIELDS = ("bench", "protocol", "tower", "metrics", "chance", "coverage", "interval", "seed", "status")
LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure of one tower."""

    bench: str
    tower: str
    figure: str
    value: float | None
    """None: there is no number, and `note` says why."""
    interval: tuple[float, float] | None = None
    chance: float | None = None
    covered: str = ""
    protocol: str = ""
    origin: str = ""
    note: str = ""
    is_ours: bool = True

    def cells(self) -> tuple[str, ...]:
        """Return the texts of `COLUMNS`."""
        low_high = "" if self.interval is None else f"{_number(self.interval[0])} to {_number(self.interval[1])}"
        protocol = f"{self.protocol}; {self.note}" if self.note and self.value is not None else self.protocol
        value = self.note if self.value is None else _number(self.value)
        return (self.tower, self.figure, value, low_high, _number(self.chance), self.covered, protocol, self.origin)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        names = ("bench", "tower", "figure", "value", "chance", "covered", "protocol", "note")
        interval = None if self.interval is None else list(self.interval)
        return {name: getattr(self, name) for name in names} | {
            "interval": interval, "from": self.origin, "measured_here": self.is_ours,
        }  # fmt: skip


def read_row(path: Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        BenchError: it is not of this shape, or bears a number though something is missing.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise BenchError(f"{path}: not readable as JSON ({e})") from e
    if not isinstance(told, dict) or any(name not in told for name in ROW_FIELDS):
        raise BenchError(f"{path}: no result of a table; want {', '.join(ROW_FIELDS)}")
    if told["status"].startswith("needs-") and told["metrics"]:
        raise BenchError(f"{path}: status {told['status']} and a number at once; measure again")
    return told | {"file": path.name}


def table_rows(results: Iterable[dict[str, Any]]) -> dict[str, list[Row]]:
    """Return the rows of each bench: ours, then what others report."""
    tables: dict[str, list[Row]] = {}
    for told in results:
        tables.setdefault(table_name(told), []).extend(_own_rows(told))
    for reference in references():
        tables.setdefault(reference["bench"], [])
    for bench, rows in tables.items():
        if not rows:
            rows.append(Row(bench=bench, tower="unibrivl", figure="", value=None, note="not measured"))
        rows += [_reference_row(reference) for reference in references() if reference["bench"] == bench]
    return tables


def table_name(told: dict[str, Any]) -> str:
    """Return where a row stands: a part of a data set never among figures of the whole."""
    dataset = told.get("dataset") or f"ESC-{len(told.get('classes', []))}"
    return f"esc50 on {dataset}" if told["bench"] == "esc50" and dataset not in ("ESC-50", "ESC-0") else told["bench"]


@cache
def references() -> tuple[dict[str, Any], ...]:
    """Return what others report."""
    return tuple(json.loads(REFERENCES.read_text(encoding="utf-8")))


def _reference_row(told: dict[str, Any]) -> Row:
    return Row(
        bench=told["bench"], tower=told["tower"], figure=told["metric"], value=told["value"], is_ours=False,
        protocol=told["protocol"], origin=told["source"], note=told["note"],
    )  # fmt: skip


def _own_rows(told: dict[str, Any]) -> list[Row]:
    tower = f"{told['tower']} (simulated)" if told.get("simulated") else told["tower"]
    protocol = f"{protocol_tag(told)}: {told['protocol']}, seed {told['seed']}"
    if told["status"].startswith("needs-"):
        note = f"{told['status']}: {', '.join(told.get('expected', []))}"
        row = Row(bench=told["bench"], tower=tower, figure="", value=None, note=note, protocol=protocol)
        return [row]
    metrics, intervals, chance = (flat(told[name]) for name in ("metrics", "interval", "chance"))
    names = [name for name in HEADLINES.get(told["bench"], ()) if name in metrics]
    names = names or [name for name in metrics if name in intervals] or list(metrics)
    return [
        Row(
            bench=told["bench"], tower=tower, figure=name, value=metrics[name], chance=chance.get(name),
            interval=tuple(intervals[name]) if name in intervals else None, covered=covered(told), protocol=protocol,
            origin=told["file"], note="partial" if told["status"] == "partial" else "",
        )
        for name in names
    ]  # fmt: skip


def covered(told: dict[str, Any]) -> str:
    """Return how much of the listed data a result is of, and which classes have none."""
    coverage = told["coverage"]
    text = f"{coverage['clips']:,}/{coverage['listed']:,}" if {"clips", "listed"} <= set(coverage) else ""
    missing = coverage.get("missing_classes") or []
    return f"{text}, {len(missing)} classes missing" if missing else text


def protocol_tag(told: dict[str, Any]) -> str:
    """Tell whether a row follows what the paper says, where that is known; `paper-protocol` is our reading of it."""
    text = told["protocol"]
    follows = ("probe l3", "frozen embeddings, l3", "zero-shot", "gallery full, frames single")
    return PAPER if any(words in text for words in follows) else MODERN


def as_markdown(tables: dict[str, list[Row]]) -> str:
    """Return every table as Markdown."""
    parts = []
    for bench, rows in tables.items():
        lines = [COLUMNS, ("---",) * len(COLUMNS), *(row.cells() for row in rows)]
        parts.append(f"## {bench}\n\n" + "".join(f"| {' | '.join(map(_pipe, line))} |\n" for line in lines))
    return "\n".join(parts)


def _pipe(text: str) -> str:
    return text.replace("|", "\\|")


def as_latex(tables: dict[str, list[Row]]) -> str:
    """Return every table as LaTeX, to be read with the package booktabs."""
    parts = []
    for bench, rows in tables.items():
        body = "".join(f"{' & '.join(map(_latex, row.cells()))} \\\\\n" for row in rows)
        head = " & ".join(map(_latex, COLUMNS))
        parts.append(
            f"% {bench}\n\\begin{{tabular}}{{{'l' * len(COLUMNS)}}}\n\\toprule\n{head} \\\\\n\\midrule\n"
            f"{body}\\bottomrule\n\\end{{tabular}}\n"
        )
    return "\n".join(parts)


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def as_json(tables: dict[str, list[Row]]) -> dict[str, list[dict[str, Any]]]:
    """Return every table as plain JSON values."""
    return {bench: [row.as_dict() for row in rows] for bench, rows in tables.items()}


def as_page(tables: dict[str, list[Row]]) -> Page:
    """Return every table on one page."""
    return Page(
        title="The tables",
        paragraphs=(
            "Rows with a file name were measured by unibrivl; all others are as their authors report them, by "
            "protocols of their own, and are not comparable unless the protocols are the same.",
        ),
        tables=tuple(
            Table(caption=bench, columns=COLUMNS, rows=tuple(row.cells() for row in rows), note="")
            for bench, rows in tables.items()
        ),
        questions=(), facts=(),
    )  # fmt: skip


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) >= 1e-4 or not value else f"{value:.2g}"
