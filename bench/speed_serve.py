"""`bench speed serve`: many clients on loopback, each asking one question after the other.

The server is the command in a process of its own. First one client asks alone, then all of them at once, in rounds of
which the last counts; a quarter of the questions bring a sound, a quarter a picture, the others name an item. The
clients run on the same cores as the server, in one process of Python, so what is told is what this machine gives with
both on it.
"""

import http.client
import io
import json
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
from PIL import Image

from ..shards import SAMPLE_RATE
from ..shards.checks import check_ranges
from .environment import environment
from .errors import BenchError
from .speed import Progress, figure, fill_in, no_progress, versions

COLUMNS = ("who asks", "questions", "answers/s", "told to come again", "p50 ms", "p95 ms", "p99 ms")
SIZES = {True: {"seconds": 4.0, "alone": 40, "rounds": 2}, False: {"seconds": 60.0, "alone": 200, "rounds": 5}}
"""By whether it is quick."""
KINDS = ("sound", "picture", "item", "item")
PACKAGES = ("fastapi", "uvicorn", "starlette", "h11")
START_S = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeSpeedConfig:
    """What `unibrivl bench speed serve` was asked."""

    index: Path
    clients: int = 64
    seconds: float | None = None
    """How long all clients ask in a round."""
    rounds: int | None = None
    """How often they do; the last is timed, and the server's memory is told after each."""
    alone: int | None = None
    """Questions that one client asks alone."""
    max_waiting: int = 64
    """As of `unibrivl serve`."""
    quick: bool = False

    def __post_init__(self) -> None:
        """Fill in what depends on `quick`, and refuse what measures nothing."""
        fill_in(self, SIZES[self.quick])
        check_ranges(
            self, clients=(1, 1000), seconds=(0.5, 3600), alone=(4, 100_000), rounds=(1, 1000), max_waiting=(1, 100_000)
        )


