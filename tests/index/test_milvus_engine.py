"""Questions answered through Milvus as through the folder: the engine, `query`, `push` and `serve`."""

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from unibrivl.cli import app
from unibrivl.index import milvus_search
from unibrivl.index.engine import Engine, open_engine
from unibrivl.index.errors import MilvusError
from unibrivl.index.live import Live
from unibrivl.index.milvus import Collection, connect
from unibrivl.index.milvus_push import PushConfig, run_push
from unibrivl.index.question import Part, Question
from unibrivl.index.recorded import recall_of
from unibrivl.index.serve_config import ServeConfig
from unibrivl.index.snapshot import open_snapshot, publish, read_manifest
from unibrivl.model.embed import Encoder

from .milvus_server import free_port, milvus_server
from .serving import serving, wait_until

pytest.importorskip("pymilvus")


@pytest.fixture(scope="module")
def milvus(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a server to which the index was pushed."""
    port = free_port()
    with milvus_server(tmp_path_factory.mktemp("milvus") / "v.db", port):
        uri = f"http://127.0.0.1:{port}"
        run_push(PushConfig(index=index, to=uri, queries=24))
        yield uri


@pytest.fixture
def engines(index: Path, milvus: str, one_encoder: Encoder) -> tuple[Engine, Engine]:
    """Return an engine of the folder and one of Milvus."""
    return open_engine(index), open_engine(index, milvus=milvus)


def part(engine: Engine, modality: str, row: int, **options: Any) -> Part:
    vector = engine.snapshot.of(modality)[0].vectors_ND[row].astype(np.float32)
    return Part(modality, vector, **options)


QUESTIONS: dict[str, dict[str, Any]] = {
    "both lists merged": {},
    "a filter": {"where": "split=test", "k": 5},
    "a filter told as words": {"where": ["split=test", "labels=tone"], "k": 5},
    "contains": {"where": "caption~a"},
    "nothing matches": {"where": "caption~nowhere"},
    "repeated contents": {"distinct": False},
    "near ones left out": {"near": 0.9, "k": 4},
    "fused by ranks": {"fuse": "rrf"},
    "every one of them": {"k": 24},
    "exact": {"exact": True},
}


@pytest.mark.parametrize("options", QUESTIONS.values(), ids=QUESTIONS)
@pytest.mark.parametrize("max_ids", [0, 4096])
def test_composed_questions_have_the_same_answers(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], max_ids: int
) -> None:
    monkeypatch.setattr(milvus_search, "MAX_IDS", max_ids)
    told = []
    for engine in engines:
        parts = (
            part(engine, "audio", 5), part(engine, "image", 2, weight=2.0),
            part(engine, "image", 9, weight=0.5, minus=True),
        )  # fmt: skip
        told.append(engine.ask(Question(parts=parts, **options)))
    here, there = told
    assert there.results == here.results and there.merged == here.merged
    assert there.filter.matched == here.filter.matched
    assert (there.mode, there.recall, there.calibration) == ("exact", 1.0, here.calibration)


def test_it_is_told_that_milvus_was_asked(engines: tuple[Engine, Engine]) -> None:
    _, engine = engines
    question = part(engine, "image", 2)
    assert engine.ask(Question(parts=(question,))).filter.strategy == {"image": "milvus", "audio": "milvus"}
    filtered = engine.ask(Question(parts=(question,), where="split=test", to="image"))
    assert filtered.filter.strategy == {"image": "milvus ids"}
    assert engine.ask(Question(parts=(question,), to="image")).recorded["image>image"]["10"]["value"] == 1.0


def test_only_recall_that_was_measured_is_told(engines: tuple[Engine, Engine]) -> None:
    """As if the collection had lists: what was measured without a filter says nothing of one with it."""
    _, engine = engines
    assert engine.milvus is not None
    about = replace(engine.milvus.about, lists=8, nprobe={"10": 4, "100": 8})
    approximate = Engine(
        engine.snapshot, engine.encoder, None, Collection(engine.milvus.store, engine.milvus.name, about)
    )
    question = part(engine, "image", 2)
    plain = approximate.ask(Question(parts=(question,), to="image", k=5))
    assert (plain.mode, plain.recall, plain.recall_note) == ("ann", 1.0, "image>image, 10 answers")
    assert plain.params == {"image": {"nprobe": 4, "level": 10}}
    listed = SimpleNamespace(mode="ann", params={"nprobe": 8, "level": 10}, matched=6)
    asked = Question(parts=(question,), where="split=test")
    filtered = recall_of(approximate.evaluation, asked, {"image": listed}, {"image": 24})
    assert (filtered.value, filtered.note) == (None, "image>image was not measured for 10 answers with a filter")


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, list(map(str, words)))


def test_the_commands(index: Path, milvus: str, one_encoder: Encoder, tmp_path: Path) -> None:
    again = json.loads(invoke("push", index, "--to", milvus, "--json").output)
    assert (again["pushed"], again["there"], again["items"]) == (0, 48, {"audio": 24, "image": 24})
    told = invoke("push", index, "--to", milvus).output
    assert "24 audio and 24 image items in" in told and "(48 rows were there)" in told
    assert "recall audio>image @10 1.0000 (1.0000 to 1.0000), @100 1.0000" in told
    item = open_snapshot(index).of("image")[0].rows["item_id"][0].as_py()
    found = json.loads(invoke("query", index, "--item", item, "--milvus", milvus, "--json").output)
    assert found["results"]["image"][0]["item_id"] == item
    assert found["filter"]["strategy"] == {"audio": "milvus", "image": "milvus"}
    for words, told in (
        (("push", index, "--to", "here"), "--to is 'here', want http://HOST:PORT"),
        (("query", index, "--item", "x", "--milvus", "there"), "--milvus is 'there', want http://HOST:PORT"),
        (("serve", index, "--milvus", "there"), "--milvus is 'there', want http://HOST:PORT"),
    ):
        result = invoke(*words)
        assert result.exit_code == 2 and told in " ".join(result.output.replace("│", "").split())


def test_a_server_outlives_milvus(
    index: Path, one_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus_search, "SEARCH_TIMEOUT_S", 1.0)
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with milvus_server(tmp_path / "v.db", port) as process:
        run_push(PushConfig(index=index, to=uri, queries=24))
        config = ServeConfig(index=index, port=0, milvus=uri, watch_s=3600)
        with serving(config, open_engine(index, milvus=uri)) as client:
            item = {"item": client.get("/v1/index").json["examples"][0]["item_id"]}
            assert client.search(item).status == 200
            with pytest.raises(MilvusError, match="another process has it open"):
                connect(str(tmp_path / "v.db"))
            process.kill()
            process.wait()
            answer = client.search(item)
            assert (answer.status, answer.code) == (503, "milvus")
            assert uri not in answer.body.decode()  # where it lies is nobody's business
            batch = client.post("/v1/search/batch", {"queries": [{"parts": [item]}] * 8}).json["results"]
            assert {one["error"]["code"] for one in batch} == {"milvus"}
            assert client.search(item, exact=True).status == 200  # the folder is there still
            assert client.get("/healthz").status == client.get("/readyz").status == 200
            with milvus_server(tmp_path / "v.db", port):
                wait_until(lambda: client.search(item).status == 200)


def test_a_server_follows_when_the_new_snapshot_is_pushed(
    index: Path, milvus: str, run: Path, one_encoder: Encoder, tmp_path: Path
) -> None:
    growing = Path(shutil.copytree(index, tmp_path / "index"))
    live = Live(open_engine(growing, run, milvus=milvus), 3600)
    old = live.engine.snapshot.id
    new = publish(growing, read_manifest(growing)[1] | {"parent": time.time_ns()})
    for _ in range(2):
        asyncio.run(live.look())
        assert (live.engine.snapshot.id, live.failed, live.swaps) == (old, new, 0)
    with pytest.raises(MilvusError, match=f"holds no snapshot {new} "):
        live.engine.reopen()
    run_push(PushConfig(index=growing, to=milvus, queries=24))
    asyncio.run(live.look())
    assert (live.engine.snapshot.id, live.failed, live.swaps) == (new, "", 1)
    assert live.engine.ask(Question(parts=(part(live.engine, "image", 2),), to="image")).snapshot == new
