"""The server as programs meet it: answers, media, refusals. A real server on loopback; nothing is mocked."""

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from PIL import Image

from unibrivl import UnibrivlError
from unibrivl.index.engine import Engine, open_engine
from unibrivl.index.guard import HEADERS, GuardConfig
from unibrivl.index.items import byte_range
from unibrivl.index.serve_config import ServeConfig, listen
from unibrivl.index.site import ASSETS

from .serving import Client, encode_form, serving

MOST = 3_000_000
DEEP = b'{"not":' * 5000 + b"1" + b"}" * 5000


@pytest.fixture(scope="module")
def engine(index: Path) -> Engine:
    return open_engine(index)


@pytest.fixture(scope="module")
def client(index: Path, engine: Engine) -> Iterator[Client]:
    config = ServeConfig(index=index, port=0, max_k=50, guard=GuardConfig(max_body_bytes=MOST))
    with serving(config, engine) as client:
        yield client


def sound_file(frequency: float = 440.0, seconds: float = 1.0) -> bytes:
    buffer = io.BytesIO()
    tone = 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * 16_000)) / 16_000)
    soundfile.write(buffer, tone, 16_000, format="WAV")
    return buffer.getvalue()


def picture_file(color: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (96, 64), color).save(buffer, "PNG")
    return buffer.getvalue()


def some_item(client: Client, number: int = 0) -> dict[str, Any]:
    return client.get("/v1/index").json["examples"][number]


def ids(answer: Any, modality: str = "image") -> list[str]:
    return [found["item_id"] for found in answer.json["results"][modality]]


# Answers


def test_the_index_tells_of_itself(client: Client, engine: Engine) -> None:
    told = client.get("/v1/index").json
    assert told["items"] == {"audio": 24, "image": 24} and told["snapshot"] == engine.snapshot.id
    assert told["limits"]["max_body_bytes"] == MOST and told["limits"]["max_k"] == 50
    assert told["encoder"] == engine.snapshot.manifest["encoder"]["fingerprints"]
    assert {"value": "block", "count": 48} in told["columns"]["labels"]["values"]
    assert len(told["examples"]) == 12


def test_an_item_finds_itself_first(client: Client) -> None:
    item = some_item(client)["item_id"]
    answer = client.search({"item": item}, to="image", k=5)
    assert answer.status == 200
    assert ids(answer)[0] == item and len(ids(answer)) == 5
    assert set(answer.json["results"]) == {"image"}
    assert list(answer.json["timings_ms"]) == ["decode", "wait", "encode", "search", "refine", "metadata"]


def test_where_the_index_lies_is_not_told(client: Client, index: Path) -> None:
    for answer in (
        client.search({"item": some_item(client)["item_id"]}),
        client.get("/v1/index"),
        client.get("/readyz"),
    ):
        assert str(index.parent) not in answer.body.decode()


def test_both_lists_come_when_both_are_asked_for(client: Client) -> None:
    answer = client.search({"item": some_item(client)["item_id"]}, to="both", k=3).json
    assert {name: len(found) for name, found in answer["results"].items()} == {"image": 3, "audio": 3}


def test_a_sound_that_is_sent_finds_what_the_stored_one_finds(client: Client) -> None:
    item = some_item(client, 2)["item_id"].replace("/image", "/audio")
    sound = client.get(f"/v1/items/{quote(item, safe='')}/media").body
    answer = client.form("/v1/search", {"audio": sound, "to": "audio", "k": 3})
    assert answer.status == 200 and ids(answer, "audio")[0] == item


def test_a_picture_that_is_sent_finds_what_the_stored_one_finds(client: Client) -> None:
    item = some_item(client, 3)
    picture = client.get(item["thumb"]).body
    answer = client.form("/v1/search", {"image": picture, "to": "image", "k": 3})
    assert ids(answer)[0] == item["item_id"]


def test_parts_are_weighed_against_each_other(client: Client) -> None:
    first, second = (some_item(client, n)["item_id"] for n in (0, 5))
    answer = client.search({"item": first, "weight": 1.0}, {"item": second, "weight": 0.01}, to="image", k=24)
    assert ids(answer)[0] == first
    answer = client.search({"item": first, "weight": 0.01}, {"item": second, "weight": 1.0}, to="image", k=24)
    assert ids(answer)[0] == second
    without = client.search({"item": first}, {"item": second, "minus": True, "weight": 0.5}, to="image", k=24)
    alone = client.search({"item": first}, to="image", k=24)
    assert ids(without)[0] == first and ids(without).index(second) > ids(alone).index(second)


