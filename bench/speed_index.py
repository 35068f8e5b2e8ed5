"""`bench speed index`: our index beside FAISS as it comes, usearch, hnswlib and local vector stores.

All get the same float32 vectors of unit norm and the same questions from another modality, out of the distribution of
the rows. Each engine is built in a process of its own, on all cores, and opened in another, where it searches with one
thread on one core; the engines take turns. What they find is compared with the truth here, by the vectors' own cosines
and tie-aware, so that no engine grades itself. Ours is tuned by its gate with questions of its own, and is measured
through what `unibrivl index` publishes and `unibrivl query` opens. Up to 10^8 numbers our index would scan exactly if
not asked otherwise; here it is asked for the inverted lists that it takes beyond, which the result says.

Shapes: N rows, D dimensions, Q queries, K answers.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..index.plan import factories
from ..shards.checks import check_ranges
from . import speed_index_engines, speed_index_stores
from .environment import environment
from .errors import BenchError
from .speed import (
    ContenderError,
    Conversation,
    Progress,
    figure,
    fill_in,
    last_core,
    no_progress,
    ratio,
    spread,
    versions,
    working_folder,
)
from .speed_index_data import make_vectors
from .speed_index_drills import Drill, drill
from .speed_index_ours import sweeps
from .speed_index_truth import Truth

OURS = "unibrivl"
LIBRARIES = ("usearch", "hnswlib", "faiss")
STORES = ("lancedb", "milvus_lite", "qdrant_local", "chroma")
ENGINES = (OURS, *LIBRARIES, *STORES)
MOST_ROWS = {"qdrant_local": 10_000}
"""It warns above 20,000 that it is not made for so many."""
TARGETS = ("0.90", "0.95", "0.99")
SHARES = (0.5, 0.1, 0.01, 0.001)
"""Of the rows that filters let through."""
ENOUGH = 0.995
"""Recall at which a sweep ends."""
TUNING = {"audio": 256, "image": 64}
"""Questions that the gate gets."""
BUILD_S, ORDER_S = 3600, 900
REMEDY = "install it with: make stores, and name it with --peers-python"
QUICK = {"queries": 300, "rounds": 3, "engines": (OURS, "usearch", "hnswlib"), "graph_build": 32, "filtered": 20}
FULL = {"queries": 1000, "rounds": 5, "graph_build": 128, "filtered": 200}


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexSpeedConfig:
    """What `unibrivl bench speed index` was asked to do; what is None depends on `quick`."""

    quick: bool = False
    """Ours, usearch and hnswlib in about a minute, without the drills."""
    rows: int = 100_000
    dim: int = 512
    queries: int | None = None
    rounds: int | None = None
    """Turns of each engine."""
    engines: tuple[str, ...] | None = None
    """None: ours and the libraries, and with `peers_python` the stores, which take ten times as long."""
    graph_build: int | None = None
    """Candidates that graphs look at for each row while they are built."""
    filtered: int | None = None
    """Questions under each filter."""
    seed: int = 0
    work: Path | None = None
    """Where a folder for the stores is made, and removed again; None: where temporary files go."""
    peers_python: Path | None = None
    """Python whose environment has the vector stores; None: our own."""

    def __post_init__(self) -> None:
        """Fill in what was left open; refuse what cannot be measured."""
        fill_in(self, QUICK if self.quick else FULL | {"engines": ENGINES if self.peers_python else (OURS, *LIBRARIES)})
        check_ranges(self, rows=(1000, 100_000_000), dim=(8, 65_536), queries=(50, 1_000_000), rounds=(1, 1000))
        check_ranges(self, graph_build=(8, 10_000), seed=(0, 2**31 - 1))
        unknown = sorted(set(self.engines or ()) - set(ENGINES))
        if unknown or not self.engines:
            raise ValueError(f"engines is {', '.join(unknown) or 'empty'}, want some of {', '.join(ENGINES)}")
        if self.dim % 4:
            raise ValueError(f"dim is {self.dim}, want a multiple of 4: codes take four numbers each")


@dataclass(slots=True)
class Entrant:
    """An engine with what became of it."""

    name: str
    rows: int
    told: dict[str, Any] = field(default_factory=dict)
    conversation: Conversation | None = None
    efforts: dict[str, int] = field(default_factory=dict)
    """For each target that was reached."""


def measure_index(config: IndexSpeedConfig, progress: Progress = no_progress) -> dict[str, Any]:
    """Measure all engines; return figures and all that is needed to read them, as plain JSON values.

    An engine that is not installed or fails has an `error`, and no figures.

    Raises:
        BenchError: our own index fails.
    """
    with working_folder(config.work) as folder:
        return _Bench(config, folder, progress).measure()


class _Bench:
    """The vectors in a folder, the engines' processes, and what they answered."""

    def __init__(self, config: IndexSpeedConfig, folder: Path, progress: Progress) -> None:
        assert config.engines and config.rounds and config.queries and config.graph_build
        self.config, self.folder, self.progress = config, folder, progress
        self.rounds, self.num_queries = config.rounds, config.queries
        self.core = last_core()
        self.entrants = [Entrant(n, min(config.rows, MOST_ROWS.get(n, config.rows))) for n in config.engines]
        self.done, self.total = (
            0,
            2 + 2 * len(self.entrants) + self.rounds + (0 if config.quick else len(self.entrants)),
        )
        self.truths: dict[int, Truth] = {}

    def measure(self) -> dict[str, Any]:
        self._step("vectors")
        self._write()
        for entrant in self.entrants:
            self._step(f"{entrant.name} is built")
            self._guard(entrant, self._build)
        exact: dict[str, float] = {}
        with ExitStack() as stack:
            for entrant in self._alive():
                self._step(f"{entrant.name} is tried")
                self._guard(entrant, lambda one: self._open(one, stack))
                self._guard(entrant, self._sweep)
            for number in range(self.rounds):
                self._step(f"turn {number + 1} of {self.rounds}")
                for entrant in self._alive():
                    self._guard(entrant, self._turn)
            for entrant in self._alive():
                self._guard(entrant, self._filters)
                if entrant.name == OURS:
                    exact = self._ask(entrant, "exact")
        if not self.config.quick:
            for entrant in self._alive():
                self._step(f"{entrant.name} is killed and damaged")
                self._guard(entrant, self._drill)
        self._step("done")
        return self._result(exact)

    def _step(self, what: str) -> None:
        self.progress(self.done, self.total, what)
        self.done += 1

    def _alive(self) -> Iterator[Entrant]:
        return (entrant for entrant in self.entrants if "error" not in entrant.told)

    def _guard(self, entrant: Entrant, do: Any) -> None:
        """Go on without an engine that fails; without ours there is nothing to compare."""
        if "error" in entrant.told:
            return
        try:
            do(entrant)
        except ContenderError as e:
            missing = "ModuleNotFoundError" in str(e)
            if entrant.name == OURS:
                raise BenchError(str(e)) from e
            entrant.told = {"error": f"not installed; {REMEDY}" if missing else str(e)}

    def _write(self) -> None:
        config = self.config
        tuned = TUNING["audio"]
        vectors = make_vectors(config.rows, config.dim, config.seed, queries=self.num_queries + tuned)
        far = vectors.far_QD
        self.base_ND, self.queries_QD = vectors.base_ND, far[tuned:]
        rng = np.random.default_rng([config.seed, 1])
        for rows in {entrant.rows for entrant in self.entrants}:
            masks = np.stack([rng.random(rows) < share for share in SHARES])
            self.truths[rows] = Truth(self.base_ND[:rows], self.queries_QD, masks)
            np.save(self.folder / f"base{rows}.npy", self.base_ND[:rows], allow_pickle=False)
            np.save(self.folder / f"masks{rows}.npy", masks, allow_pickle=False)
        np.save(self.folder / "queries.npy", self.queries_QD, allow_pickle=False)
        np.save(self.folder / "audio.npy", far[:tuned], allow_pickle=False)
        np.save(self.folder / "image.npy", vectors.near_QD[: TUNING["image"]], allow_pickle=False)

    def job(self, entrant: Entrant) -> dict[str, Any]:
        """Return what an engine's process is told."""
        return {
            "engine": entrant.name, "folder": str(self.folder / f"{entrant.name}.store"), "seed": self.config.seed,
            "base": str(self.folder / f"base{entrant.rows}.npy"), "queries": str(self.folder / "queries.npy"),
            "masks": str(self.folder / f"masks{entrant.rows}.npy"), "filtered": self.config.filtered,
            "tuning": {name: str(self.folder / f"{name}.npy") for name in TUNING}, "core": self.core,
            "threads": len(os.sched_getaffinity(0)), "factory": factories(entrant.rows, self.config.dim)[0],
            "graph_build": self.config.graph_build,
        }  # fmt: skip

    def _start(self, entrant: Entrant, job: dict[str, Any]) -> Conversation:
        python = self.config.peers_python if entrant.name in STORES else None
        return start(entrant.name, job, python, self.folder)

    def _build(self, entrant: Entrant) -> None:
        conversation = self._start(entrant, self.job(entrant))
        try:
            conversation.tell({"do": "prepare"})
            entrant.told |= {name: figure(value) for name, value in conversation.hear(BUILD_S).items()}
        finally:
            conversation.close()
        size = sum(path.stat().st_size for path in (self.folder / f"{entrant.name}.store").rglob("*") if path.is_file())
        entrant.told |= {"rows": entrant.rows, "bytes": size, "bytes_per_vector": figure(size / entrant.rows)}

    def _open(self, entrant: Entrant, stack: ExitStack) -> None:
        entrant.conversation = self._start(entrant, self.job(entrant))
        stack.callback(entrant.conversation.close)
        answer = self._ask(entrant, "load")
        if entrant.name == OURS:
            entrant.told |= {"gate": {name: answer.pop(name) for name in ("search", "evaluation")}}
            entrant.told["gate"]["evaluation"] = entrant.told["gate"]["evaluation"]["directions"]
        entrant.told |= {name: figure(value) for name, value in answer.items() if name.endswith(("_s", "_ms", "_mb"))}
        entrant.told["version"] = answer["version"]

    def _ask(self, entrant: Entrant, kind: str, number: int = 0) -> dict[str, Any]:
        assert entrant.conversation is not None
        entrant.conversation.tell({"do": kind, "epoch": number})
        return entrant.conversation.hear(ORDER_S)

    def _sweep(self, entrant: Entrant) -> None:
        """Find what recall each effort has, and for each target the effort that answers fastest."""
        truth, curve = self.truths[entrant.rows], []
        for efforts in _sequences(entrant.name):
            for effort in efforts:
                recall = truth.recall(np.load(self._ask(entrant, "rows", effort)["rows"]))
                qps = _per_second(self._ask(entrant, "batch", effort), "wall_s")
                curve.append({"effort": effort, "recall": round(recall, 4), "qps": figure(qps)})
                if recall >= ENOUGH:
                    break
        entrant.told["curve"] = curve
        for target in TARGETS:
            enough = [point for point in curve if point["recall"] >= float(target)]
            if enough:
                entrant.efforts[target] = max(enough, key=lambda point: point["qps"])["effort"]
        entrant.told["turns"] = {target: {"batch": [], "single": []} for target in entrant.efforts}

    def _turn(self, entrant: Entrant) -> None:
        for target, effort in entrant.efforts.items():
            for kind, found in entrant.told["turns"][target].items():
                found.append(self._ask(entrant, kind, effort))

    def _filters(self, entrant: Entrant) -> None:
        """Ask under each filter with the effort of 0.95, or the most that was tried."""
        effort = entrant.efforts.get("0.95", int(entrant.told["curve"][-1]["effort"]))
        recalls: dict[str, float | None] = {}
        for number, share in enumerate(SHARES):
            answer = self._ask(entrant, f"filter {number}", effort)
            rows = None if answer["rows"] is None else np.load(answer["rows"])
            recalls[str(share)] = None if rows is None else round(self.truths[entrant.rows].recall(rows, number), 4)
        entrant.told |= {"filter_recall": recalls, "filter_recall_1pct": recalls["0.01"]}

    def _drill(self, entrant: Entrant) -> None:
        python = self.config.peers_python if entrant.name in STORES else None
        entrant.told |= asdict(drill(Drill(entrant.name, python, self.folder / "drill", self.config.seed, start)))

    def _result(self, exact: dict[str, float]) -> dict[str, Any]:
        config = self.config
        told = {entrant.name: _summary(entrant) for entrant in self.entrants}
        return {
            "bench": "speed-index", "engines": told, **{name: figure(value) for name, value in exact.items()},
            **_ratios(told), "k": speed_index_engines.K, "queries": "out of the rows' distribution",
            "config": asdict(config) | {"work": None, "peers_python": None}, "graph_m": speed_index_engines.GRAPH_M,
            "tuning_queries": TUNING, "factory": factories(config.rows, config.dim)[0], "threads_of_search": 1,
            "versions": versions(("numpy", "torch")), "environment": environment(),
        }  # fmt: skip


