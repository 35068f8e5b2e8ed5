"""One HTML file about a shard set: what was planned, what came, why the rest did not, and how good it is.

The file holds everything that it shows; its content security policy forbids any request and any script. The same set
and seed give the same bytes.
"""

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute

from ..shards import read_dataset
from ..shards.atomic import write_bytes
from ..shards.catalog import ONTOLOGY_FILE
from ..shards.checks import check_file
from ..shards.commit import committed_shards
from ..shards.duplicates import DuplicateGroup, Duplicates, Kind, find_duplicates
from ..shards.labels import Ontology
from ..shards.stats import Stats, clock, planned_rows, summarize
from .charts import CHARTS, MINUS, Bar, Chart, bars, draw_chart, share
from .contact import ClipCard, ClipCards, draw_keys, open_clips
from .errors import IngestError
from .reasons import FLAG_MEANINGS, Reason, explain

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers

MAX_AUDIO_BYTES = 9_000_000
"""Of all sounds on a page, as stored; Base64 makes 12 MB of them."""
EXAMPLES = 3
"""Failed clips shown for each reason."""
EXTREMES = 4
"""Clips shown at the end of each measure."""
TOP_LABELS = 30
PART_ROWS = 20
SHOWN_GROUPS = 3
"""Groups of duplicates shown of each kind."""
SHOWN_MEMBERS = 6

