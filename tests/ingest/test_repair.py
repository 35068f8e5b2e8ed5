"""Checks that damaged shards become again what they were, with as little from the media as can be."""

import multiprocessing
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unibrivl.ingest.errors import PlanError
from unibrivl.ingest.patience import Gate, PatienceConfig
from unibrivl.ingest.plan import read_plan
from unibrivl.ingest.repair import RepairConfig, RepairResult, repair
from unibrivl.ingest.repair import _tasks as repair_tasks
from unibrivl.ingest.report import write_report
from unibrivl.ingest.retry import RetryConfig, retry
from unibrivl.ingest.run import IngestConfig, ingest, read_and_plan
from unibrivl.ingest.sources import FolderConfig, make_source
from unibrivl.ingest.worker import ShardMaker, WorkerConfig
from unibrivl.shards import ShardError, all_rows, open_catalog, read_commit
from unibrivl.shards.catalog import compact
from unibrivl.shards.planfile import PLAN_FILE
from unibrivl.shards.stats import stats
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
    task = next(t for t in repair_tasks(whole.out, verify(whole.out)) if t.name == "gen-train-000000")

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


ONLY_MEDIA_TELL = (
    "src_sha256", "src_video_codec", "src_audio_codec", "src_width", "src_height", "src_fps", "decode_errors",
    "frame_dhash",
)  # fmt: skip
OF_THE_JPEG = ("frame_luma_mean", "frame_luma_std")


def rows_of(config: IngestConfig) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in all_rows(config.out).to_pylist()}


