"""The page of `bench speed index`: recall against answers a second, one line an engine, and the tables."""

import html
import math
from pathlib import Path
from typing import Any

from ..index.page import Figure, Page, Table, write_page
from .speed_index import COLUMNS, TARGETS, rows

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 860, 440, 70, 20, 150, 50
LEAST_RECALL = 0.7
"""Where the x axis begins: nobody searches with less."""
COLORS = ("#3b6fd0", "#c2571a", "#2b8a57", "#8b4fc2", "#b8862b", "#c23b6e", "#3a93a5", "#7a7f87")
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#5d656d}.axis{stroke:#b9bec4}.grid{stroke:#b9bec4;opacity:.35}"
    "@media(prefers-color-scheme:dark){text{fill:#9da5ad}}"
)


def write_curves(result: dict[str, Any], path: Path) -> None:
    """Write the page of a result."""
    write_page(index_page(result), path)


def index_page(result: dict[str, Any]) -> Page:
    """Return the page of a result."""
    config, machine = result["config"], result["environment"]
    table = Table(
        caption="At recall 0.95", columns=COLUMNS, rows=tuple(tuple(row) for row in rows(result)),
        note="Median of the turns, one thread on one core; the setting is the fastest of each engine that reaches the "
        "recall. Bytes are those of all files. The filter lets a hundredth of the rows through, chosen at random.",
    )  # fmt: skip
    return Page(
        title="Search beside other engines", questions=(), tables=(),
        paragraphs=(
            f"{config['rows']:,} vectors of {config['dim']} numbers; {config['queries']:,} questions from another "
            f"modality, {result['k']} answers each. Further up is faster, further right finds more.",
            "The vectors are made up, with topics and with a gap between two modalities; figures on real embeddings "
            "may differ. No engine grades itself: recall is counted by the vectors' own cosines.",
        ),
        facts=(
            ("machine", f"{machine['cores']} cores, {machine['processor']}"), ("seed", str(config["seed"])),
            *((name, told["version"]) for name, told in result["engines"].items() if told.get("version")),
        ),
        figures=(
            Figure(caption="Recall at 10 against answers a second, many questions at once", image=chart(result)),
            Figure(table=table), Figure(table=_targets(result)),
            *([Figure(table=_survived(result))] if not config["quick"] else []),
        ),
    )  # fmt: skip


def chart(result: dict[str, Any]) -> bytes:
    """Return the curves as an SVG file, answers a second on a logarithmic axis."""
    lines = {
        name: [point for point in _frontier(told["curve"]) if point["recall"] >= LEAST_RECALL]
        for name, told in result["engines"].items()
        if "curve" in told
    }
    speeds = [point["qps"] for points in lines.values() for point in points] or [1.0]
    low, high = math.floor(math.log10(min(speeds))), math.ceil(math.log10(max(speeds)) + 1e-9)
    high = max(high, low + 1)

    def place(recall: float, qps: float) -> tuple[float, float]:
        x = LEFT + (recall - LEAST_RECALL) / (1 - LEAST_RECALL) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (math.log10(qps) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [_axes(place, low, high)]
    for number, (name, points) in enumerate(lines.items()):
        color = COLORS[number % len(COLORS)]
        places = [place(point["recall"], point["qps"]) for point in points]
        path = " ".join(f"{x},{y}" for x, y in places)
        dots = "".join(f'<circle cx="{x}" cy="{y}" r="3" fill="{color}"/>' for x, y in places)
        top = TOP + 12 + 22 * number
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>{dots}'
            f'<rect x="{WIDTH - RIGHT + 20}" y="{top - 10}" width="12" height="12" fill="{color}"/>'
            f'<text x="{WIDTH - RIGHT + 38}" y="{top}">{html.escape(name)}</text>'
        )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    return f"{head}<style>{STYLE}</style>{''.join(parts)}</svg>".encode()


def _axes(place: Any, low: int, high: int) -> str:
    found = []
    for power in range(low, high + 1):
        x, y = place(LEAST_RECALL, 10**power)
        found.append(f'<line class="grid" x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>')
        found.append(f'<text x="{x - 8}" y="{y + 4}" text-anchor="end">{10**power:,}</text>')
    for recall in (0.7, 0.8, 0.9, 0.95, 1.0):
        x, y = place(recall, 10**low)
        found.append(f'<line class="grid" x1="{x}" y1="{TOP}" x2="{x}" y2="{y}"/>')
        found.append(f'<text x="{x}" y="{y + 20}" text-anchor="middle">{recall:g}</text>')
    x, y = place(1.0, 10**low)
    found.append(f'<line class="axis" x1="{LEFT}" y1="{y}" x2="{x}" y2="{y}"/>')
    found.append(f'<text x="{(LEFT + x) / 2}" y="{HEIGHT - 8}" text-anchor="middle">recall at 10</text>')
    return "".join(found)


def _frontier(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the settings that no other beats in both, by rising recall."""
    best: list[dict[str, float]] = []
    for point in sorted(curve, key=lambda point: (-point["recall"], -point["qps"])):
        if not best or point["qps"] > best[-1]["qps"]:
            best.append(point)
    return best[::-1]


def _targets(result: dict[str, Any]) -> Table:
    found = []
    for name, told in result["engines"].items():
        if "qps" in told:
            cells = [_speeds(told["qps"].get(target)) for target in TARGETS]
            found.append((name, *cells, *(_share(value) for value in told["filter_recall"].values())))
    return Table(
        caption="At other recalls, and under filters", rows=tuple(found),
        note="Answers a second, many at once / alone.",
        columns=("engine", *(f"recall {t}" for t in TARGETS), "filter 50 %", "10 %", "1 %", "0.1 %"),
    )  # fmt: skip


def _survived(result: dict[str, Any]) -> Table:
    found = []
    for name, told in result["engines"].items():
        if "kill_9" in told:
            found.append((name, ", ".join(f"{n} {how}" for how, n in told["kill_9"].items()), told["flipped_block"]))
    return Table(
        caption="Killed and damaged", columns=("engine", "killed while it wrote over its store", "4 KiB inverted"),
        rows=tuple(found), note="Old, new: answers of that store. Wrong: of neither. Refused: it did not open.",
    )  # fmt: skip


def _speeds(told: dict[str, Any] | None) -> str:
    return "not reached" if told is None else f"{told['batch']['median']:,.0f} / {told['single']['median']:,.0f}"


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
