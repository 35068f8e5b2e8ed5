"""Deleting, compacting, rolling back, cleaning: each index equals a plain dictionary that went through the same."""

import os
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unibrivl.index.ann_build import build_ann
from unibrivl.index.changes import clean, compact, delete_items, list_snapshots, rollback, verify
from unibrivl.index.errors import IndexStoreError
from unibrivl.index.exact import ExactScan
from unibrivl.index.plan import SearchConfig
from unibrivl.index.search import Searcher
from unibrivl.index.snapshot import Snapshot, open_snapshot, publish, writing
from unibrivl.index.where import parse_where

from ..made import write_segment

EXACT = SearchConfig(exact=True)
DIMS = 6


def unit(seed: int, count: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIMS)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def add(root: Path, rows: list[dict[str, Any]], seed: int) -> str:
    """Publish a snapshot with one more segment of each modality."""
    with writing(root):
        before = open_snapshot(root) if (root / "CURRENT").exists() else None
        entries = list(before.manifest["segments"]) if before else []
        for modality, number in (("audio", seed), ("image", seed + 10_000)):
            entries.append(write_segment(root / "segments", modality, unit(number, len(rows)), rows))
        manifest = {
            "segments": entries,
            "sources": [],
            "encoder": {"fingerprints": {}},
            "dim": DIMS,
            "search": {},
            "parent": before and before.id,
        }
        return publish(root, manifest, None, before.tombstones if before else None)


def held(snapshot: Snapshot) -> dict[str, bytes]:
    """Return every item with the bytes of its vector."""
    found = {}
    for modality in ("audio", "image"):
        if snapshot.count(modality):
            items = snapshot.items(modality)
            ids = items.rows["item_id"].to_pylist()
            found |= {name: vector.tobytes() for name, vector in zip(ids, items.vectors_ND, strict=True)}
    return found


def test_what_is_deleted_is_not_found_and_the_rest_is(tmp_path: Path, make_rows) -> None:
    add(tmp_path, make_rows(6), 0)
    before = held(open_snapshot(tmp_path))
    changed = delete_items(tmp_path, item_ids=["gen_clip1_000000000/audio"], keys=["gen_clip4_000000000"])
    assert changed.deleted == 3 and changed.items == {"audio": 4, "image": 5}
    snapshot = open_snapshot(tmp_path)
    gone = {"gen_clip1_000000000/audio", "gen_clip4_000000000/audio", "gen_clip4_000000000/image"}
    assert held(snapshot) == {name: vector for name, vector in before.items() if name not in gone}
    hits = Searcher(snapshot).search("audio", unit(0, 6), 6)
    assert sorted(set(hits.rows_QK.ravel().tolist())) == [-1, 0, 2, 3, 5]
    with pytest.raises(IndexStoreError, match="holds no item 'gen_clip1_000000000/audio'"):
        snapshot.find("gen_clip1_000000000/audio")


def test_a_filter_chooses_what_is_deleted(tmp_path: Path, make_rows) -> None:
    rows = make_rows(4)
    for number in (1, 3):
        rows[number]["split"] = "train"
    add(tmp_path, rows, 0)
    changed = delete_items(tmp_path, where=parse_where(["split=train"]))
    assert changed.deleted == 4 and changed.items == {"audio": 2, "image": 2}


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({}, "no item was chosen; name some with --item, --key or --where"),
        ({"item_ids": ["nobody/audio"]}, "holds no item 'nobody/audio'"),
        ({"keys": ["nobody"]}, "holds no clip 'nobody'"),
        ({"where": parse_where(["split=test"])}, "nothing would be left; remove the folder instead"),
    ],
)
def test_what_cannot_be_deleted_is_said(tmp_path: Path, make_rows, chosen: dict[str, Any], words: str) -> None:
    name = add(tmp_path, make_rows(3), 0)
    with pytest.raises(IndexStoreError, match=words):
        delete_items(tmp_path, **chosen)
    assert open_snapshot(tmp_path).id == name


