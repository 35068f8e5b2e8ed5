"""The order in which media come into shards and random subsets: that of a seeded hash of their ids."""

from hashlib import blake2b

import numpy as np
import pyarrow as pa

from ..shards.arrays import numpy_of
from .clips import joined

CHUNK = 1 << 16


def hash_ranks(table: pa.Table, seed: int) -> np.ndarray:
    """Rank each row's medium by the 16-byte BLAKE2b of `{seed}/{corpus}/{media id}`.

    Returns:
        int64 (rows,): equal for rows of one medium, otherwise in the order of the hashes.
    """
    names = joined(table["corpus"], table["media_id"])
    prefix = f"{seed}/".encode()
    digests = b"".join(
        blake2b(prefix + name.encode(), digest_size=16).digest()
        for start in range(0, len(names.dictionary), CHUNK)
        for name in names.dictionary.slice(start, CHUNK).to_pylist()
    )
    halves = np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks[numpy_of(names.indices)]
