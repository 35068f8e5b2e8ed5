"""Checks shard sets in object storage: moto's server over real HTTP, behind a proxy that fails as networks do."""

import contextlib
import hashlib
import http.client
import http.server
import itertools
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from typer.testing import CliRunner

from unibrivl import UnibrivlError
from unibrivl.cli import app
from unibrivl.index.clips import stored_sample
from unibrivl.index.snapshot import open_snapshot
from unibrivl.ingest.engine import EngineConfig
from unibrivl.ingest.errors import PlanError
from unibrivl.ingest.run import IngestConfig, IngestResult, ingest, read_and_plan
from unibrivl.ingest.sources import FolderConfig
from unibrivl.shards import ClipShards, ShardError, open_catalog
from unibrivl.shards.cache import CacheConfig, RemoteSet, local_set
from unibrivl.shards.commit import COMMIT_SUFFIX
from unibrivl.shards.transfer import RemoteFolder
from unibrivl.shards.upload import Upload

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

SECRET = "not-to-be-told"
READ_TIMEOUT_S = 1.0
FAULTS = ("500", "503", "stall", "cut before", "cut after", "cut body")
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
BROKEN = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"


class Handler(http.server.BaseHTTPRequestHandler):
    """Passes requests on, unless the proxy's dice or its rule say otherwise."""

    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        proxy: Any = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = proxy.fault(self.command, self.path)
        proxy.note(self.command, self.path, fault)
        if fault in ("403", "500", "503"):
            denied = BROKEN.replace(b"InternalError", b"AccessDenied")
            self.answer(int(fault), [], {"403": denied, "500": BROKEN, "503": SLOW_DOWN}[fault])
        elif fault in ("stall", "cut before"):
            time.sleep(READ_TIMEOUT_S + 0.3 if fault == "stall" else 0)
            self.cut()
        else:
            status, headers, data = self.passed_on(body)
            if fault == "cut after":
                self.cut()
            elif fault == "cut body" and len(data) > 1:
                self.answer(status, headers, data, data[: len(data) // 2])
                self.cut()
            else:
                self.answer(status, headers, data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

    def passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        proxy: Any = self.server
        connection = http.client.HTTPConnection(*proxy.backend, timeout=30)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body, dict(self.headers) | {"Connection": "close"})
            response = connection.getresponse()
            hop = ("connection", "transfer-encoding", "date", "server")
            return response.status, [h for h in response.getheaders() if h[0].lower() not in hop], response.read()

    def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, sent: bytes | None = None) -> None:
        self.send_response(status)
        names = {name.lower() for name, _ in headers}
        for name, value in headers if "content-length" in names else [*headers, ("Content-Length", str(len(data)))]:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data if sent is None else sent)

    def cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Proxy(http.server.ThreadingHTTPServer):
    """What stands between a client and the storage."""

    daemon_threads = True

    def __init__(self, backend: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.backend, self.lock = backend, threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.calm()

    def calm(self) -> None:
        """Fail no request, and forget those so far."""
        self.fail(0.0, seed=0)
        self.rule: Callable[[str, str], str] = lambda method, path: ""
        self.seen: list[tuple[str, str, str]] = []

    def fail(self, share: float, seed: int) -> None:
        """Fail a share of the requests, which ones by seed and in turn in each way."""
        self.share, self.dice, self.faults = share, random.Random(seed), itertools.cycle(FAULTS)

    def fault(self, method: str, path: str) -> str:
        with self.lock:
            if fault := self.rule(method, path):
                return fault
            return next(self.faults) if self.dice.random() < self.share else ""

    def note(self, method: str, path: str, fault: str) -> None:
        with self.lock:
            self.seen.append((method, path, fault))

    def put(self, ending: str) -> list[str]:
        return [path for method, path, _ in self.seen if method == "PUT" and path.endswith(ending)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was cut off, or gave up


@pytest.fixture(scope="module")
def storage() -> Iterator[Proxy]:
    """Return a proxy in front of storage with the bucket `bucket`; the environment has what s3fs needs."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = Proxy(server.get_host_and_port())
    thread = threading.Thread(target=partial(proxy.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    config = {"config_kwargs": {"retries": {"total_max_attempts": 1}, "read_timeout": READ_TIMEOUT_S}}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": proxy.url, "AWS_EC2_METADATA_DISABLED": "true", "FSSPEC_S3": json.dumps(config),
            "AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        patch.setitem(fsspec.config.conf, "s3", config)
        forget()
        fsspec.filesystem("s3").mkdir("bucket")
        yield proxy
        forget()
    proxy.shutdown()
    proxy.server_close()
    thread.join()
    server.stop()


@pytest.fixture(autouse=True)
def calm(storage: Proxy) -> None:
    storage.calm()


def forget() -> None:
    """Drop s3fs's file systems, which keep the credentials and the address that they were made with."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def config_of(corpus: Path, out: Path, url: str = "", **changes: Any) -> IngestConfig:
    upload = Upload(url=url, retries=10, backoff_s=0.01) if url else None
    engine = EngineConfig(source=FolderConfig(root=corpus / "media"), workers=2, upload=upload)
    return IngestConfig(**{"list_path": corpus / "list.csv", "out": out, "engine": engine, "shard_clips": 4} | changes)


def run(config: IngestConfig) -> IngestResult:
    return ingest(config, read_and_plan(config)[1])


def described(data: bytes) -> tuple[int, str]:
    return len(data), hashlib.sha256(data).hexdigest()


def objects(url: str) -> dict[str, tuple[int, str]]:
    """Return size and SHA-256 of every object below an address by its name, the ledger aside."""
    files = fsspec.filesystem("s3")
    files.invalidate_cache()
    base = url.removeprefix("s3://")
    found = {path.removeprefix(f"{base}/"): path for path in files.find(base)}
    return {name: described(files.cat_file(path)) for name, path in found.items() if not name.startswith("ledger/")}


def ledger(url: str) -> list[str]:
    """Return the keys in the ledger at an address, an entry an attempt."""
    files = fsspec.filesystem("s3")
    paths = files.find(f"{url.removeprefix('s3://')}/ledger")
    return sorted(json.loads(line)["key"] for path in paths for line in files.cat_file(path).splitlines())


@pytest.fixture(scope="module")
def local(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same set, made in a folder."""
    out = tmp_path_factory.mktemp("local") / "set"
    run(config_of(corpus, out))
    return out


@pytest.fixture(scope="module")
def wanted(local: Path) -> dict[str, tuple[int, str]]:
    paths = {path.relative_to(local).as_posix(): path for path in local.rglob("*") if path.is_file()}
    return {name: described(path.read_bytes()) for name, path in paths.items() if not name.startswith("ledger/")}


@pytest.fixture(scope="module")
def sent(corpus: Path, storage: Proxy, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Return address and work folder of a set that was sent through a network without faults."""
    work = tmp_path_factory.mktemp("sent") / "work"
    run(config_of(corpus, work, "s3://bucket/sent"))
    return "s3://bucket/sent", work


def test_a_set_in_a_bucket_is_the_local_one(
    sent: tuple[str, Path], wanted: dict[str, tuple[int, str]], corpus: Path, storage: Proxy
) -> None:
    url, work = sent
    assert objects(url) == wanted
    assert len(ledger(url)) == 24
    assert not [path for path in work.rglob("*") if path.suffix in (".tar", ".idx", ".jsonl") or ".part" in path.name]
    result = run(config_of(corpus, work, url))
    assert (result.ok, result.made) == (24, 0)
    assert storage.put("") == [], "nothing is sent twice"


def test_a_network_that_fails_changes_nothing(
    corpus: Path, storage: Proxy, wanted: dict[str, tuple[int, str]], tmp_path: Path
) -> None:
    storage.fail(0.2, seed=1)
    assert run(config_of(corpus, tmp_path / "work", "s3://bucket/faulty")).made == 7
    met = Counter(fault for _, _, fault in storage.seen)
    storage.calm()
    assert set(met) == {"", *FAULTS}, met
    assert objects("s3://bucket/faulty") == wanted
    assert len(ledger("s3://bucket/faulty")) == 24


def test_reading_through_a_network_that_fails_yields_every_clip_once(
    sent: tuple[str, Path], local: Path, storage: Proxy, tmp_path: Path
) -> None:
    storage.fail(0.2, seed=2)
    room = max(path.stat().st_size for path in local.rglob("*.tar")) * 2
    cache = CacheConfig(directory=tmp_path, max_bytes=room, retries=10, backoff_s=0.01)
    with ClipShards(sent[0], cache=cache) as there, ClipShards(local) as here:
        loader = there.loader(batch_size=4, shuffle="window:2", drop_last=False, raw=True)
        with loader:
            keys = [sample.key for batch in loader for sample in batch]
        assert sorted(keys) == sorted(here.catalog.column("key"))
        assert [dict(sample.members) for sample in there] == [dict(sample.members) for sample in here]
    assert {fault for _, _, fault in storage.seen} == {"", *FAULTS}


def start(corpus: Path, url: str, work: Path) -> "subprocess.Popen[bytes]":
    root = Path(sys.modules["unibrivl"].__file__ or "").parent
    return subprocess.Popen(
        [sys.executable, "-m", "unibrivl", "ingest", str(corpus / "list.csv"), url, "--work", str(work),
         "--media-dir", str(corpus / "media"), "--workers", "1", "--shard-clips", "4"],
        start_new_session=True, env=os.environ | {"PYTHONPATH": str(root.parent)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("moved", [False, True], ids=["same machine", "another machine"])
def test_a_killed_ingestion_goes_on_with_what_is_committed(
    corpus: Path, storage: Proxy, wanted: dict[str, tuple[int, str]], tmp_path: Path, moved: bool
) -> None:
    url, work = f"s3://bucket/killed-{moved}", tmp_path / "work"
    # The third shard's tar arrives and its index never does: that upload is torn for sure.
    torn = sorted(name for name in wanted if name.endswith(".tar.idx"))[2]
    storage.rule = lambda method, path: "stall" if method == "PUT" and path.endswith(torn) else ""
    process = start(corpus, url, work)
    until = time.monotonic() + 60
    while not storage.put(torn) and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = objects(url)
    done = [name for name in before if name.endswith(COMMIT_SUFFIX)]
    assert torn.removesuffix(".idx") in before, "a tar without its commit"
    assert len(done) == 2
    storage.calm()
    with ClipShards(url, cache=CacheConfig(directory=tmp_path / "cache", max_bytes=1 << 30)) as clips:
        assert {shard.name for shard in clips.catalog.shards} == {
            Path(name).name.removesuffix(COMMIT_SUFFIX) for name in done
        }
    if moved:
        shutil.rmtree(work)
    storage.calm()
    assert run(config_of(corpus, work, url)).made == 5 - (not moved)
    assert not {Path(path).name for path in storage.put(COMMIT_SUFFIX)} & {Path(name).name for name in done}
    assert objects(url) == wanted


def test_storage_that_refuses_for_good_ends_the_run_in_one_line(corpus: Path, storage: Proxy, tmp_path: Path) -> None:
    url = "s3://bucket/refusing"
    storage.rule = lambda method, path: "500" if method == "PUT" and path.endswith(COMMIT_SUFFIX) else ""
    config = config_of(corpus, tmp_path, url)
    few = replace(config, engine=replace(config.engine, upload=Upload(url=url, retries=2, backoff_s=0.01)))
    with pytest.raises(UnibrivlError, match=r"s3://bucket/refusing/shards/\S+commit.json: cannot be written") as caught:
        run(few)
    assert "\n" not in str(caught.value)
    assert max(Counter(storage.put(COMMIT_SUFFIX)).values()) == 3, "one try and two more"
    with pytest.raises(ShardError, match="nothing is committed there"):
        RemoteSet(url, CacheConfig(directory=tmp_path / "cache", max_bytes=1 << 30)).sync()


def test_a_shard_that_another_run_committed_meanwhile_is_not_overwritten(
    corpus: Path, wanted: dict[str, tuple[int, str]], tmp_path: Path
) -> None:
    url, work, files = "s3://bucket/twice", tmp_path / "work", fsspec.filesystem("s3")
    run(config_of(corpus, work))  # as if it had died before it sent anything
    commit = open_catalog(work).shards[0]
    name = f"shards/{commit.split}/{commit.name}{COMMIT_SUFFIX}"
    files.pipe_file(f"bucket/twice/{name}", b"{}")
    with pytest.raises(ShardError, match="another run has committed"):
        Upload(url=url, backoff_s=0.01).push(commit)
    files.rm_file(f"bucket/twice/{name}")
    assert run(config_of(corpus, work, url)).made == 0
    assert objects(url) == wanted


def test_a_shard_that_was_removed_there_is_made_again(
    corpus: Path, sent: tuple[str, Path], wanted: dict[str, tuple[int, str]], tmp_path: Path
) -> None:
    url, work = "s3://bucket/removed", tmp_path / "work"
    fsspec.filesystem("s3").copy(f"{sent[0]}/", f"{url}/", recursive=True)
    shutil.copytree(sent[1], work)
    fsspec.filesystem("s3").rm_file(f"{url}/shards/train/gen-train-000002{COMMIT_SUFFIX}")
    killed = work / "ledger" / "earlier" / "000.jsonl"
    killed.parent.mkdir(parents=True)
    killed.write_text('{"key": "of a killed run"}\n')
    assert run(config_of(corpus, work, url)).made == 1
    assert objects(url) == wanted
    assert "of a killed run" in ledger(url)


def test_an_address_with_something_else_is_left_alone(corpus: Path, storage: Proxy, tmp_path: Path) -> None:
    files = fsspec.filesystem("s3")
    files.pipe_file("bucket/other/notes.txt", b"mine")
    with pytest.raises(ShardError, match="not empty and no shard set"):
        run(config_of(corpus, tmp_path, "s3://bucket/other"))
    assert objects("s3://bucket/other") == {"notes.txt": described(b"mine")}


def test_shards_of_another_plan_are_left_alone(
    corpus: Path, sent: tuple[str, Path], wanted: dict[str, tuple[int, str]], tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match="another plan"):
        run(config_of(corpus, tmp_path, sent[0], shard_clips=5))
    assert objects(sent[0]) == wanted


def test_a_bucket_that_is_not_there_is_told_before_anything_is_made(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"s3://nobody/set/\S+: cannot be written \(The specified bucket does not"):
        run(config_of(corpus, tmp_path, "s3://nobody/set"))
    assert not list(tmp_path.rglob("*.tar"))


def test_no_rights_no_credentials_and_no_server_are_one_line(
    storage: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failure(tries: int) -> str:
        forget()
        storage.seen.clear()
        with pytest.raises(ShardError) as caught:
            Upload(url="s3://bucket/x", retries=2, backoff_s=0.01).pull(tmp_path)
        assert len(storage.seen) == tries
        assert "\n" not in str(caught.value) and SECRET not in str(caught.value)
        return str(caught.value)

    storage.rule = lambda method, path: "403"
    assert "s3://bucket/x/dataset.json: cannot be read" in failure(1)
    storage.calm()
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
        assert "Could not connect to the endpoint" in failure(0)
        patch.setenv("AWS_ENDPOINT_URL_S3", storage.url)
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        assert "Unable to locate credentials" in failure(0)
    forget()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://host/set", "want a folder, or bucket and path"), ("file:///tmp/set", "want a folder"),
        ("s3://", "want a folder"), ("s3://me:pass@bucket/set", "holds a password"),
        ("zip://a::s3://bucket/set", "want a folder"),
    ],
)  # fmt: skip
def test_addresses_at_which_no_set_can_be_made_are_mistakes_of_usage(corpus: Path, url: str, message: str) -> None:
    result = CliRunner().invoke(
        app, ["ingest", str(corpus / "list.csv"), url, "--media-dir", str(corpus / "media")], env={"COLUMNS": "300"}
    )
    assert result.exit_code == 2
    assert message in result.stderr and "me:pass" not in result.stderr


def test_the_command_names_the_address_and_keeps_its_work_in_the_cache(
    corpus: Path, sent: tuple[str, Path], tmp_path: Path
) -> None:
    words = ["ingest", str(corpus / "list.csv"), sent[0], "--media-dir", str(corpus / "media"), "--shard-clips", "4"]
    result = CliRunner().invoke(app, words, env={"XDG_CACHE_HOME": str(tmp_path)})
    assert result.stdout == "24 of 24 clips in 7 shards of s3://bucket/sent (0 new)\n"
    assert list((tmp_path / "unibrivl/work").glob("*/dataset.json"))


def test_options_for_an_address_are_for_an_address(corpus: Path, sent: tuple[str, Path], tmp_path: Path) -> None:
    words = ["ingest", str(corpus / "list.csv"), str(tmp_path / "out"), "--media-dir", str(corpus / "media")]
    result = CliRunner().invoke(app, [*words, "--work", str(tmp_path / "work")], env={"COLUMNS": "300"})
    assert result.exit_code == 2 and "--work is for an address" in result.stderr
    words = ["train", sent[0], "--out", str(tmp_path / "run"), "--cache-gb"]
    for value in ("0", "inf", "nan"):
        result = CliRunner().invoke(app, [*words, value], env={"COLUMNS": "300"})
        assert result.exit_code == 2 and f"--cache-gb is {value}, want more than 0" in result.stderr


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Any = sys.modules["fsspec.registry"]  # `fsspec.registry` is a table of that name
    monkeypatch.setitem(registry.known_implementations, "gs", {"class": "gone.gcsfs.GCS", "err": "install gcsfs"})
    monkeypatch.delitem(registry._registry, "gs", raising=False)
    with pytest.raises(ShardError, match=r"install gcsfs.*unibrivl\[remote\]"):
        RemoteFolder("gs://bucket/set").read("x")


def test_a_mirror_opens_like_a_folder_and_says_nothing_secret(
    sent: tuple[str, Path], local: Path, tmp_path: Path
) -> None:
    mirror = local_set(sent[0], directory=tmp_path, max_bytes=1 << 30)
    with ClipShards(mirror) as there, ClipShards(local) as here:
        assert [dict(sample.members) for sample in there] == [dict(sample.members) for sample in here]
    for path in tmp_path.rglob("*.json"):
        assert SECRET not in path.read_text()
    with pytest.raises(ValueError, match="holds a password"):
        local_set("ftp://me:pass@host/set", directory=tmp_path, max_bytes=1)
    (mirror / "address.json").write_text("{}")
    with pytest.raises(ShardError, match=r"address\.json: not readable"):
        ClipShards(mirror)


def test_training_embedding_and_indexing_read_from_a_bucket(
    sent: tuple[str, Path], local: Path, run: Path, tmp_path: Path
) -> None:
    def command(*words: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, [*words, "--cache-dir", str(tmp_path / "cache"), "--json"])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    url = sent[0]
    sizes = ("--set", "clip_s=1.0", "--set", "num_mels=32", "--set", "hop=706")
    trained = command("train", url, "--out", str(tmp_path / "run"), "--epochs", "1", "--batch-size", "4", *sizes)
    assert trained["steps"]
    assert command("embed", str(run), url, "--out", str(tmp_path / "embeddings"))["clips"] == 24
    built = command("index", str(run), url, "--out", str(tmp_path / "index"))
    assert built["items"] == {"audio": 24, "image": 24}

    shutil.rmtree(tmp_path / "cache" / "tars")  # what shows a clip fetches its tar again
    snapshot = open_snapshot(tmp_path / "index")
    with ClipShards(local) as clips:
        for row in snapshot.items("image").rows.to_pylist()[::7]:
            assert stored_sample(snapshot, row) == clips[row["row"]]
