"""Holds the reader to its promises with any seed, batch size, number of ranks and stretch of an epoch."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unibrivl.shards import FORMAT_VERSION, ClipShards
from unibrivl.shards.atomic import write_json
from unibrivl.shards.loader import ClipLoader
from unibrivl.shards.order import clip_order

SHARD_SIZES = (7, 1, 9, 4, 2)
NUM_CLIPS = sum(SHARD_SIZES)
SHUFFLES = st.sampled_from(["full", "none", "window:1", "window:2", "window:9"])
SEEDS = st.integers(0, 2**64)
BATCHES = st.integers(1, 7)
WORLDS = st.integers(1, 3)
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, write_shard: Callable[..., object]) -> Iterator[ClipShards]:
    """Return 23 clips in five shards; only their descriptions are decoded."""
    root = tmp_path_factory.mktemp("set")
    (root / "shards" / "train").mkdir(parents=True)
    write_json(root / "dataset.json", {"format": FORMAT_VERSION})
    first = 0
    for number, size in enumerate(SHARD_SIZES):
        write_shard(root / "shards" / "train", list(range(first, first + size)), number=number)
        first += size
    with ClipShards(root, fields=("info",)) as clips:
        yield clips


def run(loader: ClipLoader, steps: int | None = None) -> list[list[int]]:
    """Return the positions of the next `steps` batches, or of all that are left of the epoch."""
    found: list[list[int]] = []
    if steps == 0:
        return found
    for batch in loader:
        assert isinstance(batch, dict)
        assert [info["key"] for info in batch["info"]] == batch["key"]
        found.append(batch["position"][batch["valid"]].tolist())
        if len(found) == steps:
            break
    return found


def together(ranks: list[list[list[int]]]) -> list[int]:
    """Return what all ranks read, step by step and rank by rank; every rank must have made equally many steps."""
    return [p for step in zip(*ranks, strict=True) for positions in step for p in positions]


def run_ranks(clips: ClipShards, state: Any, steps: int | None, **settings: Any) -> tuple[list[int], Any, list[int]]:
    """Return what `world_size` ranks read from a state on, rank 0's state then, and each rank's number of steps."""
    ranks, states = [], []
    for rank in range(settings["world_size"]):
        with clips.loader(rank=rank, **settings) as loader:
            if state is not None:
                loader.load_state_dict(state)
            ranks.append(run(loader, steps))
            states.append(json.loads(json.dumps(loader.state_dict())))
    assert all(other == states[0] for other in states)
    return together(ranks), states[0], [len(rank) for rank in ranks]


@FEW
@given(seed=SEEDS, shuffle=SHUFFLES, batch_size=BATCHES, world_size=WORLDS)
def test_every_clip_comes_exactly_once_an_epoch(
    clips: ClipShards, seed: int, shuffle: str, batch_size: int, world_size: int
) -> None:
    same = {"seed": seed, "shuffle": shuffle, "batch_size": batch_size, "world_size": world_size}
    order = clip_order(clips.shard_of_clip, shuffle=shuffle, seed=seed, epoch=0).tolist()
    assert sorted(order) == list(range(NUM_CLIPS))
    whole, _, _ = run_ranks(clips, None, None, drop_last=False, **same)
    assert whole == order
    full_batches, _, _ = run_ranks(clips, None, None, **same)
    assert full_batches == order[: NUM_CLIPS - NUM_CLIPS % (batch_size * world_size)]


@FEW
@given(batch_size=BATCHES, world_size=st.integers(1, 6), drop_last=st.booleans(), consumed=st.integers(0, NUM_CLIPS))
def test_every_rank_makes_as_many_steps(
    clips: ClipShards, batch_size: int, world_size: int, drop_last: bool, consumed: int
) -> None:
    if drop_last and batch_size * world_size > NUM_CLIPS:
        return
    steps, sizes = set(), []
    for rank in range(world_size):
        loader = clips.loader(batch_size=batch_size, rank=rank, world_size=world_size, drop_last=drop_last)
        loader.load_state_dict(loader.state_dict() | {"consumed": consumed})
        tasks = [positions for _, (positions, _) in loader._tasks()]
        assert len(tasks) == loader.steps_left
        steps.add((len(loader), len(tasks)))
        sizes.append([len(positions) for positions in tasks])
    assert len(steps) == 1
    assert all(other == sizes[0] for other in sizes)


@FEW
@given(seed=SEEDS, shuffle=SHUFFLES, batch_size=BATCHES, after=BATCHES, data=st.data())
def test_a_resume_at_any_step_gives_the_rest_of_the_same_order(
    clips: ClipShards, seed: int, shuffle: str, batch_size: int, after: int, data: st.DataObject
) -> None:
    """With another batch size, too; what was made ahead of the state is neither lost nor repeated."""
    step = data.draw(st.integers(0, NUM_CLIPS // batch_size), label="step")
    prefetch = data.draw(st.integers(1, 4), label="prefetch")
    same = {"seed": seed, "shuffle": shuffle, "world_size": 1, "drop_last": False}
    before, state, _ = run_ranks(clips, None, step, batch_size=batch_size, prefetch=prefetch, **same)
    assert state["consumed"] == len(before) == step * batch_size
    rest, _, _ = run_ranks(clips, state, None, batch_size=after, **same)
    assert before + rest == clip_order(clips.shard_of_clip, shuffle=shuffle, seed=seed, epoch=0).tolist()


@FEW
@given(
    seed=SEEDS, shuffle=SHUFFLES, worlds=st.lists(WORLDS, min_size=2, max_size=4), data=st.data(),
    epoch=st.integers(0, 1000),
)  # fmt: skip
def test_the_number_of_ranks_may_change_in_mid_epoch(
    clips: ClipShards, seed: int, shuffle: str, worlds: list[int], data: st.DataObject, epoch: int
) -> None:
    check_worlds(clips, worlds, data.draw(st.lists(st.integers(0, 2), min_size=9, max_size=9)), seed, shuffle, epoch)


def test_one_rank_then_three_then_two(clips: ClipShards) -> None:
    check_worlds(clips, [1, 3, 2], [1, 1, 1], seed=0, shuffle="window:2", epoch=4)


def check_worlds(clips: ClipShards, worlds: list[int], steps: list[int], seed: int, shuffle: str, epoch: int) -> None:
    found: list[int] = []
    same = {"seed": seed, "shuffle": shuffle, "batch_size": 2, "drop_last": False}
    state = clips.loader(**same).state_dict() | {"epoch": epoch}
    for turn, world_size in enumerate(worlds):
        last = turn == len(worlds) - 1
        part, state, _ = run_ranks(clips, state, None if last else steps[turn], world_size=world_size, **same)
        found += part
        if state["epoch"] != epoch:
            break
    assert found == clip_order(clips.shard_of_clip, shuffle=shuffle, seed=seed, epoch=epoch).tolist()


@settings(max_examples=2, deadline=None)
@given(workers=st.permutations([0, 1, 2]), seed=SEEDS)
def test_the_number_of_workers_may_change_in_mid_epoch(clips: ClipShards, workers: list[int], seed: int) -> None:
    found: list[int] = []
    state = None
    for turn, count in enumerate(workers):
        steps = None if turn == 2 else 2
        part, state, _ = run_ranks(clips, state, steps, world_size=1, batch_size=3, workers=count, seed=seed)
        found += part
    assert found == clip_order(clips.shard_of_clip, shuffle="full", seed=seed, epoch=0).tolist()[:21]


@FEW
@given(seed=SEEDS, window=st.integers(1, 6), epoch=st.integers(0, 99))
def test_a_window_bounds_the_shards_in_use(clips: ClipShards, seed: int, window: int, epoch: int) -> None:
    """Once a shard of the next window is read, none of this one comes back."""
    order = clip_order(clips.shard_of_clip, shuffle=f"window:{window}", seed=seed, epoch=epoch)
    shards = clips.shard_of_clip[order]
    last = {int(shard): int(np.flatnonzero(shards == shard)[-1]) for shard in set(shards.tolist())}
    first = {int(shard): int(np.flatnonzero(shards == shard)[0]) for shard in last}
    for place in range(NUM_CLIPS):
        in_use = [shard for shard in last if first[shard] <= place <= last[shard]]
        assert len(in_use) <= window
