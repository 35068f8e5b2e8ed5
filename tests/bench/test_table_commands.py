"""The commands of the tables as typed: rows on screen, as JSON and in files; exit codes."""

import json
from pathlib import Path

from .conftest import Call
from .esc_folder import write_set
from .table_sets import write_urbansound8k, write_vggsound


def test_esc50_frozen_is_printed_written_and_compared(tmp_path: Path, call: Call) -> None:
    data = write_set(tmp_path / "esc")
    files = {tower: tmp_path / f"{tower}.json" for tower in ("oracle", "random")}
    for tower, out in files.items():
        code, told, _ = call("esc50", "--data", data, "--tower", tower, "--out", out, "--cache", tmp_path / "kept")
        assert code == 0 and "accuracy_by_fold 5" in told and "status: ok" in told
        assert json.loads(out.read_text(encoding="utf-8"))["tower"] == tower
    assert str(tmp_path) not in files["oracle"].read_text(encoding="utf-8")  # no path of this machine
    code, told, _ = call("compare", files["random"], files["oracle"], "--json")
    assert code == 0 and json.loads(told)["difference"] > 0.2 and json.loads(told)["p"] < 0.01
    code, told, _ = call("compare", files["random"], files["oracle"])
    assert code == 0 and "difference" in told


def test_what_is_not_offered_is_a_mistake_of_usage(tmp_path: Path, call: Call) -> None:
    for words in (["--split", "random"], ["--probe", "svm"], ["--fold", "6"]):
        code, _, err = call("esc50", "--data", tmp_path, "--tower", "random", *words)
        assert code == 2, err
    assert call("esc50", "--data", tmp_path, "--frames")[0] == 2  # nothing is frozen
    assert call("esc50", "--data", tmp_path, "--tower", "random", "--frames", "--probe", "zero-shot")[0] == 2
    assert call("vggsound", "--data", tmp_path)[0] == 2
    assert call("vggsound-retrieval", "--data", tmp_path, "--tower", "random", "--gallery", "some")[0] == 2


def test_missing_weights_and_data_are_rows_without_numbers(tmp_path: Path, call: Call) -> None:
    esc, out = write_set(tmp_path / "esc"), tmp_path / "row.json"
    code, told, _ = call("esc50", "--data", esc, "--tower", f"clap:{tmp_path}/music", "--out", out, "--json")
    row = json.loads(told)
    assert code == 1 and row["status"] == "needs-weights" and row["metrics"] == {} and row["tower"] == "clap:music"
    assert "music/model.safetensors" in row["expected"]
    assert json.loads(out.read_text(encoding="utf-8"))["status"] == "needs-weights"
    for bench in ("esc50", "urbansound8k", "vggsound", "vggsound-retrieval"):
        code, told, _ = call(bench, "--data", tmp_path / "nothing", "--tower", "logmel")
        assert code == 1 and "needs-data" in told and "expected: " in told
    code, told, _ = call("esc50", "--data", tmp_path / "nothing", "--json")
    assert code == 1 and json.loads(told)["status"] == "needs-data"


def test_urbansound8k_and_vggsound_are_told(tmp_path: Path, call: Call) -> None:
    us8k = write_urbansound8k(tmp_path / "us8k")
    code, told, _ = call("urbansound8k", "--data", us8k, "--tower", "oracle", "--probe", "zero-shot", "--json")
    assert code == 0 and json.loads(told)["metrics"]["accuracy"] == 1
    vggsound = write_vggsound(tmp_path / "vgg", media=False)
    for bench in ("vggsound", "vggsound-retrieval"):
        extra = ["--probe", "zero-shot"] if bench == "vggsound" else []
        code, told, _ = call(bench, "--data", vggsound, "--tower", "oracle", *extra)
        assert code == 0 and "status: partial" in told and "12" in told


def test_the_doctor_and_the_tables_are_told(tmp_path: Path, call: Call) -> None:
    write_set(tmp_path / "ESC-50", table="meta/esc50.csv")
    code, told, _ = call("doctor", "--data", tmp_path, "--json")
    assert code == 0 and json.loads(told)[0]["files"] == 40
    assert "needs-data" in call("doctor", "--data", tmp_path)[1]
    row, page = tmp_path / "row.json", tmp_path / "tables.html"
    call("esc50", "--data", tmp_path / "ESC-50", "--tower", "oracle", "--out", row)
    assert "| oracle | accuracy | 1 |" in call("table", row)[1]
    assert r"\toprule" in call("table", row, "--format", "latex")[1]
    assert json.loads(call("table", row, "--json")[1])["esc50 on ESC-2"][0]["value"] == 1
    assert call("table", row, "--format", "html")[0] == 2
    assert call("table", row, "--format", "html", "--out", page)[0] == 0 and "oracle" in page.read_text("utf-8")


def test_without_a_tower_one_is_trained_from_nothing(tmp_path: Path, call: Call) -> None:
    out = tmp_path / "row.json"
    code, told, _ = call("esc50", "--data", write_set(tmp_path / "esc"), "--epochs", "1", "--fold", "1", "--out", out)
    row = json.loads(out.read_text(encoding="utf-8"))
    assert code == 0 and "status: partial" in told
    assert row["tower"] == "wav2clip" and "supervised from random weights" in row["protocol"]


def test_where_a_row_goes_and_a_seed_are_looked_at_before_the_work(tmp_path: Path, call: Call) -> None:
    """Of every command: the data set is not there, which none of these gets to say."""
    judged = ("vegas", "--images", tmp_path, "--judge", "oracle")
    frozen = (("esc50", "--tower", "oracle"), ("desed", "--tower", "oracle"), ("clotho", "--tower", "oracle"))
    for words in (*frozen, judged):
        asked = (*words, "--data", tmp_path / "nothing")
        for out, message in ((tmp_path / "no" / "row.json", "does not exist; make it first"), (tmp_path, "a folder")):
            code, told, err = call(*asked, "--out", out)
            assert code == 1 and not told and message in err and err.count("\n") == 1, words
        assert call(*asked, "--seed", "-1")[0] == 2, words
