"""The server of a human test over real HTTP: what it answers, refuses, writes, and how it survives being killed."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from unibrivl.bench.human import ANSWERS, Study
from unibrivl.bench.human_answers import read_answers
from unibrivl.bench.human_serve import HumanServeConfig
from unibrivl.index.guard import HEADERS

from .human_folder import make_study


@dataclass(slots=True)
class Running:
    """A server in a process of its own."""

    process: "subprocess.Popen[str]"
    told: dict[str, Any]

    @property
    def url(self) -> str:
        return self.told["url"]

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=20)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            told = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
            connection.request(method, path, data, told)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def post(self, name: str, body: Any, **headers: str) -> tuple[int, Any]:
        status, _, data = self.ask("POST", f"/v1/{name}", body, **headers)
        return status, json.loads(data)

    def begin(self, study: Study, *, automated: bool = True) -> dict[str, Any]:
        status, told = self.post("consent", {"study": study.sha256, "agreed": True, "automated": automated})
        assert status == 200, told
        return told

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)


@contextmanager
def running(study: Study, *options: str, port: int = 0) -> Iterator[Running]:
    """Serve a study with the command itself."""
    words = ["bench", "human", "serve", str(study.root), "--port", str(port), "--json", *options]
    process = subprocess.Popen([sys.executable, "-m", "unibrivl", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = ""
        while not told.endswith("}\n"):
            line = process.stdout.readline()
            assert line, "the server ended"
            told += line
        yield Running(process, json.loads(told))
    finally:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("served"), raters=2)


@pytest.fixture(scope="module")
def server(frozen: Study) -> Iterator[Running]:
    with running(frozen) as server:
        yield server


def answer_to(rater: str, state: dict[str, Any], side: str = "left", **changes: Any) -> dict[str, Any]:
    return {"rater": rater, "trial": state["next"]["trial"], "side": side, "time_ms": 500, "plays": 1} | changes


def test_the_page_and_its_media_come_with_the_headers_of_the_search_page(server: Running, frozen: Study) -> None:
    state = server.begin(frozen)["next"]
    for path in ("/", "/human_page.css", "/human_page.js", "/serve.svg", "/v1/study", state["sound"], state["left"]):
        status, headers, body = server.ask("GET", path)
        assert status == 200 and body
        for name, value in HEADERS:
            assert headers[name.decode()] == value.decode()
    assert server.ask("GET", state["sound"])[1]["content-type"] == "audio/wav"
    assert server.ask("GET", state["right"])[1]["cache-control"] == "no-store"
    status, headers, body = server.ask("GET", state["sound"], Range="bytes=0-3")
    assert (status, body) == (206, b"RIFF")


def test_nothing_a_client_names_is_opened(server: Running, frozen: Study) -> None:
    (frozen.root / "media" / "notes.txt").write_text("not of this study")
    for path in (
        "/media/notes.txt", "/media/..%2Fstudy.json", "/media/%2e%2e/study.json", "/media/../study.json",
        "/media//etc/passwd", "/media/%2Fetc%2Fpasswd", "/study.json", "/answers.jsonl", "/media/",
    ):  # fmt: skip
        status, _, body = server.ask("GET", path)
        assert status == 404 and json.loads(body)["error"]["message"], path
    (frozen.root / "media" / "notes.txt").unlink()


def test_what_is_told_before_an_answer_gives_nothing_away(server: Running, frozen: Study) -> None:
    told = server.begin(frozen)
    assert set(told) == {"rater", "answered", "trials", "simulated", "withdrawn", "next"}
    assert set(told["next"]) == {"trial", "sound", "left", "right"}
    about = json.loads(server.ask("GET", "/v1/study")[2])
    assert set(about) == {"title", "consent", "trials", "study", "simulated"}
    words = json.dumps([told, about])
    assert not any(word in words for word in ("ours", "dog", "siren", "foil", "picture_side", "catch"))


@pytest.mark.parametrize(
    ("name", "body", "status", "code"),
    [
        ("consent", {"study": "0" * 64, "agreed": True, "automated": True}, 409, "study"),
        ("consent", {"study": "S", "agreed": False, "automated": True}, 422, "invalid"),
        ("consent", {"study": "S", "agreed": True, "automated": "no"}, 422, "invalid"),
        ("consent", {"study": "S", "agreed": True, "automated": True, "simulated": False}, 422, "invalid"),
        ("state", {"rater": "somebody who never began"}, 404, "no_rater"),
        ("state", {"rater": "../../etc/passwd"}, 404, "no_rater"),
        ("answer", {"side": "both"}, 422, "invalid"),
        ("answer", {"plays": 0}, 422, "invalid"),
        ("answer", {"time_ms": -1}, 422, "invalid"),
        ("answer", {"time_ms": 100}, 422, "heard"),
        ("answer", {"trial": "another"}, 409, "turn"),
        ("withdraw", b"not json", 422, "invalid"),
    ],
)
def test_refusals(server: Running, frozen: Study, name: str, body: Any, status: int, code: str) -> None:
    if name == "answer":
        told = server.begin(frozen)
        body = answer_to(told["rater"], told) | body
    if isinstance(body, dict) and body.get("study") == "S":
        body["study"] = frozen.sha256
    before = (frozen.root / ANSWERS).read_bytes()
    got, error = server.post(name, body)
    assert (got, error["error"]["code"]) == (status, code)
    assert (frozen.root / ANSWERS).read_bytes() == before


def test_other_sites_names_and_types_are_refused(server: Running, frozen: Study) -> None:
    body = {"study": frozen.sha256, "agreed": True, "automated": True}
    assert server.post("consent", body, Origin="http://elsewhere.example")[0] == 403
    assert server.post("consent", body, Host="elsewhere.example")[0] == 421
    assert server.post("consent", body, Content_Type="text/plain")[0] == 415
    assert server.post("consent", b"x" * 20_000)[0] == 413
    assert server.ask("GET", "/v1/consent")[0] == 405


def test_an_answer_is_sent_twice_and_counts_once(server: Running, frozen: Study) -> None:
    told = server.begin(frozen)
    body = answer_to(told["rater"], told)
    first, second = server.post("answer", body), server.post("answer", body | {"side": "right"})
    assert first == second and first[0] == 200 and first[1]["answered"] == 1
    status, state = server.post("withdraw", {"rater": told["rater"]})
    assert (status, state["withdrawn"], state["next"]) == (200, True, None)
    assert server.post("answer", answer_to(told["rater"], first[1]))[1]["error"]["code"] == "turn"


def test_a_second_server_of_one_study_is_refused(server: Running, frozen: Study) -> None:
    words = ["bench", "human", "serve", str(frozen.root), "--port", "0"]
    second = subprocess.run([sys.executable, "-m", "unibrivl", *words], capture_output=True, text=True, timeout=60)
    assert second.returncode == 1 and "another process writes answers to it" in second.stderr


def test_it_serves_on_loopback_only() -> None:
    with pytest.raises(ValueError, match="a study is served on loopback"):
        HumanServeConfig(host="0.0.0.0")


def test_whoever_comes_to_a_rehearsal_is_simulated(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    with running(study, "--simulated") as server:
        assert server.begin(study, automated=False)["simulated"]
    assert [session.is_simulated for session in read_answers(study).sessions.values()] == [True]


def test_a_full_study_takes_nobody_else(tmp_path: Path) -> None:
    study = make_study(tmp_path, raters=2)
    with running(study) as server:
        for _ in range(2):
            state = server.begin(study, automated=False)
            rater = state["rater"]
            while state["next"]:
                catch = next((t for t in study.catches if t.trial == state["next"]["trial"]), None)
                side = "left" if catch is None or state["next"]["left"].endswith(catch.picture) else "right"
                status, state = server.post("answer", answer_to(rater, state, side))
                assert status == 200
        body = {"study": study.sha256, "agreed": True, "automated": False}
        assert server.post("consent", body)[1]["error"]["code"] == "full"
        assert server.begin(study, automated=True)["simulated"]  # a rehearsal takes nobody's place
    finished = read_answers(study).finished
    assert len(finished) == 2 and not any(session.is_simulated for session in finished)


def test_a_killed_server_loses_nothing_and_half_a_line_is_told_of(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    path = study.root / ANSWERS
    with running(study) as server:
        state = server.begin(study)
        rater = state["rater"]
        for _ in range(3):
            state = server.post("answer", answer_to(rater, state))[1]
        server.kill()
    kept = path.read_bytes()
    assert kept.count(b"\n") == 4
    with path.open("ab") as f:
        f.write(b'{"kind":"answer","study":"')
        os.fsync(f.fileno())
    with running(study) as server:
        assert (server.told["half_lines"], server.told["sessions"]) == (1, 1)
        status, again = server.post("state", {"rater": rater})
        assert (status, again["answered"], again["next"]) == (200, 3, state["next"])
        while again["next"]:
            status, again = server.post("answer", answer_to(rater, again))
            assert status == 200
    assert path.read_bytes().startswith(kept)
    answers = read_answers(study)
    assert answers.torn == 1 and len(answers.finished) == 1
