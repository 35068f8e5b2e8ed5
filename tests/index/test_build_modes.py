"""Building on what is there: appending, replacing, embeddings made elsewhere, and the limits of memory and disk."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from unibrivl.index.build import IndexConfig, build_index
from unibrivl.index.changes import delete_items, rollback, verify
from unibrivl.index.errors import IndexMismatchError, IndexStoreError
from unibrivl.index.plan import SearchConfig
from unibrivl.index.snapshot import Snapshot, open_snapshot
from unibrivl.model.embed import Encoder
from unibrivl.model.embed_set import embed_set
from unibrivl.model.embed_shard import EmbedConfig


def part(shards: Path, place: Path, split: str) -> Path:
    """Copy the shards of one split."""
    shutil.copytree(shards, place, ignore=shutil.ignore_patterns("frozen"))
    for path in (place / "shards").iterdir():
        if path.name != split:
            shutil.rmtree(path)
    return place


@pytest.fixture(scope="module")
def parts(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the shards of each split as a set of its own; do not write there."""
    root = tmp_path_factory.mktemp("parts")
    return {split: part(shards, root / split, split) for split in ("train", "test")}


def held(snapshot: Snapshot) -> dict[str, bytes]:
    found = {}
    for modality in ("audio", "image"):
        items = snapshot.items(modality)
        found |= dict(zip(items.rows["item_id"].to_pylist(), map(bytes, items.vectors_ND), strict=True))
    return found


def test_appending_the_other_split_gives_all_of_it(
    index: Path, run: Path, parts: dict[str, Path], tmp_path: Path, one_encoder: Encoder
) -> None:
    out = tmp_path / "index"
    first = build_index(IndexConfig(run=run, shards=parts["train"], out=out))
    result = build_index(IndexConfig(run=run, shards=parts["test"], out=out, mode="append"))
    snapshot = open_snapshot(out)
    assert result.built and result.items == {"audio": 24, "image": 24} and result.peak_rss_mb > 0
    assert held(snapshot) == held(open_snapshot(index))
    assert [len(s.rows) for s in snapshot.segments] == [18, 18, 6, 6]
    assert [s.rows["source"].to_pylist()[0] for s in snapshot.segments] == [0, 0, 1, 1]
    places = [(out / source["shards"]).resolve() for source in snapshot.manifest["sources"]]
    assert places == [parts["train"].resolve(), parts["test"].resolve()]
    assert snapshot.manifest["parent"] == first.snapshot == rollback(out).snapshot
    assert rollback(out, result.snapshot).items == result.items
    assert not build_index(IndexConfig(run=run, shards=parts["test"], out=out, mode="append")).built


def test_an_item_that_is_there_is_refused_or_replaced(
    index: Path, run: Path, shards: Path, parts: dict[str, Path], tmp_path: Path, one_encoder: Encoder
) -> None:
    out = tmp_path / "index"
    build_index(IndexConfig(run=run, shards=parts["train"], out=out))
    before = held(open_snapshot(out))
    with pytest.raises(IndexStoreError, match=r"holds gen_clip.*/audio already; pass --upsert"):
        build_index(IndexConfig(run=run, shards=shards, out=out, mode="append"))
    assert held(open_snapshot(out)) == before and verify(out) == []
    result = build_index(IndexConfig(run=run, shards=shards, out=out, mode="upsert"))
    snapshot = open_snapshot(out)
    assert result.items == {"audio": 24, "image": 24}
    assert held(snapshot) == held(open_snapshot(index))
    assert {snapshot.find(item)[0].rows["source"][0].as_py() for item in before} == {1}, "all of them are the new ones"


def test_upserting_brings_back_what_was_deleted(
    index: Path, run: Path, shards: Path, parts: dict[str, Path], tmp_path: Path, one_encoder: Encoder
) -> None:
    out = tmp_path / "index"
    build_index(IndexConfig(run=run, shards=parts["train"], out=out))
    key = open_snapshot(out).segments[0].rows["key"][0].as_py()
    delete_items(out, keys=[key])
    build_index(IndexConfig(run=run, shards=shards, out=out, mode="upsert"))
    assert held(open_snapshot(out)) == held(open_snapshot(index))


