"""One tower through every table: what is there is measured once, what is missing is said, a failure costs one table."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unibrivl.bench.all_tables import FAILURES, PAGE, AllTablesConfig, data_key, run_tables
from unibrivl.bench.encoders import KnownEncoder, LogMelEncoder
from unibrivl.bench.errors import BenchError
from unibrivl.bench.protocol import predictions_path
from unibrivl.bench.registry import REGISTRY, TableConfig
from unibrivl.bench.tables import read_row
from unibrivl.shards.atomic import hold_directory

from .conftest import Call
from .desed_folder import write_desed
from .esc_folder import write_set
from .table_sets import write_urbansound8k, write_vggsound

NAMES = [entry.name for entry in REGISTRY]
ZERO_SHOT = TableConfig(probe="zero-shot")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder with ESC-50, UrbanSound8K and VGGSound, of each a little, without training lists."""
    folder = tmp_path / "datasets"
    write_set(folder / "ESC-50", table="meta/esc50.csv")
    write_urbansound8k(folder / "UrbanSound8K")
    write_vggsound(folder / "VGGSound", clips=2, media=False)
    return folder


class Counted:
    """Somebody's own encoder of sounds and words, which counts what it is asked for and may fail."""

    name, sample_rate = "counted", 16_000

    def __init__(self, fingerprint: str = "v1", fails: bool = False) -> None:
        self.fingerprint, self.fails, self.asked = fingerprint, fails, 0

    def embed_audio(self, sounds: list[np.ndarray], sample_rate: int) -> np.ndarray:
        if self.fails and len(sounds) < 32:  # the last block of ESC-50, after some work was done
            raise KeyError("no such layer\nand much more")
        self.asked += len(sounds)
        crossings = np.array([np.abs(np.diff(np.sign(sound))).mean() for sound in sounds])
        return np.stack([crossings, np.ones(len(sounds))], axis=1)

    def embed_text(self, texts: list[str]) -> np.ndarray:
        return np.array([[len(text), 1.0] for text in texts])


def by_table(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["table"]: row for row in rows}


