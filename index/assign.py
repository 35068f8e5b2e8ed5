"""Which inverted list each row of a segment belongs to: what takes most of the time of filling an index.

Blocks of one size are looked at by one thread each, so that the answer is the same with two cores, with a hundred, and
on several machines (`assign_cluster.py`): with other threads, or other rows beside it, a product of matrices may round
otherwise.

Shapes: N rows, D dimensions, B rows of a block.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .exact import widened
from .library import load_faiss
from .plan import ASSIGN_ROWS, assigning_threads

Assign = Callable[[Any, np.ndarray], np.ndarray]
"""From a quantizer and float16 (N, D) to the number of each row's list, int32 (N,)."""


def assign_rows(quantizer: Any, vectors_ND: np.ndarray) -> np.ndarray:
    """Return the number of the list that each row belongs to, int32 (N,), with as many threads as FAISS has."""
    lists_N = np.empty(len(vectors_ND), np.int32)

    def assign(first: int) -> None:
        lists_N[first : first + ASSIGN_ROWS] = assign_block(quantizer, vectors_ND[first : first + ASSIGN_ROWS])

    one_thread = load_faiss().omp_set_num_threads  # of the thread that calls it
    with ThreadPoolExecutor(assigning_threads(), initializer=one_thread, initargs=(1,)) as pool:
        for _ in pool.map(assign, range(0, len(vectors_ND), ASSIGN_ROWS)):
            pass
    return lists_N


def assign_block(quantizer: Any, vectors_BD: np.ndarray) -> np.ndarray:
    """Return the lists of a block's rows, int64 (B,); the calling thread must be FAISS's only one."""
    _, wide_BD = next(widened(vectors_BD, None, ASSIGN_ROWS))
    return quantizer.assign(wide_BD, 1)[:, 0]
