"""One engine of `bench speed index`, in a process of its own, under one small interface.

This file runs in other Python environments than ours too, as `peers.py` does, whose loop it obeys: it imports the
standard library and NumPy, and inside the methods what the engine itself needs. JOB names the `engine`, its `folder`,
the files of the `base` (N, D) float32 unit norm and of the `queries` (Q, D), the `threads` of a build and the `core` of
a search. Orders: `prepare` builds and saves, `load` opens what was saved, `rows` writes what a search of all queries
found, `batch` and `single` time searches, `filter N` is `rows` under mask N, `replace` saves other vectors over the
same store. The number of an order is the effort: `efSearch`, `nprobe`.

Shapes: N rows, D dimensions, Q queries, K answers.
"""

import json
import resource
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

if __package__:
    from .peers import Contender, pin, serve
else:  # run as a file, by another Python
    from peers import Contender, pin, serve

K = 10
SINGLES = 200
"""Queries of one turn of `single`."""
GRAPH_M = 16
"""Neighbours of a node of every graph here: what hnswlib and usearch take if nobody says."""
EF = (10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512, 1000)
NPROBE = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512)


class Engine(Contender, ABC):
    """What one process measures; `run` obeys, the other methods are the engine's."""

    efforts: tuple[int, ...] = (1,)
    """Of a search, in rising order."""
    package = ""
    """Whose version is told."""

    def __init__(self, job: dict[str, Any]) -> None:
        """Take the job."""
        super().__init__(job)
        self.folder = Path(job["folder"])
        self.threads = int(job["threads"])

    @abstractmethod
    def _build(self, base_ND: np.ndarray) -> None:
        """Build over the rows, and save below `folder`, replacing what is there."""

    @abstractmethod
    def _open(self) -> None:
        """Open what was saved."""

    @abstractmethod
    def _search(self, queries_QD: np.ndarray, effort: int) -> np.ndarray:
        """Return rows int64 (Q, K), best first."""

    def _filtered(self, queries_QD: np.ndarray, effort: int, allowed_N: np.ndarray) -> np.ndarray | None:
        """Return rows of those that are allowed; None: the engine knows no filters."""
        return None

    def prepare(self) -> dict[str, Any]:
        """Build and save; return what it cost."""
        base = np.load(self.job["base"], mmap_mode="r", allow_pickle=False)
        wall, cpu = time.perf_counter(), time.process_time()
        self._build(base)
        return {
            "build_s": time.perf_counter() - wall, "build_cpu_s": time.process_time() - cpu,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        }  # fmt: skip

    def run(self, kind: str, number: int) -> dict[str, Any]:
        """Obey one order."""
        if kind == "replace":
            self._build(-np.load(self.job["base"], allow_pickle=False))
            return {}
        if kind == "load":
            return self._load()
        if kind == "rows":
            return self._keep(self._search(self.queries, number))
        if kind.startswith("filter "):
            allowed = np.load(self.job["masks"], allow_pickle=False)[int(kind.split()[1])]
            found = self._filtered(self.queries[: self.job["filtered"]], number, allowed)
            return {"rows": None} if found is None else self._keep(found)
        return self._time(self.queries if kind == "batch" else self.queries[:SINGLES], kind == "single", number)

    def _load(self) -> dict[str, Any]:
        self.queries = np.load(self.job["queries"], allow_pickle=False)
        began = time.perf_counter()
        self._open()
        opened = time.perf_counter()
        self._search(self.queries[:1], self.efforts[len(self.efforts) // 2])
        first = time.perf_counter()
        pin(self.job["core"])
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
        return {
            "load_s": opened - began, "first_query_ms": 1000 * (first - opened), "rss_mb": rss,
            "most": max(self.efforts), "version": _version(self.package),
        }  # fmt: skip

    def _time(self, queries_QD: np.ndarray, singly: bool, effort: int) -> dict[str, Any]:
        wall, cpu = time.perf_counter(), time.process_time()
        if singly:
            for number in range(len(queries_QD)):
                self._search(queries_QD[number : number + 1], effort)
        else:
            self._search(queries_QD, effort)
        return {
            "queries": len(queries_QD), "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu,
        }  # fmt: skip

    def _keep(self, rows_QK: np.ndarray) -> dict[str, Any]:
        path = self.folder.with_suffix(".rows.npy")
        np.save(path, rows_QK.astype(np.int64), allow_pickle=False)
        return {"rows": str(path)}


class Usearch(Engine):
    """unum-cloud/usearch: a graph over float16."""

    package = "usearch"
    efforts = EF

    def _build(self, base_ND: np.ndarray) -> None:
        from usearch.index import Index

        index = Index(
            ndim=base_ND.shape[1], metric="ip", dtype="f16", connectivity=GRAPH_M, expansion_add=self.job["graph_build"]
        )
        index.add(np.arange(len(base_ND), dtype=np.uint64), np.ascontiguousarray(base_ND), threads=self.threads)
        self.folder.mkdir(exist_ok=True)
        index.save(str(self.folder / "index.usearch"))

    def _open(self) -> None:
        from usearch.index import Index

        index = Index.restore(str(self.folder / "index.usearch"), view=False)
        if index is None:
            raise ValueError("the file is no index")
        self.index = index

    def _search(self, queries_QD: np.ndarray, effort: int) -> np.ndarray:
        self.index.expansion_search = effort
        keys = np.asarray(self.index.search(queries_QD, K, threads=1).keys)
        return keys.reshape(len(queries_QD), -1).astype(np.int64)


class Hnswlib(Engine):
    """nmslib/hnswlib, as Chroma publishes it with prebuilt wheels: a graph over float32."""

    package = "chroma-hnswlib"
    efforts = EF

    def _build(self, base_ND: np.ndarray) -> None:
        import hnswlib

        index = hnswlib.Index("ip", base_ND.shape[1])
        index.init_index(len(base_ND), M=GRAPH_M, ef_construction=self.job["graph_build"], random_seed=0)
        index.add_items(np.ascontiguousarray(base_ND), np.arange(len(base_ND)), num_threads=self.threads)
        self.folder.mkdir(exist_ok=True)
        index.save_index(str(self.folder / "index.bin"))

    def _open(self) -> None:
        import hnswlib

        self.index = hnswlib.Index("ip", np.load(self.job["base"], mmap_mode="r").shape[1])
        self.index.load_index(str(self.folder / "index.bin"))
        self.index.set_num_threads(1)

    def _search(self, queries_QD: np.ndarray, effort: int) -> np.ndarray:
        self.index.set_ef(effort)
        return self.index.knn_query(queries_QD, K)[0].astype(np.int64)

    def _filtered(self, queries_QD: np.ndarray, effort: int, allowed_N: np.ndarray) -> np.ndarray | None:
        self.index.set_ef(effort)
        found = []
        for query in queries_QD:  # it raises where the graph leads to fewer than K that are allowed
            try:
                found.append(self.index.knn_query(query[None], K, filter=lambda row: bool(allowed_N[row]))[0][0])
            except RuntimeError:
                found.append(np.full(K, -1))
        return np.stack(found).astype(np.int64)


class Faiss(Engine):
    """facebookresearch/faiss as its guide begins: inverted lists over the vectors as they are."""

    package = "faiss-cpu"
    efforts = NPROBE

    def _build(self, base_ND: np.ndarray) -> None:
        import faiss

        faiss.omp_set_num_threads(self.threads)
        lists = int(4 * len(base_ND) ** 0.5)
        index = faiss.index_factory(base_ND.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(np.ascontiguousarray(base_ND))
        index.add(np.ascontiguousarray(base_ND))
        self.folder.mkdir(exist_ok=True)
        faiss.write_index(index, str(self.folder / "index.faiss"))

    def _open(self) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self.faiss, self.index = faiss, faiss.read_index(str(self.folder / "index.faiss"))

    def _search(self, queries_QD: np.ndarray, effort: int) -> np.ndarray:
        return self.index.search(queries_QD, K, params=self.faiss.SearchParametersIVF(nprobe=effort))[1]

    def _filtered(self, queries_QD: np.ndarray, effort: int, allowed_N: np.ndarray) -> np.ndarray | None:
        bits = np.packbits(allowed_N, bitorder="little")
        selector = self.faiss.IDSelectorBitmap(len(allowed_N), self.faiss.swig_ptr(bits))
        params = self.faiss.SearchParametersIVF(nprobe=effort, sel=selector)
        return self.index.search(queries_QD, K, params=params)[1]


ENGINES = {"usearch": Usearch, "hnswlib": Hnswlib, "faiss": Faiss}


def _version(package: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(package)
    return None


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    serve(ENGINES[task["engine"]](task))
