"""Pushing snapshots to Milvus Lite and searching them there: recall, filters, killed pushes, refusals."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.index import milvus_push, milvus_search
from unibrivl.index.classes import Classes
from unibrivl.index.conditions import COLUMNS, COMPARE
from unibrivl.index.errors import GateError, IndexMismatchError, MilvusError
from unibrivl.index.milvus import (
    PREFIX,
    PROPERTY,
    TOKEN,
    Collection,
    Store,
    about_snapshot,
    check_uri,
    connect,
    open_collection,
)
from unibrivl.index.milvus_push import PushConfig, Pushed, run_push
from unibrivl.index.milvus_search import MilvusSearcher, expression
from unibrivl.index.recall import recalls
from unibrivl.index.search import Searcher
from unibrivl.index.snapshot import Snapshot, open_snapshot
from unibrivl.index.where import parse_where

from .milvus_server import FINGERPRINTS, clustered, delete_row, make_index

pytest.importorskip("pymilvus")

COUNTS = {"image": 20_000, "audio": 4000}
K = 10


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Snapshot, Collection, Pushed]]:
    """Return a snapshot of 20,000 pictures in 64 inverted lists, and what the push said."""
    folder = tmp_path_factory.mktemp("milvus")
    make_index(folder / "index", COUNTS)
    uri = str(folder / "vectors.db")
    pushed = run_push(PushConfig(index=folder / "index", to=uri, lists=64, queries=100))
    store = connect(uri)
    yield open_snapshot(folder / "index"), open_collection(store, folder / "index"), pushed
    store.close()


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, str]:
    """Return an index of 600 pictures and 300 sounds, and the name of a file that is not there yet."""
    make_index(tmp_path / "index", {"image": 600, "audio": 300}, dim=8)
    return tmp_path / "index", str(tmp_path / "vectors.db")


def queries(count: int, dim: int = 64) -> np.ndarray:
    """Return questions from the same clusters."""
    near = clustered(np.random.default_rng(1), count, dim)
    return near / np.linalg.norm(near, axis=1, keepdims=True)


def push(index: Path, uri: str, **options: Any) -> Pushed:
    return run_push(PushConfig(index=index, to=uri, queries=50, **options))


def alias_of(uri: str, alias: str = "unibrivl") -> str:
    store = connect(uri)
    try:
        return store.call("describe_alias", alias)["collection_name"]
    finally:
        store.close()


def test_the_push_says_what_it_did(large: tuple[Snapshot, Collection, Pushed]) -> None:
    snapshot, collection, pushed = large
    assert (pushed.items, pushed.pushed, pushed.there, pushed.lists) == (COUNTS, 24_000, 0, 64)
    assert set(pushed.recall) == {"image>image", "image>audio", "audio>image", "audio>audio"}
    assert all(one["low"] >= 0.99 for told in pushed.recall.values() for one in told.values())
    assert pushed.nprobe["10"] < pushed.nprobe["100"] <= 64  # else it is no approximate index
    assert collection.name == pushed.collection == PREFIX + snapshot.id
    about = collection.about
    assert (about.snapshot, about.encoder, about.dim, about.metric) == (snapshot.id, FINGERPRINTS, 64, "IP")
    assert about.recall == pushed.recall


def test_without_a_filter_the_answers_are_those_of_a_scan(large: tuple[Snapshot, Collection, Pushed]) -> None:
    snapshot, collection, pushed = large
    asked = queries(100)
    found, truth = (s.search("image", asked, K) for s in (MilvusSearcher(snapshot, collection), Searcher(snapshot)))
    assert (found.mode, found.strategy, found.params) == ("ann", "milvus", {"nprobe": pushed.nprobe["10"], "level": 10})
    assert recalls(found.scores_QK, truth.scores_QK, K).mean() >= 0.99
    same = found.rows_QK == truth.rows_QK
    assert same.mean() > 0.95
    assert (found.scores_QK[same] == truth.scores_QK[same]).all()  # by the same routine: bit for bit


FILTERS = {
    "50 %": "split=test", "10 %": "labels=tenth 3", "1 %": 'labels="Bark, ""loud"""', "0.1 %": "group=g7",
}  # fmt: skip


