"""Checks the order of an epoch: a permutation that never changes for a seed and an epoch."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.shards import epoch_order

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
