"""Checks that damaged shards become again what they were, with as little from the media as can be."""

import multiprocessing
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from unibrivl.ingest.patience import Gate, PatienceConfig
from unibrivl.ingest.plan import read_plan
from unibrivl.ingest.repair import RepairConfig, RepairResult, repair
from unibrivl.ingest.repair import _tasks as repair_tasks
from unibrivl.ingest.retry import RetryConfig, retry
from unibrivl.ingest.run import PLAN_FILE, IngestConfig, ingest, read_and_plan
from unibrivl.ingest.sources import FolderConfig, make_source
from unibrivl.ingest.worker import ShardMaker, WorkerConfig
from unibrivl.shards import all_rows, open_catalog
from unibrivl.shards.verify import verify

STEMS = ["a", "b", "c", "gone", "d", "e"]
SUFFIXES = (".tar", ".tar.idx", ".parquet", ".commit.json")


@pytest.fixture
def whole(
    media: Callable[..., Path], write_list: Callable[..., Path], config_for: Callable[..., IngestConfig]
) -> IngestConfig:
    """Return the configuration of a set of two shards, one with a clip that failed."""
    config = config_for(write_list(*STEMS), media(*[s for s in STEMS if s != "gone"]), max_failed=1, shard_clips=3)
    ingest(config, read_and_plan(config)[1])
    return config


def mend(config: IngestConfig, *, source: bool = True, accept_loss: bool = False) -> RepairResult:
    engine = config.engine if source else replace(config.engine, source=None)
    return repair(RepairConfig(root=config.out, engine=engine, accept_loss=accept_loss))


def files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "shards").rglob("*")) if p.is_file()}


def shard_file(config: IngestConfig, suffix: str, number: int = 0) -> Path:
    return config.out / "shards" / "train" / f"gen-train-{number:06d}{suffix}"


def test_a_whole_set_is_left_alone(whole: IngestConfig) -> None:
    before = files(whole.out)
    assert mend(whole) == RepairResult(damaged=0, identical=0, left=(), lost={})
    assert files(whole.out) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("harm", ["flip", "cut", "zero", "gone"])
def test_any_damaged_file_is_restored_bit_for_bit(whole: IngestConfig, suffix: str, harm: str) -> None:
    before = files(whole.out)
    path = shard_file(whole, suffix)
    data = bytearray(path.read_bytes())
    place = random.Random(f"{suffix}{harm}").randrange(len(data) // 4, len(data) // 2)
    if harm == "flip":
        data[place] ^= 4
    elif harm == "cut":
        del data[place:]
    elif harm == "zero":
        data[place:] = bytes(len(data) - place)
    path.write_bytes(data)
    if harm == "gone":
        path.unlink()
    if suffix == ".commit.json" and harm == "gone":  # then it is no shard: the next run makes it
        assert ingest(whole, read_and_plan(whole)[1]).made == 1
    else:
        result = mend(whole)
        assert (result.damaged, result.lost) == (1, {})
        assert result.identical == (0 if suffix == ".commit.json" else 1)
    assert files(whole.out) == before
    assert verify(whole.out, level="deep").is_whole


def test_whole_samples_are_kept_where_their_media_are_gone(whole: IngestConfig) -> None:
    """Dead links: only the damaged sample needs its medium."""
    rows = open_catalog(whole.out).table.to_pylist()
    victim = rows[0]
    path = shard_file(whole, ".tar")
    data = bytearray(path.read_bytes())
    data[victim["tar_offset"] + 700] ^= 1
    path.write_bytes(data)
    folder = whole.list_path.parent / "media"
    shutil.move(folder, folder.with_name("elsewhere"))
    damaged = files(whole.out)
    assert mend(whole, source=False) == RepairResult(damaged=1, identical=0, left=("gen-train-000000",), lost={})
    assert files(whole.out) == damaged, "nothing is given up unless asked"
    result = mend(whole, source=False, accept_loss=True)
    assert (result.damaged, result.identical, result.lost) == (1, 0, {"local.missing_file": 1})
    left = open_catalog(whole.out)
    assert sorted(left.column("key")) == sorted(row["key"] for row in rows[1:])
    shutil.move(folder.with_name("elsewhere"), folder)
    assert retry(RetryConfig(root=whole.out, engine=whole.engine)).recovered == 1
    assert len(open_catalog(whole.out)) == len(rows)


def test_a_shard_with_only_its_index_damaged_needs_no_media(whole: IngestConfig) -> None:
    before = files(whole.out)
    shard_file(whole, ".tar.idx").write_bytes(b"12345678")
    tar = shard_file(whole, ".tar", 1)
    tar.write_bytes(tar.read_bytes()[:-700])
    assert mend(whole, source=False) == RepairResult(damaged=2, identical=2, left=(), lost={})
    assert files(whole.out) == before


def test_a_damaged_patch_shard_is_repaired_too(whole: IngestConfig, corpus: Path) -> None:
    shutil.copy(corpus / "media" / "clip-_09.mp4", whole.list_path.parent / "media" / "gone.mp4")
    retry(RetryConfig(root=whole.out, engine=whole.engine))
    before = files(whole.out)
    path = whole.out / "shards" / "train" / "gen-train-r01-000000.tar"
    path.write_bytes(path.read_bytes()[:2000])
    assert mend(whole) == RepairResult(damaged=1, identical=1, left=(), lost={})
    assert files(whole.out) == before


def test_a_killed_repair_goes_on_with_what_it_had_saved(whole: IngestConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old commit must not stand beside the new tar: the next run would believe neither."""
    from unibrivl.shards import writer

    victim = open_catalog(whole.out).table.to_pylist()[0]
    path = shard_file(whole, ".tar")
    data = bytearray(path.read_bytes())
    data[victim["tar_offset"] + 700] ^= 1
    path.write_bytes(data)
    folder = whole.list_path.parent / "media"
    shutil.move(folder, folder.with_name("elsewhere"))
    plan = read_plan(whole.out / PLAN_FILE)
    task = next(t for t in repair_tasks(whole.out) if t.name == "gen-train-000000")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    gate = Gate(PatienceConfig(), multiprocessing.get_context("spawn"))
    config = WorkerConfig(
        out=whole.out, source=None, recipe=whole.recipe, plan_sha256=plan.sha256, memory_bytes=4 << 30,
        clip_timeout_s=60.0, fetch_timeout_s=60.0, run="r",
    )  # fmt: skip
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writer, "write_index", stop)
        ShardMaker(config, make_source(FolderConfig(root=folder.parent)), gate, lambda *_: None).make(task)
    assert not shard_file(whole, ".commit.json").exists()
    shutil.move(folder.with_name("elsewhere"), folder)
    result = ingest(whole, read_and_plan(whole)[1])
    assert result.made == 1
    lost = {row["error_code"] for row in all_rows(whole.out).to_pylist() if row["key"] == victim["key"]}
    assert result.ok == 4 + (lost == {None})
    assert verify(whole.out, level="deep").is_whole


def test_a_whole_tar_is_not_given_up_for_a_damaged_sidecar(whole: IngestConfig) -> None:
    path = shard_file(whole, ".parquet")
    before = files(whole.out)
    path.write_bytes(path.read_bytes() + b"x")
    assert mend(whole, source=False).left == ("gen-train-000000",)
    assert shard_file(whole, ".tar").read_bytes() == before["shards/train/gen-train-000000.tar"]
    assert mend(whole) == RepairResult(damaged=1, identical=1, left=(), lost={})
    assert files(whole.out) == before