@pytest.mark.parametrize("words", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("way", ["milvus ids", "milvus filter"])
def test_filters_lose_nothing(
    large: tuple[Snapshot, Collection, Pushed], monkeypatch: pytest.MonkeyPatch, words: str, way: str
) -> None:
    snapshot, collection, _ = large
    monkeypatch.setattr(milvus_search, "MAX_IDS", 20_000 if way == "milvus ids" else 0)
    where = parse_where(words)
    assert where is not None
    allowed = {segment.id: where.mask(segment.rows) for segment in snapshot.of("image")}
    asked = queries(40)
    found = MilvusSearcher(snapshot, collection).search("image", asked, K, allowed=allowed, where=where)
    truth = Searcher(snapshot).search("image", asked, K, allowed=allowed)
    assert found.strategy == way
    assert recalls(found.scores_QK, truth.scores_QK, K).mean() >= 0.99
    mask = next(iter(allowed.values()))
    assert found.matched == mask.sum() and mask[found.rows_QK].all()


def test_what_milvus_cannot_be_told_is_searched_in_the_folder(
    large: tuple[Snapshot, Collection, Pushed], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, collection, _ = large
    monkeypatch.setattr(milvus_search, "MAX_IDS", 0)
    where, asked = parse_where("caption~ÉCHO 3"), queries(3)
    assert where is not None
    allowed = {segment.id: where.mask(segment.rows) for segment in snapshot.of("image")}
    searcher = MilvusSearcher(snapshot, collection)
    for options, k in (({"allowed": allowed, "where": where}, K), ({}, 101), ({"exact": True}, K)):
        found = searcher.search("image", asked, k, **options)
        truth = Searcher(snapshot).search("image", asked, k, allowed=options.get("allowed"))
        assert found.mode == "exact" and "milvus" not in found.strategy
        assert (found.rows_QK == truth.rows_QK).all()


@pytest.mark.parametrize("words", ["start_ms<10000", "start_ms<5000", "start_ms>=15000"])
def test_a_filter_that_keeps_what_lies_far_away_loses_little(
    large: tuple[Snapshot, Collection, Pushed], words: str
) -> None:
    """Rows are ordered by their first coordinate, so that the filters keep one side of the space."""
    snapshot, collection, _ = large
    where = parse_where(words)
    assert where is not None
    allowed = {segment.id: where.mask(segment.rows) for segment in snapshot.of("image")}
    asked = queries(100)
    found = MilvusSearcher(snapshot, collection).search("image", asked, K, allowed=allowed, where=where)
    truth = Searcher(snapshot).search("image", asked, K, allowed=allowed)
    assert found.strategy == "milvus filter"
    assert recalls(found.scores_QK, truth.scores_QK, K).mean() >= 0.95  # as in docs/index.md


def test_lists_that_hold_too_few_are_no_excuse(large: tuple[Snapshot, Collection, Pushed]) -> None:
    """One list of 64 rows or so cannot hold a hundred answers."""
    snapshot, collection, _ = large
    narrow = Collection(collection.store, collection.name, replace(collection.about, nprobe={"100": 1}))
    found = MilvusSearcher(snapshot, narrow).search("audio", queries(8), 100)
    assert (found.mode, found.params) == ("ann", {"nprobe": 1, "level": 100})
    assert (found.rows_QK >= 0).all()


EXPRESSIONS = (
    "split=test,train", "split!=test", "labels=tenth 3,tenth 4", "labels!=tenth 3", 'labels="Bark, ""loud"""',
    "caption=Écho 3", "duration_s>=5.5", "start_ms!=7", "start_ms=7,8,9", "end_ms<1000.5", "source=0",
    "item_id=k7/image", {"or": ["split=test", {"not": {"and": ["group=g7,g8", "start_ms>2000"]}}]},
)  # fmt: skip


@pytest.fixture(scope="module")
def pushed_small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Snapshot, Store]]:
    folder = tmp_path_factory.mktemp("milvus")
    make_index(folder / "index", {"image": 1000}, dim=4)
    push(folder / "index", str(folder / "v.db"))
    store = connect(str(folder / "v.db"))
    open_collection(store, folder / "index")
    yield open_snapshot(folder / "index"), store
    store.close()


