"""Replacing, appending and upserting shard sets: the index equals a plain dictionary that went through the same."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unibrivl.index.build import IndexConfig, build_index
from unibrivl.index.changes import compact, delete_items, verify
from unibrivl.index.errors import IndexMismatchError, IndexStoreError
from unibrivl.index.plan import SearchConfig
from unibrivl.index.segment import ANN
from unibrivl.index.snapshot import Snapshot, open_snapshot
from unibrivl.model.embed import Encoder
from unibrivl.model.embed_set import EmbedConfig, embed_set
from unibrivl.shards import ClipShards

DIMS = 1280
SETS = ("all", "train", "test")


def vector(root: str, key: str, modality: str) -> np.ndarray:
    """Return the made-up embedding of a clip as one set has it."""
    seed = hashlib.sha256(f"{root}/{key}/{modality}".encode()).digest()[:8]
    return np.random.default_rng(int.from_bytes(seed)).standard_normal(DIMS).astype(np.float32)


@pytest.fixture(scope="module")
def sets(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the tiny set, `all`, and its splits as sets of their own."""
    root = tmp_path_factory.mktemp("sets")
    for name in SETS:
        shutil.copytree(shards, root / name, ignore=shutil.ignore_patterns("frozen"))
    shutil.rmtree(root / "train" / "shards" / "test")
    shutil.rmtree(root / "test" / "shards" / "train")
    return root


@pytest.fixture(scope="module")
def keys(sets: Path) -> dict[str, list[str]]:
    found = {}
    for name in SETS:
        with ClipShards(sets / name) as clips:
            found[name] = clips.catalog.column("key")
    return found


