"""Building of an inverted-file index: training on a seeded sample, adding in blocks, on a GPU where FAISS has one.

Shapes: N rows, D dimensions.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from .ann import AnnIndex
from .errors import GateError
from .exact import ExactScan, widened
from .library import load_faiss
from .plan import ADD_ROWS, train_rows

ID_BYTES = 8
"""What a row's number takes in an inverted list."""


@dataclass(frozen=True, slots=True)
class Built:
    """An index that was built, and what it cost."""

    ann: AnnIndex
    bytes_per_vector: float
    """Of codes, row numbers and centroids."""
    cpu_s: float


def build_ann(scan: ExactScan, factory: str, seed: int, lists: Any = None) -> Built:
    """Train an index and add every row of a segment to it.

    Args:
        scan: the segment.
        factory: FAISS factory string of an inverted-file index.
        seed: of the training sample and of its clustering.
        lists: the centroids of an index built before of the same rows, to use again; None: find them.

    Raises:
        GateError: FAISS knows no such index, or not for so many dimensions.
    """
    faiss, began = load_faiss(), time.process_time()
    vectors_ND = scan.vectors_ND
    try:
        index = faiss.index_factory(vectors_ND.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        ivf = faiss.extract_index_ivf(index)
    except RuntimeError as e:
        raise GateError(f"factory {factory!r} makes no index of {vectors_ND.shape[1]} dimensions: {_reason(e)}") from e
    if len(vectors_ND) < ivf.nlist:
        raise GateError(f"factory {factory!r} has {ivf.nlist} lists for {len(vectors_ND)} rows; ask for fewer lists")
    ivf.cp.seed = seed
    if lists is not None and lists.shape == (ivf.nlist, ivf.d):
        ivf.quantizer.train(lists)
        ivf.quantizer.add(lists)
    _train(index, ivf, _sample(vectors_ND, seed))
    for _, block_BD in widened(vectors_ND, None, ADD_ROWS):
        index.add(block_BD)
    size = ivf.code_size + ID_BYTES + 4 * ivf.nlist * ivf.d / len(vectors_ND)
    return Built(AnnIndex(index, scan), size, time.process_time() - began)


def centroids(index: Any) -> np.ndarray:
    """Return the centroids of the lists, float32 (lists, D)."""
    ivf = load_faiss().extract_index_ivf(index)
    return ivf.quantizer.reconstruct_n(0, ivf.nlist)


def _train(index: Any, ivf: Any, sample_ND: np.ndarray) -> None:
    faiss = load_faiss()
    if faiss.get_num_gpus():
        # clusters on the GPUs; what is written is the index of the CPU
        ivf.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(ivf.d))
    index.train(sample_ND)
    ivf.clustering_index = None


def _sample(vectors_ND: np.ndarray, seed: int) -> np.ndarray:
    number = train_rows(len(vectors_ND))
    rows = np.sort(np.random.default_rng(seed).permutation(len(vectors_ND))[:number])
    sample = np.empty((number, vectors_ND.shape[1]), np.float32)
    for first, block_BD in widened(vectors_ND, rows, ADD_ROWS):
        sample[first : first + len(block_BD)] = block_BD
    return sample


def _reason(error: RuntimeError) -> str:
    """Return the last line of FAISS's message, without where in its source it arose."""
    return str(error).strip().splitlines()[-1].rpartition("Error: ")[2][:200]
