"""The server under strain: more than it takes, too slow, too long, and a new snapshot in between."""

import json
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from unibrivl.index import wire
from unibrivl.index.engine import Engine, open_engine
from unibrivl.index.guard import GuardConfig
from unibrivl.index.serve_config import ServeConfig
from unibrivl.index.snapshot import publish, read_manifest

from .serving import Client, encode_form, serving, wait_until
from .test_serve import ids, picture_file, some_item, sound_file

CLIENTS = 64
ASKED = 400
"""Times the page's largest file: more than buffers hold."""


@pytest.fixture(scope="module")
def engine(index: Path) -> Engine:
    return open_engine(index)


class SlowEngine:
    """A real engine that takes its time."""

    def __init__(self, engine: Engine, seconds: float) -> None:
        self._engine, self._seconds = engine, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def ask_many(self, questions: Sequence[Any]) -> Any:
        time.sleep(self._seconds)
        return self._engine.ask_many(questions)


def strain(client: Client, seconds: float) -> tuple[Counter[int], list[float]]:
    """Let many clients ask one after the other; return how often each status came, and the seconds of answers."""
    item = some_item(client)["item_id"]
    sound, picture = sound_file(), picture_file()
    until, statuses, spent = time.monotonic() + seconds, Counter[int](), []

    def one(number: int) -> None:
        while time.monotonic() < until:
            began = time.perf_counter()
            if number % 4 == 0:
                answer = client.form("/v1/search", {"audio": sound, "to": "image"})
            elif number % 4 == 1:
                answer = client.form("/v1/search", {"image": picture, "to": "both"})
            else:
                answer = client.search({"item": item}, to="image", k=5)
            took = time.perf_counter() - began
            if answer.status == 200:
                assert number % 4 < 2 or ids(answer)[0] == item
                spent.append(took)
            else:
                assert answer.code == "busy" and answer.headers["retry-after"] == "1"
                time.sleep(0.2)
            statuses[answer.status] += 1

    with ThreadPoolExecutor(CLIENTS) as threads:
        for done in [threads.submit(one, n) for n in range(CLIENTS)]:
            done.result()
    return statuses, sorted(spent)


