"""What may be asked over HTTP, and how a request becomes a question: JSON read and checked, uploads decoded."""

import asyncio
from dataclasses import replace
from typing import Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from .decoder import Decoder
from .engine import Engine, Part, Question
from .errors import RequestError
from .items import embedding_of

MAX_PARTS = 8
MAX_FIELDS = 64
MAX_FIELD_BYTES = 256_000
MAX_JSON_BYTES = 2_000_000
PART_KINDS = ("text", "item", "audio", "image")
SEE = "GET /docs shows what can be asked"
Body = TypeVar("Body", bound=BaseModel)


class PartBody(BaseModel):
    """One part of a question: exactly one of `text`, `item`, `audio` and `image`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    text: str | None = Field(None, min_length=1, max_length=2000, description="Words.")
    item: str | None = Field(None, min_length=1, max_length=1000, description="The id of an item of this index.")
    audio: str | None = Field(None, min_length=1, max_length=100, description="Name of the form's file with a sound.")
    image: str | None = Field(None, min_length=1, max_length=100, description="Name of the form's file with a picture.")
    weight: float = Field(1.0, gt=0, le=100, description="How much this part counts beside the others.")
    minus: bool = Field(False, description="Take this part away instead of adding it.")

    @model_validator(mode="after")
    def _one_kind(self) -> "PartBody":
        if sum(getattr(self, kind) is not None for kind in PART_KINDS) != 1:
            raise ValueError(f"give exactly one of {', '.join(PART_KINDS)}")
        return self


class SearchBody(BaseModel):
    """A question: what is searched with, what is searched for, and among what."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    parts: list[PartBody] = Field(min_length=1, max_length=MAX_PARTS, description="What is searched with.")
    to: Literal["image", "audio", "both"] = Field("both", description="What is searched for.")
    k: int = Field(10, ge=1, description="Answers a list.")
    where: list[str] | dict[str, Any] | None = Field(
        None, description="Filters that all must hold, such as `labels=Dog` or `duration_s>=5`; or one as JSON."
    )
    exact: bool = Field(False, description="Search exactly where the index would estimate.")
    fuse: Literal["sum", "rrf"] = Field("sum", description="Combine parts by their weighted sum or by their ranks.")
    distinct: bool = Field(True, description="List equal contents once.")


class BatchBody(BaseModel):
    """Several questions without files."""

    model_config = ConfigDict(extra="forbid")

    queries: list[SearchBody] = Field(min_length=1, max_length=64, description="Questions, answered in one pass.")


class RerankBody(BaseModel):
    """A question, and pictures to be sorted by it: items of this index, or files of the form."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    parts: list[PartBody] = Field(min_length=1, max_length=MAX_PARTS, description="What is compared with.")
    items: list[str] = Field(default_factory=list, max_length=1000, description="Ids of items to be sorted.")
    images: list[str] = Field(
        default_factory=list, max_length=64, description="Names of the form's files to be sorted."
    )


class LoginBody(BaseModel):
    """The token, from the page's own form."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(max_length=1000)


async def read_body(request: Request, kind: type[Body]) -> tuple[Body, dict[str, bytes]]:
    """Return the checked body of a request and its files by the name of their field.

    Raises:
        RequestError: it is neither JSON nor a form, or not what can be asked.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        data = await request.body()
        if len(data) > MAX_JSON_BYTES:
            raise RequestError(413, "too_large", f"JSON of {len(data):,} bytes, want {MAX_JSON_BYTES:,} at most", "")
        return _checked(kind, data), {}
    if content_type == "multipart/form-data":
        try:
            async with request.form(max_files=MAX_FIELDS, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES) as form:
                files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
                if len({name for name, _ in files}) < len(files):
                    raise RequestError(422, "invalid", "two files of the form have one name", SEE)
                return _checked(kind, _told_by(form)), {name: await file.read() for name, file in files}
        except HTTPException as e:
            raise RequestError(400, "form", f"the form cannot be read: {e.detail}", SEE) from e
    raise RequestError(415, "content_type", f"a body of type {content_type[:80] or 'nothing'}", "send JSON or a form")


def _told_by(form: FormData) -> bytes | dict[str, Any]:
    """Return the form's `query`, or what its single fields say: for `curl -F audio=@bark.wav -F to=image`."""
    query = form.get("query")
    if isinstance(query, str):
        return query.encode()
    told: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name in PART_KINDS:
            told.setdefault("parts", []).append({name: name if isinstance(value, UploadFile) else value})
        elif name in ("where", "items", "images"):
            told.setdefault(name, []).append(name if isinstance(value, UploadFile) else value)
        else:
            told[name] = value
    return told


def _checked(kind: type[Body], told: bytes | dict[str, Any]) -> Body:
    try:
        return kind.model_validate(told) if isinstance(told, dict) else kind.model_validate_json(told)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise RequestError(422, "invalid", f"{place}: {message}" if place else message, SEE) from e
    except RecursionError as e:
        raise RequestError(422, "invalid", "nested too deeply", SEE) from e


async def question_of(
    body: SearchBody, uploads: dict[str, bytes], engine: Engine, decoder: Decoder, max_k: int
) -> Question:
    """Return the question that a request asks, its uploads decoded.

    Raises:
        RequestError: an item or a file is not there, or `k` is too large.
        QueryError: a file is no sound or picture within the limits.
    """
    if body.k > max_k:
        raise RequestError(422, "invalid", f"k is {body.k}, want {max_k} at most", "ask for fewer answers")
    parts = await parts_of(body.parts, uploads, engine, decoder)
    return Question(
        parts=parts, to=body.to, k=body.k, where=body.where, exact=body.exact, fuse=body.fuse, distinct=body.distinct
    )


async def parts_of(
    told: list[PartBody], uploads: dict[str, bytes], engine: Engine, decoder: Decoder
) -> tuple[Part, ...]:
    """Return the parts of a question, those with files decoded at the same time."""
    return tuple(
        await asyncio.gather(*(_part(number, part, uploads, engine, decoder) for number, part in enumerate(told, 1)))
    )


async def candidates_of(
    body: RerankBody, uploads: dict[str, bytes], engine: Engine, decoder: Decoder
) -> tuple[Part, ...]:
    """Return what is to be sorted: items first, then files, each called as the request calls it.

    Raises:
        RequestError: an item or a file is not there.
        QueryError: a file is no picture within the limits.
    """
    items = [PartBody(item=item) for item in body.items]  # type: ignore[call-arg]
    images = [PartBody(image=name) for name in body.images]  # type: ignore[call-arg]
    parts = await parts_of([*items, *images], uploads, engine, decoder)
    names = [*body.items, *body.images]
    return tuple(replace(part, name=name) for part, name in zip(parts, names, strict=True))


async def _part(number: int, told: PartBody, uploads: dict[str, bytes], engine: Engine, decoder: Decoder) -> Part:
    if told.text is not None:
        return Part("text", told.text, told.weight, told.minus)
    if told.item is not None:
        return Part(*embedding_of(engine.snapshot, told.item), told.weight, told.minus, told.item)
    field = told.audio or told.image or ""
    if field not in uploads:
        raise RequestError(422, "invalid", f"part {number} names the file {field!r}, which did not come", SEE)
    name = f"part {number}"
    if told.audio is not None:
        return Part("audio", await decoder.sound(uploads[field], name), told.weight, told.minus, name)
    side_px = engine.snapshot.manifest["encoder"]["frame_px"]
    return Part("image", await decoder.picture(uploads[field], name, side_px), told.weight, told.minus, name)
