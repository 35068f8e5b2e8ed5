"""The commands of the human test, from a list to a report, as they are typed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from unibrivl import UnibrivlError
from unibrivl.bench.human import ANSWERS
from unibrivl.cli import app

from .human_folder import make_generated, make_media, make_study, write_list


def run(*words: object, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["bench", "human", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result.output


def test_the_way_from_pictures_to_a_report_of_a_rehearsal(tmp_path: Path) -> None:
    pictures, study, page = make_generated(tmp_path, per_class=1), tmp_path / "study", tmp_path / "human.html"
    (tmp_path / "consent.txt").write_text("Just look.\n\nAnd hear.")
    words = ("--photos", tmp_path / "photos", "--primary", "ours", "--raters", 4, "--consent", tmp_path / "consent.txt")
    told = json.loads(run("prepare", pictures, study, *words, "--json"))
    assert (told["trials"], told["catches"], told["systems"]) == (6, 4, ["ours", "theirs"])
    assert json.loads((study / "study.json").read_text())["config"]["consent"] == "Just look.\n\nAnd hear."
    assert "insufficient: 0 of 4" in run("report", study)
    assert "4 simulated raters answered" in run("rehearse", study, "--raters", 4, "--preference", 0.9)
    output = run("report", study, "--html", page, "--out", tmp_path / "human.json")
    assert "Simulated raters: not Table 5" in output and "ours (simulated)" in output
    assert "No person gave these answers" in page.read_text(encoding="utf-8")
    result = json.loads(run("report", study, "--json"))
    assert result == json.loads((tmp_path / "human.json").read_text())
    assert (result["bench"], result["status"], result["coverage"]["raters"]) == ("human", "simulated", 4)


def test_a_mistake_of_usage_names_its_option(tmp_path: Path) -> None:
    path = write_list(tmp_path / "list.csv", make_media(tmp_path, per_class=1))
    assert "Invalid value: --raters is 1" in run("prepare", path, tmp_path / "study", "--raters", 1, exit_code=2)
    with pytest.raises(UnibrivlError, match="primary is None"):
        run("prepare", path, tmp_path / "study", "--photos", tmp_path / "photos")
    with pytest.raises(UnibrivlError, match=r"nothing\.txt: not readable as text"):
        run("prepare", path, tmp_path / "study", "--consent", tmp_path / "nothing.txt")
    with pytest.raises(UnibrivlError, match=r"has no readable study\.json"):
        run("report", tmp_path)


def test_half_a_line_is_told_of_when_the_next_writer_comes(tmp_path: Path) -> None:
    study = make_study(tmp_path, per_class=1)
    run("rehearse", study.root, "--raters", 1)
    with (study.root / ANSWERS).open("ab") as f:
        f.write(b'{"kind"')
    assert "the last answer was only half written" in run("rehearse", study.root, "--raters", 1)
    assert "only half written" not in run("rehearse", study.root, "--raters", 1)
    assert "1 half-written lines were ignored" in run("report", study.root)