TEXTS = ("test", "tenth 3", 'Bark, "loud"', "back\\slash's", "Écho 3", "fr", "g7", "m7", "k7/image", "of no item")
CONDITIONS = st.one_of(
    st.fixed_dictionaries(
        {
            "column": st.sampled_from([name for name, kind in COLUMNS.items() if kind != "number"]),
            "op": st.sampled_from(["=", "!="]),
            "value": st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3),
        }
    ),
    st.fixed_dictionaries(
        {
            "column": st.sampled_from([name for name, kind in COLUMNS.items() if kind == "number"]),
            "op": st.sampled_from(list(COMPARE)),
            "value": st.sampled_from([-2.5, 0, 0.5, 7, 500, 999.5, 1e300]),
        }
    ),
)
TREES = st.recursive(
    CONDITIONS,
    lambda nodes: st.one_of(
        st.builds(lambda node: {"not": node}, nodes),
        st.builds(
            lambda op, parts: {op: parts}, st.sampled_from(["and", "or"]), st.lists(nodes, min_size=2, max_size=3)
        ),
    ),
    max_leaves=5,
)


def check_expression(snapshot: Snapshot, store: Store, told: Any) -> None:
    where, rows = parse_where(told), snapshot.segments[0].rows
    assert where is not None
    words = expression(where.root, [rows], Classes())
    assert words is not None
    found = store.call("query", PREFIX + snapshot.id, filter=words, output_fields=["id"], limit=1000)
    assert sorted(one["id"] for one in found) == np.flatnonzero(where.mask(rows)).tolist()


@pytest.mark.parametrize("told", EXPRESSIONS, ids=str)
def test_an_expression_keeps_the_same_rows(pushed_small: tuple[Snapshot, Store], told: Any) -> None:
    check_expression(*pushed_small, told)


@settings(max_examples=60, deadline=None)
@given(told=TREES)
def test_any_expression_keeps_the_same_rows(pushed_small: tuple[Snapshot, Store], told: Any) -> None:
    check_expression(*pushed_small, told)


@pytest.mark.parametrize("told", ["caption~cho", 'caption="a\tb"', {"column": "caption", "op": "!=", "value": ""}])
def test_what_milvus_reads_otherwise_is_no_expression(pushed_small: tuple[Snapshot, Store], told: Any) -> None:
    where = parse_where(told)
    assert where is not None
    assert expression(where.root, [pushed_small[0].segments[0].rows], Classes()) is None


def test_a_second_push_does_nothing(small: tuple[Path, str]) -> None:
    first, second = push(*small), push(*small)
    assert (first.pushed, first.there) == (900, 0)
    assert (second.pushed, second.there) == (0, 900)
    assert replace(second, pushed=900, there=0, seconds=first.seconds) == first
    assert alias_of(small[1]) == first.collection


def test_a_newer_snapshot_takes_the_alias_and_the_old_one_stays(small: tuple[Path, str]) -> None:
    index, uri = small
    old = push(index, uri)
    vector = open_snapshot(index).of("image")[0].vectors_ND[7].astype(np.float32)
    delete_row(index, "image", 7)
    new = push(index, uri)
    assert (new.items, new.pushed, new.dropped) == ({"image": 599, "audio": 300}, 899, None)
    assert alias_of(uri) == new.collection != old.collection
    store = connect(uri)
    try:
        assert store.snapshots() == sorted([old.snapshot, new.snapshot])
        searcher = MilvusSearcher(open_snapshot(index), open_collection(store, index))
        assert 7 not in searcher.search("image", vector[None], 50).rows_QK
    finally:
        store.close()
    delete_row(index, "audio", 3)
    third = push(index, uri, clean=True)
    assert third.dropped == new.collection and alias_of(uri) == third.collection


