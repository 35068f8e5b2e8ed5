"""Checks the order of an epoch: a permutation that never changes for a seed and an epoch."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.shards import epoch_order
from unibrivl.shards.order import clip_order, weighted_order

SEEDS = st.integers(0, 2**63)
EPOCHS = st.integers(0, 10**6)


@given(num_clips=st.integers(0, 3000), seed=SEEDS, epoch=EPOCHS)
def test_every_clip_comes_once(num_clips: int, seed: int, epoch: int) -> None:
    order = epoch_order(num_clips, seed=seed, epoch=epoch)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(num_clips))
    assert np.array_equal(order, epoch_order(num_clips, seed=seed, epoch=epoch))


@pytest.mark.parametrize(
    ("seed", "epoch", "order"),
    [
        (0, 0, [9, 2, 5, 11, 3, 7, 1, 8, 4, 6, 0, 10]),
        (0, 1, [2, 1, 11, 5, 8, 6, 3, 7, 10, 9, 0, 4]),
        (7, 3, [3, 11, 2, 8, 9, 0, 4, 5, 10, 7, 6, 1]),
    ],
)
def test_golden_orders(seed: int, epoch: int, order: list[int]) -> None:
    """A run that is resumed with another order trains on some clips twice and on others never."""
    assert epoch_order(12, seed=seed, epoch=epoch).tolist() == order


def test_golden_order_of_many_clips() -> None:
    order = epoch_order(100_000, seed=1, epoch=2).astype("<i8")
    assert (
        hashlib.sha256(order.tobytes()).hexdigest()
        == "9ab5eedbef3f5e1a821478f52549d7ff6a90de3960d12506b5d103c57a469518"
    )


@given(seed=SEEDS, epoch=EPOCHS)
def test_another_epoch_or_seed_is_another_order(seed: int, epoch: int) -> None:
    order = epoch_order(200, seed=seed, epoch=epoch)
    assert not np.array_equal(order, epoch_order(200, seed=seed, epoch=epoch + 1))
    assert not np.array_equal(order, epoch_order(200, seed=seed + 1, epoch=epoch))


def test_seed_and_epoch_do_not_run_together() -> None:
    assert not np.array_equal(epoch_order(200, seed=1, epoch=23), epoch_order(200, seed=12, epoch=3))


def test_positions_are_evenly_spread() -> None:
    """Where one clip falls in 2,000 epochs is uniform: mean 49.5 with a standard error of 0.65."""
    places = [int(np.flatnonzero(epoch_order(100, seed=0, epoch=e) == 17)[0]) for e in range(2000)]
    assert abs(np.mean(places) - 49.5) < 4 * 0.65
    assert len(set(places)) == 100


SHARD_OF_CLIP = np.repeat(np.arange(12), np.arange(1, 13))
WINDOWED = [3, 7, 6, 5, 8, 4, 9, 2, 1, 10, 0, 11]
WEIGHTED = [6, 6, 9, 4, 10, 8, 11, 7, 8, 5, 3, 6]
MANY_WEIGHTED = "612a548010696e5fc45fccd4a3c3df3f37c90990bcd48b9062a18063bcd0c21b"


@given(sizes=st.lists(st.integers(1, 9), max_size=12), window=st.integers(1, 14), seed=SEEDS, epoch=EPOCHS)
def test_a_windowed_order_has_every_clip_once(sizes: list[int], window: int, seed: int, epoch: int) -> None:
    shards = np.repeat(np.arange(len(sizes)) * 3, sizes)
    order = clip_order(shards, shuffle=f"window:{window}", seed=seed, epoch=epoch)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(len(shards)))


def test_golden_windowed_and_weighted_orders() -> None:
    shards = np.repeat([0, 1, 2, 3], 3)
    assert clip_order(shards, shuffle="window:2", seed=0, epoch=0).tolist() == WINDOWED
    assert clip_order(shards, shuffle="none", seed=0, epoch=0).tolist() == list(range(12))
    assert np.array_equal(clip_order(shards, shuffle="full", seed=0, epoch=1), epoch_order(12, seed=0, epoch=1))
    assert weighted_order(np.arange(12), seed=0, epoch=0).tolist() == WEIGHTED
    many = weighted_order(1 / np.arange(1, 100_001), seed=1, epoch=2).astype("<i8")
    assert hashlib.sha256(many.tobytes()).hexdigest() == MANY_WEIGHTED


def test_the_orders_are_the_same_in_a_fresh_interpreter() -> None:
    script = (
        "import numpy as np; from unibrivl.shards.order import *;"
        "s = np.repeat(np.arange(12), np.arange(1, 13));"
        "print([clip_order(s, shuffle=x, seed=9, epoch=4).tolist() for x in ('full', 'window:3', 'none')],"
        "weighted_order(1.0 + s, seed=9, epoch=4).tolist())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    orders = [clip_order(SHARD_OF_CLIP, shuffle=x, seed=9, epoch=4).tolist() for x in ("full", "window:3", "none")]
    weighted = weighted_order(1.0 + SHARD_OF_CLIP, seed=9, epoch=4).tolist()
    assert done.stdout.strip() == f"{orders} {weighted}"


def test_windows_mix_all_shards_over_the_epochs() -> None:
    """Every shard is sometimes in the first window, and the clips of a window are mixed."""
    firsts, runs = set(), 0
    for epoch in range(100):
        shards = SHARD_OF_CLIP[clip_order(SHARD_OF_CLIP, shuffle="window:3", seed=0, epoch=epoch)]
        firsts.add(int(shards[0]))
        runs += int((np.diff(shards) != 0).sum())
    assert firsts == set(range(12))
    assert runs / 100 > 30  # 11 if shards came one after the other


@settings(deadline=None)
@given(
    weights=st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), min_size=1, max_size=30).filter(any),
    seed=SEEDS, epoch=EPOCHS,
)  # fmt: skip
def test_weighted_draws_match_their_weights(weights: list[float], seed: int, epoch: int) -> None:
    """Six standard deviations: one in 500 million draws of one clip's count would fail by chance."""
    draws = 20_000
    order = weighted_order(np.array(weights), seed=seed, epoch=epoch, num_draws=draws)
    share = np.array(weights) / sum(weights)
    counts = np.bincount(order, minlength=len(weights))
    assert len(counts) == len(weights) and counts.sum() == draws
    assert not counts[share == 0].any()
    # a rare clip's count is Poisson rather than normal, hence the constant
    assert (np.abs(counts - draws * share) <= 6 * np.sqrt(draws * share * (1 - share)) + 12).all()


def test_draws_of_an_epoch_are_independent_and_as_many_as_clips() -> None:
    weights = np.ones(10_000)
    order = weighted_order(weights, seed=3, epoch=0)
    assert len(order) == 10_000
    assert abs(len(set(order.tolist())) - 6321) < 6 * 31  # 1 - 1/e of the clips; standard deviation 31
    assert not np.array_equal(order, weighted_order(weights, seed=3, epoch=1))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.06
