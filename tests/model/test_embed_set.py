"""Embeddings of a whole set: one file a shard, written whole, finished ones left alone, others made again."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from unibrivl.model.embed import load_encoder
from unibrivl.model.embed_set import embed_set
from unibrivl.model.embed_shard import EmbedConfig
from unibrivl.model.errors import TrainError
from unibrivl.shards import ClipShards


@pytest.fixture
def config(run: Path, shards: Path, tmp_path: Path) -> EmbedConfig:
    return EmbedConfig(run=run, shards=shards, out=tmp_path / "embeddings")


def files(config: EmbedConfig) -> list[Path]:
    return sorted(config.out.rglob("*.parquet"))


def test_every_clip_has_both_embeddings(config: EmbedConfig) -> None:
    result = embed_set(config)
    assert (result.clips, result.files, result.made) == (24, 4, 4) and len(files(config)) == 4
    encoder = load_encoder(config.run)
    with ClipShards(config.shards) as clips:
        by_key = {clips[n].key: n for n in range(len(clips))}
        for path in files(config):
            table = pq.read_table(path)
            assert path.parent.name in ("train", "test")
            for row in table.slice(0, 1).to_pylist():
                sample = clips[by_key[row["key"]]]
                # sums of another batch round differently
                assert row["audio"] == pytest.approx(encoder.audio([sample.audio()])[0].tolist(), abs=1e-5)
                assert row["image"] == pytest.approx(encoder.image([sample.frame()])[0].tolist(), abs=1e-4)
            norms = np.linalg.norm(np.stack(table["audio"].to_pylist()), axis=1)
            assert norms == pytest.approx(1, abs=1e-5)
            found = json.loads(pq.read_metadata(path).metadata[b"unibrivl"])
            assert found["fingerprints"] == encoder.fingerprints() and found["dim"] == 1280


def test_finished_files_are_left_alone_and_others_made_again(config: EmbedConfig) -> None:
    embed_set(config)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files(config)}
    assert embed_set(config).made == 0
    torn, gone, *rest = files(config)
    torn.write_bytes(torn.read_bytes()[:-100])
    gone.unlink()
    (gone.parent / f".{gone.name}.tmp-1-abcd").write_bytes(b"half")
    assert embed_set(config).made == 2
    assert {path: path.read_bytes() for path in files(config)} == {path: data for path, (data, _) in before.items()}
    assert all(path.stat().st_mtime_ns == before[path][1] for path in rest)
    assert not list(config.out.rglob(".*"))


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8])
def test_a_file_that_was_damaged_since_is_made_again(config: EmbedConfig, share: float) -> None:
    part = dataclasses.replace(config, split="test")
    embed_set(part)
    (path,) = files(config)
    whole = path.read_bytes()
    at = round(share * len(whole))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert embed_set(part).made == 1
    assert path.read_bytes() == whole


def test_another_checkpoint_makes_other_files(config: EmbedConfig) -> None:
    part = dataclasses.replace(config, split="test")
    assert embed_set(part).clips == 6
    best = embed_set(dataclasses.replace(part, which="best"))
    same = load_encoder(config.run, which="best").fingerprints() == load_encoder(config.run).fingerprints()
    assert (best.made == 0) == same


def test_a_foreign_folder_is_left_alone(config: EmbedConfig) -> None:
    config.out.mkdir()
    (config.out / "thesis.txt").write_text("three years")
    with pytest.raises(TrainError, match="is not empty and holds no embeddings"):
        embed_set(config)


def test_a_checkpoint_that_no_run_has_is_refused(config: EmbedConfig) -> None:
    with pytest.raises(ValueError, match="checkpoint is 'first', want last or best"):
        dataclasses.replace(config, which="first")