def test_what_is_there_is_measured_and_what_is_not_is_said(data: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "out"
    words = ("all", "--data", data, "--tower", "oracle", "--probe", "zero-shot", "--out", out)
    code, told, err = call(*words, "--json")
    rows = by_table(json.loads(told))
    assert code == 0 and list(rows) == NAMES and err == ""
    assert {name: row["status"] for name, row in rows.items()} == {
        "esc50": "ok", "esc10": "needs-data", "urbansound8k": "ok", "vggsound": "partial",
        "vggsound-retrieval": "partial",
    } | {name: "needs-data" for name in NAMES[5:]}  # fmt: skip
    assert rows["esc50"]["metrics"]["accuracy"] == 1 and rows["esc10"]["metrics"] == {}
    assert rows["esc10"]["expected"][0] == "ESC-10/" and "meta/esc50.csv" in rows["esc10"]["expected"][1]
    for name, row in rows.items():
        assert {**read_row(out / f"{name}.json"), "table": name} == row
        assert predictions_path(out / f"{name}.json").is_file() == bool(row["metrics"])
    assert not [name for name in NAMES if str(tmp_path) in (out / f"{name}.json").read_text(encoding="utf-8")]
    code, told, _ = call(*words)
    assert code == 0 and "| oracle | accuracy | 1 |" in told.split("## urbansound8k")[1]
    assert "needs-data: ESC-10/, meta/esc50.csv" in told.split("## esc50 on ESC-10")[1]
    assert f"4 of {len(NAMES)} tables measured, 4 of them before" in told
    page = (out / PAGE).read_text(encoding="utf-8")
    assert "oracle" in page and "needs-data: ESC-10/, meta/esc50.csv" in page and not (out / FAILURES).exists()


def test_a_tower_that_is_not_there_leaves_rows_without_numbers(data: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "out"
    code, told, _ = call("all", "--data", data, "--tower", tmp_path / "no-run", "--out", out, "--json")
    rows = by_table(json.loads(told))
    assert code == 1 and {row["status"] for row in rows.values()} == {"needs-weights", "needs-data"}
    assert rows["esc50"]["status"] == "needs-weights" and rows["esc50"]["tower"] == "no-run"
    assert not list(out.glob("*.parquet"))
    code, told, _ = call("all", "--data", data, "--tower", "random", "--out", out, "--json", "--only", "esc50")
    assert code == 0 and by_table(json.loads(told))["esc50"]["status"] == "ok"  # no result: it had no number


def test_a_failure_costs_one_table_and_a_rerun_the_rest(data: Path, tmp_path: Path) -> None:
    config = AllTablesConfig(data=data, out=tmp_path / "out", table=ZERO_SHOT, only=("esc50", "urbansound8k"))
    (data / "UrbanSound8K" / "audio" / "fold2" / "2000-0-0-0.wav").unlink()  # 39 of 40: the last block is of 7
    (data / "ESC-50" / "audio" / "1-0-A-0.wav").write_bytes(b"no sound")
    found = run_tables(config, Counted())
    assert list(found.failures) == ["esc50"] and "not readable as sound" in found.failures["esc50"]
    assert (config.out / FAILURES).read_text(encoding="utf-8").count("\n") == 1
    assert "failed: " in (config.out / PAGE).read_text(encoding="utf-8") and not (config.out / "esc50.json").exists()
    write_set(data / "again", table="meta/esc50.csv")
    (data / "again" / "audio" / "1-0-A-0.wav").replace(data / "ESC-50" / "audio" / "1-0-A-0.wav")
    encoder = Counted()
    found = run_tables(config, encoder)
    assert found.failures == {} and found.kept == ("urbansound8k",) and not (config.out / FAILURES).exists()
    assert encoder.asked == 40  # of ESC-50 alone


def test_a_damaged_list_is_a_failure_and_not_missing_data(data: Path, tmp_path: Path) -> None:
    config = AllTablesConfig(data=data, out=tmp_path / "out", table=ZERO_SHOT, only=("esc50", "urbansound8k"))
    (data / "UrbanSound8K" / "metadata" / "UrbanSound8K.csv").write_text("name\nx\n", encoding="utf-8")
    found = run_tables(config, Counted())
    assert list(found.failures) == ["urbansound8k"] and "UrbanSound8K.csv" in found.failures["urbansound8k"]
    assert found.measured == 1 and not (config.out / "urbansound8k.json").exists()


def test_any_fault_of_a_tower_is_one_line(data: Path, tmp_path: Path) -> None:
    config = AllTablesConfig(data=data, out=tmp_path / "out", table=ZERO_SHOT, only=("esc50", "vggsound"))
    found = run_tables(config, Counted(fails=True))
    assert found.failures == {"esc50": r"KeyError: 'no such layer\nand much more'"}
    row = by_table(found.rows)["vggsound"]
    assert row["status"] == "needs-data" and row["reason"] == "VGGSound: not one of 6 clips is there"


def test_a_killed_run_goes_on(data: Path, tmp_path: Path) -> None:
    config = AllTablesConfig(data=data, out=tmp_path / "out", table=ZERO_SHOT, only=("esc50", "urbansound8k"))
    encoder = Counted()

    def kill(done: int, total: int, text: str) -> None:
        if text.startswith("urbansound8k: audio 32"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tables(config, encoder, kill)
    assert (config.out / "esc50.json").is_file() and encoder.asked == 72
    found = run_tables(config, encoder)
    assert found.kept == ("esc50",) and encoder.asked == 80  # a block of 32 had been kept, too
    assert run_tables(config, encoder).kept == ("esc50", "urbansound8k") and encoder.asked == 80


def test_results_of_anything_else_are_refused(data: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "out"
    config = AllTablesConfig(data=data, out=out, table=ZERO_SHOT, only=("esc50",))
    run_tables(config, Counted())
    before = (out / "esc50.json").read_bytes()
    for encoder, seed, probe, words in (
        (Counted("v2"), 0, "zero-shot", r"of another tower \(counted\)"),
        (Counted(), 1, "zero-shot", "of seed 0"),
        (Counted("v2"), 0, "l3", r"of another tower \(counted\) and another probe or template"),
    ):
        other = AllTablesConfig(data=data, out=out, table=TableConfig(probe=probe, seed=seed))  # all tables
        with pytest.raises(BenchError, match=rf"esc50.json: holds a result {words}; take another --out"):
            run_tables(other, encoder)
    assert (out / "esc50.json").read_bytes() == before and not (out / "urbansound8k.json").exists()
    (data / "ESC-50" / "audio" / "1-0-A-0.wav").unlink()
    with pytest.raises(BenchError, match="holds a result of other data;"):
        run_tables(config, Counted())
    code, _, err = call("all", "--data", data, "--tower", "logmel", "--out", out, "--only", "esc50")
    assert code == 1 and err.count("\n") == 1 and "another tower (counted)" in err
    call("esc50", "--data", data / "ESC-50", "--tower", "oracle", "--out", out / "esc50.json")
    with pytest.raises(BenchError, match="a result that `bench all` did not write"):
        run_tables(config, Counted())
    (out / "esc50.json").write_text("{", encoding="utf-8")
    with pytest.raises(BenchError, match=r"esc50.json: not readable as JSON"):
        run_tables(config, Counted())


def test_one_writer_a_folder(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    config = AllTablesConfig(data=data, out=out, only=("esc50",))
    with hold_directory(out, wait=True), pytest.raises(BenchError, match="another process measures into it"):
        run_tables(config, KnownEncoder(name="random"))


def test_a_tower_is_asked_only_for_what_it_takes(data: Path, tmp_path: Path) -> None:
    config = AllTablesConfig(data=data, out=tmp_path / "out", only=("vggsound-retrieval",))
    found = run_tables(config, LogMelEncoder())
    (row,) = found.rows
    assert (row["status"], row["reason"]) == ("not-applicable", "logmel embeds no image")
    assert not found.failures and found.measured == 0 and not (config.out / "vggsound-retrieval.json").exists()
    words = AllTablesConfig(data=data, out=tmp_path / "words", table=ZERO_SHOT, only=("esc50", "desed-real", "clotho"))
    rows = by_table(run_tables(words, LogMelEncoder()).rows)
    assert (rows["esc50"]["status"], rows["esc50"]["reason"]) == ("not-applicable", "logmel embeds no text")
    assert rows["desed-real"]["status"] == "not-applicable"
    assert rows["clotho"]["status"] == "needs-data"  # it asks for no words


def test_a_failure_takes_the_place_of_what_was_missing(data: Path, tmp_path: Path) -> None:
    config = AllTablesConfig(data=data, out=tmp_path / "out", table=ZERO_SHOT, only=("esc50",))
    (data / "ESC-50").rename(data / "away")
    run_tables(config, Counted())
    assert read_row(config.out / "esc50.json")["status"] == "needs-data"
    (data / "away").rename(data / "ESC-50")
    (data / "ESC-50" / "audio" / "1-0-A-0.wav").write_bytes(b"no sound")
    assert run_tables(config, Counted()).failures and not (config.out / "esc50.json").exists()


def test_a_data_set_alone_is_one_data_set(tmp_path: Path) -> None:
    """Given the folder of ESC-50 itself, ESC-10 is not found a second time in it, nor are results within it data."""
    folder = write_set(tmp_path / "esc")
    config = AllTablesConfig(data=folder, out=folder / "results", table=ZERO_SHOT)
    found = by_table(run_tables(config, KnownEncoder(name="oracle")).rows)
    assert found["esc50"]["status"] == "ok" and found["esc10"]["status"] == "needs-data"
    assert run_tables(config, KnownEncoder(name="oracle")).kept == ("esc50",)


def test_parts_of_a_data_set_share_its_folder(tmp_path: Path) -> None:
    write_desed(tmp_path / "DESED", media=False)
    names = ("desed-synthetic", "desed-real", "desed-public")
    config = AllTablesConfig(data=tmp_path, out=tmp_path / "out", table=ZERO_SHOT, only=names)
    found = by_table(run_tables(config, KnownEncoder(name="oracle")).rows)
    assert [found[name]["protocol"].partition(",")[0] for name in names] == ["synth21-val", "real-val", "public-eval"]
    assert all(row["status"] == "partial" and row["metrics"]["macro_f1"] > 0.9 for row in found.values())


def test_what_is_not_offered_is_a_mistake_of_usage(data: Path, tmp_path: Path, call: Call) -> None:
    for words in (["--only", "esc50,mnist"], ["--only", ""], ["--probe", "svm"], ["--seed", "-1"]):
        code, _, err = call("all", "--data", data, "--tower", "random", "--out", tmp_path / "out", *words)
        assert code == 2, err
    code, _, err = call("all", "--data", tmp_path / "nothing", "--tower", "random", "--out", tmp_path / "out")
    assert code == 1 and "there is no such folder" in err


def test_the_state_of_a_data_set_is_told_by_names_sizes_and_lists(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "esc")
    first = data_key(folder)
    assert data_key(folder) == first
    (folder / ".hidden").write_text("x", encoding="utf-8")
    (folder / "results").mkdir()
    (folder / "results" / "a.json").write_text("{}", encoding="utf-8")
    (folder / "loop").symlink_to(folder)
    assert data_key(folder, {(folder / "results").resolve()}) == first
    table = folder / "meta.csv"
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace("high", "hygh"), encoding="utf-8")  # as long as before
    changed = data_key(folder)
    assert changed != first
    table.write_text(text, encoding="utf-8")
    os.truncate(folder / "audio" / "1-0-A-0.wav", 100)
    assert data_key(folder) not in (first, changed)
