"""Holds README.md to the result files: each table is the one that a committed file gives."""

import json
import re
from pathlib import Path

import pytest

from unibrivl.bench.retrieval_page import COLUMNS, figure_rows

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLES = re.findall(r"<!-- table: (\S+) -->", README)


def markdown(result: Path) -> str:
    retrieval = json.loads(result.read_text(encoding="utf-8"))["retrieval"]
    rows = [row for name, figures in retrieval.items() for row in figure_rows(name, figures)]
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def test_readme_shows_the_demo() -> None:
    assert len(TABLES) == 2


@pytest.mark.parametrize("name", TABLES)
def test_each_table_is_its_result_file(name: str) -> None:
    assert f"<!-- table: {name} -->\n\n{markdown(ROOT / 'bench' / 'results' / f'{name}.json')}" in README


@pytest.mark.parametrize("name", [name for name in TABLES if "stamps" in name])
def test_the_claim_holds(name: str) -> None:
    """The README says: beyond the permutation control. Three of its deviations, in both directions."""
    retrieval = json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text(encoding="utf-8"))["retrieval"]
    for figures in retrieval.values():
        assert figures["r10"] > figures["shuffled_r10"] + 3 * figures["shuffled_r10_sd"]
