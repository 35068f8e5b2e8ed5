"""Tables: ours beside what others report, what is missing said and never a number, in four formats."""

import json
from pathlib import Path
from typing import Any

import pytest

from unibrivl.bench.errors import BenchError
from unibrivl.bench.human import ANSWERS
from unibrivl.bench.human_answers import AnswerLog, read_answers
from unibrivl.bench.human_report import measure
from unibrivl.bench.protocol import Result, write_result
from unibrivl.bench.tables import (
    COLUMNS,
    MODERN,
    PAPER,
    as_json,
    as_latex,
    as_markdown,
    as_page,
    human_blocks,
    read_row,
    references,
    table_rows,
)
from unibrivl.index.page import Table, render

from .human_folder import make_study


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


class People:
    """Reports of a study of two systems, by people or by a program."""

    def __init__(self, root: Path) -> None:
        self.root, self.study = root, make_study(root / "human", systems=2, catches=4)

    def report(self, *, raters: int, simulated: bool, changes: dict[str, Any] | None = None) -> Path:
        """Let raters answer, who all find the pictures of one system right; write their report."""
        log = AnswerLog(self.study)
        for number in range(raters):
            session = log.begin(f"secret number {number:06d}", simulated=simulated)
            while (shown := session.next) is not None:
                ours = shown.trial.is_catch or shown.trial.system == "ours"
                other = {"left": "right", "right": "left"}[shown.picture_side]
                log.answer(session, shown.picture_side if ours else other, time_ms=900, plays=1)
        told = measure(self.study, read_answers(self.study), simulated=simulated)
        log.close()
        (self.study.root / ANSWERS).unlink()
        path = self.root / f"human{len(list(self.root.glob('*.json')))}.json"
        path.write_text(json.dumps(told | (changes or {})), encoding="utf-8")
        return path


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    return People(tmp_path_factory.mktemp("people"))


def every_format(*paths: Path) -> dict[str, str]:
    read = [read_row(path) for path in paths]
    rows, blocks = table_rows(read), human_blocks(read)
    return {
        "markdown": as_markdown(rows, blocks), "latex": as_latex(rows, blocks),
        "json": json.dumps(as_json(rows, blocks)), "html": render(as_page(rows, blocks)),
    }  # fmt: skip


def test_what_people_chose_is_table_5_in_every_format(people: People) -> None:
    path = people.report(raters=3, simulated=False)
    for name, text in every_format(path).items():
        assert "Table 5: what people choose" in text and "simulated" not in text, name
        assert "3 raters count of 3 who began" in text and path.name.replace("_", r"\_") in text, name
    told = json.loads(every_format(path)["json"])["human"]
    assert [block["caption"] for block in told] == [
        "Table 5: what people choose",
        "Pairs of systems, by the same sounds",
    ]
    assert told[0]["rows"][0][:2] == ["ours", "1.000 [1.000, 1.000]"] and told[0]["rows"][1][1].startswith("0.000")
    markdown = every_format(path)["markdown"]
    assert "| ours | 1.000 [1.000, 1.000] | 0.000 | 0.000 |" in markdown.split("## Table 5")[1]
    assert "## human" not in markdown


def test_simulated_answers_are_called_that(people: People) -> None:
    for name, text in every_format(people.report(raters=3, simulated=True)).items():
        assert "Table 5: what" not in text and "Simulated raters: not Table 5, not people" in text, name
        assert "No person gave these answers" in text and "ours (simulated)" in text, name
    mixed = people.report(raters=3, simulated=True), people.report(raters=3, simulated=False)
    blocks = human_blocks([read_row(path) for path in mixed])
    assert [all("(simulated)" in row[0] for row in block.rows) for block in blocks] == [True, True, False, False]


@pytest.mark.parametrize("simulated", [True, False])
def test_too_few_raters_are_insufficient(people: People, simulated: bool) -> None:
    for name, text in every_format(people.report(raters=2, simulated=simulated)).items():
        assert "insufficient: 2 of 3 valid raters" in text and "Table 5: what" not in text, name
        assert ("ours (simulated)" in text) == simulated and "[1.000" not in text, name


@pytest.mark.parametrize(
    ("raters", "simulated", "changes", "message"),
    [
        (3, True, {"simulated": False}, "says that raters are simulated and that they are not"),
        (3, True, {"simulated": False, "status": "ok"}, "says that raters are simulated and that they are not"),
        (3, False, {"simulated": None}, "does not say whose answers these are"),
        (3, False, {"coverage": {"raters": 3, "wanted": 30}}, "figures of 3 raters where 30 were wanted"),
        (3, False, {"metrics": {"agree": 1.0}}, "figures of 3 raters"),
        (2, False, {"metrics": {"by_system": {}}}, "figures of 2 raters where 3 were wanted"),
    ],
)
def test_a_report_that_contradicts_itself_is_refused(
    people: People, raters: int, simulated: bool, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        read_row(people.report(raters=raters, simulated=simulated, changes=changes))


def test_latex_has_no_bare_sign() -> None:
    block = Table(caption="a & b", columns=("x", "p"), rows=(("100 %", "< 0.0001"),), note="x_1 ~ y")
    latex = as_latex({}, [block])
    assert r"\multicolumn{2}{l}{a \& b} \\" in latex and r"100 \% & \textless{} 0.0001 \\" in latex
    assert r"x\_1 \textasciitilde{} y" in latex


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