def test_a_form_with_a_query_names_its_files(client: Client) -> None:
    query = {"parts": [{"audio": "mine", "weight": 2}, {"image": "other", "minus": True}], "to": "image", "k": 4}
    answer = client.form("/v1/search", {"query": json.dumps(query), "mine": sound_file(), "other": picture_file()})
    assert answer.status == 200 and len(ids(answer)) == 4


def test_a_batch_answers_each_and_tells_of_each_mistake(client: Client) -> None:
    item = some_item(client)["item_id"]
    queries = [
        {"parts": [{"item": item}], "to": "image"},
        {"parts": [{"item": "nobody"}]},
        {"parts": [{"item": item}], "k": 51},
    ]
    good, unknown, many = client.post("/v1/search/batch", {"queries": queries}).json["results"]
    assert good["results"]["image"][0]["item_id"] == item
    assert unknown["error"]["code"] == "no_item" and many["error"]["code"] == "invalid"
    alone = client.search({"item": item}, to="image").json["results"]["image"]
    assert [f["item_id"] for f in good["results"]["image"]] == [f["item_id"] for f in alone]


def test_pictures_are_sorted_by_a_question(client: Client) -> None:
    items = [some_item(client, n) for n in (4, 1, 7)]
    names = [item["item_id"] for item in items]
    sound = client.get(items[1]["media"]).body
    told = client.post("/v1/rerank", {"parts": [{"item": names[1]}], "items": names}).json
    assert told["ranked"][0]["candidate"] == 1 and told["ranked"][0]["score"] > 0.999
    assert told["ranked"][0]["thumb"] == items[1]["thumb"] and 0 <= told["ranked"][-1]["percentile"] <= 100
    query = {"parts": [{"audio": "mine"}], "images": ["a", "b"]}
    files = {"mine": sound, "a": picture_file("red"), "b": picture_file("blue")}
    ranked = client.form("/v1/rerank", {"query": json.dumps(query), **files}).json["ranked"]
    assert sorted(one["name"] for one in ranked) == ["a", "b"] and ranked[0]["score"] >= ranked[1]["score"]
    assert client.post("/v1/rerank", {"parts": [{"item": names[0]}]}).code == "question"
    assert client.post("/v1/rerank", {"parts": [{"item": names[0]}], "items": ["nobody"]}).code == "no_item"


def test_answers_are_filtered_and_a_slip_is_told(client: Client) -> None:
    item = some_item(client)["item_id"]
    answer = client.search({"item": item}, to="image", k=50, where=["split=test", "labels=block"]).json
    assert len(answer["results"]["image"]) == answer["filter"]["matched"]["image"] == 6
    assert {found["split"] for found in answer["results"]["image"]} == {"test"}
    slip = client.search({"item": item}, where=["labels=blok"])
    assert slip.code == "question" and "did you mean 'block'" in slip.json["error"]["message"]
    one = {"not": {"column": "split", "op": "=", "value": "test"}}
    assert len(client.search({"item": item}, to="image", k=50, where=one).json["results"]["image"]) == 18


def test_what_only_takes_away_and_words_without_a_text_side_are_refused(client: Client) -> None:
    item = some_item(client)["item_id"]
    assert client.search({"item": item, "minus": True}).code == "question"
    assert client.search({"item": item}, {"item": item, "minus": True}).code == "question"
    assert client.search({"text": "a dog"}).code == "question"


# Items


def test_an_item_tells_of_itself_and_has_picture_and_sound(client: Client) -> None:
    item = some_item(client)
    told = client.get(f"/v1/items/{quote(item['item_id'], safe='')}").json
    assert told == item and told["caption"].startswith("Tone")
    thumb, media = client.get(item["thumb"]), client.get(item["media"])
    assert thumb.headers["content-type"] == "image/jpeg" and Image.open(io.BytesIO(thumb.body)).size == (64, 64)
    assert media.headers["content-type"] == "audio/flac" and media.headers["accept-ranges"] == "bytes"
    assert soundfile.read(io.BytesIO(media.body))[1] == 16_000


def test_media_come_in_ranges_for_players(client: Client) -> None:
    address = some_item(client)["media"]
    whole = client.get(address).body
    for asked, begin, end in (
        ("bytes=0-", 0, len(whole)),
        ("bytes=100-199", 100, 200),
        ("bytes=-50", len(whole) - 50, len(whole)),
    ):
        part = client.get(address, Range=asked)
        assert part.status == 206 and part.body == whole[begin:end]
        assert part.headers["content-range"] == f"bytes {begin}-{end - 1}/{len(whole)}"
    assert client.get(address, Range=f"bytes={len(whole)}-").code == "range"
    assert client.get(address, Range="bytes=0-1,5-6").status == 200