def lose_sidecar(config: IngestConfig, harm: str = "gone") -> None:
    """Harm the sidecars of both shards, one of which has a failed clip."""
    for number in (0, 1):
        path = shard_file(config, ".parquet", number)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + b"x" + data[len(data) // 2 + 1 :])
        if harm == "gone":
            path.unlink()


def take_media_away(config: IngestConfig) -> Path:
    folder = config.list_path.parent / "media"
    return folder.rename(folder.with_name("elsewhere"))


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_a_sidecar_comes_back_from_a_whole_tar_without_media(whole: IngestConfig, harm: str, tmp_path: Path) -> None:
    before, old = files(whole.out), rows_of(whole)
    lose_sidecar(whole, harm)
    take_media_away(whole)
    assert mend(whole, source=False) == RepairResult(damaged=2, identical=0, left=(), lost={}, bare=5)
    after, new = files(whole.out), rows_of(whole)
    changed = {Path(name).suffix for name in before if before[name] != after[name]}
    assert changed == {".parquet", ".json"}, "tars and indexes are the same"
    assert list(new) == list(old)
    for key, row in new.items():
        if row["status"] == "failed":
            assert row == old[key] and row["error_detail"] == "gone.mp4: no such media file"
            continue
        for name, value in row.items():
            if name in ONLY_MEDIA_TELL:
                assert value is None and old[key][name] is not None, name
            elif name not in OF_THE_JPEG:
                assert value == old[key][name], name
        for name in OF_THE_JPEG:
            assert abs(row[name] - old[key][name]) < 1, "JPEG at quality 95 shifts the luma by less than a step"
    assert verify(whole.out, level="deep").is_whole
    assert stats(whole.out).sources["size"] == {} and len(open_catalog(whole.out)) == 5
    write_report(whole.out, tmp_path / "report.html")
    assert compact(whole.out) == 6 and len(open_catalog(whole.out)) == 5
    assert mend(whole, source=False).damaged == 0


def test_a_sidecar_is_whole_again_where_media_are_at_hand_and_does_not_retry(whole: IngestConfig, corpus: Path) -> None:
    """A clip that had failed stays failed, though its medium has come: to try again is for `retry`."""
    before = files(whole.out)
    lose_sidecar(whole)
    shutil.copy(corpus / "media" / "clip-_09.mp4", whole.list_path.parent / "media" / "gone.mp4")
    assert mend(whole) == RepairResult(damaged=2, identical=2, left=(), lost={})
    assert files(whole.out) == before


def test_a_medium_that_has_changed_tells_nothing_of_a_whole_sample(whole: IngestConfig, corpus: Path) -> None:
    old = rows_of(whole)
    lose_sidecar(whole)
    shutil.copy(corpus / "media" / "clip-_09.mp4", whole.list_path.parent / "media" / "a.mp4")
    (whole.list_path.parent / "media" / "b.mp4").unlink()
    result = mend(whole)
    assert (result.left, result.lost, result.bare) == ((), {}, 2)
    new = rows_of(whole)
    assert {key for key in new if new[key] != old[key]} == {"gen_a_000000000", "gen_b_000000000"}
    assert new["gen_a_000000000"]["sample_xxh3"] == old["gen_a_000000000"]["sample_xxh3"]


def test_a_failure_that_nothing_remembers_is_not_made_up(
    media: Callable[..., Path], write_list: Callable[..., Path], config_for: Callable[..., IngestConfig]
) -> None:
    folder = media("a", "b")
    (folder / "page.mp4").write_text("<html>")
    config = config_for(write_list("a", "b", "page"), folder, max_failed=1, shard_clips=3)
    ingest(config, read_and_plan(config)[1])
    old, ledger = rows_of(config), config.out / "ledger"
    shard_file(config, ".parquet").unlink()
    kept = ledger.rename(config.out.with_name("ledger"))
    damaged = files(config.out)
    assert mend(config, source=False).left == ("gen-train-000000",)
    assert files(config.out) == damaged
    shutil.rmtree(ledger)
    shutil.copytree(kept, ledger)
    assert mend(config, source=False).bare == 2
    assert rows_of(config)["gen_page_000000000"] == old["gen_page_000000000"]


@pytest.mark.parametrize("harm", ["tar", "commit"])
def test_a_lost_sidecar_is_not_made_up_where_nothing_vouches_for_it(whole: IngestConfig, harm: str) -> None:
    failed = next(key for key, row in rows_of(whole).items() if row["status"] == "failed")
    number = next(n for n in (0, 1) if failed.encode() not in shard_file(whole, ".tar", n).read_bytes()
                  and read_commit(shard_file(whole, ".commit.json", n)).errors)  # fmt: skip
    shard_file(whole, ".parquet", number).unlink()
    take_media_away(whole)
    path = shard_file(whole, {"tar": ".tar", "commit": ".commit.json"}[harm], number)
    data = bytearray(path.read_bytes())
    data[700 if harm == "tar" else data.index(b"files") + 3] ^= 1
    path.write_bytes(data)
    damaged = files(whole.out)
    assert mend(whole, source=False).left == (f"gen-train-{number:06d}",)
    assert files(whole.out) == damaged


def damage_first_sample(config: IngestConfig) -> str:
    """Flip a bit of a sample; return its key."""
    victim = open_catalog(config.out).table.to_pylist()[0]
    path = shard_file(config, ".tar")
    data = bytearray(path.read_bytes())
    data[victim["tar_offset"] + 700] ^= 1
    path.write_bytes(data)
    return victim["key"]


def test_another_file_in_place_of_a_medium_is_not_taken_in_silence(whole: IngestConfig, corpus: Path) -> None:
    """Same name, other content: the clip would be another one under the same key."""
    old = rows_of(whole)
    key = damage_first_sample(whole)
    medium = whole.list_path.parent / "media" / f"{key.split('_')[1]}.mp4"
    good = medium.read_bytes()
    shutil.copy(corpus / "media" / "clip-_09.mp4", medium)
    damaged = files(whole.out)
    assert mend(whole).left == ("gen-train-000000",)
    assert files(whole.out) == damaged
    result = mend(whole, accept_loss=True)
    assert (result.left, result.lost) == ((), {"local.changed_file": 1})
    row = rows_of(whole)[key]
    assert row["error_code"] == "local.changed_file"
    assert re.fullmatch(
        rf"{medium.name}: another file than the one that the clip was made of "
        rf"\(SHA-256 [0-9a-f]{{12}}\.\.\., was {old[key]['src_sha256'][:12]}\.\.\.\)", row["error_detail"],
    )  # fmt: skip
    medium.write_bytes(good)
    assert retry(RetryConfig(root=whole.out, engine=whole.engine)).recovered == 1
    assert rows_of(whole)[key]["src_sha256"] == old[key]["src_sha256"]


def test_the_same_file_elsewhere_is_the_same_medium(whole: IngestConfig) -> None:
    before = files(whole.out)
    damage_first_sample(whole)
    folder = take_media_away(whole)
    moved = replace(whole, engine=replace(whole.engine, source=FolderConfig(root=folder)))
    assert mend(moved) == RepairResult(damaged=1, identical=1, left=(), lost={})
    assert files(whole.out) == before


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_the_plan_of_a_round_comes_back_from_its_shards(whole: IngestConfig, corpus: Path, harm: str) -> None:
    shutil.copy(corpus / "media" / "clip-_09.mp4", whole.list_path.parent / "media" / "gone.mp4")
    retry(RetryConfig(root=whole.out, engine=whole.engine))
    path = whole.out / "plan" / "retry-01.parquet"
    before = path.read_bytes()
    path.unlink() if harm == "gone" else path.write_bytes(before[: len(before) // 2] + before[len(before) // 2 + 1 :])
    (damage,) = verify(whole.out).damaged
    assert damage.path == path and f"`unibrivl shards repair {whole.out}` writes it again" in damage.reason
    assert mend(whole, source=False) == RepairResult(
        damaged=0, identical=0, left=(), lost={}, plans=("retry-01.parquet",)
    )
    assert path.read_bytes() == before
    assert verify(whole.out).is_whole


def test_a_lost_plan_is_for_ingest_to_write_even_beside_a_damaged_shard(whole: IngestConfig) -> None:
    """Each command would otherwise wait for the other."""
    before = files(whole.out)
    plan, old = whole.out / PLAN_FILE, (whole.out / PLAN_FILE).read_bytes()
    plan.unlink()
    shard_file(whole, ".tar.idx").unlink()
    with pytest.raises(PlanError, match="there is no such plan; ingest the same list again, it writes the plan anew"):
        mend(whole)
    with pytest.raises(ShardError, match="unibrivl shards repair"):
        ingest(whole, read_and_plan(whole)[1])
    assert plan.read_bytes() == old
    assert mend(whole, source=False).identical == 1
    assert files(whole.out) == before and verify(whole.out).is_whole


def test_an_ontology_is_for_ingest_to_write_again(
    media: Callable[..., Path], write_list: Callable[..., Path], config_for: Callable[..., IngestConfig], tmp_path: Path
) -> None:
    ontology = tmp_path / "ontology.json"
    ontology.write_text('[{"id": "/m/dog", "name": "Dog", "child_ids": []}]')
    config = config_for(write_list("a"), media("a"), ontology=ontology)
    ingest(config, read_and_plan(config)[1])
    kept = config.out / "ontology.json"
    assert verify(config.out).is_whole
    for harm in (None, b"[]", ontology.read_bytes().replace(b"Dog", b"Dot")):
        kept.unlink() if harm is None else kept.write_bytes(harm)
        (damage,) = verify(config.out, level="size").damaged
        assert damage.path == kept and damage.reason.endswith(
            "run the same `unibrivl ingest` again with its --ontology"
        )
        assert mend(config).others == (str(damage),)
        ingest(replace(config, ontology=None), read_and_plan(config)[1])
        assert not verify(config.out).is_whole
        ingest(config, read_and_plan(config)[1])
        assert verify(config.out).is_whole and kept.read_bytes() == ontology.read_bytes()


def test_a_lost_plan_and_a_lost_sidecar_of_one_round_are_told_together(whole: IngestConfig, corpus: Path) -> None:
    shutil.copy(corpus / "media" / "clip-_09.mp4", whole.list_path.parent / "media" / "gone.mp4")
    retry(RetryConfig(root=whole.out, engine=whole.engine))
    (whole.out / "plan" / "retry-01.parquet").unlink()
    (whole.out / "shards" / "train" / "gen-train-r01-000000.parquet").unlink()
    with pytest.raises(PlanError, match=r"retry-01\.parquet: lost, and cannot be written again, since .*r01-000000"):
        mend(whole)


def test_a_lost_plan_of_a_round_that_made_nothing_costs_nothing(whole: IngestConfig, corpus: Path) -> None:
    path = whole.out / "plan" / "retry-01.parquet"
    path.write_bytes(b"PAR1")
    assert mend(whole, source=False).plans == ("retry-01.parquet",)
    assert verify(whole.out).is_whole
    shutil.copy(corpus / "media" / "clip-_09.mp4", whole.list_path.parent / "media" / "gone.mp4")
    assert retry(RetryConfig(root=whole.out, engine=whole.engine)).recovered == 1
    assert verify(whole.out).is_whole
