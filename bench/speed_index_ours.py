"""Our own index as an engine of `bench speed index`: a published snapshot, opened and searched where it is mapped.

Started like `speed_index_engines.py`, by `python -m unibrivl.bench.speed_index_ours JOB`, and only in our own
environment. The gate gets queries of its own (`tuning` of JOB), none of those that are measured. Beside the orders of
every engine it obeys `exact`: what the exact scan does of what this core can. An effort is `nprobe`, and how many
thousands are candidates for each answer.

Shapes: N rows, D dimensions, Q queries, K answers.
"""

import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from ..index.ann import Setting
from ..index.exact import ExactScan
from ..index.gate import equip
from ..index.library import load_faiss
from ..index.plan import SearchConfig
from ..index.search import Searcher, search_parts
from ..index.segment import GIVEN_SCHEMA, draft_segment, seal_segment
from ..index.snapshot import open_snapshot, publish, writing
from .peers import serve
from .speed_index_engines import Engine, K

BLOCK_ROWS = 16_384
CANDIDATES = 1000
"""An effort is nprobe + CANDIDATES * k_factor."""
NPROBE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
K_FACTORS = (2, 4, 8, 16)
DIRECTION = "audio"
BATCH = 256
"""Queries of an exact batch."""
MATRIX = 2048
"""Side of the matrices whose product says what the core can."""
OTHER_BYTES = 128 << 20
"""Read before each turn, so that neither finds a part of the rows in the cache: of 100 MB a third would be there."""
SINGLE_PAIRS, BATCH_PAIRS = 301, 9
"""Turns of a scan and of reading, of a batch and of a product: medians of seven scans wandered from 0.72 to 0.90,
of 61 from 0.77 to 0.88."""


class Unibrivl(Engine):
    """This project, through what `unibrivl index` and `unibrivl query` call."""

    package = "unibrivl"
    efforts = tuple(nprobe + CANDIDATES * factor for factor in K_FACTORS for nprobe in NPROBE)

    def _build(self, base_ND: np.ndarray) -> None:
        """Publish the rows as pictures; sounds will ask for them."""
        load_faiss().omp_set_num_threads(self.threads)
        tuning = {name: np.load(path, allow_pickle=False) for name, path in self.job["tuning"].items()}
        blocks = (base_ND[start : start + BLOCK_ROWS] for start in range(0, len(base_ND), BLOCK_ROWS))
        with writing(self.folder):
            draft = draft_segment(self.folder / "segments", "image", blocks, _rows(len(base_ND)))
            config = SearchConfig(factory=self.job["factory"], seed=self.job["seed"])
            evaluation = equip([draft], tuning, config)
            search = evaluation.pop("search")
            entry = seal_segment(draft, self.folder / "segments")
            manifest = {
                "dim": base_ND.shape[1], "metric": "cosine", "search": search, "asked": {}, "encoder": {}, "run": "",
                "sources": [], "segments": [entry], "parent": None,
            }  # fmt: skip
            publish(self.folder, manifest, evaluation)

    def _open(self) -> None:
        """Open the current snapshot, every byte of which is checked."""
        load_faiss().omp_set_num_threads(1)
        self.snapshot = open_snapshot(self.folder)
        self.searcher = Searcher(self.snapshot)
        self.parts = self.searcher.parts("image")

    def _search(self, queries_QD: np.ndarray, effort: int) -> np.ndarray:
        """Search as the searcher does, with parameters of the sweep."""
        setting = Setting(nprobe=effort % CANDIDATES, k_factor=effort // CANDIDATES)
        return search_parts(self.parts, queries_QD, K, setting).rows_QK

    def _filtered(self, queries_QD: np.ndarray, effort: int, allowed_N: np.ndarray) -> np.ndarray | None:
        """Search as `query --where` does: the parameters are the gate's own."""
        allowed = {self.parts[0].id: allowed_N}
        return self.searcher.search("image", queries_QD, K, allowed=allowed, direction=DIRECTION).rows_QK

    def run(self, kind: str, number: int) -> dict[str, Any]:
        """Obey one order."""
        if kind == "exact":
            return self._exact()
        done = super().run(kind, number)
        if kind == "load":
            done |= {"search": self.snapshot.manifest["search"]["image"], "evaluation": self.snapshot.evaluation}
        return done

    def _exact(self) -> dict[str, Any]:
        """Compare the exact scan with reading the same bytes, and with a product of matrices, all by CPU time."""
        vectors = self.parts[0].scan.vectors_ND
        scan, queries = ExactScan(vectors), self.queries[:BATCH]
        square = np.random.default_rng(0).random((MATRIX, MATRIX), dtype=np.float32)
        words = np.ndarray(vectors.nbytes // 8, np.int64, buffer=vectors)
        work: dict[str, tuple[Callable[[], Any], float]] = {
            "read_bandwidth_gb_s": (lambda: np.add.reduce(words), vectors.nbytes),
            "exact_single_gb_s": (lambda: scan.search(queries[:1], K), vectors.nbytes),
            "sgemm_gflop_s": (lambda: np.matmul(square, square), 2.0 * MATRIX**3),
            "exact_batch_gflop_s": (lambda: scan.search(queries, K), 2.0 * vectors.size * len(queries)),
        }
        single = _paired(work, "read_bandwidth_gb_s", "exact_single_gb_s", SINGLE_PAIRS)
        batch = _paired(work, "sgemm_gflop_s", "exact_batch_gflop_s", BATCH_PAIRS)
        return single | batch


def _paired(work: dict[str, tuple[Callable[[], Any], float]], limit: str, ours: str, pairs: int) -> dict[str, Any]:
    """Do a limit and ours in turn; return the medians of both, and of ours over its neighbour, 5 to 95 %."""
    spent: dict[str, list[float]] = {limit: [], ours: []}
    other = np.ones(OTHER_BYTES // 8, np.int64)  # zeros would be one page of memory under every address
    for name in (limit, ours) * pairs:
        do, amount = work[name]
        np.add.reduce(other)
        began = time.process_time()
        do()
        spent[name].append(amount / (time.process_time() - began) / 1e9)
    shares = np.divide(spent[ours], spent[limit])
    share = ours.rsplit("_g", 1)[0] + "_share"
    low, middle, high = (float(value) for value in np.quantile(shares, (0.05, 0.5, 0.95)))
    return {name: median(values) for name, values in spent.items()} | {
        share: middle, f"{share}_low": low, f"{share}_high": high,
    }  # fmt: skip


def _rows(count: int) -> pa.Table:
    """Return what is known of made-up rows: a key each."""
    columns = {field.name: pa.nulls(count, field.type) for field in GIVEN_SCHEMA}
    columns["key"] = pa.array([f"row{number:09d}" for number in range(count)])
    return pa.table(columns, schema=GIVEN_SCHEMA)


def sweeps() -> list[tuple[int, ...]]:
    """Return efforts in sequences along which recall rises: one for each number of candidates."""
    return [tuple(nprobe + CANDIDATES * factor for nprobe in NPROBE) for factor in K_FACTORS]


if __name__ == "__main__":
    serve(Unibrivl(json.loads(sys.argv[1])))
