"""A source of media on loopback that flaps: refusals, faults, cut connections, pauses, and good answers between."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SLOW_S = 0.3
"""Pause in the middle of a slow answer."""
FAULTS = ("500", "cut", "reset", "slow")
REFUSAL = "503"
"""After which ingestion leaves the source alone for ten seconds."""
FAULT_SHARE = 0.4
"""Of the answers."""
MOST_IN_A_ROW = 2
"""Faults of a file: more than the tries of a clip would be a clip that fails."""


class Source:
    """The files of a folder, and how they are sent."""

    def __init__(self, folder: Path, seed: int, refusals: int) -> None:
        """Take what is served.

        Args:
            folder: of the files.
            seed: of the faults.
            refusals: how often an answer is a 503.
        """
        self.folder, self.refusals = folder, refusals
        self.injected: Counter[str] = Counter()
        self.url = ""
        self._draws, self._lock = random.Random(seed), threading.Lock()  # noqa: S311
        self._row: Counter[str] = Counter()

    def draw(self, name: str) -> str:
        """Return what happens to an answer: a fault, or nothing."""
        with self._lock:
            if self._row[name] >= MOST_IN_A_ROW or self._draws.random() >= FAULT_SHARE:
                self._row[name] = 0
                return ""
            is_left = self.injected[REFUSAL] < self.refusals
            fault = self._draws.choice((*FAULTS, REFUSAL) if is_left else FAULTS)
            self._row[name] += fault != "slow"
            self.injected[fault] += 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    source: Source

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        name = Path(self.path.partition("?")[0]).name
        fault = self.source.draw(name)
        if fault == "reset":
            self.close_connection = True
            return
        path = self.source.folder / name
        status = int(fault) if fault.isdecimal() else 200 if path.is_file() else 404
        body = path.read_bytes() if status == 200 else b""
        self.send_response(status)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Content-Length", str(len(body)))
        if fault == REFUSAL:
            self.send_header("Retry-After", "1")
        self.end_headers()
        if self.command == "GET":
            with suppress(ConnectionError):
                self._send(body, fault)

    def _send(self, body: bytes, fault: str) -> None:
        half = len(body) // 2
        self.wfile.write(body[:half])
        if fault == "cut":
            self.close_connection = True
            return
        if fault == "slow":
            threading.Event().wait(SLOW_S)
        self.wfile.write(body[half:])


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""


@contextmanager
def flapping(folder: Path, seed: int, refusals: int) -> Iterator[Source]:
    """Serve a folder until the end of the block."""
    source = Source(folder, seed, refusals)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"source": source}))
    source.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield source
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
