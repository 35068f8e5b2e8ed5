"""Checks that failed clips get another chance, in patch shards, and that nothing committed is touched."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from unibrivl.ingest import retry as retry_module
from unibrivl.ingest.errors import IngestError
from unibrivl.ingest.retry import RetryConfig, RetryResult, retry
from unibrivl.ingest.run import IngestConfig, ingest, read_and_plan
from unibrivl.shards import ClipShards, open_catalog
from unibrivl.shards.catalog import all_rows
from unibrivl.shards.verify import verify

STEMS = ["a", "b", "c", "d", "e"]


def files(out: Path) -> dict[str, bytes]:
    paths = sorted(p for p in out.rglob("*") if p.is_file() and "ledger" not in p.relative_to(out).parts)
    return {str(p.relative_to(out)): p.read_bytes() for p in paths}


@pytest.fixture
def lacking(
    media: Callable[..., Path], write_list: Callable[..., Path], config_for: Callable[..., IngestConfig]
) -> IngestConfig:
    """Return the configuration of a set in which `b` is missing and `d` is damaged."""
    folder = media(*STEMS)
    (folder / "b.mp4").rename(folder / "b.gone")
    shutil.copy(folder / "d.mp4", folder / "d.good")
    (folder / "d.mp4").write_text("<html>Sorry</html>")
    config = config_for(write_list(*STEMS), folder, max_failed=1)
    result = ingest(config, read_and_plan(config)[1])
    assert result.errors == {"local.missing_file": 1, "media.not_media": 1}
    return config


def again(config: IngestConfig, *only: str) -> RetryResult:
    return retry(RetryConfig(root=config.out, engine=config.engine, only=only))


def folder_of(config: IngestConfig) -> Path:
    return config.list_path.parent / "media"


def mend(config: IngestConfig) -> None:
    folder = folder_of(config)
    (folder / "b.gone").rename(folder / "b.mp4")
    (folder / "d.good").replace(folder / "d.mp4")


def test_what_can_be_had_now_comes_in_a_patch_shard(lacking: IngestConfig) -> None:
    before = files(lacking.out)
    mend(lacking)
    result = again(lacking)
    assert (result.tried, result.recovered, result.errors, result.shards) == (2, 2, {}, 1)
    after = files(lacking.out)
    assert {name: after[name] for name in before} == before
    new = sorted(set(after) - set(before))
    assert new[0] == "plan/retry-01.parquet"
    assert [name.removeprefix("shards/train/gen-train-r01-000000") for name in new[1:]] == [
        ".commit.json", ".parquet", ".tar", ".tar.idx",
    ]  # fmt: skip
    with ClipShards(lacking.out) as shards:
        assert sorted(sample.info()["media_id"] for sample in shards) == STEMS
        assert {len(sample.audio()) for sample in shards} == {16_000}
    assert verify(lacking.out, level="deep").is_whole


def test_every_planned_clip_still_has_one_row(lacking: IngestConfig) -> None:
    again(lacking)
    mend(lacking)
    again(lacking)
    rows = all_rows(lacking.out)
    assert sorted(rows["media_id"].to_pylist()) == STEMS
    assert set(rows["status"].to_pylist()) == {"ok"}


def test_a_round_that_recovers_nothing_is_accounted_for(lacking: IngestConfig) -> None:
    result = again(lacking)
    assert (result.tried, result.recovered) == (2, 0)
    assert result.errors == {"local.missing_file": 1, "media.not_media": 1}
    assert len(open_catalog(lacking.out)) == 3


def test_only_some_reasons_are_tried(lacking: IngestConfig) -> None:
    mend(lacking)
    assert again(lacking, "media").recovered == 1
    assert again(lacking, "transient.*", "source").tried == 0
    result = again(lacking, "local.missing_file")
    assert (result.recovered, result.errors) == (1, {})
    assert len(open_catalog(lacking.out)) == 5


def test_nothing_to_retry_writes_nothing(lacking: IngestConfig) -> None:
    mend(lacking)
    again(lacking)
    before = files(lacking.out)
    assert again(lacking) == RetryResult(tried=0, recovered=0, errors={}, shards=0)
    assert files(lacking.out) == before


def test_an_interrupted_round_is_finished_and_not_begun_anew(
    lacking: IngestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    mend(lacking)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(retry_module, "make_shards", stop)
        again(lacking)
    result = again(lacking)
    assert (result.tried, result.recovered, result.shards) == (2, 2, 1)
    assert [p.name for p in sorted((lacking.out / "plan").iterdir())] == ["plan-00000.parquet", "retry-01.parquet"]


def test_a_second_ingest_counts_what_retries_brought(lacking: IngestConfig) -> None:
    mend(lacking)
    again(lacking, "media")
    result = ingest(lacking, read_and_plan(lacking)[1])
    assert (result.planned, result.ok, result.errors, result.made) == (5, 4, {"local.missing_file": 1}, 0)
    again(lacking)
    assert ingest(lacking, read_and_plan(lacking)[1]).errors == {}


def test_a_set_in_use_is_left_alone(lacking: IngestConfig) -> None:
    from unibrivl.shards.atomic import hold_directory

    with hold_directory(lacking.out, wait=False), pytest.raises(IngestError, match="another run is writing there"):
        again(lacking)