KILLED = """
import sys
from pathlib import Path
from unibrivl.index import milvus_push
milvus_push.BATCH_ROWS = 100
milvus_push.run_push(
    milvus_push.PushConfig(index=Path(sys.argv[1]), to=sys.argv[2]), lambda done, total, text: print(done, flush=True)
)
"""


def test_a_push_that_was_killed_goes_on(small: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus_push, "BATCH_ROWS", 100)
    index, uri = small
    command = [sys.executable, "-c", KILLED, str(index), uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline().strip() for _ in range(4)]
        os.kill(child.pid, signal.SIGKILL)
    assert lines == ["100", "200", "300", "400"]
    store = connect(uri)
    try:
        with pytest.raises(MilvusError, match=r"holds only a part of snapshot \w+ of .*; run `unibrivl push"):
            open_collection(store, index)
    finally:
        store.close()
    again = push(index, uri)
    assert 400 <= again.there < 900 and again.pushed == 900 - again.there // 100 * 100
    store = connect(uri)
    try:
        snapshot, collection, asked = open_snapshot(index), open_collection(store, index), queries(20, 8)
        assert store.count(again.collection, "image") == 600 and store.count(again.collection, "audio") == 300
        for modality in ("image", "audio"):
            found = MilvusSearcher(snapshot, collection).search(modality, asked, K)
            assert (found.scores_QK == Searcher(snapshot).search(modality, asked, K).scores_QK).all()
    finally:
        store.close()


def test_rows_that_are_no_beginning_are_sent_again(small: tuple[Path, str]) -> None:
    """Rows in the middle that a store has lost are not taken for the end."""
    index, uri = small
    pushed = push(index, uri)
    store = connect(uri)
    store.load(pushed.collection)
    store.call("delete", pushed.collection, filter="id in [3, 4, 5]")
    mark(store, pushed.collection, whole=False)
    store.close()
    assert push(index, uri).pushed >= 900
    store = connect(uri)
    store.load(pushed.collection)
    assert store.count(pushed.collection, "image") == 600
    store.close()


def mark(store: Store, collection: str, **changes: Any) -> None:
    """Change what a collection says of itself."""
    about = store.about(collection)
    assert about is not None
    store.call("alter_collection_properties", collection, properties=milvus_push._properties(replace(about, **changes)))


def test_wrong_vectors_do_not_get_the_alias(small: tuple[Path, str]) -> None:
    index, uri = small
    before = push(index, uri)
    delete_row(index, "audio", 0)
    snapshot, store = open_snapshot(index), connect(uri)
    config = PushConfig(index=index, to=uri, queries=50)
    begun = milvus_push._Push(
        store, snapshot, config, lambda *told: None, about_snapshot(snapshot.id, snapshot.manifest)
    )
    milvus_push._begin(begun)
    for number, rows in milvus_push._batches(begun):
        batch = milvus_push._entities(snapshot.segments[number], number, rows)
        vectors = [one["vector"] for one in batch]
        milvus_push._send(begun, [one | {"vector": v} for one, v in zip(batch, vectors[1:] + vectors[:1], strict=True)])
    store.close()
    with pytest.raises(
        GateError, match=r"\w+>image has recall 0\.\d+ at 10 .*, wanted 0\.99 .* the alias stays"
    ) as caught:
        push(index, uri)
    assert caught.value.figures["collection"] == begun.name
    assert alias_of(uri) == before.collection


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"encoder": {"image": "c" * 64}}, "has encoder image cccccccccccc, .* has audio aaaaaaaaaaaa, image bbbb"),
        ({"dim": 9}, "has dim 9, .* has 8"),
        ({"snapshot": "0" * 16}, "has snapshot 0000000000000000, .* has "),
    ],
)
def test_another_collection_is_refused_with_both_names(
    small: tuple[Path, str], change: dict[str, Any], told: str
) -> None:
    index, uri = small
    pushed = push(index, uri)
    store = connect(uri)
    mark(store, pushed.collection, **change)
    with pytest.raises(IndexMismatchError, match=told):
        open_collection(store, index)
    store.call("alter_collection_properties", pushed.collection, properties={PROPERTY: json.dumps({"other": 1})})
    with pytest.raises(MilvusError, match="was not pushed by this version"):
        open_collection(store, index)
    store.close()


