"""Building an index: everything is in it, again is nothing, damage is repaired."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from unibrivl.index.build import IndexConfig, IndexResult, build_index
from unibrivl.index.errors import IndexStoreError
from unibrivl.index.snapshot import open_snapshot, read_manifest
from unibrivl.model.embed import Encoder
from unibrivl.model.errors import CheckpointError
from unibrivl.shards import ClipShards, ShardError


@pytest.fixture
def copy(index: Path, run: Path, shards: Path, tmp_path: Path) -> IndexConfig:
    """Return what would build a copy of the index that is there; the run and the shards are beside it by link."""
    for path in (run, shards):
        (tmp_path / path.name).symlink_to(path)
    shutil.copytree(index, tmp_path / "index")
    return IndexConfig(run=tmp_path / "run", shards=tmp_path / "shards", out=tmp_path / "index")


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def build(config: IndexConfig) -> IndexResult:
    return build_index(config)


def test_every_clip_is_in_it(index: Path, shards: Path, encoder: Encoder) -> None:
    snapshot = open_snapshot(index)
    with ClipShards(shards) as clips:
        keys = clips.catalog.column("key")
        splits = clips.catalog.column("split")
        hashes = {"audio": clips.catalog.column("audio_sha256"), "image": clips.catalog.column("frame_sha256")}
        sounds = encoder.audio([clips[i].audio() for i in range(24)])
        pictures = encoder.image([clips[i].frame() for i in range(24)])
    for modality, expected in (("audio", sounds), ("image", pictures)):
        segment = snapshot.items(modality)
        assert segment.rows["key"].to_pylist() == keys
        assert segment.rows["split"].to_pylist() == splits
        assert segment.rows["content_sha256"].to_pylist() == hashes[modality]
        assert segment.rows["item_id"].to_pylist() == [f"{key}/{modality}" for key in keys]
        assert segment.vectors_ND == pytest.approx(expected, abs=1e-3)
    assert snapshot.manifest["dim"] == 1280
    assert snapshot.manifest["encoder"]["fingerprints"] == encoder.fingerprints()
    assert {name: len(v) for name, v in snapshot.manifest["encoder"]["canaries"].items()} == {
        "audio": 1280,
        "image": 1280,
    }
    assert (index / snapshot.manifest["run"]).resolve() == (index.parent / "run").resolve()
    assert not Path(snapshot.manifest["sources"][0]["shards"]).is_absolute()


def test_a_second_build_is_a_no_op(copy: IndexConfig, one_encoder: Encoder) -> None:
    before = files(copy.out)
    result = build(copy)
    assert not result.built and result.items == {"audio": 24, "image": 24}
    assert files(copy.out) == before
    assert result.snapshot == open_snapshot(copy.out).id


def test_two_builds_give_the_same_bytes(copy: IndexConfig, one_encoder: Encoder) -> None:
    before = files(copy.out)
    shutil.rmtree(copy.out)
    counted = []
    result = build_index(copy, lambda done, total, text: counted.append((done, total)))
    assert result.built and result.items == {"audio": 24, "image": 24}
    assert counted[-1] == (48, 48)
    assert files(copy.out) == before


@pytest.mark.parametrize("name", ["vectors.npy", "rows.parquet"])
@pytest.mark.parametrize("damage", ["flipped", "removed"])
def test_building_again_repairs_a_damaged_index(
    copy: IndexConfig, one_encoder: Encoder, name: str, damage: str
) -> None:
    """The message about damage says: build the index again."""
    before = files(copy.out)
    path = next((copy.out / "segments").rglob(name))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    if damage == "removed":
        path.unlink()
    with pytest.raises(IndexStoreError, match="build the index again"):
        open_snapshot(copy.out)
    assert build(copy).built
    open_snapshot(copy.out)
    assert files(copy.out) == before


@pytest.mark.parametrize("damage", ["manifest", "CURRENT", "no CURRENT"])
def test_building_again_repairs_a_damaged_snapshot(copy: IndexConfig, one_encoder: Encoder, damage: str) -> None:
    before = files(copy.out)
    if damage == "manifest":
        next((copy.out / "snapshots").rglob("manifest.json")).write_bytes(b"{}")
    elif damage == "CURRENT":
        (copy.out / "CURRENT").write_text("ffff\n")
    else:
        (copy.out / "CURRENT").unlink()
    assert build(copy).built
    assert files(copy.out) == before


def test_other_shards_make_another_snapshot(
    copy: IndexConfig, one_encoder: Encoder, shards: Path, tmp_path: Path
) -> None:
    first = open_snapshot(copy.out).id
    fewer = tmp_path / "fewer"
    shutil.copytree(shards, fewer, ignore=shutil.ignore_patterns("frozen"))
    for path in (fewer / "shards" / "test").iterdir():
        path.unlink()
    result = build(IndexConfig(run=copy.run, shards=fewer, out=copy.out))
    assert result.built and result.snapshot != first
    assert result.items == {"audio": 18, "image": 18}
    assert set(open_snapshot(copy.out).items("audio").rows["split"].to_pylist()) == {"train"}
    assert (copy.out / "snapshots" / first / "manifest.json").is_file()  # a reader may have it open


def test_another_model_makes_another_snapshot(
    copy: IndexConfig, one_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_manifest(copy.out)[0]
    monkeypatch.setattr(Encoder, "fingerprints", lambda self: {"audio": "a" * 64, "image": "b" * 64})
    result = build(copy)
    assert result.built and result.snapshot != first


def test_an_embedding_that_is_no_number_stops_the_build(
    copy: IndexConfig, one_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_manifest(copy.out)[0]
    monkeypatch.setattr(Encoder, "fingerprints", lambda self: {"audio": "a" * 64, "image": "b" * 64})
    broken = np.full((24, 1280), 0.1, np.float32)
    broken[5] = np.nan
    monkeypatch.setattr(Encoder, "audio_blocks", lambda self, clips, count: iter([broken]))
    with pytest.raises(IndexStoreError, match=r"audio embeddings cannot be indexed: row 5 \(gen_"):
        build(copy)
    assert open_snapshot(copy.out).id == before


def test_what_is_missing_is_named(run: Path, shards: Path, tmp_path: Path, one_encoder: Encoder) -> None:
    with pytest.raises(ShardError, match="is no shard set"):
        build(IndexConfig(run=run, shards=tmp_path / "nowhere", out=tmp_path / "index"))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(IndexStoreError, match="is not empty and no index"):
        build(IndexConfig(run=run, shards=shards, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_missing_run_is_named(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no run"):
        build(IndexConfig(run=tmp_path / "nowhere", shards=shards, out=tmp_path / "index"))
    assert not (tmp_path / "index").exists()


def test_the_manifest_names_no_absolute_place(index: Path) -> None:
    text = json.dumps(read_manifest(index)[1])
    assert str(index.parent) not in text
