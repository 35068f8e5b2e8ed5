"""Building on what is there, in any order: the index equals a plain dictionary that went through the same."""

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
from unibrivl.index.errors import IndexStoreError
from unibrivl.index.plan import SearchConfig
from unibrivl.index.segment import ANN
from unibrivl.index.snapshot import Snapshot, open_snapshot
from unibrivl.model.embed import Encoder
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
                difference = np.abs(got - wanted / np.linalg.norm(wanted)).max()
                assert difference < 1e-4  # float16 of numbers under 0.25 keeps 6e-5
                assert found.setdefault(row["item_id"], name) == name
    return found


def items(keys: list[str], name: str) -> dict[str, str]:
    return {f"{key}/{modality}": name for key in keys for modality in ("audio", "image")}


def test_a_set_that_was_replaced_can_be_upserted_again(
    config: IndexConfig, sets: Path, keys: dict[str, list[str]]
) -> None:
    build_index(config)
    build_index(replace(config, shards=sets / "all", mode="upsert"))
    assert held(open_snapshot(config.out)) == items(keys["all"], "all")
    assert build_index(replace(config, mode="upsert")).built  # though this set was indexed before
    snapshot = open_snapshot(config.out)
    assert held(snapshot) == items(keys["test"], "all") | items(keys["train"], "train")
    assert len(snapshot.manifest["sources"]) == 2


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
