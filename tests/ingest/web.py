"""A web server on this machine that serves files, and misbehaves where it is told to."""

import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HTML = "text/html; charset=utf-8"


class Web:
    """What the server has and does, by path."""

    def __init__(self) -> None:
        self.base = ""
        self.files: dict[str, bytes] = {}
        self.status: dict[str, list[int]] = {}
        """Statuses of the next answers; the last one stays, 200 sends the file."""
        self.headers: dict[str, dict[str, str]] = {}
        self.cut_at: dict[str, int] = {}
        """Bytes after which the connection breaks, each time."""
        self.silent: dict[str, int] = {}
        """After so many answers the next ones begin, and go on when the test is over."""
        self.slow: dict[str, float] = {}
        """Seconds between kilobytes."""
        self.asked: Counter[str] = Counter()
        self.agents: list[str] = []
        self.cookies: list[str] = []
        self.over = threading.Event()

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return f"{self.base}/{path}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        web, name = self.web, self.path.lstrip("/").partition("?")[0]
        web.asked[name] += 1
        web.agents.append(self.headers.get("User-Agent", ""))
        web.cookies.append(self.headers.get("Cookie", ""))
        statuses = web.status.get(name, [200 if name in web.files else 404])
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        body = web.files.get(name, b"") if status == 200 else b"no"
        first, last = 0, len(body) - 1
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if status == 200 and asked and int(asked[1]) <= last:
            status, first, last = 206, int(asked[1]), min(int(asked[2] or last), last)
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
        kind = {"mp4": "video/mp4", "html": HTML}.get(Path(name).suffix[1:], "application/octet-stream")
        headers = {"Content-Type": kind, "Accept-Ranges": "bytes", "Content-Length": str(last - first + 1)}
        for key, value in (headers | web.headers.get(name, {})).items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            with suppress(ConnectionError):
                self.send_body(name, body[first : last + 1])

    def send_body(self, name: str, body: bytes) -> None:
        web = self.web
        if web.asked[name] > web.silent.get(name, sys.maxsize):
            web.over.wait(30)
        elif name in web.slow:
            for begin in range(0, len(body), 1024):
                self.wfile.write(body[begin : begin + 1024])
                if web.over.wait(web.slow[name]):
                    return
        elif name in web.cut_at:
            self.wfile.write(body[: web.cut_at[name]])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up, as those do that want the beginning only."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serve() -> Iterator[Web]:
    """Serve until the end of the block."""
    web = Web()
    server = Server(("127.0.0.1", 0), type("Handler", (Handler,), {"web": web}))
    web.base = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
