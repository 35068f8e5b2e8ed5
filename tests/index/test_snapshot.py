"""Snapshots: readers see the old one or the new one, whatever happens to a writer."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unibrivl.index import snapshot as module
from unibrivl.index.errors import IndexStoreError
from unibrivl.index.snapshot import open_snapshot, publish, read_manifest, writing

from ..made import write_segment


def put(root: Path, rows: list[dict[str, Any]], seed: int = 0) -> str:
    """Publish a snapshot of made-up embeddings; return its id."""
    vectors = np.random.default_rng(seed).standard_normal((len(rows), 4)).astype(np.float32)
    with writing(root):
        entries = [write_segment(root / "segments", name, vectors, rows) for name in ("audio", "image")]
        return publish(root, {"segments": entries, "note": f"number {seed}"})


def test_what_is_published_is_read(tmp_path: Path, make_rows) -> None:
    root = tmp_path / "deep" / "index"
    name = put(root, make_rows(3))
    found = open_snapshot(root)
    assert (found.id, found.root, found.manifest["note"], found.manifest["format"]) == (name, root, "number 0", 2)
    assert [segment.modality for segment in found.segments] == ["audio", "image"]
    assert found.items("image").rows["caption"].to_pylist() == ["Clip 0", "Clip 1", "Clip 2"]
    with pytest.raises(IndexStoreError, match="holds no text embeddings"):
        found.items("text")


def test_the_same_content_is_the_same_snapshot(tmp_path: Path, make_rows) -> None:
    first, second = put(tmp_path / "a", make_rows(3)), put(tmp_path / "b", make_rows(3))
    assert first == second == put(tmp_path / "a", make_rows(3))
    assert put(tmp_path / "a", make_rows(3), seed=1) != first
    assert open_snapshot(tmp_path / "a").manifest["note"] == "number 1"


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("step", ["publish", "write_json", "write_bytes", "open_segment"])
def test_a_writer_that_dies_leaves_the_old_snapshot(
    tmp_path: Path, make_rows, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    first = put(tmp_path, make_rows(3))
    before = files(tmp_path)

    class KilledError(Exception):
        pass

    def die(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        if step == "publish":
            patch.setitem(globals(), "publish", die)
        elif step == "open_segment":
            patch.setattr("unibrivl.index.segment.sync_directory", die)
        else:
            patch.setattr(module, step, die)
        put(tmp_path, make_rows(3), seed=1)
    assert files(tmp_path).items() >= before.items()
    assert open_snapshot(tmp_path).id == first
    second = put(tmp_path, make_rows(3), seed=1)
    assert open_snapshot(tmp_path).id == second != first


@pytest.mark.parametrize("change", ["flip", "truncate", "remove", "other"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, make_rows, change: str) -> None:
    name = put(tmp_path, make_rows(3))
    path = tmp_path / "snapshots" / name / "manifest.json"
    data = path.read_bytes()
    if change == "flip":
        path.write_bytes(data.replace(b"number 0", b"number 1"))
    elif change == "truncate":
        path.write_bytes(data[:-2])
    elif change == "remove":
        path.unlink()
    else:
        path.write_bytes(json.dumps({"format": 1, "segments": []}).encode())
    words = f"has no snapshot {name}" if change == "remove" else f"the manifest of snapshot {name} is damaged"
    with pytest.raises(IndexStoreError, match=words):
        open_snapshot(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"0123456789abcdef\n", b"../../etc\n", b"\xff\xfe\x00", b"a\x00b", b"x" * 5000]
)
def test_a_current_that_points_nowhere_is_refused(tmp_path: Path, make_rows, content: bytes) -> None:
    put(tmp_path, make_rows(3))
    (tmp_path / "CURRENT").write_bytes(content)
    with pytest.raises(IndexStoreError, match="is no index; make one with"):
        read_manifest(tmp_path)


def test_another_format_is_refused(tmp_path: Path, make_rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INDEX_FORMAT", 1)
    monkeypatch.setattr(module, "open_snapshot", lambda *_: None)
    put(tmp_path, make_rows(3))
    monkeypatch.undo()
    with pytest.raises(IndexStoreError, match="index format 1, this program reads 2"):
        open_snapshot(tmp_path)


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(IndexStoreError, match=f"{root} is no index; make one with `unibrivl index"):
            open_snapshot(root)


def test_a_second_writer_is_refused(tmp_path: Path, make_rows) -> None:
    put(tmp_path, make_rows(3))
    command = (
        "import sys; from pathlib import Path; from unibrivl.index.snapshot import writing\n"
        "with writing(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", command, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin and other.stdout
    try:
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(IndexStoreError, match="another process is writing there"):
            put(tmp_path, make_rows(3), seed=1)
        open_snapshot(tmp_path)  # readers need no leave
    finally:
        other.kill()
        other.communicate()
    put(tmp_path, make_rows(3), seed=1)  # the lock died with its holder


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path, make_rows) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(IndexStoreError, match="is not empty and no index; choose another folder"):
        put(tmp_path, make_rows(3))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_instead_of_a_folder_is_refused(tmp_path: Path, make_rows) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IndexStoreError, match="file"):
        put(tmp_path / "file", make_rows(3))
