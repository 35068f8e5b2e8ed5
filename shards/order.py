"""The order in which an epoch visits the clips: a pure function of seed, epoch and the catalog's shape.

Nothing is stored to resume: whoever knows seed, epoch and how many clips were used knows the rest. NumPy does not
promise that its generators stay the same from version to version, so everything random here comes from a
counter-based hash: value number i depends on (seed, epoch, i) alone.
"""

import hashlib
import re

import numpy as np

ORDER_VERSION = 1
"""Goes up when an order changes for the same arguments; a saved place in another version's order is refused."""

_WINDOW = re.compile(r"window:([1-9][0-9]{0,8})")


def epoch_order(num_clips: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of `range(num_clips)` as int64, the same on every machine and NumPy version."""
    return _permutation(num_clips, f"{seed}/{epoch}")


def check_shuffle(shuffle: str) -> None:
    """Raise ValueError unless `shuffle` is `full`, `none` or `window:N`."""
    if shuffle not in ("full", "none") and not _WINDOW.fullmatch(shuffle):
        raise ValueError(f"shuffle {shuffle!r}: want full, none or window:N (N shards at a time), such as window:16")


def clip_order(shard_of_clip: np.ndarray, *, shuffle: str, seed: int, epoch: int) -> np.ndarray:
    """Return the positions of all clips in an epoch's order, each once: int64 (clips,).

    Args:
        shard_of_clip: int (clips,), the shard of each clip in catalog order.
        shuffle: `full`: one permutation of everything. `window:N`: shards are permuted and taken N at a time, and
            the clips of those N are permuted; no more than N shards are in use at once, which suits spinning disks
            and a cache of remote shards. `none`: catalog order.
        seed: any integer.
        epoch: number of the epoch.
    """
    check_shuffle(shuffle)
    if shuffle == "none":
        return np.arange(len(shard_of_clip), dtype=np.int64)
    if shuffle == "full":
        return epoch_order(len(shard_of_clip), seed=seed, epoch=epoch)
    window = int(shuffle.partition(":")[2])
    shards, shard_index = np.unique(shard_of_clip, return_inverse=True)
    place = np.argsort(_permutation(len(shards), f"{seed}/{epoch}/shards"))
    mixed = _permutation(len(shard_of_clip), f"{seed}/{epoch}/window")
    return mixed[np.argsort((place[shard_index] // window)[mixed], kind="stable")]


def weighted_order(weights: np.ndarray, *, seed: int, epoch: int, num_draws: int | None = None) -> np.ndarray:
    """Draw positions with replacement in proportion to `weights`: int64 (num_draws,).

    Such an epoch does not visit every clip once: a clip comes up as often as its weight has it, some not at all.

    Args:
        weights: float64 (clips,), not negative, at least one above zero. A clip of weight zero is never drawn.
        seed: any integer.
        epoch: number of the epoch.
        num_draws: as many as there are clips, unless given.
    """
    # Cumulative sums are added from left to right in IEEE doubles, so they are the same on every machine.
    cumulative = np.cumsum(check_weights(weights))
    draws = len(cumulative) if num_draws is None else num_draws
    places = _uniform(draws, f"{seed}/{epoch}/draws") * cumulative[-1]
    last = int(np.searchsorted(cumulative, cumulative[-1], side="left"))  # the last clip of weight above zero
    return np.minimum(np.searchsorted(cumulative, places, side="right"), last).astype(np.int64)


def check_weights(weights: np.ndarray) -> np.ndarray:
    """Return `weights` as float64 (clips,).

    Raises:
        ValueError: one is negative or not finite, or all are zero.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise ValueError("weights: want one finite number a clip, none negative, at least one above zero")
    return weights


def _permutation(count: int, key: str) -> np.ndarray:
    return np.argsort(_hashes(count, key), kind="stable").astype(np.int64)


def _uniform(count: int, key: str) -> np.ndarray:
    """Return float64 (count,) in [0, 1), with the 53 bits that a double holds."""
    return (_hashes(count, key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _hashes(count: int, key: str) -> np.ndarray:
    state = np.frombuffer(hashlib.blake2b(key.encode(), digest_size=8).digest(), dtype="<u8")[0]
    return _mix(np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + state)


def _mix(x: np.ndarray) -> np.ndarray:
    """Scramble uint64 values one to one (the finaliser of SplitMix64; Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
