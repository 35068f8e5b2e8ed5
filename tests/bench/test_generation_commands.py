"""Commands of choosing pictures as typed: rows that tables read, and rows without numbers where something lacks."""

import json
from pathlib import Path

from unibrivl.bench.tables import read_row, table_rows

from ..index.generating import another_run
from .conftest import Call


def test_rows_are_printed_written_and_set(index: Path, run: Path, tmp_path: Path, call: Call) -> None:
    out, page = tmp_path / "row.json", tmp_path / "volume.html"
    code, told, _ = call("rerank", index, "--size", "2", "--draws", "2", "--by-command", "0", "--out", out)
    assert code == 0 and "true picture chosen first" in told
    row = read_row(out)
    assert [each.figure for each in table_rows([row])["rerank"]] == [
        f"pool_of_2 {name}" for name in row["metrics"]["pool_of_2"]
    ]
    code, told, _ = call("volume", index, "--sounds", "3", "--pictures", "4", "--out", out, "--html", page)
    assert code == 0 and "levels, means over sounds" in told and page.is_file()
    assert table_rows([read_row(out)])["volume"][0].figure == "gate share"
    judge = another_run(run, tmp_path)
    code, told, _ = call("noise-search", index, "--judge", judge, "--sounds", "5", "-n", "5", "--steps", "2", "--json")
    assert code == 0 and json.loads(told)["bench"] == "noise-search"


def test_what_is_missing_is_a_row_without_numbers(index: Path, tmp_path: Path, call: Call) -> None:
    out, nowhere = tmp_path / "row.json", tmp_path / "none"
    drawn = ("--sounds", "3", "--pictures", "4")
    cases = [
        (("rerank", nowhere), "needs-data", "none/CURRENT"),
        (("volume", nowhere), "needs-data", "none/CURRENT"),
        (("noise-search", index, "--judge", nowhere, "--sounds", "5"), "needs-weights", "none/checkpoint"),
        (("volume", index, *drawn, "--pipeline", nowhere), "needs-weights", "none/model_index.json"),
    ]  # fmt: skip
    for words, status, expected in cases:
        code, told, _ = call(*words, "--out", out, "--json")
        row = json.loads(told)
        assert code == 1 and row["status"] == status and row["metrics"] == {}, words
        assert row["expected"][0].startswith(expected) and read_row(out)["status"] == status
