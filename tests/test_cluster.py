"""A Ray cluster of real processes on this machine: two nodes, one of which is lost, and workers that are killed.

Media come from a web server that holds one back until the test has killed whoever waits for it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unibrivl import UnibrivlError
from unibrivl.ingest.engine import EngineConfig
from unibrivl.ingest.errors import IngestError
from unibrivl.ingest.patience import PatienceConfig
from unibrivl.ingest.run import IngestConfig, ingest, read_and_plan
from unibrivl.ingest.sources import RemoteConfig
from unibrivl.shards.cluster import ClusterConfig, connected
from unibrivl.shards.verify import verify

from .clusters import NODE, WAIT_S, processes, ray_cluster, wait_for
from .ingest.web import Web, serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore::FutureWarning:ray")]
GONE = "gone.mp4"
COMMAND = """
import signal
from unibrivl.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell ignore it
main()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster() as cluster:
        yield cluster


@pytest.fixture
def web(corpus: Path) -> Iterator[Web]:
    """Return a server that has the corpus's media."""
    with serve() as web:
        web.files |= {path.name: path.read_bytes() for path in (corpus / "media").iterdir()}
        yield web


@pytest.fixture(scope="module")
def list_path(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the corpus's list and a clip that the server does not have."""
    path = tmp_path_factory.mktemp("list") / "list.csv"
    path.write_text((corpus / "list.csv").read_text() + f"gone,{GONE},0,1,tone,Gone,train,group0\n")
    return path


@pytest.fixture
def config_for(web: Web, list_path: Path, tmp_path: Path) -> Callable[..., IngestConfig]:
    """Return a function from a folder's name and the engine's options to a configuration of six shards."""

    def make(name: str, **options: Any) -> IngestConfig:
        engine = EngineConfig(source=RemoteConfig(prefix=web.base), **options)
        return IngestConfig(list_path=list_path, out=tmp_path / name, engine=engine, shard_clips=5, max_failed=0.1)

    return make


def files(out: Path) -> dict[str, bytes]:
    """Return every file but the ledger's."""
    paths = sorted(p for p in out.rglob("*") if p.is_file() and "ledger" not in p.relative_to(out).parts)
    return {str(p.relative_to(out)): p.read_bytes() for p in paths}


def made(config: IngestConfig) -> Counter[str]:
    """Ingest; return how many clips the progress told of, by error code."""
    told = Counter[str]()
    ingest(config, read_and_plan(config)[1], lambda code, count: told.update({code: count}))
    return told


@contextmanager
def making(config: IngestConfig, web: Web) -> Iterator[Counter[str]]:
    """Ingest beside the block, and be done at its end; yield how many clips the progress has told of so far."""
    told = Counter[str]()
    plan = read_and_plan(config)[1]
    run = threading.Thread(target=ingest, args=(config, plan, lambda code, count: told.update({code: count})))
    run.start()
    try:
        yield told
    finally:
        for trouble in (web.silent, web.status, web.slow):
            trouble.clear()
        run.join(WAIT_S)
    assert not run.is_alive()


def last_words(out: Path) -> Counter[str]:
    """Return how often the ledger says of each clip what became of it, passing faults left aside."""
    lines = [json.loads(line) for path in out.glob("ledger/*/*.jsonl") for line in path.read_text().splitlines()]
    return Counter(line["key"] for line in lines if not line["error"].startswith("transient"))


def assert_each_clip_once(out: Path) -> None:
    words = last_words(out)
    assert len(words) == 25 and words.total() == 25, [
        line for path in out.glob("ledger/*/*.jsonl") for line in (path.name, *path.read_text().splitlines())
    ]
    assert verify(out, level="deep").is_whole
    assert not list(out.rglob(".*"))


def held_in_two_shards(config: IngestConfig, web: Web) -> tuple[list[str], int]:
    """Let the server hold the last medium of each of the first two shards back; return both and how many are before."""
    plan = read_and_plan(config)[1]
    shards = [plan.clips(shard) for shard in plan.shards[:2]]
    names = [clips[-1].source for clips in shards]
    assert GONE not in names and len(plan.shards) == 6
    web.silent |= dict.fromkeys(names, 0)
    return names, sum(len(clips) - 1 for clips in shards)


def workers_by_node(out: Path) -> dict[str, int]:
    """Return, by the first digits of its node, the process of the task that last began."""
    paths = sorted(out.glob("ledger/*/*.jsonl"), key=lambda path: path.stat().st_ctime)
    return {node: int(pid) for node, pid, _ in (path.stem.split("-") for path in paths)}


def test_a_lost_node_and_a_killed_worker_change_no_byte(
    cluster: Any, web: Web, config_for: Callable[..., IngestConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = config_for("quiet", workers=1)
    wanted = made(quiet)
    assert wanted == {"": 24, "source.unavailable": 1}
    config = config_for("out", cluster=ClusterConfig(address=cluster.address))
    held, before = held_in_two_shards(config, web)
    assert before
    web.asked.clear()
    with making(config, web) as told:
        wait_for(lambda: all(web.asked[name] for name in held), "both nodes to wait for a medium")
        wait_for(lambda: told.total() >= before, "what came before to be told")
        workers = workers_by_node(config.out)
        nodes = {node.node_id[:8]: node for node in cluster.worker_nodes}
        assert set(workers) == set(nodes)
        lost, other = sorted(nodes)  # node ids are random
        cluster.remove_node(nodes[lost], allow_graceful=False)
        os.kill(workers[other], signal.SIGKILL)
        web.silent.clear()
        cluster.add_node(**NODE)
    assert told == wanted
    assert files(config.out) == files(quiet.out)
    assert_each_clip_once(config.out)
    assert max(web.asked[name] for name in held) <= 4, "what was done was done again"
    assert made(config) == wanted  # nothing is left to do
    assert capsys.readouterr().out == ""  # what Ray says of losses is no result


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_stopped_is_gone_on_with_by_either_engine(
    cluster: Any, web: Web, config_for: Callable[..., IngestConfig], blow: signal.Signals
) -> None:
    config = config_for("out")
    held, _ = held_in_two_shards(config, web)
    arguments = ["ingest", str(config.list_path), str(config.out), "--media-url", web.base, "--shard-clips", "5"]
    arguments += ["--engine", "ray", "--max-failed", "0.1"]
    if blow == signal.SIGKILL:
        arguments += ["--address", cluster.address]
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: process.poll() is not None or all(web.asked[name] for name in held), "two tasks")
        process.send_signal(blow)
        _, err = process.communicate()
    if blow == signal.SIGINT:
        assert process.returncode == 1
        assert err == "error: interrupted; the same command goes on where it was\n"
    web.silent.clear()
    if blow == signal.SIGKILL:
        config = replace(config, engine=replace(config.engine, cluster=ClusterConfig(address=cluster.address)))
    assert made(config) == {"": 24, "source.unavailable": 1}
    quiet = config_for("quiet", workers=1)
    made(quiet)
    assert files(config.out) == files(quiet.out)
    assert_each_clip_once(config.out)


def test_a_source_that_wants_a_pause_is_left_alone_by_all_nodes(
    cluster: Any, web: Web, config_for: Callable[..., IngestConfig]
) -> None:
    config = config_for("out", cluster=ClusterConfig(address=cluster.address), patience=PatienceConfig(pause_s=6.0))
    refused = held_in_two_shards(config, web)[0][0]
    web.silent.clear()
    web.status[refused] = [429, 200]
    web.slow |= dict.fromkeys(web.files, 0.05)  # seconds a kilobyte: the other node has work all the time
    with making(config, web) as told:
        wait_for(lambda: web.asked[refused], "the refusal")
        time.sleep(2.5)  # the other node hears of it within a second, and ends the clip that it has
        before = web.asked.copy()
        time.sleep(1.5)
        assert web.asked == before, "the pause is 4.5 s at least"
        assert before.total() < 25
    assert told == {"": 24, "source.unavailable": 1}


def test_embeddings_are_those_of_one_process(cluster: Any, run: Path, shards: Path, tmp_path: Path) -> None:
    from unibrivl.model.embed_set import embed_set
    from unibrivl.model.embed_shard import EmbedConfig

    quiet = EmbedConfig(run=run, shards=shards, out=tmp_path / "quiet")
    embed_set(quiet)
    config = replace(quiet, out=tmp_path / "out", cluster=ClusterConfig(address=cluster.address))
    killed: list[int] = []

    def kill_once(done: int, total: int, text: str) -> None:
        if not killed:
            killed.extend(processes("ray::Embedder"))
            os.kill(killed[0], signal.SIGKILL)

    result = embed_set(config, kill_once)
    assert (result.clips, result.files) == (24, 4) and killed
    assert files(config.out) == files(quiet.out)
    assert embed_set(config).made == 0


def test_a_cluster_that_cannot_be_used_is_one_line(
    cluster: Any, config_for: Callable[..., IngestConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def refusal(address: str) -> str:
        config = config_for("refused", cluster=ClusterConfig(address=address))
        with pytest.raises(IngestError) as caught:
            made(config)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no Ray cluster at 127.0.0.1:9 (" in refusal("127.0.0.1:9")
    with monkeypatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as mute:
        patch.setattr("unibrivl.shards.cluster.ANSWER_S", 3.0)
        found = refusal(f"127.0.0.1:{mute.getsockname()[1]}")
        assert "(the port is open, but does not answer as Ray's within 3 s); start one with" in found
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert "no Ray cluster at 127.0.0.1:9 (" in refusal("auto")
    with monkeypatch.context() as patch:
        patch.setattr(ray, "__version__", "2.1.0")
        assert "cannot be used: Version mismatch" in refusal(cluster.address)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        assert "pip install 'unibrivl[ray]'" in refusal(cluster.address)


def test_an_error_of_ours_comes_back_as_it_was(cluster: Any) -> None:
    def fail() -> None:
        raise UnibrivlError("one line", figures={"clips": 3})

    config = ClusterConfig(address=cluster.address)
    with pytest.raises(UnibrivlError, match=r"^one line$") as caught, connected(config, IngestError) as ray:
        ray.get(ray.remote(num_cpus=1)(fail).remote())
    assert caught.value.figures == {"clips": 3}
