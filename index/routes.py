"""Where the server answers what. Each route reads, asks and tells; limits and errors are the guard's."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from .. import UnibrivlError, __version__
from . import rerank as sorting
from .counters import CONTENT_TYPE
from .errors import IndexMismatchError, IndexStoreError, MilvusError, RequestError
from .guard import COOKIE, FAULT, error_body, same_secret
from .items import byte_range, describe, find_row, handles, medium_of
from .requests import (
    MAX_PARTS,
    BatchBody,
    LoginBody,
    RerankBody,
    SearchBody,
    candidates_of,
    parts_of,
    question_of,
    read_body,
)
from .site import ASSETS, docs_page

if TYPE_CHECKING:
    from .engine import QueryResult
    from .serve import Server

MEDIA_CACHE = "private, max-age=3600"
SCHEMAS = "#/components/schemas/"
ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"description": "A refusal.", "content": {"application/json": {"example": {"error": {
        "code": "busy", "message": "too many questions at once", "hint": "try again in a second",
    }}}}},
}  # fmt: skip


def add_routes(app: FastAPI, server: "Server") -> None:
    """Add every route and what becomes of errors."""
    app.state.server = server
    for path in ASSETS:
        app.add_api_route(path, _asset, methods=["GET"], include_in_schema=False)
    app.add_api_route("/docs", _docs, methods=["GET"], include_in_schema=False)
    app.add_api_route("/v1/login", _login, methods=["POST"], include_in_schema=False)
    for path, answer, body in (
        ("/v1/search", search, SearchBody), ("/v1/search/batch", search_batch, BatchBody),
        ("/v1/rerank", rerank, RerankBody),
    ):  # fmt: skip
        app.add_api_route(path, answer, methods=["POST"], openapi_extra=_reads(body), responses=ERRORS)
    for path, answer in (
        ("/v1/index", tell_index), ("/v1/items/{item_id:path}/thumb", send_thumb),
        ("/v1/items/{item_id:path}/media", send_media), ("/v1/items/{item_id:path}", tell_item),
        ("/healthz", tell_health), ("/readyz", tell_ready), ("/metrics", tell_metrics),
    ):  # fmt: skip
        app.add_api_route(path, answer, methods=["GET"], responses=ERRORS)
    app.add_exception_handler(UnibrivlError, _tell_error)
    app.add_exception_handler(HTTPException, _tell_http_error)
    app.add_exception_handler(Exception, _tell_fault)


class Api(FastAPI):
    """An application that tells of the bodies that its routes read by themselves."""

    def openapi(self) -> dict[str, Any]:
        """Return the description of the interface."""
        if self.openapi_schema is None:
            told = super().openapi()
            kinds = [(body, "validation") for body in (SearchBody, BatchBody, RerankBody)]
            _, schemas = models_json_schema(kinds, ref_template=f"{SCHEMAS}{{model}}")  # type: ignore[arg-type]
            told.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
        assert self.openapi_schema is not None
        return self.openapi_schema


def _reads(body: type[BaseModel]) -> dict[str, Any]:
    schema = {"schema": {"$ref": f"{SCHEMAS}{body.__name__}"}}
    return {"requestBody": {"required": True, "content": {"application/json": schema, "multipart/form-data": schema}}}


def _server(request: Request) -> "Server":
    return request.app.state.server


async def _asset(request: Request) -> Response:
    asset = ASSETS[request.scope["route"].path]
    headers = {"ETag": asset.etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    return Response(asset.data, media_type=asset.media_type, headers=headers)


async def _docs(request: Request) -> Response:
    return HTMLResponse(docs_page(request.app.openapi(), str(request.base_url)))


async def _login(request: Request) -> Response:
    """Give a browser a cookie in place of the token."""
    server = _server(request)
    told, _ = await read_body(request, LoginBody)
    wanted = server.config.guard.token
    if wanted is not None and not same_secret(told.token, wanted):
        raise RequestError(401, "token", "this is not the token", "it stands in the file given with --token-file")
    answer = JSONResponse({"ok": True})
    answer.set_cookie(COOKIE, server.guard.cookie, httponly=True, samesite="strict", path="/")
    return answer


async def tell_health() -> dict[str, bool]:
    """Tell that the process lives."""
    return {"ok": True}


async def tell_ready(request: Request) -> Response:
    """Tell whether questions are answered: 200, or 503 while the server starts or ends."""
    server = _server(request)
    told = {"ready": server.is_ready, "snapshot": server.live.engine.snapshot.id, "refused": server.live.failed or None}
    return JSONResponse(told, status_code=200 if server.is_ready else 503)


async def tell_metrics(request: Request) -> Response:
    """Tell what was counted, for Prometheus."""
    return PlainTextResponse(_server(request).counters.text(), media_type=CONTENT_TYPE)


async def tell_index(request: Request) -> Response:
    """Tell what is served: counts, encoder, recorded recall, columns to filter by, limits."""
    server = _server(request)
    opened, config = server.live.now, server.config
    engine, snapshot = opened.engine, opened.engine.snapshot
    return JSONResponse(
        {
            "name": snapshot.root.resolve().name,
            "version": __version__,
            "snapshot": snapshot.id,
            "items": {name: snapshot.count(name) for name in dict.fromkeys(s.modality for s in snapshot.segments)},
            "dim": snapshot.manifest["dim"],
            "encoder": snapshot.manifest["encoder"]["fingerprints"],
            "has_text": engine.has_text,
            "recall": {name: told.get("recall") for name, told in engine.evaluation.get("directions", {}).items()},
            "columns": opened.columns,
            "examples": opened.examples,
            "limits": {
                "max_k": config.max_k, "max_parts": MAX_PARTS, "record_s": config.record_s,
                "max_body_bytes": config.guard.max_body_bytes, "max_seconds": config.decode.max_seconds,
                "max_pixels": config.decode.max_pixels,
            },
        }
    )  # fmt: skip


async def search(request: Request) -> Response:
    """Find what is nearest to sounds, pictures, words and items of the index, together.

    Files come in a form (`multipart/form-data`): either with a field `query` that holds the JSON and names them, or as
    fields called `audio` and `image` beside `text`, `item`, `to`, `k`, `where`.
    """
    server = _server(request)
    began = time.perf_counter()
    with server.coming():
        told, uploads = await read_body(request, SearchBody)
        engine = server.live.engine
        question = await question_of(told, uploads, engine, server.decoder, server.config.max_k)
    decoded = time.perf_counter()
    result = await server.batcher.ask(question)
    return JSONResponse(_told(result, decoded - began, time.perf_counter() - decoded))


async def search_batch(request: Request) -> Response:
    """Answer several questions at once; one that cannot be answered has an `error` in its place."""
    server = _server(request)
    with server.coming():
        told, uploads = await read_body(request, BatchBody)
        engine, decoder, max_k = server.live.engine, server.decoder, server.config.max_k
        questions = await asyncio.gather(
            *(question_of(query, uploads, engine, decoder, max_k) for query in told.queries), return_exceptions=True
        )
    answers = await asyncio.gather(*(_ask(server, question) for question in questions), return_exceptions=True)
    return JSONResponse({"results": [_told_or_error(answer) for answer in answers]})


async def _ask(server: "Server", question: Any) -> "QueryResult":
    if isinstance(question, BaseException):
        raise question
    return await server.batcher.ask(question)


async def rerank(request: Request) -> Response:
    """Sort items or sent pictures by how near they are to a question, beside the index's background.

    `calibrated` is how many deviations a cosine lies above that of random pairs, `percentile` how many are lower.
    """
    server = _server(request)
    told, uploads = await read_body(request, RerankBody)
    engine = server.live.engine
    parts, candidates = await asyncio.gather(
        parts_of(told.parts, uploads, engine, server.decoder), candidates_of(told, uploads, engine, server.decoder)
    )
    result = await server.batcher.call(lambda: sorting.rerank(engine, parts, candidates))
    answer: dict[str, Any] = result.as_dict() | {"index": Path(result.index or "").name}
    for ranked in answer["ranked"]:
        ranked |= handles(ranked["name"]) if ranked["candidate"] < len(told.items) else {}
    return JSONResponse(answer)


async def tell_item(item_id: str, request: Request) -> Response:
    """Tell what is known of an item."""
    return JSONResponse(describe(find_row(_server(request).live.engine.snapshot, item_id)))


async def send_thumb(item_id: str, request: Request) -> Response:
    """Send the picture of an item, as its shard has it."""
    return await _send_medium(request, item_id, "thumb")


async def send_media(item_id: str, request: Request) -> Response:
    """Send the sound of an item, whole or the bytes that a player asks for."""
    return await _send_medium(request, item_id, "media")


async def _send_medium(request: Request, item_id: str, kind: str) -> Response:
    medium = await asyncio.to_thread(medium_of, _server(request).live.engine.snapshot, item_id, kind)
    headers = {"ETag": medium.etag, "Cache-Control": MEDIA_CACHE, "Accept-Ranges": "bytes"}
    if request.headers.get("if-none-match") == medium.etag:
        return Response(status_code=304, headers=headers)
    size = len(medium.data)
    span = byte_range(request.headers.get("range"), size)
    if span is None:
        return Response(medium.data, media_type=medium.media_type, headers=headers)
    begin, end = span
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
    return Response(medium.data[begin:end], status_code=206, media_type=medium.media_type, headers=headers)


def _told(result: "QueryResult", decode_s: float, answer_s: float) -> dict[str, Any]:
    """Return an answer as JSON, with where its media are and the server's own times."""
    told = result.as_dict()
    told["index"] = Path(told["index"]).name  # where it lies is nobody's business
    for found in told["results"].values():
        for answer in found:
            del answer["clip"]  # as little as where the shards lie
            answer |= handles(answer["item_id"])
    timings = told["timings_ms"]
    waited = max(0.0, 1000 * answer_s - sum(timings.values()))
    told["timings_ms"] = {"decode": round(1000 * decode_s, 2), "wait": round(waited, 2), **timings}
    return told


