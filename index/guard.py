"""Stands before the application: who may ask, how much, how long; and what every answer carries.

The browser's own page must not be usable by other sites, so a request must name this server as its host (a foreign
name that was made to lead here is refused) and must not come from a page of another site.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from ..shards.checks import check_ranges
from .counters import Counters
from .errors import RequestError

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPEN_PATHS = ("/", "/healthz", "/readyz", "/v1/login")
"""What is answered without the token, with the page's own files."""
COOKIE = "unibrivl"
DRAINED = (401, 403, 413, 415, 421, 422, 429)
DRAIN_S, DRAIN_BYTES = 2.0, 64 << 20
"""With which answers, how long and how much of a body is still read, so that its sender gets to see the answer."""
FAULT = RequestError(500, "internal", "the server made a mistake", "its log tells more")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"microphone=(self), camera=(), geolocation=()"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardConfig:
    """How much one request and all together may take."""

    hosts: tuple[str, ...] = LOOPBACK
    """Names by which this server may be called, without port."""
    token: str | None = None
    """What a request must carry; None: nothing."""
    max_body_bytes: int = 20_000_000
    max_waiting: int = 64
    """Requests that are worked on or wait at once; more are answered with 429."""
    max_waiting_bytes: int = 256_000_000
    """Bytes of their bodies."""
    deadline_s: float = 15.0
    """From the first byte of a question to its answer."""
    send_s: float = 20.0
    """How long a client may leave what it is sent lying."""

    def __post_init__(self) -> None:
        """Refuse limits that let nothing through, and tokens that can be guessed."""
        check_ranges(
            self, max_body_bytes=(1_000, None), max_waiting=(1, 100_000), max_waiting_bytes=(self.max_body_bytes, None),
            deadline_s=(0.05, 3600), send_s=(0.05, 3600),
        )  # fmt: skip
        if self.token is not None and len(self.token) < 16:
            raise ValueError(f"token has {len(self.token)} characters, want at least 16")


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: Any, config: GuardConfig, counters: Counters, open_paths: tuple[str, ...] = ()) -> None:
        """Wrap `app`; `open_paths` are answered without the token as well."""
        self.app, self.config, self.counters = app, config, counters
        self.open_paths = {*OPEN_PATHS, *open_paths}
        self.waiting = 0
        self.waiting_bytes = 0
        self._cookie = session_of(config.token or "", secrets.token_bytes(32))

    @property
    def cookie(self) -> str:
        """Return what a browser carries instead of the token, until the server ends."""
        return self._cookie

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, self.config)
        began = time.perf_counter()
        try:
            await self._answer(scope, exchange)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.counters.note(route, exchange.status or 499, time.perf_counter() - began)

    async def _answer(self, scope: MutableMapping[str, Any], exchange: "_Exchange") -> None:
        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self._check_origin(headers)
            self._check_token(scope["path"], headers)
            if scope["method"] in ("GET", "HEAD"):
                await self.app(scope, exchange.receive, exchange.send)
            else:
                await self._admit(scope, headers, exchange)
        except RequestError as e:
            await exchange.refuse(e)
        except _ClientLeftError:
            logger.info("%s: the client has gone or takes nothing", scope["path"])
        except Exception:
            logger.exception("%s %s", scope["method"], scope["path"])
            await exchange.refuse(FAULT)

    async def _admit(self, scope: MutableMapping[str, Any], headers: dict[str, str], exchange: "_Exchange") -> None:
        """Let a question in if there is room, and give up on it when its time is over."""
        size = self._body_bytes(headers)
        if self.waiting >= self.config.max_waiting or self.waiting_bytes + size > self.config.max_waiting_bytes:
            raise RequestError(429, "busy", "too many questions at once", "try again in a second")
        self.waiting += 1
        self.waiting_bytes += size
        try:
            async with asyncio.timeout(self.config.deadline_s):
                await self.app(scope, exchange.receive, exchange.send)
        except TimeoutError as e:
            late = f"within {self.config.deadline_s:g} s"
            if exchange.is_received:
                raise RequestError(504, "deadline", f"not answered {late}", "ask for less at once, or later") from e
            raise RequestError(408, "slow", f"the question did not arrive {late}", "send less at once") from e
        finally:
            self.waiting -= 1
            self.waiting_bytes -= size

    def _body_bytes(self, headers: dict[str, str]) -> int:
        """Return how many bytes may come: as many as were announced, or as many as are allowed."""
        most = self.config.max_body_bytes
        announced = headers.get("content-length", str(most))
        size = int(announced) if announced.isdecimal() else most
        if size > most:
            raise too_large(most)
        return size

    def _check_origin(self, headers: dict[str, str]) -> None:
        host = _host_name(headers.get("host", ""))
        if host not in self.config.hosts:
            raise RequestError(
                421, "host", f"this server is not {host[:100] or 'without a name'}",
                "name the host with --allow-host when the server starts",
            )  # fmt: skip
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != headers["host"]
        if foreign or (headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"):
            raise RequestError(403, "origin", "pages of other sites may not ask here", "open this server's own page")

    def _check_token(self, path: str, headers: dict[str, str]) -> None:
        if self.config.token is None or path in self.open_paths:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and same_secret(given.strip(), self.config.token):
            return
        if not same_secret(_cookie(headers.get("cookie", "")), self._cookie):
            raise RequestError(401, "token", "a token is needed", "send it as Authorization: Bearer TOKEN")


class _ClientLeftError(ValueError):
    """Nobody takes the answer: no error of ours, so that the application's handlers leave it alone."""


class _Exchange:
    """Both directions of one request: bytes are counted on the way in, headers added on the way out."""

    def __init__(self, receive: Receive, send: Send, config: GuardConfig) -> None:
        self._receive, self._send, self._config = receive, send, config
        self.status = 0
        self.is_received = False
        self._received_bytes = 0

    async def receive(self) -> Message:
        """Hand on the next piece of the body."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._received_bytes += len(message.get("body", b""))
            self.is_received = not message.get("more_body", False)
            if self._received_bytes > self._config.max_body_bytes:
                raise too_large(self._config.max_body_bytes)
        return message

    async def send(self, message: Message) -> None:
        """Hand on a piece of the answer; give up on a client that takes none."""
        if message["type"] == "http.response.start":
            if not self.is_received and message["status"] in DRAINED:
                await self._drain()
            self.status = message["status"]
            there = {name for name, _ in message.get("headers", ())}
            added = [(name, value) for name, value in HEADERS if name not in there]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        sent = asyncio.ensure_future(self._send(message))
        done, _ = await asyncio.wait({sent}, timeout=self._config.send_s)
        if not done:
            sent.cancel()
            raise _ClientLeftError("the client takes nothing")
        try:
            sent.result()
        except OSError as e:
            raise _ClientLeftError("the client has gone") from e

    async def refuse(self, error: RequestError) -> None:
        """Answer with an error, unless an answer has begun already."""
        if self.status:
            return
        body = error_body(error)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"retry-after", b"1")] * (error.status == 429)
        headers += [(b"www-authenticate", b"Bearer")] * (error.status == 401)
        headers += [(b"connection", b"close")] * (not self.is_received)
        with suppress(_ClientLeftError):
            await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
            await self.send({"type": "http.response.body", "body": body})

    async def _drain(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                left = DRAIN_BYTES
                while left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return


def too_large(most: int) -> RequestError:
    """Return the error of a body that is over the limit."""
    return RequestError(413, "too_large", f"the request is larger than {most:,} bytes", "send a shorter file")


def error_body(error: RequestError) -> bytes:
    """Return what every refusal says: code, message and hint."""
    told = {"code": error.code, "message": str(error), "hint": error.hint}
    return json.dumps({"error": told}, ensure_ascii=False).encode("utf-8", errors="replace")


def session_of(token: str, key: bytes) -> str:
    """Return what stands for the token in a browser."""
    return hmac.new(key, token.encode(), hashlib.sha256).hexdigest()


def same_secret(given: str, wanted: str) -> bool:
    """Compare in a time that tells nothing."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _host_name(host: str) -> str:
    """Return the name in a Host header, without port and brackets."""
    with suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""


def _cookie(header: str) -> str:
    with suppress(CookieError, KeyError):
        return SimpleCookie(header)[COOKIE].value
    return ""
