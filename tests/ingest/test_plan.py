"""Checks that a plan is a function of list and seed alone, and that it holds every clip once."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.ingest import Clip, make_plan
from unibrivl.ingest.plan import write_plan


def clip(media_id: str, start_ms: int, split: str = "train") -> Clip:
    return Clip(corpus="as", media_id=media_id, start_ms=start_ms, end_ms=start_ms + 1000, split=split)


CLIPS = st.lists(
    st.builds(
        clip, st.from_regex(r"[ab_-]{1,3}", fullmatch=True), st.integers(0, 9), st.sampled_from(["train", "test"])
    ),
    unique_by=lambda c: c.key,
    max_size=60,
)
SIZES = st.integers(1, 12)


@given(clips=CLIPS, size=SIZES, seed=st.integers(0, 9), shuffled=st.data())
def test_the_order_of_the_list_does_not_matter(
    clips: list[Clip], size: int, seed: int, shuffled: st.DataObject
) -> None:
    other = shuffled.draw(st.permutations(clips))
    assert make_plan(other, seed=seed, shard_clips=size) == make_plan(clips, seed=seed, shard_clips=size)


@given(clips=CLIPS, size=SIZES, seed=st.integers(0, 9))
def test_every_clip_comes_once_in_shards_of_one_split(clips: list[Clip], size: int, seed: int) -> None:
    plan = make_plan(clips, seed=seed, shard_clips=size)
    planned = [c for shard in plan.shards for c in shard.clips]
    assert Counter(planned) == Counter(clips)
    assert plan.num_clips == len(clips)
    assert plan.splits() == dict(sorted(Counter(c.split for c in clips).items()))
    for shard in plan.shards:
        assert 1 <= len(shard.clips) <= size
        assert {c.split for c in shard.clips} == {shard.split}
    names = [shard.name for shard in plan.shards]
    assert names == sorted(set(names))
    for split in plan.splits():
        count = sum(shard.split == split for shard in plan.shards)
        assert [n for n in names if f"-{split}-" in n] == [f"as-{split}-{i:06d}" for i in range(count)]


@given(clips=CLIPS, size=SIZES, seed=st.integers(0, 9))
def test_the_clips_of_a_medium_stay_together(clips: list[Clip], size: int, seed: int) -> None:
    plan = make_plan(clips, seed=seed, shard_clips=size)
    count = Counter((c.split, c.media_id) for c in clips)
    for split, media_id in count:
        where = [
            (number, slot, c.start_ms)
            for number, shard in enumerate(plan.shards)
            for slot, c in enumerate(shard.clips)
            if (c.split, c.media_id) == (split, media_id)
        ]
        assert [start for _, _, start in where] == sorted(start for _, _, start in where)
        if len(where) <= size:
            assert len({number for number, _, _ in where}) == 1
            assert where[-1][1] - where[0][1] == len(where) - 1


def test_shards_are_filled() -> None:
    plan = make_plan([clip(f"m{n}", 0) for n in range(25)], seed=0, shard_clips=10)
    assert [len(shard.clips) for shard in plan.shards] == [10, 10, 5]
    assert plan == make_plan([clip(f"m{n}", 0) for n in range(25)], seed=0, shard_clips=10)


def test_a_medium_of_more_clips_than_a_shard_is_split() -> None:
    clips = [clip("a", n) for n in range(25)]
    assert [len(shard.clips) for shard in make_plan(clips, seed=0, shard_clips=10).shards] == [10, 10, 5]


def test_the_hash_changes_with_whatever_changes_the_shards() -> None:
    clips = [clip(f"m{n}", 0) for n in range(20)]
    plans = [
        make_plan(clips, seed=0, shard_clips=8),
        make_plan(clips, seed=1, shard_clips=8),
        make_plan(clips, seed=0, shard_clips=7),
        make_plan(clips[1:], seed=0, shard_clips=8),
        make_plan([clip("m0", 1), *clips[1:]], seed=0, shard_clips=8),
        make_plan([clip("m0", 0, "test"), *clips[1:]], seed=0, shard_clips=8),
    ]
    assert len({plan.sha256 for plan in plans}) == len(plans)
    assert plans[0].shards[0].clips != plans[1].shards[0].clips


def test_the_order_of_media_is_not_that_of_the_list() -> None:
    names = [f"m{n:03d}" for n in range(100)]
    (shard,) = make_plan([clip(name, 0) for name in names], seed=0, shard_clips=100).shards
    found = [c.media_id for c in shard.clips]
    assert sorted(found) == names
    assert sum(a == b for a, b in zip(found, names, strict=True)) < 10


def test_the_golden_plan() -> None:
    """Shards made by an earlier version must go on to fit the plan of the same list."""
    (shard,) = make_plan([clip(f"m{n}", 0) for n in range(6)], seed=0, shard_clips=100).shards
    assert [c.media_id for c in shard.clips] == ["m2", "m0", "m3", "m4", "m1", "m5"]


def test_nothing_gives_no_shard() -> None:
    plan = make_plan([], seed=0, shard_clips=10)
    assert (plan.shards, plan.num_clips, plan.splits()) == ((), 0, {})


def test_the_plan_is_written_as_a_table(tmp_path: Path) -> None:
    plan = make_plan([clip(f"m{n}", 10 * n) for n in range(5)], seed=0, shard_clips=2)
    write_plan(plan, tmp_path / "plan.parquet")
    rows = pq.read_table(tmp_path / "plan.parquet").to_pylist()
    assert [(row["shard"], row["slot"], row["key"]) for row in rows] == [
        (shard.name, slot, c.key) for shard in plan.shards for slot, c in enumerate(shard.clips)
    ]
    assert rows[0].keys() >= {"corpus", "media_id", "start_ms", "end_ms", "split", "labels", "caption"}
    write_plan(plan, tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "plan.parquet").read_bytes()


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_medium_in_two_splits_is_in_two_shards(split: str) -> None:
    plan = make_plan([clip("a", 0, "train"), clip("a", 1, "test")], seed=0, shard_clips=10)
    assert {shard.split: len(shard.clips) for shard in plan.shards}[split] == 1