def test_compacting_keeps_every_bit_and_drops_what_was_deleted(tmp_path: Path, make_rows) -> None:
    add(tmp_path, make_rows(5), 0)
    add(tmp_path, [row | {"key": f"more_{row['key']}"} for row in make_rows(3)], 1)
    delete_items(tmp_path, keys=["gen_clip2_000000000", "more_gen_clip0_000000000"])
    before = held(open_snapshot(tmp_path))
    compact(tmp_path, EXACT)
    after = open_snapshot(tmp_path)
    assert held(after) == before
    assert len(after.segments) == 2 and not after.tombstones
    assert [len(segment.rows) for segment in after.segments] == [6, 6]


def test_a_rollback_brings_the_parent_back(tmp_path: Path, make_rows) -> None:
    first = add(tmp_path, make_rows(4), 0)
    before = held(open_snapshot(tmp_path))
    second = delete_items(tmp_path, keys=["gen_clip0_000000000"]).snapshot
    assert rollback(tmp_path).snapshot == first
    assert held(open_snapshot(tmp_path)) == before
    with pytest.raises(IndexStoreError, match="has no parent; name one"):
        rollback(tmp_path)
    assert rollback(tmp_path, second).snapshot == second
    with pytest.raises(IndexStoreError, match="has no snapshot ffff"):
        rollback(tmp_path, "ffff")
    next((tmp_path / "snapshots" / first).glob("eval.json")).write_text("{ }")
    with pytest.raises(IndexStoreError, match=r"eval\.json is damaged"):
        rollback(tmp_path, first)
    assert open_snapshot(tmp_path).id == second


def test_cleaning_leaves_the_current_one_and_what_is_open(tmp_path: Path, make_rows) -> None:
    first = add(tmp_path, make_rows(4), 0)
    reader = open_snapshot(tmp_path)
    second = add(tmp_path, [row | {"key": f"more_{row['key']}"} for row in make_rows(2)], 1)
    third = compact(tmp_path, EXACT).snapshot
    assert clean(tmp_path).snapshots == ()  # they are younger than an hour
    cleaned = clean(tmp_path, 0)
    assert cleaned.snapshots == (second,) and cleaned.held == (first,) and cleaned.bytes > 0
    assert len(held(reader)) == 8 and verify(tmp_path) == []
    del reader
    cleaned = clean(tmp_path, 0)
    assert cleaned.snapshots == (first,) and cleaned.segments == 2
    assert [one.id for one in list_snapshots(tmp_path)] == [third]
    assert len(held(open_snapshot(tmp_path))) == 12 and verify(tmp_path) == []


def test_the_grace_begins_when_a_snapshot_is_current_no_more(tmp_path: Path, make_rows) -> None:
    """One that was written long ago and was current a moment ago may be about to be opened."""
    first = add(tmp_path, make_rows(4), 0)
    written = time.time() - 7200
    for path in (tmp_path / "snapshots" / first, tmp_path / "snapshots" / first / "manifest.json"):
        os.utime(path, (written, written))
    second = delete_items(tmp_path, keys=["gen_clip0_000000000"]).snapshot
    assert clean(tmp_path).snapshots == ()
    rollback(tmp_path)
    assert clean(tmp_path).snapshots == () and {one.id for one in list_snapshots(tmp_path)} == {first, second}
    assert next(one.written for one in list_snapshots(tmp_path) if one.id == first) == pytest.approx(written, abs=1)
    rollback(tmp_path, second)
    os.utime(tmp_path / "snapshots" / first, (written, written))
    assert clean(tmp_path).snapshots == (first,)