_ENDS = (
    ("The quietest", "rms_dbfs", "ascending", "{:.1f} dBFS"),
    ("The most cut off at full scale", "clip_ratio", "descending", "{:.3%} of the samples"),
    ("The darkest", "frame_luma_mean", "ascending", "brightness {:.1f}"),
    ("The flattest", "frame_luma_std", "ascending", "contrast {:.1f}"),
    ("The most filled in", "pad_ms", "descending", "{:,.0f} ms of silence added"),
)
_ALIKE: tuple[tuple[str, Kind, bool], ...] = (
    ("equal sound", "audio", True), ("nearly equal sound", "audio", False),
    ("equal picture", "frame", True), ("nearly equal picture", "frame", False),
)  # fmt: skip
_PARTS = (
    ("split", "Splits", "split"), ("corpus", "Corpora", "corpus"), ("language", "Languages", "language"),
    ("license", "Licences", "licence"),
)  # fmt: skip
_SOURCES = (("video_codec", "Video"), ("audio_codec", "Audio"), ("size", "Picture size"), ("fps", "Frames a second"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A reason for which clips are missing."""

    reason: Reason
    bar: Bar
    examples: tuple[dict[str, str], ...]
    """`key`, `source` and `detail` of failed clips."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Copies:
    """Duplicates of one kind."""

    name: str
    across: tuple[str, ...]
    """Cells: groups and clips of different media, groups across splits, groups and clips of one medium."""
    shown: tuple[tuple[DuplicateGroup, list[ClipCard]], ...]
    left_out: int
    """Groups of different media that are not shown."""


def write_report(root: Path, out: Path, *, clips: int = 24, seed: int = 0) -> None:
    """Write the report of the shard set at `root` to `out`, whole or not at all.

    Args:
        root: folder of the set; it may be unfinished, or without a single good clip.
        out: the page.
        clips: how many go on the contact sheet.
        seed: of their choice.

    Raises:
        ShardError: `root` is no shard set, or a file of it is damaged.
        IngestError: the folder of `out` does not exist.
        ValueError: `clips` is out of range.
    """
    if not 0 <= clips <= 1000:
        raise ValueError(f"clips is {clips}, want 0 to 1000")
    check_file(out, IngestError)
    if not out.parent.is_dir():
        raise IngestError(f"{out}: the folder {out.parent} does not exist; make it first")
    dataset = read_dataset(root)
    ontology = Ontology.read(root / ONTOLOGY_FILE) if (root / ONTOLOGY_FILE).exists() else None
    rows = planned_rows(root)
    found = summarize(rows, committed_shards(root))
    reader = open_clips(root, rows)
    try:
        cards = ClipCards(reader, rows, max_audio_bytes=MAX_AUDIO_BYTES, ontology=ontology)
        contact = cards.make(draw_keys(rows, clips, seed))  # first, since the players may run out of room
        page = {
            "title": f"Shard set {root.resolve().name}",
            "stats": found, "sound": clock(found.total.seconds), "contact": contact, "seed": seed,
            "planned": _planned_bar(found), "failures": _failures(rows, found),
            "charts": _charts(found), "ends": _ends(rows, cards), "flags": _flags(found),
            "sources": [(name, bars(found.sources[column])) for column, name in _SOURCES if found.sources[column]],
            "labels": _labels(found, cards), "parts": _parts(found),
            **_duplicates(rows, cards), "silenced": cards.silenced,
            "facts": [*_flat(dataset), ("seed of the contact sheet", str(seed))],
        }  # fmt: skip
    finally:
        if reader is not None:
            reader.close()
    write_bytes(out, _render(page).encode("utf-8", errors="replace"))


def _render(page: Mapping[str, Any]) -> str:
    style = _asset("report.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{digest}'"
    return _template().render(page, style=style, policy=f"{policy}; base-uri 'none'; form-action 'none'")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["size"] = _size
    return environment.from_string(_asset("report.html"))


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _size(count: float) -> str:
    """Return bytes in a unit that leaves at most four digits before the point."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = 0
    while count >= 1000 and power < len(units) - 1:
        count, power = count / 1000, power + 1
    return f"{count:,.0f} bytes" if power == 0 else f"{count:,.1f} {units[power]}"


def _planned_bar(found: Stats) -> list[Bar]:
    """Return what became of the planned clips, as parts of one bar."""
    total = found.total
    by_kind = sorted(found.errors.items(), key=lambda item: explain(item[0]).kind)  # stable: the most frequent first
    parts = [("came", "ok", total.ok), *((code, explain(code).kind, count) for code, count in by_kind)]
    parts.append(("not yet", "waiting", total.not_yet))
    drawn, at = [], 0
    for name, kind, count in parts:
        if count:
            drawn.append(Bar.of(name, count, of=total.planned, begin=at, kind=kind))
        at += count
    return drawn


def _failures(rows: pa.Table, found: Stats) -> list[Failure]:
    failed = rows.filter(pc.field("status") == "failed")
    most = max(found.errors.values(), default=1)
    failures = []
    for code, count in found.errors.items():
        some = failed.filter(pc.field("error_code") == code).slice(0, EXAMPLES)
        examples = some.select(["key", "source", "error_detail"]).to_pylist()
        bar = Bar.of(code, count, of=most, note=share(count, found.total.planned), kind=explain(code).kind)
        shown = tuple(
            {"key": e["key"], "source": e["source"] or "", "detail": e["error_detail"] or ""} for e in examples
        )  # fmt: skip
        failures.append(Failure(reason=explain(code), bar=bar, examples=shown))
    return failures


def _charts(found: Stats) -> list[Chart]:
    return [draw_chart(found.histograms[name], **words) for name, words in CHARTS.items() if name in found.histograms]


def _ends(rows: pa.Table, cards: ClipCards) -> list[tuple[str, list[ClipCard]]]:
    """Return the clips at the end of each measure: what is wrong with a set shows there first."""
    came = rows.filter(pc.field("status") == "ok")
    ends = []
    for name, column, order, words in _ENDS:
        known = came.filter(pc.is_valid(pc.field(column)))
        if order == "descending":
            known = known.filter(pc.field(column) > 0)
        first = pc.select_k_unstable(known, EXTREMES, sort_keys=[(column, order), ("key", "ascending")])
        worst = known.select(["key", column]).take(first).to_pylist()
        if worst:
            notes = [words.format(row[column]).replace("-", MINUS).replace("%", " %") for row in worst]
            ends.append((name, cards.make([row["key"] for row in worst], notes)))
    return ends


def _flags(found: Stats) -> list[Bar]:
    return [
        Bar.of(name, count, of=found.total.ok, note=FLAG_MEANINGS.get(name, "")) for name, count in found.flags.items()
    ]


def _labels(found: Stats, cards: ClipCards) -> list[Bar]:
    shown = found.labels[:TOP_LABELS]
    most = max((label.planned for label in shown), default=1)
    return [
        Bar.of(
            cards.label_name(label.label), label.ok, of=most, rail=label.planned,
            note=label.label if cards.label_name(label.label) != label.label else "",
        )
        for label in shown
    ]  # fmt: skip


def _parts(found: Stats) -> list[tuple[str, str, list[tuple[str, ...]], int]]:
    """Return a table for each way to part the set: its name, that of a part, rows of cells, rows left out."""
    tables = []
    for column, name, one in _PARTS:
        tallies = found.parts[column]
        cells = [
            (
                value or "not given", f"{t.planned:,}", f"{t.ok:,}", share(t.ok, t.planned), f"{t.failed:,}",
                f"{t.not_yet:,}", clock(t.seconds),
            )
            for value, t in [*tallies.items()][:PART_ROWS]
        ]  # fmt: skip
        if cells and list(tallies) != [""]:
            tables.append((name, one, cells, max(0, len(tallies) - PART_ROWS)))
    return tables


def _duplicates(rows: pa.Table, cards: ClipCards) -> dict[str, Any]:
    found = find_duplicates(rows)
    copies = [_copies(found, cards, name=name, kind=kind, exact=exact) for name, kind, exact in _ALIKE]
    return {"copies": copies, "duplicates": found}


def _copies(found: Duplicates, cards: ClipCards, *, name: str, kind: Kind, exact: bool) -> Copies:
    apart = found.select(kind=kind, exact=exact, same_medium=False)
    within = found.select(kind=kind, exact=exact, same_medium=True)
    shown = [(group, cards.make(group.keys[:SHOWN_MEMBERS], sound=kind == "audio")) for group in apart[:SHOWN_GROUPS]]
    counts = (
        len(apart), sum(len(g.keys) for g in apart), sum(len(g.splits) > 1 for g in apart),
        len(within), sum(len(g.keys) for g in within),
    )  # fmt: skip
    return Copies(
        name=name, across=tuple(f"{count:,}" for count in counts), shown=tuple(shown),
        left_out=max(0, len(apart) - SHOWN_GROUPS),
    )  # fmt: skip


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the facts of `dataset.json` as names with dots and texts."""
    facts: list[tuple[str, str]] = []
    for name, entry in value.items():
        if isinstance(entry, Mapping):
            facts += _flat(entry, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, entry)) if isinstance(entry, Sequence) and not isinstance(entry, str) else entry
            facts.append((f"{prefix}{name}", "none" if text in ("", None) else str(text)))
    return facts