@pytest.mark.parametrize("seconds", [3.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_64_clients_each_get_an_answer_or_are_told_to_come_again(index: Path, engine: Engine, seconds: float) -> None:
    config = ServeConfig(index=index, port=0, guard=GuardConfig(max_waiting=48))
    with serving(config, engine) as client:
        statuses, spent = strain(client, seconds)
        assert set(statuses) <= {200, 429} and statuses[200] > 0
        guard = client.server.guard
        wait_until(lambda: guard.waiting == guard.waiting_bytes == client.server.batcher.waiting == 0)
        batches = client.server.counters.batches
        assert sum(batches.counts) - batches.counts[0] > 0  # some passes had more than one question
        assert spent[-1] < config.guard.deadline_s
        assert client.get("/readyz").status == 200


def test_memory_stays_where_it_is(index: Path, engine: Engine) -> None:
    """A minute of sound has 1.9 MB: were each kept, 80 of them would show."""
    with serving(ServeConfig(index=index, port=0), engine) as client:
        sound = sound_file(seconds=60)
        body, content_type = encode_form({"audio": sound, "to": "image", "k": 1})

        def ask(_: int) -> int:
            return client.ask("POST", "/v1/search", body, {"Content-Type": content_type}).status

        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(ask, range(40))) == {200}
            before = psutil.Process().memory_info().rss
            assert set(threads.map(ask, range(80))) == {200}
        grown = psutil.Process().memory_info().rss - before
    assert grown < 80 * len(sound) / 2


class FaultyEngine(SlowEngine):
    """An engine with a fault of the program itself."""

    def ask_many(self, questions: Sequence[Any]) -> Any:
        raise ZeroDivisionError


def test_a_fault_of_its_own_is_told_and_logged_and_it_goes_on(index: Path, engine: Engine, caplog: Any) -> None:
    with serving(ServeConfig(index=index, port=0), FaultyEngine(engine, 0)) as client:
        answer = client.search({"item": some_item(client)["item_id"]})
        assert answer.status == 500 and answer.code == "internal" and "division" not in answer.body.decode()
        assert client.get("/readyz").status == 200
    assert "ZeroDivisionError" in caplog.text


def test_more_than_it_takes_is_told_to_come_again(index: Path, engine: Engine) -> None:
    config = ServeConfig(index=index, port=0, guard=GuardConfig(max_waiting=2))
    with serving(config, SlowEngine(engine, 0.5)) as client:
        item = some_item(client)["item_id"]
        with ThreadPoolExecutor(6) as threads:
            statuses = Counter(a.status for a in threads.map(lambda _: client.search({"item": item}), range(6)))
        assert statuses[200] >= 2 and statuses[429] >= 1 and set(statuses) == {200, 429}
        assert client.search({"item": item}).status == 200


def test_bytes_that_wait_are_bounded_too(index: Path, engine: Engine) -> None:
    guard = GuardConfig(max_body_bytes=1_000_000, max_waiting_bytes=1_200_000)
    with serving(ServeConfig(index=index, port=0, guard=guard), engine) as client:
        with half_a_request(client, announced=900_000):
            wait_until(lambda: client.server.guard.waiting == 1)
            assert client.form("/v1/search", {"audio": bytes(500_000)}).code == "busy"
            assert client.search({"item": some_item(client)["item_id"]}).status == 200
        wait_until(lambda: client.server.guard.waiting == 0)


def test_an_answer_that_comes_too_late_is_told(index: Path, engine: Engine) -> None:
    config = ServeConfig(index=index, port=0, guard=GuardConfig(deadline_s=0.3))
    with serving(config, SlowEngine(engine, 0.8)) as client:
        answer = client.search({"item": some_item(client)["item_id"]})
        assert answer.status == 504 and answer.code == "deadline"
        assert client.get("/healthz").status == 200
        wait_until(lambda: client.server.guard.waiting == 0)


@contextmanager
def half_a_request(client: Client, announced: int) -> Iterator[socket.socket]:
    """Send the beginning of a question and keep the connection open."""
    with socket.create_connection(client.address, timeout=30) as connection:
        head = ("POST /v1/search HTTP/1.1", "Host: localhost", "Content-Type: application/json")
        connection.sendall("\r\n".join([*head, f"Content-Length: {announced}", "", "{"]).encode())
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes, however it does."""
    told = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            told += piece
    return told


def test_a_body_that_does_not_come_is_given_up(index: Path, engine: Engine) -> None:
    config = ServeConfig(index=index, port=0, guard=GuardConfig(deadline_s=0.3))
    with serving(config, engine) as client, half_a_request(client, announced=1000) as connection:
        told = read_all(connection)
        assert told.startswith(b"HTTP/1.1 408")
        assert json.loads(told.partition(b"\r\n\r\n")[2])["error"]["code"] == "slow"
        assert client.server.guard.waiting == 0


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n"])
def test_a_head_that_does_not_come_is_given_up(index: Path, engine: Engine, monkeypatch: Any, sent: bytes) -> None:
    monkeypatch.setattr(wire, "HEADER_S", 0.3)
    with serving(ServeConfig(index=index, port=0), engine) as client:
        with socket.create_connection(client.address, timeout=20) as connection:
            connection.sendall(sent)
            assert connection.recv(100) == b""
        assert client.get("/healthz").status == 200


def test_a_client_that_takes_nothing_is_let_go(index: Path, engine: Engine) -> None:
    config = ServeConfig(index=index, port=0, guard=GuardConfig(send_s=0.3))
    with serving(config, engine) as client, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(client.address)
        connection.sendall(b"GET /serve.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * ASKED)
        time.sleep(1.0)
        assert client.get("/healthz").status == 200
        assert len(read_all(connection)) < ASKED * len(client.get("/serve.js").body)


def test_too_many_connections_are_refused(index: Path, engine: Engine, monkeypatch: Any) -> None:
    monkeypatch.setattr(wire, "MAX_CONNECTIONS", 4)
    with serving(ServeConfig(index=index, port=0), engine) as client:
        idle = [socket.create_connection(client.address, timeout=20) for _ in range(8)]
        told = [connection.recv(4096) for connection in idle[4:]]
        assert all(answer.startswith(b"HTTP/1.1 503") and b'"connections"' in answer for answer in told)
        for connection in idle:
            connection.close()
        wait_until(lambda: client.get("/healthz").status == 200)


@pytest.fixture
def growing(index: Path, tmp_path: Path) -> Path:
    """Return a copy of the index that a test may change."""
    return Path(shutil.copytree(index, tmp_path / "index"))


def publish_another(root: Path) -> str:
    """Publish the same segments once more with another description; return the snapshot's id."""
    _, manifest = read_manifest(root)
    return publish(root, manifest | {"parent": time.time_ns()})


def test_a_new_snapshot_answers_without_a_pause(index: Path, run: Path, growing: Path) -> None:
    engine = open_engine(growing, run)
    with serving(ServeConfig(index=growing, port=0, watch_s=0.05), engine) as client:
        item, old = some_item(client)["item_id"], engine.snapshot.id
        seen: list[str] = []
        is_over = threading.Event()

        def keep_asking() -> None:
            while not is_over.is_set():
                answer = client.search({"item": item}, to="image")
                assert answer.status == 200 and ids(answer)[0] == item
                seen.append(answer.json["snapshot"])

        with ThreadPoolExecutor(3) as threads:
            asking = [threads.submit(keep_asking) for _ in range(3)]
            wait_until(lambda: old in seen)
            new = publish_another(growing)
            wait_until(lambda: new in seen)
            is_over.set()
            for done in asking:
                done.result()
        assert set(seen) == {old, new}
        assert client.get("/readyz").json["snapshot"] == new


def test_a_damaged_snapshot_is_left_alone(index: Path, run: Path, growing: Path) -> None:
    engine = open_engine(growing, run)
    with serving(ServeConfig(index=growing, port=0, watch_s=0.05), engine) as client:
        item = some_item(client)["item_id"]
        (growing / "CURRENT").write_text("0123456789abcdef\n")
        wait_until(lambda: client.server.live.failed)
        assert client.get("/readyz").json["refused"] == "0123456789abcdef"
        assert client.search({"item": item}, to="image").json["snapshot"] == engine.snapshot.id
        assert "unibrivl_snapshot_refused 1" in client.get("/metrics").body.decode()
        (growing / "CURRENT").write_text(f"{engine.snapshot.id}\n")
        new = publish_another(growing)
        wait_until(lambda: client.get("/readyz").json == {"ready": True, "snapshot": new, "refused": None})
