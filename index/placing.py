"""Puts rows into the inverted lists that they were assigned to, with the bytes of FAISS's `add`, which assigns anew.

FAISS merges parts of an index, too, but in packed lists leaves whatever memory held behind the last row.

Shapes: N rows, D dimensions, C bytes of a code, B rows of a block.
"""

from typing import Any

import numpy as np

from .exact import widened
from .library import load_faiss
from .plan import ADD_ROWS

PLAIN, PACKED = ("IndexIVFFlat", "IndexIVFScalarQuantizer", "IndexIVFPQ"), "IndexIVFPQFastScan"
"""Kinds of index whose rows can be placed; others keep more than a code of each row."""


def can_place(index: Any) -> bool:
    """Tell whether `place` knows this kind of index."""
    return type(index).__name__ in (*PLAIN, PACKED)


def place(index: Any, vectors_ND: np.ndarray, lists_N: np.ndarray) -> None:
    """Fill a trained index that holds nothing.

    Args:
        index: of a kind that `can_place`.
        vectors_ND: float16.
        lists_N: the number of each row's list, int32.
    """
    if type(index).__name__ == PACKED:
        _pack(index, vectors_ND, lists_N)
        return
    pointer = load_faiss().swig_ptr
    for first, block_BD in widened(vectors_ND, None, ADD_ROWS):
        lists_B = lists_N[first : first + len(block_BD)].astype(np.int64)
        index.add_core(len(block_BD), pointer(block_BD), None, pointer(lists_B))


def _pack(index: Any, vectors_ND: np.ndarray, lists_N: np.ndarray) -> None:
    """Write whole lists, one after the other: their codes lie interleaved, 32 rows together."""
    rows_N = np.argsort(lists_N, kind="stable")
    codes_NC = _codes(index, vectors_ND, lists_N, rows_N)
    first = 0
    for number, size in enumerate(np.bincount(lists_N, minlength=index.nlist).tolist()):
        if size:
            _write_list(index, number, rows_N[first : first + size], codes_NC[first : first + size])
        first += size
    index.ntotal = len(vectors_ND)


def _codes(index: Any, vectors_ND: np.ndarray, lists_N: np.ndarray, rows_N: np.ndarray) -> np.ndarray:
    """Return the codes of all rows, uint8 (N, C), in the order of `rows_N`."""
    pointer = load_faiss().swig_ptr
    place_N = np.empty_like(rows_N)
    place_N[rows_N] = np.arange(len(rows_N))
    codes_NC = np.empty((len(rows_N), index.code_size), np.uint8)
    for first, block_BD in widened(vectors_ND, None, ADD_ROWS):
        lists_B = lists_N[first : first + len(block_BD)].astype(np.int64)
        codes_BC = np.empty((len(block_BD), index.code_size), np.uint8)
        index.encode_vectors(len(block_BD), pointer(block_BD), pointer(lists_B), pointer(codes_BC))
        codes_NC[place_N[first : first + len(block_BD)]] = codes_BC
    return codes_NC


def _write_list(index: Any, number: int, rows_L: np.ndarray, codes_LC: np.ndarray) -> None:
    faiss = load_faiss()
    lists = faiss.downcast_InvertedLists(index.invlists)
    lists.resize(number, len(rows_L))
    faiss.rev_swig_ptr(lists.get_ids(number), len(rows_L))[:] = rows_L
    width, size = lists.n_per_block, lists.block_size
    blocks = -(-len(rows_L) // width)
    padded_LC = np.zeros((blocks * width, codes_LC.shape[1]), np.uint8)
    padded_LC[: len(codes_LC)] = codes_LC
    packed = faiss.rev_swig_ptr(lists.get_codes(number), blocks * size)
    for block in range(blocks):
        lists.packer.pack_all(faiss.swig_ptr(padded_LC[block * width :]), faiss.swig_ptr(packed[block * size :]))