def test_what_a_browser_has_is_not_sent_again(client: Client) -> None:
    for address in (some_item(client)["thumb"], "/", "/serve.js"):
        tag = client.get(address).headers["etag"]
        again = client.get(address, If_None_Match=tag)
        assert again.status == 304 and again.body == b""


@pytest.mark.parametrize(
    ("header", "found"),
    [(None, None), ("bytes=0-0", (0, 1)), ("bytes=5-1000", (5, 10)), ("bytes=-100", (0, 10)), ("lines=1-2", None),
     ("bytes=-", None), ("bytes=abc", None), ("bytes=1-2,4-5", None)],
)  # fmt: skip
def test_ranges(header: str | None, found: tuple[int, int] | None) -> None:
    assert byte_range(header, 10) == found


@pytest.mark.parametrize(
    "trick", ["../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%00", "a" * 5000, "%2e%2e/x", "ü/\u202e"]
)
@pytest.mark.parametrize("what", ["", "/thumb", "/media"])
def test_tricks_in_ids_find_nothing(client: Client, trick: str, what: str) -> None:
    answer = client.get(f"/v1/items/{quote(trick, safe='/%.')}{what}")
    assert answer.status == 404 and answer.code in ("no_item", "http")


# Refusals


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "parts"),
        ({"parts": []}, "parts"),
        ({"parts": [{}]}, "exactly one of"),
        ({"parts": [{"text": "a", "item": "b"}]}, "exactly one of"),
        ({"parts": [{"item": "x"}], "k": 0}, "k"),
        ({"parts": [{"item": "x"}], "k": 51}, "k is 51, want 50"),
        ({"parts": [{"item": "x"}], "k": "many"}, "k"),
        ({"parts": [{"item": "x", "weight": -1}]}, "weight"),
        ({"parts": [{"item": "x"}], "to": "smell"}, "to"),
        ({"parts": [{"item": "x"}], "nprobe": 3}, "nprobe"),
        ({"parts": [{"item": "x"}] * 9}, "parts"),
        ({"parts": [{"audio": "mine"}]}, "'mine', which did not come"),
        ([1, 2], "object"),
    ],
)
def test_a_question_that_cannot_be_asked_is_told_by_name(client: Client, body: Any, named: str) -> None:
    answer = client.post("/v1/search", body)
    assert answer.status == 422 and answer.code == "invalid"
    assert named in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        (b"{", "application/json", 422),
        (b'{"parts": [{"item": "x", "weight": NaN}]}', "application/json", 422),
        (b'{"parts": [{"item": "x"}], "where": ' + DEEP + b"}", "application/json", 422),
        (b"\xff\xfe\x00", "application/json", 422),
        (b"x", "text/plain", 415),
        (b"x", "", 415),
        (b"x", "multipart/form-data", 400),
        (b"--a\r\nnonsense", "multipart/form-data; boundary=a", 422),
        (b" " * 2_500_000, "application/json", 413),
    ],
    ids=["cut", "nan", "deep", "bytes", "text", "nothing", "no-boundary", "broken-form", "long-json"],
)  # fmt: skip
def test_what_is_no_question_is_refused_in_json(client: Client, data: bytes, content_type: str, status: int) -> None:
    answer = client.ask("POST", "/v1/search", data, {"Content-Type": content_type} if content_type else {})
    assert answer.status == status and answer.code


def test_forged_media_are_refused_by_part(client: Client) -> None:
    for fields in (
        {"audio": b"#EXTM3U\nfile:///etc/passwd"},
        {"image": b"<svg/>"},
        {"audio": picture_file()},
        {"image": b""},
    ):
        answer = client.form("/v1/search", fields)
        assert answer.status == 422 and answer.code == "question" and "part 1" in answer.json["error"]["message"]


def test_two_files_of_one_name_and_too_many_fields_are_refused(client: Client) -> None:
    assert client.form("/v1/search", {"audio": [sound_file(), sound_file()]}).code == "invalid"
    assert client.form("/v1/search", {f"f{n}": "x" for n in range(100)}).code == "form"


def test_a_body_over_the_limit_is_refused_announced_or_not(client: Client) -> None:
    assert client.form("/v1/search", {"audio": bytes(MOST)}).code == "too_large"
    body, content_type = encode_form({"audio": bytes(MOST)})
    pieces = (body[n : n + 65_536] for n in range(0, len(body), 65_536))
    answer = client.ask("POST", "/v1/search", pieces, {"Content-Type": content_type})  # in chunks
    assert answer.status == 413 and answer.code == "too_large"


def test_there_are_no_other_places_and_ways(client: Client) -> None:
    assert client.get("/v2").status == 404 and client.get("/v2").code == "http"
    assert client.get("/serve.py").status == client.get("/..%2f..%2fpyproject.toml").status == 404
    assert client.ask("PUT", "/v1/index").status == 405
    assert client.get("/v1/search").status == 405


