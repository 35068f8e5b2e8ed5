"""Checks that a run killed anywhere ends, when it is run again, as if nothing had happened.

The points are every call between the first write and the commit that changes a file: the worker is killed right before
its N-th, for each N.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from unibrivl.ingest.run import IngestConfig, ingest, read_and_plan
from unibrivl.shards.catalog import open_catalog
from unibrivl.shards.verify import verify

POINTS = '''
"""Makes a shard in a child for each point, kills the child there, and lets the next one finish."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path

import pyarrow as pa

from unibrivl.ingest.clips import Clip
from unibrivl.ingest.decoded import DecodeConfig
from unibrivl.ingest.patience import Gate, PatienceConfig
from unibrivl.ingest.recipe import Recipe
from unibrivl.ingest.sources import FolderConfig, make_source
from unibrivl.ingest.worker import ShardMaker, ShardTask, WorkerConfig
from unibrivl.shards.atomic import remove_leftovers
from unibrivl.shards.writer import remove_finished_parts

pa.array([1])  # loads what pyarrow loads late, once and not in every child
CALLS = {"write", "flush", "fsync", "replace", "rename", "truncate", "unlink", "close", "open", "seek"}
media, out = Path(sys.argv[1]), Path(sys.argv[2])
directory = out / "shards" / "train"
clips = [Clip(corpus="gen", media_id=f"clip-_{n:02d}", start_ms=0, end_ms=400) for n in (0, 1, 99, 2)]
config = WorkerConfig(
    out=out, source=FolderConfig(root=media), recipe=Recipe(decode=DecodeConfig(frame_sizes=(16,))),
    plan_sha256="0" * 64, memory_bytes=4 << 30, clip_timeout_s=60.0, fetch_timeout_s=60.0, run="r",
)
gate = Gate(PatienceConfig(), multiprocessing.get_context("spawn"))


def make(stop_at):
    """Make the shard in a child; return its exit status and how many points it passed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        passed = b""
        while more := os.read(reading, 100):
            passed += more
        os.close(reading)
        return os.waitpid(child, 0)[1], int(passed or 0)
    count = 0

    def watch(frame, event, called):
        nonlocal count
        if event != "c_call" or called.__name__ not in CALLS or "shards" not in frame.f_code.co_filename:
            return
        count += 1
        if count == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)

    maker = ShardMaker(config, make_source(config.source), gate, lambda *event: None)
    sys.setprofile(watch)
    maker.make(ShardTask("gen-train-000000", "train", tuple(clips)))
    sys.setprofile(None)
    os.write(writing, str(count).encode())
    os._exit(0)


def state():
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(directory.iterdir())}


def fresh():
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


fresh()
status, points = make(0)
assert status == 0
undisturbed = state()
faults, early = [], 0
for point in range(1, points + 1):
    fresh()
    status, _ = make(point)
    committed = (directory / "gen-train-000000.commit.json").exists()
    early += not committed
    if status != signal.SIGKILL:
        faults.append(f"point {point}: not killed")
    if committed and {n: h for n, h in state().items() if not n.startswith(".")} != undisturbed:
        faults.append(f"point {point}: committed something else")
    remove_leftovers(directory)  # as every run does first
    remove_finished_parts(directory)
    status, _ = (0, 0) if committed else make(0)
    if status != 0 or state() != undisturbed:
        faults.append(f"point {point}: ended otherwise, {status}, {sorted(state())}")
print(json.dumps({"points": points, "before_commit": early, "files": sorted(undisturbed), "faults": faults}))
'''


def test_a_worker_killed_at_any_point_costs_nothing(corpus: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", POINTS, str(corpus / "media"), str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["faults"] == []
    assert result["points"] >= 40 and result["before_commit"] >= 35
    assert result["files"] == [f"gen-train-000000{end}" for end in (".commit.json", ".parquet", ".tar", ".tar.idx")]


def files(out: Path) -> dict[str, bytes]:
    paths = sorted(p for p in out.rglob("*") if p.is_file() and "ledger" not in p.relative_to(out).parts)
    return {str(p.relative_to(out)): p.read_bytes() for p in paths}


RUNS = int(os.environ.get("UNIBRIVL_CRASH_RUNS", "50"))
"""Kills at random instants; more on request."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_kills_lose_and_double_no_clip(
    corpus: Path, tmp_path: Path, config_for: Callable[..., IngestConfig]
) -> None:
    """Kill parent or all processes again and again, until the set is complete; in all `RUNS` times."""
    quiet = config_for(corpus / "list.csv", corpus / "media", out=tmp_path / "quiet", shard_clips=6)
    ingest(quiet, read_and_plan(quiet)[1])
    wanted = files(quiet.out)
    began = time.monotonic()
    words = ["ingest", corpus / "list.csv", tmp_path / "alone", "--media-dir", corpus / "media", "--workers", "2"]
    subprocess.run([sys.executable, "-m", "unibrivl", *words, "--shard-clips", "6"], check=True, capture_output=True)
    alone_s = time.monotonic() - began  # kills come while there is work, on a fast machine and on a slow one
    rng, kills, sets = random.Random(0), 0, 0
    while kills < RUNS:
        sets += 1
        out = tmp_path / f"set{sets}"
        arguments = ["ingest", str(corpus / "list.csv"), str(out), "--media-dir", str(corpus / "media")]
        arguments += ["--shard-clips", "6", "--workers", "2"]
        while True:
            with subprocess.Popen(
                [sys.executable, "-m", "unibrivl", *arguments],
                start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            ) as process:  # fmt: skip
                try:
                    process.wait(rng.uniform(0.3, 2.0) * alone_s)
                    break
                except subprocess.TimeoutExpired:
                    kills += 1
                    if rng.random() < 0.3:
                        process.kill()
                    else:
                        os.killpg(process.pid, signal.SIGKILL)
            time.sleep(rng.choice([0.0, 0.3]))
        assert process.returncode == 0
        assert files(out) == wanted
        catalog = open_catalog(out)
        assert len(set(catalog.column("key"))) == len(catalog) == 24
        assert verify(out, level="deep").is_whole
