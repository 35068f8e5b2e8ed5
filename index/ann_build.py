"""Building of an inverted-file index: training on a seeded sample, on a GPU where FAISS has one, then rows into lists.

Shapes: N rows, D dimensions, L lists.
"""

import re
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .ann import AnnIndex
from .assign import Assign, assign_rows
from .errors import GateError
from .exact import ExactScan, widened
from .library import load_faiss
from .placing import can_place, place
from .plan import ADD_ROWS, train_rows

SHARED_KIND = re.compile(r"IVF\d+k?(_HNSW\d*)?")
"""Lists that several indexes can have: their centroids are kept as they are, plain or linked."""
ID_BYTES = 8
"""What a row's number takes in an inverted list."""


@dataclass(frozen=True, slots=True)
class Lists:
    """The inverted lists of a segment, for every index that has such."""

    kind: str
    """What the factory says of them, such as `IVF1024_HNSW32`."""
    centroids_LD: np.ndarray | None = None
    """float32; None: not found yet, or of a kind that holds something else."""
    of_row_N: np.ndarray | None = None
    """The number of each row's list, int32; None: not found yet."""


@dataclass(frozen=True, slots=True)
class Built:
    """An index that was built, and what it cost."""

    ann: AnnIndex
    bytes_per_vector: float
    """Of codes, row numbers and centroids."""
    cpu_s: float
    """Of this process."""
    lists: Lists


def build_ann(
    scan: ExactScan, factory: str, seed: int, lists: Lists | None = None, assign: Assign = assign_rows
) -> Built:
    """Train an index and put every row of a segment into it.

    Args:
        scan: the segment.
        factory: FAISS factory string of an inverted-file index.
        seed: of the training sample and of its clustering.
        lists: of an index built before of the same rows, to use again; None: find them.
        assign: finds each row's list.

    Raises:
        GateError: FAISS knows no such index, or not for so many dimensions.
    """
    began = time.process_time()
    vectors_ND, kind = scan.vectors_ND, factory.split(",")[0]
    index, ivf = _empty(factory, vectors_ND.shape[1], seed)
    if len(vectors_ND) < ivf.nlist:
        raise GateError(f"factory {factory!r} has {ivf.nlist} lists for {len(vectors_ND)} rows; ask for fewer lists")
    lists = _train(index, ivf, _sample(vectors_ND, seed), lists if lists and lists.kind == kind else Lists(kind))
    if can_place(index):
        rows_N = assign(ivf.quantizer, vectors_ND) if lists.of_row_N is None else lists.of_row_N
        lists = replace(lists, of_row_N=rows_N)
        place(index, vectors_ND, rows_N)
    else:
        for _, block_BD in widened(vectors_ND, None, ADD_ROWS):
            index.add(block_BD)
    size = ivf.code_size + ID_BYTES + 4 * ivf.nlist * ivf.d / len(vectors_ND)
    return Built(AnnIndex(index, scan), size, time.process_time() - began, lists)


def _empty(factory: str, dim: int, seed: int) -> tuple[Any, Any]:
    """Return an index and the inverted file in it."""
    faiss = load_faiss()
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        ivf = faiss.extract_index_ivf(index)
    except RuntimeError as e:
        raise GateError(f"factory {factory!r} makes no index of {dim} dimensions: {_reason(e)}") from e
    ivf.cp.seed = seed
    return index, ivf


def _train(index: Any, ivf: Any, sample_ND: np.ndarray, lists: Lists) -> Lists:
    """Train an index, around given centroids if there are such; return what its lists are."""
    if lists.centroids_LD is None and SHARED_KIND.fullmatch(lists.kind):
        lists = replace(lists, centroids_LD=_centroids(lists.kind, sample_ND, ivf.cp.seed))
    if lists.centroids_LD is not None:
        ivf.quantizer.train(lists.centroids_LD)
        _link(ivf.quantizer, lists.centroids_LD)
    index.train(sample_ND)
    return lists


def _centroids(kind: str, sample_ND: np.ndarray, seed: int) -> np.ndarray:
    """Return the centroids of the sample's clusters, float32 (L, D)."""
    faiss = load_faiss()
    index, ivf = _empty(f"{kind},Flat", sample_ND.shape[1], seed)
    if faiss.get_num_gpus():
        # clusters on the GPUs; what is written is the index of the CPU
        ivf.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(ivf.d))
    index.train(sample_ND)
    ivf.clustering_index = None
    return ivf.quantizer.reconstruct_n(0, ivf.nlist)


def _link(quantizer: Any, centroids_LD: np.ndarray) -> None:
    """Give a quantizer its centroids, by one thread: several would link a graph in whatever order they run.

    What is trained after that depends on the graph, and so does the list of a row.
    """
    faiss = load_faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        quantizer.add(centroids_LD)
    finally:
        faiss.omp_set_num_threads(threads)


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
