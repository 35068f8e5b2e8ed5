"""Tables: ours beside what others report, what is missing said and never a number, in four formats."""

import json
from pathlib import Path
from typing import Any

import pytest

from unibrivl.bench.errors import BenchError
from unibrivl.bench.protocol import Result, write_result
from unibrivl.bench.tables import (
    COLUMNS,
    MODERN,
    PAPER,
    as_json,
    as_latex,
    as_markdown,
    as_page,
    read_row,
    references,
    table_rows,
)
from unibrivl.index.page import render


def write_row(path: Path, **changes: Any) -> Path:
    fields: dict[str, Any] = {
        "bench": "urbansound8k", "protocol": "official folds, probe l3", "tower": "log_mel & co",
        "metrics": {"accuracy": 0.5, "accuracy_by_fold": {"1": 0.5}}, "chance": {"accuracy": 0.1},
        "interval": {"accuracy": [0.45, 0.55], "level": 0.95}, "coverage": {"clips": 8000, "listed": 8732},
        "status": "partial",
    }  # fmt: skip
    write_result(path, Result(**(fields | changes)))
    return path


def needing(path: Path) -> Path:
    return write_row(
        path, metrics={}, interval={}, status="needs-weights", expected=("clap/model.safetensors",), tower="clap:music"
    )


def test_a_row_stands_beside_the_papers(tmp_path: Path) -> None:
    text = as_markdown(table_rows([read_row(write_row(tmp_path / "a.json")), read_row(needing(tmp_path / "b.json"))]))
    lines = [line for line in text.split("## urbansound8k")[1].split("## ")[0].splitlines() if line]
    assert lines[0] == f"| {' | '.join(COLUMNS)} |"
    assert lines[2] == (
        "| log_mel & co | accuracy | 0.5 | 0.45 to 0.55 | 0.1 | 8,000/8,732 | "
        "paper-protocol: official folds, probe l3, seed 0; partial | a.json |"
    )
    assert lines[3].startswith("| clap:music |  | needs-weights: clap/model.safetensors |  |  |")
    assert lines[4].startswith("| UniBriVL | accuracy | 0.8722 |")
    assert "| unibrivl |  | not measured |" in text.split("## vggsound\n")[1]


def test_a_part_of_a_data_set_stands_alone(tmp_path: Path) -> None:
    row = read_row(write_row(tmp_path / "a.json", bench="esc50", more={"dataset": "ESC-10"}))
    tables = table_rows([row])
    assert [r.value for r in tables["esc50 on ESC-10"]] == [0.5]
    assert tables["esc50"][0].note == "not measured" and len(tables["esc50"]) > 5


def test_the_subsets_of_desed_stand_in_tables_of_their_own(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"bench": "desed", "metrics": {"macro_f1": 0.4}, "chance": {}, "interval": {}}
    rows = [
        read_row(write_row(tmp_path / f"{subset}.json", protocol=f"{subset}, windows of 1 s, probe l3", **fields))
        for subset in ("synth21-val", "real-val")
    ]
    tables = table_rows(rows)
    assert tables["desed"][0].protocol.startswith(PAPER) and tables["desed"][1].tower == "UniBriVL"
    (own,) = tables["desed on real-val"]
    assert own.value == 0.4 and own.protocol.startswith(MODERN)


def test_simulated_answers_are_called_that(tmp_path: Path) -> None:
    row = read_row(write_row(tmp_path / "a.json", bench="human", more={"simulated": True}))
    assert {r.tower for r in table_rows([row])["human"]} == {"log_mel & co (simulated)"}


def test_every_format_holds_the_same_rows(tmp_path: Path) -> None:
    tables = table_rows([read_row(write_row(tmp_path / "a.json"))])
    latex = as_latex(tables)
    assert r"log\_mel \& co & accuracy & 0.5 & 0.45 to 0.55" in latex and latex.count(r"\toprule") == len(tables)
    told = as_json(tables)
    assert json.loads(json.dumps(told)) == told
    assert told["urbansound8k"][0]["measured_here"] and not told["urbansound8k"][1]["measured_here"]
    page = render(as_page(tables))
    assert "log_mel &amp; co" in page and page.count("<table") == len(tables)


def test_what_others_report_has_a_source_and_a_protocol() -> None:
    for told in references():
        assert set(told) == {"bench", "metric", "tower", "value", "protocol", "source", "note"}
        is_share = told["metric"] not in ("fid_vggsound", "is_vggsound")
        assert told["protocol"] in (PAPER, MODERN) and told["source"] and 0 < told["value"] <= (1 if is_share else 100)
    towers = {(told["bench"], told["tower"]): told["value"] for told in references()}
    assert towers["esc50", "UniBriVL"] == 0.9307 and towers["urbansound8k", "UniBriVL"] == 0.8722


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ('{"bench": "esc50"}', "no result of a table; want bench, protocol, tower"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(BenchError, match=message):
        read_row(tmp_path / "a.json")


def test_a_number_where_something_is_missing_is_refused(tmp_path: Path) -> None:
    path = needing(tmp_path / "a.json")
    told = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(told | {"metrics": {"accuracy": 0.9}}), encoding="utf-8")
    with pytest.raises(BenchError, match="status needs-weights and a number at once"):
        read_row(path)


def test_committed_results_can_be_set() -> None:
    results = sorted((Path(__file__).parents[2] / "bench" / "results").glob("*.json"))
    of_tables = ("class-pictures", "esc10", "noise-search", "rerank", "vggsound", "volume")
    rows = [read_row(path) for path in results if path.name.startswith(of_tables)]
    tables = table_rows(rows)
    assert {"esc50 on ESC-10", "vggsound-retrieval", "class-pictures"} <= set(tables)
    for bench, figures in (("rerank", 3), ("noise-search", 4), ("volume", 3)):
        own = [row for row in tables[bench] if row.is_ours]
        assert len(own) == figures and all(row.value is not None for row in own), bench


def test_the_docs_show_the_committed_results() -> None:
    """Each line of the table in docs/bench.md is what its result file says."""
    root = Path(__file__).parents[2]
    text = (root / "docs" / "bench.md").read_text(encoding="utf-8").split("<!-- esc10 -->\n")[1]
    shown = {line for line in text.splitlines() if line.startswith("| ") and "](" in line}
    for path in sorted((root / "bench" / "results").glob("esc10-*.json")):
        row = read_row(path)
        low, high = row["interval"]["accuracy"]
        figures = f"{row['metrics']['accuracy']:.3f} | {low:.3f} to {high:.3f}"
        name, probe = row["tower"], row["config"]["probe"]
        probe += ", `--frames`" if row["config"].get("frames") else ""
        assert f"| {name} | {probe} | {figures} | [file](../bench/results/{path.name}) |" in shown, path.name
        shown.remove(f"| {name} | {probe} | {figures} | [file](../bench/results/{path.name}) |")
    assert len(shown) == 1  # the tower from random weights, with its own file