def test_a_snapshot_that_was_not_pushed_is_named_beside_those_that_were(small: tuple[Path, str]) -> None:
    index, uri = small
    old, new = push(index, uri), delete_row(index, "image", 1)
    store = connect(uri)
    with pytest.raises(MilvusError, match=rf"holds no snapshot {new} of .* \(but {old.snapshot}\); run `unibrivl push"):
        open_collection(store, index)
    with pytest.raises(IndexMismatchError, match=rf"holds snapshot {old.snapshot}, .* is at {new}"):
        about = store.about(old.collection)
        assert about is not None
        MilvusSearcher(open_snapshot(index), Collection(store, old.collection, about))
    store.close()


def test_rows_of_others_are_refused(small: tuple[Path, str]) -> None:
    index, uri = small
    pushed = push(index, uri)
    snapshot, store = open_snapshot(index), connect(uri)
    collection = open_collection(store, index)
    (entity,) = milvus_push._entities(snapshot.segments[0], 0, np.array([0]))
    store.call("upsert", pushed.collection, [entity | {"id": 600}], partition_name="image")
    with pytest.raises(MilvusError, match="a row that cannot be found in the index"):
        MilvusSearcher(snapshot, collection).search("image", entity["vector"][None], 5)
    with pytest.raises(ValueError, match=r"want \(number, 8\)"):
        MilvusSearcher(snapshot, collection).search("image", np.ones((1, 5), np.float32), 5)
    store.call("drop_collection", pushed.collection)
    with pytest.raises(MilvusError, match=r"vectors\.db: Milvus refused or is not there"):
        MilvusSearcher(snapshot, collection).search("image", entity["vector"][None], 5)
    store.close()


def test_what_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for uri, told in (
        ("http://127.0.0.1:9", r"http://127\.0\.0\.1:9: Milvus refused or is not there \(Fail connecting"),
        (str(tmp_path / "none.db"), "none.db: there is no such file of Milvus Lite"),
    ):
        with pytest.raises(MilvusError, match=told) as caught:
            connect(uri)
        assert "\n" not in str(caught.value)
    with pytest.raises(MilvusError, match="there is no folder for it"):
        connect(str(tmp_path / "no" / "none.db"), create=True)
    (tmp_path / "text.db").write_text("no store")
    with pytest.raises(MilvusError, match="another process has it open, or it is no file of Milvus Lite"):
        connect(str(tmp_path / "text.db"))
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MilvusError, match=r"pymilvus is not installed: run pip install 'unibrivl\[milvus\]'"):
        connect("http://127.0.0.1:9")


def test_a_password_stays_off_the_command_line() -> None:
    with pytest.raises(ValueError, match=f"to holds a password, .* into {TOKEN}"):
        check_uri("to", "http://me:secret@localhost:19530")
    with pytest.raises(ValueError, match="want http://HOST:PORT or a file of Milvus Lite"):
        check_uri("to", "vectors.faiss")
    for options in ({"alias": "a b"}, {"alias": "unibrivl_x"}, {"recall": 1.5}, {"lists": -1}, {"queries": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            PushConfig(index=Path("i"), to="v.db", **options)
