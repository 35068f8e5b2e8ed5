"""A real server on a loopback port for tests, and a small client that shows what came back."""

import http.client
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from unibrivl.index.serve import Server, uvicorn_server
from unibrivl.index.serve_config import ServeConfig, listen, url_of

START_S = 30


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Return the kind of mistake; fails where the answer is no refusal as ours are."""
        error = self.json["error"]
        assert set(error) == {"code", "message", "hint"} and error["message"]
        assert self.headers["content-type"] == "application/json"
        return error["code"]


@dataclass(frozen=True, slots=True)
class Client:
    """Asks one server."""

    url: str
    server: Server

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        return host, int(port)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, told, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path: str, value: Any, **headers: str) -> Answer:
        return self.ask("POST", path, json.dumps(value), {"Content-Type": "application/json", **headers})

    def form(self, path: str, fields: dict[str, Any], **headers: str) -> Answer:
        body, content_type = encode_form(fields)
        return self.ask("POST", path, body, {"Content-Type": content_type, **headers})

    def search(self, *parts: dict[str, Any], **options: Any) -> Answer:
        return self.post("/v1/search", {"parts": list(parts), **options})


def encode_form(fields: dict[str, Any]) -> tuple[bytes, str]:
    """Return a body of `multipart/form-data`: bytes become files, lists repeat a field."""
    boundary = secrets.token_hex(16)
    pieces = []
    for name, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            file = f'; filename="{name}"\r\nContent-Type: application/octet-stream' if isinstance(value, bytes) else ""
            data = value if isinstance(value, bytes) else str(value).encode()
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
            pieces.append(head.encode() + data + b"\r\n")
    return b"".join([*pieces, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


@contextmanager
def serving(config: ServeConfig, engine: Any) -> Iterator[Client]:
    """Run a server in a thread of this process."""
    listener = listen(config)
    server = Server(config, engine)
    running = uvicorn_server(server)
    thread = threading.Thread(target=lambda: running.run(sockets=[listener]), daemon=True)
    thread.start()
    try:
        wait_until(lambda: running.started and server.is_ready)
        yield Client(url_of(listener), server)
    finally:
        running.should_exit = True
        thread.join(START_S)
        listener.close()
    assert not thread.is_alive()


def wait_until(is_true: Any, seconds: float = START_S) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)