def _told_or_error(answer: Any) -> dict[str, Any]:
    if isinstance(answer, UnibrivlError):
        error = as_request_error(answer)
        return {"error": {"code": error.code, "message": str(error), "hint": error.hint}}
    if isinstance(answer, BaseException):
        raise answer
    return _told(answer, 0.0, 0.0)


def as_request_error(error: UnibrivlError) -> RequestError:
    """Return what an error of ours is over HTTP."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, IndexMismatchError | IndexStoreError):
        return RequestError(409, "index", str(error), "")
    if isinstance(error, MilvusError):
        return RequestError(503, "milvus", "the vectors cannot be searched now", "try again in a while")
    return RequestError(422, "question", str(error), "")


async def _tell_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UnibrivlError)
    known = as_request_error(error)
    headers = {"Retry-After": "1"} if known.status == 429 else {}
    return Response(error_body(known), status_code=known.status, media_type="application/json", headers=headers)


async def _tell_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = RequestError(error.status_code, "http", str(error.detail), "GET /docs shows what there is")
    return Response(error_body(known), status_code=known.status, media_type="application/json", headers=error.headers)


async def _tell_fault(request: Request, error: Exception) -> Response:
    """Tell of a mistake of ours; the guard writes it into the log."""
    return Response(error_body(FAULT), status_code=FAULT.status, media_type="application/json")