def test_what_is_no_http_is_refused(client: Client) -> None:
    with socket.create_connection(client.address, timeout=20) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        told = connection.recv(4096)
    assert told.startswith(b"HTTP/1.1 400") and json.loads(told.partition(b"\r\n\r\n")[2])["error"]["code"] == "http"


# What every answer carries, and who may ask


@pytest.mark.parametrize("path", ["/", "/docs", "/v1/index", "/nowhere", "/metrics"])
def test_every_answer_carries_the_policy(client: Client, path: str) -> None:
    headers = client.get(path).headers
    for name, value in HEADERS:
        assert headers[name.decode()] == value.decode()
    assert "access-control-allow-origin" not in headers and "server" not in headers


def test_a_foreign_name_that_leads_here_is_refused(client: Client) -> None:
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        assert client.ask("GET", "/v1/index", headers={"Host": host}).code == "host"
    assert client.ask("GET", "/v1/index", headers={"Host": "localhost:1"}).status == 200


def test_pages_of_other_sites_may_not_ask(client: Client) -> None:
    here = client.url.removeprefix("http://")
    assert client.search({"item": "x"}).status == 404
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert client.post("/v1/search", {}, **headers).code == "origin"
    assert client.post("/v1/search", {}, Origin=f"http://{here}").code == "invalid"
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.ask("GET", "/", headers=followed).status == 200


def test_with_a_token_nothing_is_told_without_it(index: Path, engine: Engine) -> None:
    token = "open sesame, please"
    config = ServeConfig(index=index, port=0, guard=GuardConfig(token=token))
    with serving(config, engine) as client:
        for path in ("/v1/index", "/metrics", "/docs", "/openapi.json", "/v1/items/x/thumb"):
            assert client.get(path).status == 401 and client.get(path).code == "token"
        assert client.get("/v1/index", Authorization="Bearer wrong").code == "token"
        assert client.get("/v1/index", Cookie="unibrivl=wrong").code == "token"
        assert client.get("/v1/index", Authorization=f"Bearer {token}").status == 200
        for path in ("/", "/serve.js", "/healthz", "/readyz"):
            assert client.get(path).status == 200
        assert client.post("/v1/login", {"token": "wrong"}).code == "token"
        cookie = client.post("/v1/login", {"token": token}).headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and token not in cookie
        assert client.get("/v1/index", Cookie=cookie.partition(";")[0]).status == 200


# The page's files, the description, the counts


def test_the_page_asks_for_nothing_from_elsewhere(client: Client) -> None:
    for path in (*ASSETS, "/docs"):
        text = client.get(path).body.decode().replace("http://www.w3.org/2000/svg", "").replace(client.url, "")
        assert "http://" not in text and "https:// " in text + "https:// " and "//cdn" not in text
        assert " style=" not in text and "onclick=" not in text and "innerHTML" not in text


def test_the_description_holds_together(client: Client) -> None:
    told = client.get("/openapi.json").json
    assert {"/v1/search", "/v1/search/batch", "/v1/rerank", "/v1/items/{item_id}/media"} <= set(told["paths"])
    for ref in set(find_refs(told)):
        assert ref.startswith("#/components/schemas/") and ref.rpartition("/")[2] in told["components"]["schemas"]
    page = client.get("/docs").body.decode()
    assert "POST /v1/search" in page and "Take this part away" in page


def find_refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from find_refs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from find_refs(inner)


def test_requests_are_counted_by_route(client: Client) -> None:
    client.search({"item": some_item(client)["item_id"]})
    text = client.get("/metrics").body.decode()
    assert 'unibrivl_requests_total{route="/v1/search",status="200"}' in text
    assert "unibrivl_batch_questions_count" in text and "unibrivl_decoder_kills 0" in text
    assert client.get("/healthz").json == {"ok": True} and client.get("/readyz").json["ready"] is True


# Where it may listen


def test_an_open_door_is_refused() -> None:
    with pytest.raises(ValueError, match=r"host is 0\.0\.0\.0, which others can reach: give a token"):
        ServeConfig(index=Path("x"), host="0.0.0.0")
    with pytest.raises(ValueError, match="token has 5 characters"):
        GuardConfig(token="short")
    ServeConfig(index=Path("x"), host="0.0.0.0", guard=GuardConfig(token="x" * 16))


def test_a_port_that_is_taken_is_told_in_one_line(client: Client) -> None:
    port = client.address[1]
    with pytest.raises(UnibrivlError, match=f"127.0.0.1:{port} cannot be used: .*choose another --port"):
        listen(ServeConfig(index=Path("x"), port=port))