def start(name: str, job: dict[str, Any], python: Path | None, folder: Path) -> Conversation:
    """Start an engine's process: ours as a module, the others as a file, which another Python may run."""
    file = (speed_index_stores if name in STORES else speed_index_engines).__file__
    words: list[str | Path] = [python or sys.executable, file, json.dumps(job)]
    if name == OURS:
        words = [sys.executable, "-m", "unibrivl.bench.speed_index_ours", json.dumps(job)]
    threads = {"OMP_NUM_THREADS": str(job["threads"]), "OPENBLAS_NUM_THREADS": "1"}
    return Conversation(words, env=threads, folder=folder, name=name)


def _sequences(name: str) -> list[tuple[int, ...]]:
    if name == OURS:
        return sweeps()
    return [(speed_index_engines.ENGINES | speed_index_stores.ENGINES)[name].efforts]


def _per_second(answer: dict[str, float], clock: str) -> float:
    return answer["queries"] / max(answer[clock], 1e-9)


def _summary(entrant: Entrant) -> dict[str, Any]:
    """Return an engine's figures, its turns as best, middle and least."""
    told = {name: value for name, value in entrant.told.items() if name != "turns"}
    qps: dict[str, Any] = {}
    for target, turns in entrant.told.get("turns", {}).items():
        recall = next(p["recall"] for p in told["curve"] if p["effort"] == entrant.efforts[target])
        qps[target] = {"effort": entrant.efforts[target], "recall": recall}
        for kind, answers in turns.items():
            qps[target][kind] = spread([_per_second(answer, "wall_s") for answer in answers])
            qps[target][f"{kind}_by_cpu"] = spread([_per_second(answer, "cpu_s") for answer in answers])
    if "error" in told:
        return told
    at = {f"qps_ood_at_095_{kind}": qps.get("0.95", {}).get(kind, {}).get("median") for kind in ("batch", "single")}
    return told | {"qps": qps} | at


