"""HTTP/1.1 as uvicorn speaks it, with an end to clients that say nothing, and to too many of them."""

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import RequestError
from .guard import error_body

HEADER_S = 10.0
"""How long a client may take for the head of a request."""
MAX_CONNECTIONS = 512
SHUTDOWN_S = 5


class Protocol(H11Protocol):
    """One connection."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take a connection, or say that there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(RequestError(503, "connections", "too many connections", "try again later"))
        else:
            self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Take what came; the head of the next request must follow in time."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(RequestError(400, "http", "this is no HTTP request", ""))

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEADER_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, error: RequestError) -> None:
        body = error_body(error)
        head = f"HTTP/1.1 {error.status} \r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()


def uvicorn_around(app: Any) -> uvicorn.Server:
    """Return uvicorn's server around an ASGI application, best a guard, not yet running."""
    settings = uvicorn.Config(
        app, http=Protocol, ws="none", loop="asyncio", lifespan="on", log_config=None, log_level="error",
        access_log=False, server_header=False, timeout_keep_alive=15, timeout_graceful_shutdown=SHUTDOWN_S,
    )  # fmt: skip
    return uvicorn.Server(settings)
