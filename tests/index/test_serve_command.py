"""The command as a person runs it: it says where it serves, ends when told to, and leaves no process behind."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from unibrivl import UnibrivlError
from unibrivl.cli import app

from .serving import wait_until


@contextmanager
def command(*words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "unibrivl", "serve", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_it_serves_until_it_is_told_to_end(index: Path, how: signal.Signals) -> None:
    with command(str(index), "--port", "0", "--json") as process:
        assert process.stdout is not None and process.stderr is not None
        lines = [process.stdout.readline()]
        while lines[-1].strip() != "}":
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        told = json.loads("".join(lines))
        wait_until(lambda: psutil.Process(process.pid).children())
        with urllib.request.urlopen(f"{told['url']}/v1/index", timeout=60) as response:
            assert json.loads(response.read())["snapshot"] == told["snapshot"]
        children = psutil.Process(process.pid).children()
        assert len(children) == 2
        process.send_signal(how)
        assert process.wait(30) == (0 if how == signal.SIGINT else -how)
        assert not psutil.wait_procs(children, timeout=20)[1]
        if how == signal.SIGINT:
            assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--host", "0.0.0.0"), "host is 0.0.0.0, which others can reach: give a token with --token-file"),
        (("--max-k", "0"), "--max-k is 0"),
        (("--port", "70000"), "--port is 70000"),
        (("--max-waiting", "0"), "--max-waiting is 0"),
        (("--decoders", "0"), "children is 0"),
    ],
)
def test_a_mistake_of_usage_is_told_before_anything_is_loaded(words: tuple[str, ...], told: str) -> None:
    done = CliRunner().invoke(app, ["serve", "nowhere", *words])
    assert done.exit_code == 2
    assert told in " ".join(done.output.replace("\u2502", " ").split())


def test_what_cannot_be_served_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe" * 20)
    for words, told in (
        ((str(tmp_path),), "is no index"),
        (("--token-file", f"{tmp_path}/token", "x"), "holds no token"),
    ):
        done = CliRunner().invoke(app, ["serve", "--port", "0", *words])
        assert isinstance(done.exception, UnibrivlError) and told in str(done.exception)