def _ratios(told: dict[str, Any]) -> dict[str, float | None]:
    """Return how much faster ours is than the best of the graphs, at 0.95."""
    ours = told.get(OURS, {})
    found: dict[str, float | None] = {}
    for kind in ("batch", "single"):
        name = f"qps_ood_at_095_{kind}"
        peers = [value for peer in ("usearch", "hnswlib") if (value := told.get(peer, {}).get(name))]
        found[f"ratio_ood_at_095_{kind}"] = ratio(ours.get(name), max(peers)) if peers and ours.get(name) else None
    return found


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the table of a result."""
    return [_row(name, told) for name, told in result["engines"].items()]


COLUMNS = (
    "engine",
    "rows",
    "bytes a vector",
    "build s",
    "batch q/s",
    "single q/s",
    "1 % filter",
    "load s",
    "memory MB",
)


def _row(name: str, told: dict[str, Any]) -> tuple[str, ...]:
    if "error" in told:
        return (name, told["error"], *[""] * (len(COLUMNS) - 2))
    recall = told["filter_recall_1pct"]
    speeds = (told[f"qps_ood_at_095_{kind}"] for kind in ("batch", "single"))
    return (
        name, f"{told['rows']:,}", f"{told['bytes_per_vector']:,.0f}", f"{told['build_s']:.1f}",
        *("not reached" if speed is None else f"{speed:,.0f}" for speed in speeds),
        "none" if recall is None else f"{recall:.3f}", f"{told['load_s']:.2f}", f"{told['rss_mb']:,.0f}",
    )  # fmt: skip
