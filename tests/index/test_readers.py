"""Whoever reads while others write gets the answers of one snapshot, and of one that was published."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unibrivl.index.changes import clean, compact, delete_items, rollback, verify
from unibrivl.index.errors import IndexStoreError
from unibrivl.index.plan import SearchConfig
from unibrivl.index.snapshot import Snapshot, open_snapshot, publish, writing

from ..made import write_segment

EXACT = SearchConfig(exact=True)
READER = """
import json, sys
from pathlib import Path
from unibrivl.index.search import Searcher
from unibrivl.index.snapshot import open_snapshot
import numpy as np

root, stop = Path(sys.argv[1]), Path(sys.argv[2])
query = np.float32([[1, 0, 0, 0]])
print("ready", flush=True)
while not stop.exists():
    snapshot = open_snapshot(root)
    for _ in range(3):  # the same snapshot, whatever has become current
        answer = []
        for modality in ("audio", "image"):
            hits = Searcher(snapshot).search(modality, query, 100)
            for segment, row in zip(hits.segments_QK[0], hits.rows_QK[0]):
                if row >= 0:
                    answer.append(snapshot.of(modality)[segment].rows["item_id"][int(row)].as_py())
        print(json.dumps([snapshot.id, sorted(answer)]), flush=True)
"""


def add(root: Path, rows: list[dict[str, Any]], seed: int) -> str:
    with writing(root):
        before = open_snapshot(root) if (root / "CURRENT").exists() else None
        entries = list(before.manifest["segments"]) if before else []
        vectors = np.random.default_rng(seed).standard_normal((len(rows), 4)).astype(np.float32)
        entries += [write_segment(root / "segments", modality, vectors, rows) for modality in ("audio", "image")]
        manifest = {
            "segments": entries,
            "sources": [],
            "encoder": {"fingerprints": {}},
            "dim": 4,
            "search": {},
            "parent": before and before.id,
        }
        return publish(root, manifest, None, before.tombstones if before else None)


def ids(snapshot: Snapshot) -> list[str]:
    found = (snapshot.items(modality).rows["item_id"].to_pylist() for modality in ("audio", "image"))
    return sorted(item for some in found for item in some)


def start(root: Path, stop: Path, output: Path) -> "subprocess.Popen[str]":
    """Start a reader that writes its answers to `output` until `stop` is there."""
    with output.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-c", READER, str(root), str(stop)],
            stdout=file, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def test_every_answer_is_that_of_one_snapshot(tmp_path: Path, make_rows) -> None:
    root, stop = tmp_path / "index", tmp_path / "stop"
    published = {}

    def note() -> None:
        snapshot = open_snapshot(root)
        published[snapshot.id] = ids(snapshot)

    add(root, make_rows(5), 0)
    note()
    outputs = [tmp_path / f"answers{number}" for number in range(2)]
    readers = [start(root, stop, output) for output in outputs]
    try:
        while any(output.read_text().count("\n") < 4 for output in outputs):
            assert all(reader.poll() is None for reader in readers)
            time.sleep(0.05)
        for step in range(3):
            add(root, [row | {"key": f"s{step}_{row['key']}"} for row in make_rows(5)], step + 1)
            note()
            delete_items(root, keys=[f"s{step}_gen_clip1_000000000"])
            note()
            compact(root, EXACT)
            note()
            compact(root, EXACT)  # the same segments once more
            note()
            rollback(root)
            clean(root, 0)
    finally:
        stop.touch()
        errors = [reader.communicate()[1] for reader in readers]
    assert [reader.returncode for reader in readers] == [0, 0], errors
    for output in outputs:
        answers = [json.loads(line) for line in output.read_text().splitlines()[1:]]
        assert len({name for name, _ in answers}) > 1, "it saw the index change"
        for name, found in answers:
            assert found == published[name]
    assert verify(root) == []


def test_what_a_reader_has_open_stays_while_all_else_is_cleaned(tmp_path: Path, make_rows) -> None:
    first = add(tmp_path, make_rows(5), 0)
    reader = open_snapshot(tmp_path)
    expected = ids(reader), [segment.vectors_ND.tobytes() for segment in reader.segments]
    add(tmp_path, [row | {"key": f"more_{row['key']}"} for row in make_rows(3)], 1)
    compact(tmp_path, EXACT)
    assert clean(tmp_path, 0).held == (first,)
    assert (ids(reader), [np.load(s.folder / "vectors.npy").tobytes() for s in reader.segments]) == expected


def test_the_same_segment_again_keeps_the_files_that_are_in_use(tmp_path: Path, make_rows) -> None:
    add(tmp_path, make_rows(5), 0)
    before = {path: path.stat().st_ino for path in (tmp_path / "segments").rglob("*.*")}
    compact(tmp_path, EXACT)
    assert {path: path.stat().st_ino for path in (tmp_path / "segments").rglob("*.*")} == before


def test_a_snapshot_made_again_keeps_the_one_that_is_open(tmp_path: Path, make_rows) -> None:
    add(tmp_path, make_rows(5), 0)
    deleted = delete_items(tmp_path, keys=["gen_clip1_000000000"]).snapshot
    inode = (tmp_path / "snapshots" / deleted / "manifest.json").stat().st_ino
    reader = open_snapshot(tmp_path)
    rollback(tmp_path)
    assert delete_items(tmp_path, keys=["gen_clip1_000000000"]).snapshot == deleted
    assert (tmp_path / "snapshots" / deleted / "manifest.json").stat().st_ino == inode
    rollback(tmp_path)
    assert clean(tmp_path, 0).held == (deleted,)
    assert reader.id == deleted


@pytest.mark.parametrize(
    "name", ["vectors.npy", "rows.parquet", "ann.faiss", "manifest.json", "eval.json", "tombstones.npy"]
)
def test_no_damaged_file_of_the_current_snapshot_is_ever_opened(tmp_path: Path, make_rows, name: str) -> None:
    """Fifty flips and cuts of each of six files, 300 in all; verification finds them too."""
    with writing(tmp_path):
        vectors = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
        entry = write_segment(tmp_path / "segments", "audio", vectors, make_rows(5), ann=b"an index of FAISS " * 9)
        manifest = {
            "segments": [entry],
            "sources": [],
            "encoder": {"fingerprints": {}},
            "dim": 4,
            "search": {},
            "parent": None,
        }
        publish(tmp_path, manifest, {"directions": {}}, {entry["id"]: np.array([2])})
    (path,) = tmp_path.rglob(name)
    data, rng = path.read_bytes(), np.random.default_rng(1)
    for _ in range(50):
        place, harmed = int(rng.integers(len(data))), bytearray(data)
        harmed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data[:place] if rng.random() < 0.3 else harmed)
        with pytest.raises(IndexStoreError, match="damaged"):
            open_snapshot(tmp_path)
        assert verify(tmp_path)
    path.write_bytes(data)
    assert verify(tmp_path) == [] and open_snapshot(tmp_path).count("audio") == 4
