"""`bench table`: result files beside the paper's rows and the strongest known numbers, each with its protocol.

`references.json` holds what others report, from their own pages; nothing of it was measured here. A row whose weights
or data are missing says so, and a table of the paper without a row of ours says that it was not measured. Reports of
human tests are blocks of their own, one a report (`human_table.py`): simulated answers are called that wherever they
stand, and never share a block with people's.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..index.page import Page, Table
from .errors import BenchError
from .figures import flat
from .human_table import BENCH as HUMAN
from .human_table import WARNING, check_result, coverage_text, human_tables

PAPER, MODERN = "paper-protocol", "modern-protocol"
FAILED, UNSUITED = "failed", "not-applicable"
"""Status of rows that no file holds: an error, and a tower that does not take what a table asks for."""
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
    "desed": ("macro_f1", "micro_f1", "event_macro_f1", "psds1", "psds2"),
    "clotho": ("cider", "bleu1", "bleu4", "meteor", "rouge_l"),
    "vegas": ("r1", "aic", "iis", "ais", "is_judge", "kid", "fid"),
    "rerank": tuple(f"pool_of_{size} first" for size in (4, 8, 20)),
    "noise-search": tuple(f"{name} {side}_above" for name in ("prune", "zero-order") for side in ("score", "judge")),
    "volume": ("gate share", "trend as_saved score", "trend peak_safe score"),
}
"""What a bench's table shows; of others, every figure that has an interval, or all."""
DESED_SUBSET = "synth21-val"
"""That is as large as the paper's."""
REFERENCES = Path(__file__).with_name("references.json")
ROW_FIELDS = ("bench", "protocol", "tower", "metrics", "chance", "coverage", "interval", "seed", "status")
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "<": r"\textless{}", ">": r"\textgreater{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


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
    if told["bench"] == HUMAN:
        check_result(path, told)
    return told | {"file": path.name}


def table_rows(results: Iterable[dict[str, Any]]) -> dict[str, list[Row]]:
    """Return the rows of each bench: ours, then what others report; not those of human tests."""
    tables: dict[str, list[Row]] = {}
    for told in results:
        if told["bench"] != HUMAN:
            tables.setdefault(table_name(told), []).extend(_own_rows(told))
    for reference in references():
        tables.setdefault(reference["bench"], [])
    for bench, rows in tables.items():
        if not rows:
            rows.append(Row(bench=bench, tower="unibrivl", figure="", value=None, note="not measured"))
        rows += [_reference_row(reference) for reference in references() if reference["bench"] == bench]
    return tables


def human_blocks(results: Iterable[dict[str, Any]]) -> list[Table]:
    """Return the blocks of the human tests among results."""
    blocks = []
    for told in results:
        if told["bench"] == HUMAN:
            first, *others = human_tables(told)
            about = f"From {told['file']}: study {told['study'][:16]}, {told['protocol']}, seed {told['seed']}."
            words = (*[WARNING] * told["simulated"], first.note, coverage_text(told), about)
            blocks += [replace(first, note=" ".join(words)), *(replace(o, note=f"{o.note} {about}") for o in others)]
    return blocks


def table_name(told: dict[str, Any]) -> str:
    """Return where a row stands: a part of a data set, or another one, never among figures of the whole."""
    if told["bench"] == "desed":
        return "desed" if _desed_subset(told) == DESED_SUBSET else f"desed on {_desed_subset(told)}"
    dataset = told.get("dataset") or f"ESC-{len(told.get('classes', []))}"
    return f"esc50 on {dataset}" if told["bench"] == "esc50" and dataset not in ("ESC-50", "ESC-0") else told["bench"]


