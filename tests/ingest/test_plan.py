"""Checks that a plan is a function of list and seed alone, and that it holds every clip once."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.ingest.clips import CLIP_SCHEMA, Clip, Event, table_of
from unibrivl.ingest.errors import PlanError
from unibrivl.ingest.lists import read_list
from unibrivl.ingest.plan import Plan, leaks, make_plan, plan_sha256, read_plan, write_plan


def clip(media_id: str, start_ms: int, split: str = "train") -> Clip:
    return Clip(corpus="as", media_id=media_id, start_ms=start_ms, end_ms=start_ms + 1000, split=split)


def plan_of(clips: list[Clip], *, seed: int, shard_clips: int, retry: int = 0) -> Plan:
    return make_plan(table_of(clips), seed=seed, shard_clips=shard_clips, retry=retry)


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
    assert plan_of(other, seed=seed, shard_clips=size) == plan_of(clips, seed=seed, shard_clips=size)


@given(clips=CLIPS, size=SIZES, seed=st.integers(0, 9))
def test_every_clip_comes_once_in_shards_of_one_split(clips: list[Clip], size: int, seed: int) -> None:
    plan = plan_of(clips, seed=seed, shard_clips=size)
    planned = [c for shard in plan.shards for c in plan.clips(shard)]
    assert Counter(planned) == Counter(clips)
    assert plan.num_clips == len(clips)
    assert plan.splits() == dict(sorted(Counter(c.split for c in clips).items()))
    for shard in plan.shards:
        assert 1 <= shard.num_clips == len(plan.clips(shard)) <= size
        assert {c.split for c in plan.clips(shard)} == {shard.split}
    names = [shard.name for shard in plan.shards]
    assert names == sorted(set(names))
    for split in plan.splits():
        count = sum(shard.split == split for shard in plan.shards)
        assert [n for n in names if f"-{split}-" in n] == [f"as-{split}-{i:06d}" for i in range(count)]


@given(clips=CLIPS, size=SIZES, seed=st.integers(0, 9))
def test_the_clips_of_a_medium_stay_together(clips: list[Clip], size: int, seed: int) -> None:
    plan = plan_of(clips, seed=seed, shard_clips=size)
    count = Counter((c.split, c.media_id) for c in clips)
    for split, media_id in count:
        where = [
            (number, slot, c.start_ms)
            for number, shard in enumerate(plan.shards)
            for slot, c in enumerate(plan.clips(shard))
            if (c.split, c.media_id) == (split, media_id)
        ]
        assert [start for _, _, start in where] == sorted(start for _, _, start in where)
        if len(where) <= size:
            assert len({number for number, _, _ in where}) == 1
            assert where[-1][1] - where[0][1] == len(where) - 1


def test_shards_are_filled() -> None:
    plan = plan_of([clip(f"m{n}", 0) for n in range(25)], seed=0, shard_clips=10)
    assert [shard.num_clips for shard in plan.shards] == [10, 10, 5]
    assert plan == plan_of([clip(f"m{n}", 0) for n in range(25)], seed=0, shard_clips=10)


def test_a_medium_of_more_clips_than_a_shard_is_split() -> None:
    clips = [clip("a", n) for n in range(25)]
    assert [shard.num_clips for shard in plan_of(clips, seed=0, shard_clips=10).shards] == [10, 10, 5]


def test_the_hash_changes_with_whatever_changes_the_shards() -> None:
    clips = [clip(f"m{n}", 0) for n in range(20)]
    plans = [
        plan_of(clips, seed=0, shard_clips=8),
        plan_of(clips, seed=1, shard_clips=8),
        plan_of(clips, seed=0, shard_clips=7),
        plan_of(clips[1:], seed=0, shard_clips=8),
        plan_of([clip("m0", 1), *clips[1:]], seed=0, shard_clips=8),
        plan_of([clip("m0", 0, "test"), *clips[1:]], seed=0, shard_clips=8),
    ]
    assert len({plan.sha256 for plan in plans}) == len(plans)
    assert plans[0].table != plans[1].table


def test_the_order_of_media_is_not_that_of_the_list() -> None:
    names = [f"m{n:03d}" for n in range(100)]
    plan = plan_of([clip(name, 0) for name in names], seed=0, shard_clips=100)
    found = [c.media_id for c in plan.clips(plan.shards[0])]
    assert sorted(found) == names
    assert sum(a == b for a, b in zip(found, names, strict=True)) < 10


def test_the_golden_plan() -> None:
    """Shards made by an earlier version must go on to fit the plan of the same list."""
    plan = plan_of([clip(f"m{n}", 0) for n in range(6)], seed=0, shard_clips=100)
    assert [c.media_id for c in plan.clips(plan.shards[0])] == ["m2", "m0", "m3", "m4", "m1", "m5"]
    assert plan.sha256 == "1675ca9b0e16bb3cbcb8ea2da55d09cfee4e1a2990869afa315b4f189b179c5a"


def test_nothing_gives_no_shard() -> None:
    plan = plan_of([], seed=0, shard_clips=10)
    assert (plan.shards, plan.num_clips, plan.splits()) == ((), 0, {})


def test_the_plan_is_written_as_a_table(tmp_path: Path) -> None:
    plan = plan_of([clip(f"m{n}", 10 * n) for n in range(5)], seed=0, shard_clips=2)
    write_plan(plan, tmp_path / "plan.parquet")
    rows = pq.read_table(tmp_path / "plan.parquet").to_pylist()
    assert [(row["shard"], row["slot"], row["key"]) for row in rows] == [
        (shard.name, slot, c.key) for shard in plan.shards for slot, c in enumerate(plan.clips(shard))
    ]
    assert rows[0].keys() >= {"corpus", "media_id", "start_ms", "end_ms", "split", "labels", "caption"}
    write_plan(plan, tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "plan.parquet").read_bytes()


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_medium_in_two_splits_is_in_two_shards(split: str) -> None:
    plan = plan_of([clip("a", 0, "train"), clip("a", 1, "test")], seed=0, shard_clips=10)
    assert {shard.split: shard.num_clips for shard in plan.shards}[split] == 1


def rich_clips() -> list[Clip]:
    """Clips with something in every field, so that a difference in any of them shows."""
    return [
        Clip(
            corpus="gen", media_id=f"m{n}", source=f"sub/ä{n}.mp4", start_ms=n, end_ms=n + 500, split="train",
            group=f"g{n % 2}", labels=("one", "two", "Ünï")[: n % 4], caption="A bär." * n, language="de",
            events=(Event(0, 100, "one"), Event(50, 500, "two"))[: n % 3], license="CC0-1.0",
        )
        for n in range(7)
    ]  # fmt: skip


def test_the_hash_of_every_field() -> None:
    """The bytes that are hashed are written down here once more, clip by clip and without Arrow."""
    plan = plan_of(rich_clips(), seed=0, shard_clips=3)
    planned = [c for shard in plan.shards for c in plan.clips(shard)]
    assert len(plan.shards) == 3

    def number(*values: int) -> bytes:
        return b"".join(value.to_bytes(8, "little", signed=True) for value in values)

    def texts(values: list[str]) -> bytes:
        return number(*(len(value.encode()) for value in values)) + "".join(values).encode()

    data = b"".join(shard.name.encode() + b"\0" + number(shard.num_clips) for shard in plan.shards)
    for name in CLIP_SCHEMA.names:
        values = [getattr(c, name) for c in planned]
        data += name.encode() + b"\0"
        if name in ("start_ms", "end_ms"):
            data += number(*values)
        elif name == "labels":
            data += number(*map(len, values)) + texts([label for labels in values for label in labels])
        elif name == "events":
            flat = [event for events in values for event in events]
            data += number(*map(len, values)) + number(*(e.start_ms for e in flat)) + number(*(e.end_ms for e in flat))
            data += texts([event.label for event in flat])
        else:
            data += texts(values)
    assert plan.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"source": "x"}, {"end_ms": 9000}, {"group": "x"}, {"labels": ("one", "twoÜ", "nï")}, {"caption": "x"},
        {"language": "x"}, {"license": "x"}, {"events": (Event(0, 100, "one"), Event(50, 500, "twO"))}, {"events": ()},
        {"events": (Event(0, 101, "one"), Event(50, 500, "two"))}, {"corpus": "vgg"}, {"labels": ("oneÜ", "two", "nï")},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_any_other_word_of_a_clip_is_another_hash(change: dict[str, Any]) -> None:
    events = (Event(0, 100, "one"), Event(50, 500, "two"))
    last = Clip(corpus="gen", media_id="z", start_ms=0, end_ms=1, labels=("one", "two", "Ünï"), events=events)
    clips, other = [*rich_clips(), last], [*rich_clips(), replace(last, **change)]
    assert plan_of(clips, seed=0, shard_clips=9).sha256 != plan_of(other, seed=0, shard_clips=9).sha256


def test_how_the_table_is_cut_into_chunks_does_not_matter() -> None:
    table = table_of(rich_clips())
    cut = pa.concat_tables([table.slice(0, 1), table.slice(1, 0), table.slice(1, 3), table.slice(4)])
    assert plan_sha256(cut, ()) == plan_sha256(table, ())
    assert make_plan(cut, seed=0, shard_clips=3) == make_plan(table, seed=0, shard_clips=3)


@settings(max_examples=30, deadline=None)
@given(clips=CLIPS, size=SIZES, seed=st.integers(0, 9))
def test_a_plan_that_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, clips: list[Clip], size: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.parquet"
    plan = plan_of(clips, seed=seed, shard_clips=size)
    write_plan(plan, path)
    assert read_plan(path) == plan


def test_a_plan_with_every_field_is_read(tmp_path: Path) -> None:
    plan = plan_of(rich_clips(), seed=0, shard_clips=3)
    write_plan(plan, tmp_path / "plan.parquet")
    found = read_plan(tmp_path / "plan.parquet")
    assert found == plan
    assert sorted((c for s in found.shards for c in found.clips(s)), key=lambda c: c.media_id) == rich_clips()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.slice(1), "does not fit its own hash"),
        (lambda t: t.slice(0, len(t) - 1), "does not fit its own hash"),
        (lambda t: t.take([1, 0, *range(2, len(t))]), "does not fit its own hash"),
        (lambda t: with_column(t, "corpus", ["as"] * len(t)), "does not fit its own hash"),
        (lambda t: with_column(t, "shard", ["x"] * len(t)), "does not fit its own hash"),
        (lambda t: with_column(t, "slot", list(range(len(t)))), "does not fit its own hash"),
        (lambda t: with_column(t, "key", ["x"] * len(t)), "does not fit its own hash"),
        (lambda t: with_column(t, "media_id", [None] * len(t)), "not a plan that can be read"),
        (lambda t: with_column(t, "start_ms", ["x"] * len(t)), "not a plan that can be read"),
        (lambda t: t.drop_columns(["labels"]), "not a plan that can be read"),
        (lambda t: t.drop_columns(["slot"]), "not a plan that can be read"),
        (lambda t: t.replace_schema_metadata({}), "no plan of version 1"),
    ],
)
def test_a_plan_that_was_changed_is_refused(tmp_path: Path, change: Callable[[pa.Table], pa.Table], match: str) -> None:
    path = tmp_path / "plan.parquet"
    write_plan(plan_of(rich_clips(), seed=0, shard_clips=3), path)
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(PlanError, match=match) as caught:
        read_plan(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


def test_a_plan_that_is_cut_or_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.parquet"
    with pytest.raises(PlanError, match="there is no such plan"):
        read_plan(path)
    write_plan(plan_of(rich_clips(), seed=0, shard_clips=3), path)
    for damaged in (path.read_bytes()[:-20], b"", b"PAR1"):
        path.write_bytes(damaged)
        with pytest.raises(PlanError, match="not a plan that can be read"):
            read_plan(path)


def test_the_shards_of_a_retry_are_patch_shards() -> None:
    plan = plan_of([clip(f"m{n}", 0) for n in range(5)], seed=0, shard_clips=3, retry=2)
    assert [shard.name for shard in plan.shards] == ["as-train-r02-000000", "as-train-r02-000001"]
    assert plan.sha256 != plan_of([clip(f"m{n}", 0) for n in range(5)], seed=0, shard_clips=3).sha256


def test_corpora_and_splits_have_shards_of_their_own() -> None:
    clips = [replace(clip("a", 0, split), corpus=corpus) for corpus in ("vgg", "as") for split in ("b", "ab", "a")]
    clips = [replace(c, start_ms=n) for n, c in enumerate(clips)]
    plan = plan_of(clips, seed=0, shard_clips=3)
    names = [shard.name for shard in plan.shards]
    assert names == [f"{corpus}-{split}-000000" for corpus in ("as", "vgg") for split in ("a", "ab", "b")]
    for shard in plan.shards:
        assert [f"{c.corpus}-{c.split}-000000" for c in plan.clips(shard)] == [shard.name]


def test_a_clip_in_two_splits_is_refused() -> None:
    """Both would have the same key."""
    with pytest.raises(PlanError, match="as_a_000000007 stands in the list twice"):
        plan_of([clip("b", 7), clip("a", 7, "train"), clip("a", 7, "test")], seed=0, shard_clips=3)


@pytest.mark.parametrize("table", [pa.table({"a": [1]}), table_of([]).drop_columns(["labels"])])
def test_another_table_is_refused(table: pa.Table) -> None:
    with pytest.raises(ValueError, match="CLIP_SCHEMA"):
        make_plan(table, seed=0, shard_clips=1)


def test_media_in_several_corpora_or_splits_are_counted() -> None:
    clips = [
        clip("a", 0), clip("a", 5), clip("b", 0), clip("b", 5, "test"), clip("c", 0), clip("d", 0, "test"),
        replace(clip("c", 0), corpus="vgg"), replace(clip("e", 0), corpus="vgg"),
    ]  # fmt: skip
    assert leaks(table_of(clips)) == 2  # b in two splits, c in two corpora
    assert leaks(table_of(clips[:3])) == leaks(table_of([])) == 0


def test_the_real_lists_leak(folder: Callable[[str], Path]) -> None:
    """The published evaluation list, of which this is a part, has 6,958 videos of VGGSound's test list."""
    data = folder("data")
    audioset = read_list(data / "audioset" / "eval_segments.csv").table
    vggsound = read_list(data / "vggsound" / "test.csv").table
    shared = set(audioset["media_id"].to_pylist()) & set(vggsound["media_id"].to_pylist())
    assert leaks(pa.concat_tables([audioset, vggsound])) == len(shared) > 1000
    assert leaks(audioset) == 0
    plan = make_plan(audioset, seed=0, shard_clips=2048)
    assert (plan.num_clips, len(plan.shards), plan.splits()) == (14_032, 7, {"eval": 14_032})