@pytest.fixture
def made_up(one_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embed quickly, and each set otherwise."""

    def blocks(modality: str) -> Callable[..., Iterator[np.ndarray]]:
        def embed(self: Encoder, clips: ClipShards, count: Callable[[int], None]) -> Iterator[np.ndarray]:
            found = [
                vector(clips.catalog.shards[0].directory.parents[1].name, key, modality)
                for key in clips.catalog.column("key")
            ]
            for start in range(0, len(found), 7):
                yield np.stack(found[start : start + 7])
                count(len(found[start : start + 7]))

        return embed

    monkeypatch.setattr(Encoder, "audio_blocks", blocks("audio"))
    monkeypatch.setattr(Encoder, "image_blocks", blocks("image"))
    canaries = one_encoder.canaries()
    monkeypatch.setattr(Encoder, "canaries", lambda self: canaries)


@pytest.fixture
def config(run: Path, sets: Path, tmp_path: Path, made_up: None) -> IndexConfig:
    return IndexConfig(run=run, shards=sets / "train", out=tmp_path / "index")


def held(snapshot: Snapshot) -> dict[str, str]:
    """Return every item with the set that it is of; its vector is that set's."""
    found = {}
    for modality in ("audio", "image"):
        if snapshot.count(modality):
            items = snapshot.items(modality)
            for row, got in zip(items.rows.to_pylist(), items.vectors_ND, strict=True):
                name = Path(snapshot.manifest["sources"][row["source"]]["shards"]).name
                wanted = vector(name, row["key"], modality)
                assert got == pytest.approx(wanted / np.linalg.norm(wanted), abs=1e-4)  # float16 of numbers near 0.03
                assert found.setdefault(row["item_id"], name) == name
    return found


def items(keys: list[str], name: str) -> dict[str, str]:
    return {f"{key}/{modality}": name for key in keys for modality in ("audio", "image")}


def test_what_is_appended_stands_beside_what_was_there(
    config: IndexConfig, sets: Path, keys: dict[str, list[str]]
) -> None:
    first = build_index(config).snapshot
    more = replace(config, shards=sets / "test", mode="append")
    result = build_index(more)
    snapshot = open_snapshot(config.out)
    assert result.built and result.items == {"audio": 24, "image": 24} and snapshot.manifest["parent"] == first
    assert held(snapshot) == items(keys["train"], "train") | items(keys["test"], "test")
    assert not build_index(more).built


def test_an_item_that_is_there_is_refused_and_upserting_replaces_it(
    config: IndexConfig, sets: Path, keys: dict[str, list[str]]
) -> None:
    first = build_index(config).snapshot
    with pytest.raises(IndexStoreError, match=r"holds gen_.*/audio already; pass --upsert to replace"):
        build_index(replace(config, shards=sets / "all", mode="append"))
    assert open_snapshot(config.out).id == first
    build_index(replace(config, shards=sets / "all", mode="upsert"))
    assert held(open_snapshot(config.out)) == items(keys["all"], "all")
    build_index(replace(config, mode="upsert"))  # back again, though this set was indexed before
    assert held(open_snapshot(config.out)) == items(keys["test"], "all") | items(keys["train"], "train")


@pytest.mark.parametrize("mode", ["replace", "upsert"])
@pytest.mark.parametrize("compacted", [False, True])
def test_building_again_brings_back_what_was_deleted(
    config: IndexConfig, keys: dict[str, list[str]], mode: str, compacted: bool
) -> None:
    build_index(config)
    delete_items(config.out, keys=keys["train"][:3], item_ids=[f"{keys['train'][5]}/image"])
    if compacted:
        compact(config.out, config.search)
    result = build_index(replace(config, mode=mode))
    assert result.built and result.items == {"audio": 18, "image": 18}
    assert held(open_snapshot(config.out)) == items(keys["train"], "train")
    assert verify(config.out) == []


def test_another_encoder_cannot_append(config: IndexConfig, sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_index(config).snapshot
    monkeypatch.setattr(Encoder, "fingerprints", lambda self: {"audio": "a" * 64, "image": "b" * 64})
    with pytest.raises(IndexMismatchError, match=r"was built by the audio model [0-9a-f]{12}, .* holds a{12};"):
        build_index(replace(config, shards=sets / "test", mode="append"))
    assert open_snapshot(config.out).id == first


def test_an_append_that_outgrows_scanning_is_merged_and_gated(
    config: IndexConfig, sets: Path, keys: dict[str, list[str]]
) -> None:
    build_index(replace(config, search=SearchConfig(exact=True)))
    more = SearchConfig(factory="IVF4,SQ8", recall=0.5)
    build_index(replace(config, shards=sets / "test", mode="append", search=more))
    snapshot = open_snapshot(config.out)
    assert held(snapshot) == items(keys["train"], "train") | items(keys["test"], "test")
    assert [(len(s.rows), (s.folder / ANN).exists()) for s in snapshot.segments] == [(24, True), (24, True)]
    assert snapshot.manifest["search"]["audio"]["factory"] == "IVF4,SQ8"
    assert snapshot.evaluation["directions"]["audio>image"]["recall"]["10"]["low"] >= 0.5


def test_memory_that_does_not_suffice_is_told_before_the_work(config: IndexConfig) -> None:
    with pytest.raises(IndexStoreError, match=r"the build needs about \d+\.\d GB .*--memory allows 0\.1; give more"):
        build_index(replace(config, search=SearchConfig(memory_gb=0.1)))
    assert list((config.out / "segments").iterdir()) == [] and not (config.out / "CURRENT").exists()


def test_embeddings_made_elsewhere_give_the_same_index(
    run: Path, shards: Path, index: Path, tmp_path: Path, one_encoder: Encoder
) -> None:
    """One build embeds, the other reads what `unibrivl embed` wrote."""
    embed_set(EmbedConfig(run=run, shards=shards, out=tmp_path / "embeddings"))
    config = IndexConfig(run=run, shards=shards, out=tmp_path / "index", embeddings=tmp_path / "embeddings")
    build_index(config)
    ours, theirs = open_snapshot(config.out), open_snapshot(index)
    for modality in ("audio", "image"):
        assert ours.items(modality).rows == theirs.items(modality).rows
        # batches of other sizes round differently
        assert ours.items(modality).vectors_ND == pytest.approx(theirs.items(modality).vectors_ND, abs=1e-3)
    next((tmp_path / "embeddings").rglob("*.parquet")).write_bytes(b"PAR1")
    with pytest.raises(IndexStoreError, match="no embeddings to be read"):
        build_index(replace(config, out=tmp_path / "other"))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_index_is_a_dictionary_of_sets(
    config: IndexConfig, sets: Path, keys: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:  # fmt: skip
    config = replace(config, out=tmp_path_factory.mktemp("modes") / "index")
    model: dict[str, str] = {}
    for _ in range(data.draw(st.integers(2, 6))):
        action = data.draw(
            st.sampled_from(["replace", "append", "upsert", "delete", "compact"] if model else ["replace"])
        )
        if action in ("replace", "append", "upsert"):
            name = data.draw(st.sampled_from(SETS))
            coming, before = items(keys[name], name), model
            asked = replace(config, shards=sets / name, mode=action)
            model = coming if action == "replace" else model | coming
            if action == "append" and before.keys() & coming.keys() and model != before:
                with pytest.raises(IndexStoreError, match="pass --upsert"):
                    build_index(asked)
                model = before
            else:
                build_index(asked)
                assert not build_index(asked).built
        elif action == "delete" and len(model) > 1:
            gone = data.draw(st.lists(st.sampled_from(sorted(model)), min_size=1, max_size=len(model) - 1, unique=True))
            delete_items(config.out, item_ids=gone)
            model = {item: name for item, name in model.items() if item not in gone}
        else:
            compact(config.out, config.search)
        assert held(open_snapshot(config.out)) == model
    assert verify(config.out) == []