def test_a_damaged_snapshot_keeps_every_segment(tmp_path: Path, make_rows) -> None:
    first = add(tmp_path, make_rows(4), 0)
    compact(tmp_path, EXACT)
    (tmp_path / "snapshots" / first / "manifest.json").write_text("{}")
    assert clean(tmp_path).segments == 0
    assert any("the manifest of snapshot" in fault for fault in verify(tmp_path))
    assert "is damaged" in next(one for one in list_snapshots(tmp_path) if one.id == first).fault


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_index_is_a_dictionary(tmp_path_factory: pytest.TempPathFactory, make_rows, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("index")
    model: dict[str, bytes] = {}
    for step in range(data.draw(st.integers(1, 5))):
        action = data.draw(st.sampled_from(["add", "delete", "compact", "clean"])) if model else "add"
        if action == "add":
            rows = [row | {"key": f"s{step}_{row['key']}"} for row in make_rows(data.draw(st.integers(1, 4)))]
            add(root, rows, step)
            for modality, seed in (("audio", step), ("image", step + 10_000)):
                for row, vector in zip(rows, unit(seed, len(rows)), strict=True):
                    model[f"{row['key']}/{modality}"] = vector.astype(np.float16).tobytes()
        elif action == "delete" and len(model) > 1:
            gone = data.draw(st.lists(st.sampled_from(sorted(model)), min_size=1, max_size=len(model) - 1, unique=True))
            delete_items(root, item_ids=gone)
            model = {name: vector for name, vector in model.items() if name not in gone}
        elif action == "compact":
            compact(root, EXACT)
        else:
            clean(root, 0)
        found = held(open_snapshot(root))
        assert found.keys() == model.keys()
        for name, vector in model.items():  # made of two norms, so the last bit may differ
            assert np.frombuffer(found[name], np.float16) == pytest.approx(np.frombuffer(vector, np.float16), abs=1e-3)
    assert verify(root) == []


def add_large(root: Path, rows: list[dict[str, Any]]) -> None:
    """Publish sounds that are searched through an index of FAISS."""
    vectors = unit(0, len(rows))
    ann = build_ann(ExactScan(vectors.astype(np.float16)), "IVF2,SQ8", 0).ann.index
    with writing(root):
        entry = write_segment(root / "segments", "audio", vectors, rows, faiss.serialize_index(ann).tobytes())
        params = {"audio": {level: {"nprobe": 1, "k_factor": 2} for level in ("10", "100")}}
        manifest = {
            "segments": [entry], "sources": [], "dim": DIMS, "parent": None, "encoder": {"fingerprints": {}},
            "search": {"audio": {"factory": "IVF2,SQ8", "params": params}},
        }  # fmt: skip
        publish(root, manifest, {"directions": {}})


def answers(snapshot: Snapshot) -> list[Any]:
    hits = Searcher(snapshot).search("audio", unit(7, 5), 3, direction="audio")
    assert hits.mode == "ann"
    return [hits.scores_QK.tolist(), hits.rows_QK.tolist()]


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip a bit, cut the file, or put something behind it."""
    place = int(rng.integers(len(data)))
    how = rng.random()
    if how < 0.6:
        return data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]
    return data[:place] if how < 0.9 else data + bytes([int(rng.integers(256))])


def test_no_damage_to_any_file_is_served_or_stays_unfound(
    tmp_path: Path, make_rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 360 flips, cuts and additions, those to what a snapshot uses keep it from opening, and all are verified."""
    monkeypatch.setattr("unibrivl.index.search.EXACT_MAX_NUMBERS", 1)
    add_large(tmp_path, make_rows(100))
    delete_items(tmp_path, keys=["gen_clip0_000000000"])
    snapshot, older = open_snapshot(tmp_path), open_snapshot(tmp_path, open_snapshot(tmp_path).manifest["parent"])
    right = {snapshot.id: answers(snapshot), older.id: answers(older)}
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.name != "LOCK")
    names = [path.name for path in files]
    assert sorted(set(names)) == sorted(
        {"CURRENT", "manifest.json", "eval.json", "tombstones.npy", "vectors.npy", "rows.parquet", "ann.faiss"}
    )
    rng = np.random.default_rng(0)
    for number in range(40 * len(files)):
        path = files[number % len(files)]
        data = path.read_bytes()
        path.write_bytes(damaged(data, rng))
        for name in (None, snapshot.id, older.id):
            try:
                opened = open_snapshot(tmp_path, name)
            except IndexStoreError:
                continue
            assert path not in used(tmp_path, opened, name is None), (path, name)
            assert answers(opened) == right[opened.id]
        try:
            assert verify(tmp_path), path
        except IndexStoreError:
            assert path.name == "CURRENT"
        path.write_bytes(data)
    assert verify(tmp_path) == [] and answers(open_snapshot(tmp_path)) == right[snapshot.id]


def used(root: Path, snapshot: Snapshot, through_current: bool) -> set[Path]:
    """Return every file that opening a snapshot reads."""
    folders = [root / "snapshots" / snapshot.id, *(segment.folder for segment in snapshot.segments)]
    return {path for folder in folders for path in folder.iterdir()} | (
        {root / "CURRENT"} if through_current else set()
    )
