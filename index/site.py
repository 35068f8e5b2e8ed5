"""The files of the search page, and the page that tells programs how to ask."""

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

FILES = {
    "/": ("serve.html", "text/html"),
    "/serve.css": ("serve.css", "text/css"),
    "/serve.js": ("serve.js", "text/javascript"),
    "/serve_answers.js": ("serve_answers.js", "text/javascript"),
    "/serve_parts.js": ("serve_parts.js", "text/javascript"),
    "/serve_filters.js": ("serve_filters.js", "text/javascript"),
    "/serve.svg": ("serve.svg", "image/svg+xml"),
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page, as it goes out."""

    data: bytes
    media_type: str
    etag: str


def read_asset(path: Path, media_type: str) -> Asset:
    """Read a file of a page."""
    data = path.read_bytes()
    return Asset(data, media_type, f'"{hashlib.sha256(data).hexdigest()[:32]}"')


ASSETS = {path: read_asset(Path(__file__).with_name(name), media_type) for path, (name, media_type) in FILES.items()}


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    return environment.from_string(Path(__file__).with_name("serve_docs.html").read_text(encoding="utf-8"))


def docs_page(openapi: dict[str, Any], base_url: str) -> str:
    """Return the page of the HTTP interface, from its own description."""
    operations = [
        {"method": method.upper(), "path": path, "fields": _fields(operation, openapi), **operation}
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    return _template().render(api=openapi, operations=operations, base=base_url.rstrip("/"))


Fields = list[tuple[str, str, str]]


def _fields(operation: dict[str, Any], openapi: dict[str, Any]) -> Fields:
    """Return name, type and meaning of what a request may carry."""
    fields = [(p["name"], "in the address", p.get("description", "")) for p in operation.get("parameters", ())]
    content = operation.get("requestBody", {}).get("content", {})
    return fields + _body_fields(content.get("application/json", {}).get("schema", {}), openapi, "")


def _body_fields(schema: dict[str, Any], openapi: dict[str, Any], place: str) -> Fields:
    told = openapi["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)
    fields: Fields = []
    for name, about in told.get("properties", {}).items():
        fields.append((f"{place}{name}", _type(about), about.get("description", "")))
        if "$ref" in about.get("items", {}) and not place:
            fields += _body_fields(about["items"], openapi, f"{name}[].")
    return fields


def _type(about: dict[str, Any]) -> str:
    if "anyOf" in about:
        return " or ".join(_type(one) for one in about["anyOf"] if one.get("type") != "null")
    if "enum" in about:
        return " or ".join(about["enum"])
    if about.get("type") == "array":
        return f"list of {_type(about['items'])}"
    return about.get("type") or about.get("$ref", "").rpartition("/")[2]