def test_appending_with_another_model_is_refused(
    run: Path, parts: dict[str, Path], tmp_path: Path, one_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "index"
    first = build_index(IndexConfig(run=run, shards=parts["train"], out=out)).snapshot
    monkeypatch.setattr(Encoder, "fingerprints", lambda self: {"audio": "a" * 64, "image": "b" * 64})
    with pytest.raises(IndexMismatchError, match=r"audio model .* holds aaaaaaaaaaaa; append with the run"):
        build_index(IndexConfig(run=run, shards=parts["test"], out=out, mode="append"))
    assert open_snapshot(out).id == first


def test_embeddings_made_before_give_the_same_index(
    index: Path, run: Path, shards: Path, tmp_path: Path, one_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_set(EmbedConfig(run=run, shards=shards, out=tmp_path / "embedded"))

    def never(*_: object) -> None:
        raise AssertionError("nothing is to be embedded")

    for name in ("audio_blocks", "image_blocks"):
        monkeypatch.setattr(Encoder, name, never)
    config = IndexConfig(run=run, shards=shards, out=tmp_path / "index", embeddings=tmp_path / "embedded")
    build_index(config)
    found, expected = held(open_snapshot(config.out)), held(open_snapshot(index))
    assert found.keys() == expected.keys()
    for name, vector in expected.items():  # batches of other sizes add in another order: the last bit may differ
        assert np.frombuffer(found[name], np.float16) == pytest.approx(np.frombuffer(vector, np.float16), abs=1e-3)
    shutil.rmtree(config.out)
    next((tmp_path / "embedded").rglob("*.parquet")).unlink()
    with pytest.raises(IndexStoreError, match=r"no embeddings to be read.*run `unibrivl embed`"):
        build_index(config)


def test_a_build_beyond_its_memory_is_refused_before_the_work(
    run: Path, shards: Path, tmp_path: Path, one_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Encoder, "audio_blocks", lambda *_: pytest.fail("it began"))
    with pytest.raises(IndexStoreError, match=r"needs about 0\.\d GB .*--memory allows 0\.1; give more"):
        build_index(IndexConfig(run=run, shards=shards, out=tmp_path / "i", search=SearchConfig(memory_gb=0.1)))


FULL_DISK = """
mount -t tmpfs -o size=$SIZE tmpfs "$1" || exit 77
shift
cp -r "$BASE" "$OUT/index" || exit 78
"$@" > "$LOG/first" 2>&1; echo $? >> "$LOG/first"
find "$OUT" -name '.*' > "$LOG/hidden"
cp -r "$OUT/index" "$LOG/kept"
mount -o remount,size=50m tmpfs "$OUT" || exit 77
"$@" > "$LOG/second" 2>&1; echo $? >> "$LOG/second"
cp -r "$OUT/index" "$LOG/done"
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_full_disk_is_one_line_and_leaves_the_old_index(
    run: Path, shards: Path, parts: dict[str, Path], tmp_path: Path, one_encoder: Encoder
) -> None:
    base, out, log = tmp_path / "base", tmp_path / "out", tmp_path / "log"
    build_index(IndexConfig(run=run, shards=parts["train"], out=base))
    used = sum(-(-path.stat().st_size // 4096) * 4096 for path in base.rglob("*") if path.is_file())
    for folder in (out, log):
        folder.mkdir()
    command = [sys.executable, "-m", "unibrivl", "index", str(run), str(parts["test"])]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL_DISK, "sh", str(out), *command,
         "--out", str(out / "index"), "--append"],
        env=os.environ | {"OUT": str(out), "LOG": str(log), "BASE": str(base), "SIZE": str(used + 16_384)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not (log / "second").exists():
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    first = (log / "first").read_text().splitlines()
    assert first[-1] == "1" and first[-2].startswith("error: ") and "No space left on device" in first[-2]
    assert (log / "hidden").read_text() == ""
    assert held(open_snapshot(log / "kept")) == held(open_snapshot(base)) and verify(log / "kept") == []
    assert (log / "second").read_text().splitlines()[-1] == "0"
    assert open_snapshot(log / "done").count("audio") == 24
