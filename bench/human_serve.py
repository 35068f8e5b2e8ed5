"""`bench human serve`: the study over HTTP on this machine, its page, and the one writer of its answers.

The guard of the search server stands before it. A browser holds a random secret, which names its session; the log
holds the secret's hash. Media go out by the names of `study.json` only, looked up in a table: nothing that a client
sends becomes part of a path. Order and sides never leave the server but trial by trial.
"""

import asyncio
import functools
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from .. import UnibrivlError
from ..index.counters import Counters
from ..index.errors import RequestError
from ..index.guard import FAULT, LOOPBACK, Guard, GuardConfig, error_body
from ..index.site import ASSETS as SEARCH_ASSETS
from ..index.site import Asset, read_asset
from ..shards.checks import check_ranges
from .human import Study
from .human_answers import AnswerLog, Session, rater_of
from .human_report import valid_sessions

logger = logging.getLogger(__name__)

FILES = {
    "/": ("human_page.html", "text/html"),
    "/human_page.css": ("human_page.css", "text/css"),
    "/human_page.js": ("human_page.js", "text/javascript"),
}
ASSETS = {path: read_asset(Path(__file__).with_name(name), kind) for path, (name, kind) in FILES.items()}
ASSETS["/serve.svg"] = SEARCH_ASSETS["/serve.svg"]
MEDIA_TYPES = {".wav": "audio/wav", ".png": "image/png"}
MAX_BODY_BYTES = 10_000
LEAST_HEARD = 0.9
"""Share of the sound's length that an answer takes at least: the page lets nobody answer before its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HumanServeConfig:
    """How a study is served."""

    port: int = 8758
    """0 takes one that is free."""
    hosts: tuple[str, ...] = ()
    """Names by which a proxy leads here."""
    simulated: bool = False
    """Whoever comes is a simulation: for tests and rehearsals."""
    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        """Refuse to listen to other machines."""
        check_ranges(self, port=(0, 65_535))
        if self.host not in LOOPBACK:
            raise ValueError(f"host is {self.host}, want one of {', '.join(LOOPBACK)}: a study is served on loopback")


class Body(BaseModel):
    """What every request says."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rater: str = Field(min_length=16, max_length=64)


class ConsentBody(BaseModel):
    """Somebody agrees to take part."""

    model_config = ConfigDict(extra="forbid", strict=True)

    study: str = Field(max_length=64)
    agreed: Literal[True]
    automated: bool
    """The browser says that a program steers it."""


class AnswerBody(Body):
    """An answer to the trial whose turn it is."""

    trial: str = Field(max_length=64)
    side: Literal["left", "right", "neither"]
    time_ms: int = Field(ge=0, le=86_400_000)
    plays: int = Field(ge=1, le=10_000)


Told = TypeVar("Told", bound=BaseModel)


