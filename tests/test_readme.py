"""Holds README.md to the result files: each table is the one that a committed file gives."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unibrivl.bench import rerank, retrieval_page, speed_index, speed_ingest, speed_reader, volume

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLES = re.findall(r"<!-- table: (\S+) -->", README)
Rows = list[tuple[str, ...]]


def retrieval_rows(result: dict[str, Any]) -> Rows:
    return [row for name, figures in result["retrieval"].items() for row in retrieval_page.figure_rows(name, figures)]


KINDS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], Rows]]] = {
    "demo": (retrieval_page.COLUMNS, retrieval_rows),
    "speed-index": (speed_index.COLUMNS, speed_index.rows),
    "speed-ingest": (speed_ingest.COLUMNS, speed_ingest.rows),
    "speed-reader": (speed_reader.COLUMNS, speed_reader.rows),
}


def read_result(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def markdown(name: str) -> str:
    columns, rows = next(KINDS[kind] for kind in KINDS if name.startswith(kind))
    lines = [columns, ("---",) * len(columns), *rows(read_result(name))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def test_readme_shows_the_demo_and_the_speed() -> None:
    assert sorted(next(kind for kind in KINDS if name.startswith(kind)) for name in TABLES) == [
        "demo", "demo", "speed-index", "speed-ingest", "speed-reader",
    ]  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_each_table_is_its_result_file(name: str) -> None:
    assert f"<!-- table: {name} -->\n\n{markdown(name)}" in README


def test_tables_of_the_page_on_generating_are_their_result_files() -> None:
    """Of the volume study the page shows the two arms in which gain is heard."""
    page = (ROOT / "docs" / "generate.md").read_text(encoding="utf-8")
    shown = {name: table for name, table in re.findall(r"<!-- table: (\S+) -->\n\n((?:\|.*\n)+)", page)}
    chosen, heard = sorted(shown)
    lines = [rerank.COLUMNS, ("---",) * len(rerank.COLUMNS), *rerank.rows(read_result(chosen))]
    assert shown[chosen] == "".join(f"| {' | '.join(line)} |\n" for line in lines)
    told = [row for row in volume.rows(read_result(heard)) if row[0] in ("as saved", "peak safe")]
    lines = [volume.COLUMNS, ("---",) * len(volume.COLUMNS), *told]
    assert shown[heard] == "".join(f"| {' | '.join(line)} |\n" for line in lines)
    result = read_result(chosen)
    for size, one in result["metrics"].items():
        permuted = result["permuted"][size]
        assert result["interval"][size]["first"][0] > result["chance"][size]["first"]
        assert one["first"] > permuted["first"] + 3 * permuted["first_sd"]


@pytest.mark.parametrize("name", [name for name in TABLES if "stamps" in name])
def test_the_claim_holds(name: str) -> None:
    """The README says: beyond the permutation control. Three of its deviations, in both directions."""
    for figures in read_result(name)["retrieval"].values():
        assert figures["r10"] > figures["shuffled_r10"] + 3 * figures["shuffled_r10_sd"]


@pytest.mark.parametrize("name", [name for name in TABLES if name.startswith("speed")])
def test_ratios_in_the_text_are_those_of_the_result_file(name: str) -> None:
    """The sentence below a table names figures of its file as `name` value."""
    result = read_result(name)
    told = re.findall(rf"<!-- figures: {re.escape(name)} -->\n(.*?)\n\n", README, flags=re.DOTALL)
    named = re.findall(r"`(\w+)`\s+(-?[\d.]+)", " ".join(told))
    assert named
    for figure, value in named:
        assert f"{result[figure]:.2f}" == value, figure
