"""The order in which an epoch visits the clips: a pure function of seed and epoch.

Nothing is stored to resume: whoever knows seed, epoch and how many clips were used knows the rest.
"""

import hashlib

import numpy as np


def epoch_order(num_clips: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of `range(num_clips)` as int64, the same on every machine and NumPy version.

    Keys from a counter-based hash are sorted, because NumPy does not promise that its generators' `permutation`
    stays the same from version to version.
    """
    key = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=8).digest()
    state = np.frombuffer(key, dtype="<u8")[0]
    keys = _mix(np.arange(num_clips, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + state)
    return np.argsort(keys, kind="stable").astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """Scramble uint64 values one to one (the finaliser of SplitMix64; Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