def measure_serve(config: ServeSpeedConfig, progress: Progress = no_progress) -> dict[str, Any]:
    """Run the server and its clients; return the figures.

    Raises:
        BenchError: the server does not start, or gives an answer that is none.
    """
    with _server(config) as (address, process):
        questions = _questions(address)
        progress(0, 2, "one client alone")
        _ask(address, questions, config.alone // 4 if config.alone else 1)  # what is loaded late is loaded now
        began = time.perf_counter()
        alone = _ask(address, questions, config.alone or 0)
        alone_s = time.perf_counter() - began
        progress(1, 2, f"{config.clients} clients")
        # what batches of every size keep of the memory they took: flat means that it ends
        memory_mb = [_memory_mb(process)]
        asked, all_s = [], 0.0
        for _ in range(config.rounds or 0):
            asked, all_s = _ask_all(config, address, questions, config.seconds or 0)
            memory_mb.append(_memory_mb(process))
    return {
        "alone": _figures([alone], alone_s), "together": _figures(asked, all_s), "clients": config.clients,
        "seconds": config.seconds, "max_waiting": config.max_waiting,
        "memory_mb": [figure(value) for value in memory_mb],
        "memory_growth_mb": figure(memory_mb[-1] - memory_mb[-2]),
        "versions": versions(PACKAGES), "environment": environment(),
    }  # fmt: skip


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the table of a result."""
    told = (("one client", result["alone"]), (f"{result['clients']} clients", result["together"]))
    return [(name, *_row(figures)) for name, figures in told]


def _row(figures: dict[str, float]) -> tuple[str, ...]:
    times = (f"{figures[name]:.1f}" for name in ("p50_ms", "p95_ms", "p99_ms"))
    return f"{figures['questions']:,}", f"{figures['answers_per_s']:.1f}", f"{figures['busy']:,}", *times


Asked = list[tuple[int, float]]
"""Status and seconds of each question."""
Requests = list[tuple[bytes, str]]
"""Body and type of each kind of question."""


@contextmanager
def _server(config: ServeSpeedConfig) -> Iterator[tuple[tuple[str, int], psutil.Process]]:
    words = [sys.executable, "-m", "unibrivl", "serve", str(config.index), "--port", "0", "--json"]
    words += ["--max-waiting", str(config.max_waiting)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield _address(process), psutil.Process(process.pid)
        finally:
            process.terminate()


def _address(process: subprocess.Popen[bytes]) -> tuple[str, int]:
    """Return where a server that has just been started listens."""
    assert process.stdout is not None and process.stderr is not None
    told = b""
    while not told.endswith(b"}\n"):
        line = process.stdout.readline()
        if not line:
            raise BenchError(f"the server did not start: {process.stderr.read().decode(errors='replace').strip()}")
        told += line
    answer = json.loads(told)
    if "url" not in answer:
        raise BenchError(f"the server did not start: {answer.get('error')}")
    host, port = answer["url"].removeprefix("http://").rsplit(":", 1)
    return host, int(port)


def _questions(address: tuple[str, int]) -> Requests:
    connection = http.client.HTTPConnection(*address, timeout=START_S)
    connection.request("GET", "/v1/index")
    item = json.loads(connection.getresponse().read())["examples"][0]["item_id"]
    connection.close()
    sound, picture = io.BytesIO(), io.BytesIO()
    noise = np.random.default_rng(0)
    soundfile.write(sound, 0.1 * noise.standard_normal(2 * SAMPLE_RATE), SAMPLE_RATE, format="FLAC")
    Image.fromarray(noise.integers(0, 256, (256, 256, 3), np.uint8)).save(picture, "JPEG")
    bodies = {"sound": _form("audio", sound.getvalue()), "picture": _form("image", picture.getvalue())}
    named = json.dumps({"parts": [{"item": item}], "to": "image"}).encode(), "application/json"
    return [bodies.get(kind, named) for kind in KINDS]


def _form(name: str, data: bytes) -> tuple[bytes, str]:
    mark = secrets.token_hex(16)
    field = f'--{mark}\r\nContent-Disposition: form-data; name="to"\r\n\r\nimage\r\n'
    file = f'--{mark}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'
    return f"{field}{file}".encode() + data + f"\r\n--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"


def _ask(address: tuple[str, int], questions: Requests, count: int, until: float = float("inf")) -> Asked:
    """Ask up to `count` questions in turn over one connection."""
    connection = http.client.HTTPConnection(*address, timeout=START_S)
    asked: Asked = []
    while len(asked) < count and time.perf_counter() < until:
        body, kind = questions[len(asked) % len(questions)]
        began = time.perf_counter()
        connection.request("POST", "/v1/search", body, {"Content-Type": kind})
        response = connection.getresponse()
        told = json.loads(response.read())
        asked.append((response.status, time.perf_counter() - began))
        if ("results" if response.status == 200 else "error") not in told or response.status not in (200, 429):
            raise BenchError(f"the server answered {response.status}: {json.dumps(told)[:300]}")
    connection.close()
    return asked


def _ask_all(
    config: ServeSpeedConfig, address: tuple[str, int], questions: Requests, seconds: float
) -> tuple[list[Asked], float]:
    began = time.perf_counter()
    until = began + seconds

    def one(number: int) -> Asked:
        turned = questions[number % len(questions) :] + questions[: number % len(questions)]
        return _ask(address, turned, sys.maxsize, until)

    with ThreadPoolExecutor(config.clients) as threads:
        return list(threads.map(one, range(config.clients))), time.perf_counter() - began


def _figures(asked: list[Asked], seconds: float) -> dict[str, float]:
    statuses = Counter(status for one in asked for status, _ in one)
    answered = [1000 * spent for one in asked for status, spent in one if status == 200]
    quantiles = {f"p{p}_ms": figure(float(np.percentile(answered, p))) for p in (50, 95, 99)}
    return {
        "questions": sum(statuses.values()), "answers": statuses[200], "busy": statuses[429],
        "answers_per_s": figure(len(answered) / seconds), **quantiles, "max_ms": figure(max(answered)),
    }  # fmt: skip


def _memory_mb(process: psutil.Process) -> float:
    """Return the memory of the server with its decoders."""
    return sum(p.memory_info().rss for p in (process, *process.children())) / 1e6