class HumanServer:
    """The application and the log that it writes."""

    def __init__(self, config: HumanServeConfig, study: Study, log: AnswerLog) -> None:
        """Put the parts together."""
        self.config, self.study, self.log = config, study, log
        self.is_ready = False
        self._turn = asyncio.Lock()
        self._media = {name: study.medium(name) for t in study.trials for name in (t.sound, t.picture, t.foil)}
        routes = [Route(path, functools.partial(_send_asset, asset)) for path, asset in ASSETS.items()]
        routes += [Route("/v1/study", self._tell_study), Route("/media/{name}", self._send_medium)]
        posts = (("consent", self._consent), ("state", self._state), ("answer", self._answer))
        for name, answer in (*posts, ("withdraw", self._withdraw)):
            routes.append(Route(f"/v1/{name}", answer, methods=["POST"]))
        handlers: dict[Any, Any] = {UnibrivlError: _tell_error, HTTPException: _tell_http_error, Exception: _tell_fault}
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        limits = GuardConfig(hosts=(*LOOPBACK, *config.hosts), max_body_bytes=MAX_BODY_BYTES)
        self.guard = Guard(app, limits, Counters())

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.is_ready = True
        yield
        self.is_ready = False

    async def _tell_study(self, request: Request) -> Response:
        config = self.study.config
        told = {"title": config.title, "consent": config.consent, "trials": len(self.study.trials)}
        return JSONResponse(told | {"study": self.study.sha256, "simulated": self.config.simulated})

    async def _consent(self, request: Request) -> Response:
        told = await _read(request, ConsentBody)
        if told.study != self.study.sha256:
            raise RequestError(409, "study", "this page is of another study", "load it again")
        simulated = self.config.simulated or told.automated
        secret = secrets.token_urlsafe(24)
        async with self._turn:
            valid = valid_sessions(self.study, self.log.answers, simulated=simulated).valid
            if len(valid) >= self.study.config.raters:
                raise RequestError(409, "full", "enough people have taken part already", "thank you all the same")
            session = await asyncio.to_thread(self.log.begin, secret, simulated=simulated)
        return JSONResponse({"rater": secret} | self._told(session))

    async def _state(self, request: Request) -> Response:
        return JSONResponse(self._told(self._session(await _read(request, Body))))

    async def _answer(self, request: Request) -> Response:
        told = await _read(request, AnswerBody)
        async with self._turn:
            session = self._session(told)
            if told.trial not in session.answers:  # a browser that heard nothing says it again; the first one counts
                self._check_turn(session, told)
                await asyncio.to_thread(
                    self.log.answer, session, told.side, time_ms=told.time_ms, plays=told.plays
                )  # fmt: skip
        return JSONResponse(self._told(session))

    def _check_turn(self, session: Session, told: AnswerBody) -> None:
        shown = session.next
        if session.is_withdrawn or shown is None or shown.trial.trial != told.trial:
            raise RequestError(409, "turn", "this trial is not the next one", "load the page again")
        if told.time_ms < LEAST_HEARD * shown.trial.sound_ms:
            raise RequestError(422, "heard", "the sound was not heard to its end", "play it first")

    async def _withdraw(self, request: Request) -> Response:
        told = await _read(request, Body)
        async with self._turn:
            session = self._session(told)
            if not session.is_withdrawn:
                await asyncio.to_thread(self.log.withdraw, session)
        return JSONResponse(self._told(session))

    async def _send_medium(self, request: Request) -> Response:
        path = self._media.get(request.path_params["name"])
        if path is None:
            raise RequestError(404, "no_medium", "there is no such picture or sound")
        return FileResponse(path, media_type=MEDIA_TYPES[path.suffix], headers={"Cache-Control": "no-store"})

    def _session(self, told: Body) -> Session:
        session = self.log.answers.sessions.get(rater_of(told.rater))
        if session is None:
            raise RequestError(404, "no_rater", "nobody has begun under this name", "begin anew")
        return session

    def _told(self, session: Session) -> dict[str, Any]:
        """Return what a browser needs for its next step."""
        shown = None if session.is_withdrawn else session.next
        told = {"answered": len(session.answers), "trials": len(session.plan), "simulated": session.is_simulated}
        trial = shown and {
            "trial": shown.trial.trial, "sound": f"/media/{shown.trial.sound}",
            "left": f"/media/{shown.name('left')}", "right": f"/media/{shown.name('right')}",
        }  # fmt: skip
        return told | {"withdrawn": session.is_withdrawn, "next": trial}


async def _read(request: Request, kind: type[Told]) -> Told:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "content_type", "want application/json")
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RequestError(422, "invalid", f"{where}: {first['msg']}" if where else first["msg"]) from e


async def _send_asset(asset: Asset, request: Request) -> Response:
    return Response(asset.data, media_type=asset.media_type, headers={"ETag": asset.etag, "Cache-Control": "no-cache"})


def _refusal(error: RequestError) -> Response:
    return Response(error_body(error), status_code=error.status, media_type="application/json")


async def _tell_error(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestError):
        return _refusal(error)
    logger.error("%s", error)
    return _refusal(RequestError(500, "study", "the answer could not be stored", "tell whoever runs this study"))


async def _tell_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refusal(RequestError(error.status_code, "http", str(error.detail)))


async def _tell_fault(request: Request, error: Exception) -> Response:
    return _refusal(FAULT)
