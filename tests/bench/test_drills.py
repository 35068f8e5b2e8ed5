"""The drills: they disturb the real commands, and their account tells when something is lost, doubled or wrong."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from unibrivl.bench import drill_torn, drills
from unibrivl.bench.drill_account import Account, items_of
from unibrivl.bench.drill_interrupt import clock, kill, kill_change
from unibrivl.bench.drill_stage import Ended, Stage, contents
from unibrivl.bench.drill_torn import damage, readers, torn_index, torn_run, torn_shards
from unibrivl.bench.drill_web import flapping
from unibrivl.bench.drills import KINDS, DrillsConfig, run_drills
from unibrivl.cli import app
from unibrivl.shards.commit import committed_shards
from unibrivl.shards.sidecar import read_sidecar

Draws = random.Random


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    made = Stage(tmp_path_factory.mktemp("drills"), seed=3, epochs=1)
    made.make(lambda what: None)
    return made


def test_one_quick_round_injects_every_kind_and_nothing_is_lost(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(drills, "Stage", lambda folder, seed, epochs: stage)
    monkeypatch.setattr(Stage, "make", lambda self, say: None)  # it is made
    config = DrillsConfig(quick=True, work=tmp_path, kinds=("kill", "disk", "source"))
    result = run_drills(config, lambda done, total, text: told.append(text))
    assert (result["lost"], result["doubled"], result["wrong"]) == (0, 0, 0), result["cases"]
    kinds = Counter(name.partition(" ")[0].rstrip(":") for name in result["injected"])
    assert kinds["kill"] and (kinds["disk"] or kinds["file"]) and kinds["source"]
    assert result["rounds"] == 1 and result["minutes"] > 0 and "round 1: source 1" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_training_ends_as_if_it_had_not_been_killed(stage: Stage) -> None:
    account = Account()
    kill(stage, account, Draws(1), "case", "run")
    assert account.is_clean, account
    assert sum(account.injected.values()) >= 1


def test_changes_killed_leave_the_old_index_or_the_new_one(stage: Stage) -> None:
    account = Account()
    kill_change(stage, account, Draws(5), "case")
    assert account.is_clean, account


def test_a_clock_that_jumps_changes_nothing(stage: Stage) -> None:
    account = Account()
    clock(stage, account, Draws(4), "case")
    assert account.is_clean and account.injected["clock jump"] == 4, account


def test_torn_files_are_refused_and_mended(stage: Stage) -> None:
    account = Account()
    torn_shards(stage, account, Draws(6), "case", times=12)
    torn_index(stage, account, Draws(7), "case", times=25)
    readers(stage, account, Draws(8), "case")
    assert account.is_clean, account
    assert sum(n for name, n in account.injected.items() if name.startswith("torn")) >= 30


def test_a_torn_checkpoint_is_refused(stage: Stage) -> None:
    account = Account()
    torn_run(stage, account, Draws(9), "case")
    assert account.is_clean and account.drills["torn run"] == 1, account


def test_the_account_sees_a_lost_and_a_doubled_clip(stage: Stage) -> None:
    root = stage.copy("shards")
    commit = committed_shards(root)[0]
    path = commit.path(".parquet")
    table = pq.read_table(path)
    keys = read_sidecar(commit)["key"].to_pylist()
    account, wanted = Account(), contents(root)
    account._count("case", Counter([*keys[1:], keys[-1]]), Counter(keys))
    assert account.lost == [f"case: {keys[0]}"] and account.doubled == [f"case: {keys[-1]}"]
    pq.write_table(table.slice(1), path)
    account.shards("case", root, wanted)
    assert account.wrong and str(root) in account.wrong[0]
    for suffix in (".tar", ".tar.idx", ".parquet", ".commit.json"):
        commit.path(suffix).unlink()
    fresh = Account()
    fresh.shards("case", root, wanted)
    assert len(fresh.lost) == len(keys) and any(line.endswith("is missing") for line in fresh.wrong)
    shutil.rmtree(root)


def test_the_account_sees_other_items_and_other_bytes(stage: Stage) -> None:
    root = stage.copy("index")
    items = items_of(root)
    gone, more = next(iter(items)), Counter({"strange/audio": 1})
    account = Account()
    account.index("case", root, items=items - Counter([gone]) + more)
    assert account.lost == ["case: strange/audio"] and account.doubled == [f"case: {gone}"]
    vectors = next(root.rglob("vectors.npy"))
    vectors.write_bytes(vectors.read_bytes()[:-2] + b"ab")
    account.index("case", root, contents(stage.folder / "index"))
    assert len(account.wrong) == 1 and "damaged" in account.wrong[0]
    shutil.rmtree(root)


def test_a_command_that_ends_otherwise_is_wrong() -> None:
    account = Account()
    assert account.expect("case", Ended(0, "")) and account.expect("case", Ended(1, "error: full"), 1)
    assert not account.expect("case", Ended(1, "Traceback"), 1)
    assert not account.expect("case", Ended(-9, ""))
    assert [line.partition(",")[0] for line in account.wrong] == ["case: ended with 1", "case: ended with -9"]


def test_readers_see_an_answer_that_no_snapshot_has(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill_torn, "_answers", lambda snapshot: {"audio": ["another/audio"]})
    account = Account()
    readers(stage, account, Draws(8), "case")
    assert account.wrong


def test_a_damaged_index_that_answers_otherwise_is_wrong(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(range(100))
    monkeypatch.setattr(drill_torn, "damage", lambda path, draws: "flipped bit")
    monkeypatch.setattr(drill_torn, "_answers", lambda snapshot: next(answers))
    account = Account()
    torn_index(stage, account, Draws(7), "case", times=2)
    assert sum("other answers" in line for line in account.wrong) == 2
    assert sum("verify found nothing" in line for line in account.wrong) == 2


@pytest.mark.parametrize("seed", range(8))
def test_damage_says_what_it_did(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "file"
    data = np.random.default_rng(seed).integers(1, 256, 9000, np.uint8).tobytes()
    path.write_bytes(data)
    kind = damage(path, Draws(seed))
    assert kind and (not path.exists() if kind == "removed file" else path.read_bytes() != data)


def test_the_clock_jumps_in_the_command_and_in_its_workers(tmp_path: Path) -> None:
    program = (
        "import multiprocessing, time\nfrom unibrivl.bench import drill_clock\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(time.time(), time.time(), *pool.map(eval, ['__import__(\"time\").time()'] * 2))\n"
    )
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], capture_output=True, text=True, check=True,
        env=os.environ | {"UNIBRIVL_DRILL_CLOCK": "1"},
    )  # fmt: skip
    off = [abs(float(told) - time.time()) for told in done.stdout.split()]
    assert len(off) == 4 and all(60 < seconds < 13 * 3600 for seconds in off)


def test_a_source_flaps_and_tells_how_often(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x" * 5000)
    good = 0
    with flapping(tmp_path, seed=1, refusals=1) as source:
        for _ in range(40):
            try:
                with urlopen(f"{source.url}/a.mp4", timeout=10) as answer:
                    good += answer.read() == b"x" * 5000
            except (OSError, HTTPException):
                continue
    assert good >= 15 and source.injected["503"] <= 1
    assert source.injected.keys() >= {"500", "cut", "reset", "slow"}
    assert good == 40 - sum(count for name, count in source.injected.items() if name != "slow")


def test_a_fault_ends_the_command_with_1_and_says_how_to_repeat_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(stage: Stage, account: Account, draws: Draws, case: str) -> None:
        account.lost.append(f"{case}: clip")
        account.injected["kill"] += 1

    monkeypatch.setattr(drills, "QUICK", dict.fromkeys(KINDS, (lose,)))
    monkeypatch.setattr(Stage, "make", lambda self, say: None)
    words = ["bench", "drills", "--quick", "--kinds", "kill", "--seed", "5", "--work", str(tmp_path)]
    done = CliRunner().invoke(app, [*words, "--json", "--out", str(tmp_path / "result.json")])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["lost"] == 1 and told["injected"] == {"kill": 1} and told["doubled"] == told["wrong"] == 0
    assert told["cases"]["lost"] == ["kill 1, seed 5, round 1: clip"]
    assert json.loads((tmp_path / "result.json").read_text()) == told
    assert "lost: kill 1, seed 5, round 1: clip" in CliRunner().invoke(app, words).output


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--kinds", "rain"], "kinds is rain, want some of kill"), (["--minutes", "-1"], "minutes is -1")],
)
def test_what_is_no_drill_is_one_line(words: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["bench", "drills", *words])
    assert done.exit_code == 2 and told in " ".join(done.output.split())
