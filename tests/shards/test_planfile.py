"""Checks the file of a plan as the format knows it; how plans are made and hashed is in tests/ingest/test_plan.py."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unibrivl.shards import ShardError
from unibrivl.shards.planfile import (
    PlanFile,
    keys_of,
    plan_sha256,
    planned_shards,
    read_plan_file,
    round_file,
    write_plan_file,
)
from unibrivl.shards.schema import PLAN_SCHEMA


def plan_of(*counts: tuple[str, int]) -> PlanFile:
    numbers = range(sum(count for _, count in counts))
    names = ("media_id", "source", "group", "caption", "language", "license")
    columns: dict[str, list[Any]] = {name: [f"{name}{n}" for n in numbers] for name in names}
    columns |= {"corpus": ["gen" for _ in numbers], "split": ["train" for _ in numbers]}
    columns |= {"start_ms": list(numbers), "end_ms": [n + 1 for n in numbers]}
    columns |= {"labels": [["x"] for _ in numbers], "events": [[] for _ in numbers]}
    table = pa.table(columns, schema=PLAN_SCHEMA)
    return PlanFile(table, counts, plan_sha256(table, counts))


@pytest.mark.parametrize("counts", [(), (("a", 1),), (("a", 3), ("b", 2))])
def test_what_is_written_is_read(tmp_path: Path, counts: tuple[tuple[str, int], ...]) -> None:
    plan = plan_of(*counts)
    write_plan_file(plan, tmp_path / "p")
    assert read_plan_file(tmp_path / "p") == plan
    assert planned_shards(tmp_path / "p") == ({name for name, _ in counts}, plan.sha256)


def test_a_key_is_corpus_medium_and_start() -> None:
    assert keys_of(plan_of(("a", 2)).table).to_pylist() == ["gen_media_id0_000000000", "gen_media_id1_000000001"]


def test_another_clip_under_the_same_hash_is_refused(tmp_path: Path) -> None:
    """Which a look at what the file states cannot see."""
    plan = plan_of(("a", 2))
    write_plan_file(PlanFile(plan_of(("a", 3)).table.slice(1), plan.shards, plan.sha256), tmp_path / "p")
    assert planned_shards(tmp_path / "p") == ({"a"}, plan.sha256)
    with pytest.raises(ShardError, match="p: the plan does not fit its own hash"):
        read_plan_file(tmp_path / "p")


@pytest.mark.parametrize("read", [read_plan_file, planned_shards])
def test_what_is_no_plan_is_refused(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "p"
    with pytest.raises(ShardError, match=r"p: there is no such plan|p: not a plan that can be read"):
        read(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(ShardError, match="p: not a plan that can be read"):
        read(path)
    pq.write_table(pa.table({"shard": ["a"]}), path)
    with pytest.raises(ShardError, match="p: no plan of version 1"):
        read(path)


def test_where_rounds_of_retries_lie() -> None:
    assert round_file(7) == "plan/retry-07.parquet"