def _desed_subset(told: dict[str, Any]) -> str:
    return told["protocol"].partition(",")[0]


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
    if told["status"].startswith("needs-") or told["status"] in (FAILED, UNSUITED):
        note = f"{told['status']}: {', '.join(told.get('expected', ())) or told.get('reason', '')}"
        row = Row(bench=told["bench"], tower=tower, figure="", value=None, note=note, protocol=protocol)
        return [row]
    metrics, intervals, chance = (flat(told[name]) for name in ("metrics", "interval", "chance"))
    names = [name for name in HEADLINES.get(told["bench"], ()) if name in metrics]
    names = names or [name for name in metrics if name in intervals] or list(metrics)
    notes = ["partial"] * (told["status"] == "partial") + [f"circular: {one}" for one in told.get("circular", ())]
    return [
        Row(
            bench=told["bench"], tower=tower, figure=name, value=metrics[name], chance=chance.get(name),
            interval=tuple(intervals[name]) if name in intervals else None, covered=covered(told), protocol=protocol,
            origin=told["file"], note="; ".join(notes),
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
    if told["bench"] == "desed" and _desed_subset(told) != DESED_SUBSET:
        return MODERN
    follows = ("probe l3", "frozen embeddings, l3", "zero-shot", "gallery full, frames single")
    return PAPER if any(words in text for words in follows) else MODERN


def as_markdown(tables: dict[str, list[Row]], blocks: Sequence[Table] = ()) -> str:
    """Return every table as Markdown."""
    parts = []
    for table in _all(tables, blocks):
        lines = [table.columns, ("---",) * len(table.columns), *table.rows]
        body = "".join(f"| {' | '.join(map(_pipe, line))} |\n" for line in lines)
        parts.append(f"## {table.caption}\n\n{body}" + (f"\n{table.note}\n" if table.note else ""))
    return "\n".join(parts)


def _all(tables: dict[str, list[Row]], blocks: Sequence[Table]) -> tuple[Table, ...]:
    """Return every table as texts; those of people's answers come last."""
    texts = (
        Table(caption=bench, columns=COLUMNS, rows=tuple(row.cells() for row in rows), note="")
        for bench, rows in tables.items()
    )
    return (*texts, *blocks)


def _pipe(text: str) -> str:
    return text.replace("|", "\\|")


def as_latex(tables: dict[str, list[Row]], blocks: Sequence[Table] = ()) -> str:
    """Return every table as LaTeX, to be read with the package booktabs; a block's heading and note are printed."""
    parts = []
    for table in _all(tables, blocks):
        body = "".join(f"{' & '.join(map(_latex, row))} \\\\\n" for row in table.rows)
        head, width = " & ".join(map(_latex, table.columns)), len(table.columns)
        above = f"\\multicolumn{{{width}}}{{l}}{{{_latex(table.caption)}}} \\\\\n" if table.note else ""
        below = f"\n\\par {_latex(table.note)}\n" if table.note else ""
        parts.append(
            f"% {table.caption}\n\\begin{{tabular}}{{{'l' * width}}}\n\\toprule\n{above}{head} \\\\\n\\midrule\n"
            f"{body}\\bottomrule\n\\end{{tabular}}\n{below}"
        )
    return "\n".join(parts)


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def as_json(tables: dict[str, list[Row]], blocks: Sequence[Table] = ()) -> dict[str, list[dict[str, Any]]]:
    """Return every table as plain JSON values; human tests as blocks of texts, under `human`."""
    told = {bench: [row.as_dict() for row in rows] for bench, rows in tables.items()}
    return told | ({HUMAN: [asdict(block) for block in blocks]} if blocks else {})


def as_page(tables: dict[str, list[Row]], blocks: Sequence[Table] = ()) -> Page:
    """Return every table on one page."""
    return Page(
        title="The tables",
        paragraphs=(
            "Rows with a file name were measured by unibrivl; all others are as their authors report them, by "
            "protocols of their own, and are not comparable unless the protocols are the same.",
        ),
        tables=_all(tables, blocks), questions=(), facts=(),
    )  # fmt: skip


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) >= 1e-4 or not value else f"{value:.2g}"
