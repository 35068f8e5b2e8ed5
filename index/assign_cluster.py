"""Finds the list of each row on a Ray cluster: a task a stretch of rows, which any machine may do any number of times.

The machine of the command trains, and puts rows into lists; the tasks read the vectors where they lie, and write the
numbers of lists beside them. Ray carries names and counts.

Shapes: N rows, D dimensions.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..shards.atomic import temporary_path, write_file
from ..shards.cluster import MAX_LOSSES, ClusterConfig, check_same, connected, end_tasks, see, this_node
from ..shards.commit import describe_file
from .assign import Assign, assign_block, assign_rows
from .errors import IndexStoreError
from .library import load_faiss
from .plan import ASSIGN_ROWS

STRETCH_ROWS = 16 * ASSIGN_ROWS
"""Rows of a task, whole blocks, so that no row has other ones beside it than on one machine."""
LISTEN_S = 0.5
"""Between two looks at how many machines there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Rows whose lists a task finds."""

    vectors: Path
    """A segment's `vectors.npy`; as all paths here, absolute."""
    quantizer: Path
    """The centroids, as FAISS writes them."""
    quantizer_sha256: str
    out: Path
    """int32 (rows of the stretch,), NumPy."""
    first: int
    count: int


def assign_on(cluster: ClusterConfig | None) -> Assign:
    """Return what finds lists on a cluster, or without one in this process."""
    return assign_rows if cluster is None else partial(assign_on_cluster, cluster)


def assign_on_cluster(cluster: ClusterConfig, quantizer: Any, vectors_ND: np.ndarray) -> np.ndarray:
    """Return the number of the list that each row belongs to, int32 (N,).

    Args:
        cluster: whose machines see the folder of the vectors.
        quantizer: of a trained index.
        vectors_ND: float16, mapped from a NumPy file.

    Raises:
        IndexStoreError: there is no such cluster, it keeps losing tasks, or one of its machines has other files.
    """
    if not isinstance(vectors_ND, np.memmap) or vectors_ND.filename is None:
        raise ValueError("vectors lie in memory, want those of a file that every machine of the cluster can map")
    path = Path(vectors_ND.filename).absolute()
    work = temporary_path(path.parent)
    work.mkdir()
    try:
        faiss = load_faiss()
        write_file(work / "quantizer", lambda f: faiss.write_index(quantizer, faiss.PyCallbackIOWriter(f.write)))
        with connected(cluster, IndexStoreError) as ray:
            return _gather(ray, _stretches(path, work, len(vectors_ND)), len(vectors_ND), quantizer.ntotal)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def assign_stretch(stretch: Stretch, versions: dict[str, str]) -> dict[str, Any]:
    """Write the lists of a stretch's rows; return what `describe_file` says of the file. This is the task.

    Raises:
        IndexStoreError: here are other versions, or other files.
    """
    check_same("the versions", software(), versions, IndexStoreError)
    load_faiss().omp_set_num_threads(1)
    try:
        quantizer = _quantizer(stretch.quantizer, stretch.quantizer_sha256)
        vectors_ND = np.load(stretch.vectors, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as e:
        raise IndexStoreError(
            f"{this_node()} does not see {e.filename}; every machine of the cluster must see the same files under the "
            "same paths"
        ) from e
    rows_ND = vectors_ND[stretch.first : stretch.first + stretch.count]
    blocks = (rows_ND[first : first + ASSIGN_ROWS] for first in range(0, len(rows_ND), ASSIGN_ROWS))
    lists_N = np.concatenate([assign_block(quantizer, block_BD) for block_BD in blocks]).astype(np.int32)
    write_file(stretch.out, lambda f: np.save(f, lists_N, allow_pickle=False))
    return describe_file(stretch.out)


def software() -> dict[str, str]:
    """Return the versions that decide which list a row is in."""
    return {"unibrivl": __version__, "faiss": str(load_faiss().__version__)}


@lru_cache(maxsize=1)
def _quantizer(path: Path, sha256: str) -> Any:
    """Return the quantizer of a file; a worker keeps that of its last task."""
    if describe_file(path)["sha256"] != sha256:
        raise IndexStoreError(f"{this_node()} sees another {path} than the command's own machine; is that one folder?")
    return load_faiss().read_index(str(path))


def _stretches(vectors: Path, work: Path, rows: int) -> Iterator[Stretch]:
    quantizer = work / "quantizer"
    sha256 = describe_file(quantizer)["sha256"]
    for first in range(0, rows, STRETCH_ROWS):
        yield Stretch(
            vectors=vectors, quantizer=quantizer, quantizer_sha256=sha256, out=work / f"{first}.npy", first=first,
            count=min(STRETCH_ROWS, rows - first),
        )  # fmt: skip


def _gather(ray: Any, stretches: Iterator[Stretch], rows: int, lists: int) -> np.ndarray:
    """Give the cluster tasks, two a core at a time, and read what they wrote."""
    assign = ray.remote(num_cpus=1, max_retries=MAX_LOSSES)(assign_stretch)
    versions, lists_N = software(), np.full(rows, -1, np.int32)
    running: dict[Any, Stretch] = {}
    try:
        while True:
            room = 2 * max(1, int(ray.cluster_resources().get("CPU", 0)))
            for stretch in islice(stretches, max(0, room - len(running))):
                running[assign.remote(stretch, versions)] = stretch
            if not running:
                break
            for task in ray.wait(list(running), timeout=LISTEN_S)[0]:
                about = ray.get(task)
                stretch = running.pop(task)
                lists_N[stretch.first : stretch.first + stretch.count] = _read(stretch, about, lists)
    finally:
        end_tasks(ray, running)
    assert lists_N.min(initial=0) >= 0, "a stretch was passed over"
    return lists_N


def _read(stretch: Stretch, about: dict[str, Any], lists: int) -> np.ndarray:
    """Return what a task wrote, and delete the file.

    Raises:
        IndexStoreError: it is not what the task said that it wrote.
    """
    see(stretch.out, IndexStoreError)
    if describe_file(stretch.out) != about:
        raise IndexStoreError(f"{stretch.out} is not what a machine of the cluster wrote; is that one folder?")
    lists_N = np.load(stretch.out, allow_pickle=False)
    if lists_N.shape != (stretch.count,) or not 0 <= lists_N.min() <= lists_N.max() < lists:
        raise IndexStoreError(f"{stretch.out}: not the lists of {stretch.count} rows; run the same command again")
    stretch.out.unlink()
    return lists_N
