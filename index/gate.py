"""The recall gate: which index each segment gets, with which parameters, and the recall that was measured.

Parameters are tuned on one half of the queries and verified on the other. The queries have the modality of the
questions to come: parameters tuned on rows fall short for queries of another modality. What does not reach the recall
asked for is made more thorough, then searched exactly.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from ..shards.atomic import write_file
from .ann import FILE, LEVELS, Setting, open_ann
from .ann_build import Lists, build_ann
from .asked import Asked, gather_queries
from .assign import Assign, assign_rows
from .background import measure_background
from .errors import GateError
from .exact import ExactScan
from .library import load_faiss
from .measure import exact_direction, measure_direction, measure_sums
from .memory import peak_rss_mb
from .plan import SearchConfig, chosen_factories
from .search import Part, search_parts, write_settings
from .tune import Trial, Tuned, tune, verify

Progress = Callable[[int, int, str], None]


class DraftLike(Protocol):
    """What the gate needs of a segment that is being written."""

    @property
    def modality(self) -> str:
        """Of every row."""
        ...

    @property
    def vectors_ND(self) -> np.ndarray:  # noqa: N802  (shape letters)
        """float16, unit norm, mapped."""
        ...

    @property
    def folder(self) -> Path:
        """`ann.faiss` is written there."""
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kind of index, built and tuned."""

    factory: str
    parts: tuple[Part, ...]
    settings: dict[str, list[Setting]]
    """By query modality, one a level."""
    seconds: float
    """Processor time of searching all tuning queries of all directions once, ten answers each."""
    bytes_per_vector: float
    build_cpu_s: float
    shortfall: str
    """Which direction does not reach the recall, empty if all do."""

    def as_dict(self) -> dict[str, Any]:
        """Return what `eval.json` says of it."""
        return {
            "factory": self.factory, "search_s": round(self.seconds, 4), "build_cpu_s": round(self.build_cpu_s, 2),
            "bytes_per_vector": round(self.bytes_per_vector, 1), "shortfall": self.shortfall,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """One modality's rows and everything asked of them."""

    target: str
    drafts: tuple[DraftLike, ...]
    scans: tuple[ExactScan, ...]
    asked: Mapping[str, Asked]
    config: SearchConfig
    say: Callable[[str], None]
    assign: Assign

    @property
    def exact_parts(self) -> tuple[Part, ...]:
        """The segments without an ANN index."""
        return tuple(Part(str(n), scan, None, None) for n, scan in enumerate(self.scans))

    def is_approximate(self, scan: ExactScan) -> bool:
        """Tell whether a segment gets an ANN index."""
        return self.config.is_approximate(len(scan.vectors_ND), scan.vectors_ND.shape[1])


def equip(
    drafts: Sequence[DraftLike],
    queries: Mapping[str, np.ndarray],
    config: SearchConfig,
    progress: Progress = lambda done, total, text: None,
    sources: Mapping[str, str] | None = None,
    assign: Assign = assign_rows,
) -> dict[str, Any]:
    """Give each draft the index it needs, in `ann.faiss`, and return what was measured: the content of `eval.json`.

    Args:
        drafts: segments whose vectors are written.
        queries: by modality, float32 (Q, D), unit norm: held-out queries; a modality that is missing or empty is
            sampled from the drafts.
        config: recall wanted, memory (which `check_memory` has allowed), kind of index.
        progress: called with steps done, steps in all and what is done.
        sources: by modality, where queries come from, if they are not held out.
        assign: finds the list of each row, here or on a cluster.

    Raises:
        GateError: the index asked for by name cannot be, or does not reach the recall.
    """
    vectors: dict[str, list[np.ndarray]] = {}
    for draft in drafts:
        vectors.setdefault(draft.modality, []).append(draft.vectors_ND)
    say = _counter(progress, _count_steps(vectors, queries, config))
    evaluation: dict[str, Any] = {"search": {}, "directions": {}, "segments": {}, "peak_rss_mb": None}
    for target in sorted(vectors):
        mine = tuple(draft for draft in drafts if draft.modality == target)
        asked = gather_queries(vectors, queries, target, config.seed, sources)
        job = Job(target, mine, tuple(ExactScan(draft.vectors_ND) for draft in mine), asked, config, say, assign)
        search, directions, segments = _equip_modality(job)
        evaluation["search"][target], evaluation["segments"][target] = search, segments
        evaluation["directions"] |= directions
    if any(found["factory"] != "exact" for found in evaluation["search"].values()):
        evaluation["peak_rss_mb"] = peak_rss_mb()
    return evaluation | {"background": measure_background(vectors, queries, config.seed)}


def _count_steps(
    vectors: Mapping[str, Sequence[np.ndarray]], queries: Mapping[str, np.ndarray], config: SearchConfig
) -> int:
    steps, directions = 0, len(vectors.keys() | queries.keys())
    for parts in vectors.values():
        dim = parts[0].shape[1]
        rows = [len(part) for part in parts if config.is_approximate(len(part), dim)]
        if rows:
            steps += 2 * directions + len(chosen_factories(max(rows), dim, config)) * (len(rows) + directions)
    return steps


def _counter(progress: Progress, total: int) -> Callable[[str], None]:
    steps = iter(range(total + 1))

    def say(text: str) -> None:
        progress(next(steps, total), total, text)

    return say


def _equip_modality(job: Job) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return what `eval.json` says of one modality: search, directions, segments."""
    if not any(job.is_approximate(scan) for scan in job.scans):
        return _stay_exact(job, [])
    trials = {modality: _trial(job, modality, asked) for modality, asked in job.asked.items()}
    halves = {m: (_half(trial, 0), _half(trial, 1)) for m, trial in trials.items()}
    candidates = list(_candidates(job, {m: tuning for m, (tuning, _) in halves.items()}))
    tables = [candidate.as_dict() for candidate in candidates]
    shortfall = next((candidate.shortfall for candidate in candidates if candidate.shortfall), "")
    for candidate in sorted((c for c in candidates if not c.shortfall), key=_cost):
        written = _write(job, candidate)
        settings, shortfall = _verified(job, written, {m: verifying for m, (_, verifying) in halves.items()})
        if not shortfall:
            verified = replace(written, settings=settings)
            return _describe(job, verified, {m: verifying for m, (_, verifying) in halves.items()}, tables)
    for draft in job.drafts:
        (draft.folder / FILE).unlink(missing_ok=True)
    if job.config.factory is not None:
        raise GateError(
            f"{shortfall} with {job.config.factory}, wanted {job.config.recall:g} with 95 % confidence; "
            "leave the factory open, ask for less recall, or search exactly"
        )
    return _stay_exact(job, tables)


def _cost(candidate: Candidate) -> float:
    """Return what candidates are compared by: time, and half as much the memory that their codes take."""
    return candidate.seconds * float(np.sqrt(candidate.bytes_per_vector))


def _stay_exact(job: Job, tables: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    directions = {f"{modality}>{job.target}": exact_direction(job.config.recall) for modality in job.asked}
    segments = {"bytes_per_vector": 2 * job.scans[0].vectors_ND.shape[1], "build_cpu_s": 0.0, "candidates": tables}
    return {"factory": "exact", "params": {}}, directions, segments


def _trial(job: Job, modality: str, asked: Asked) -> Trial:
    """Find the true answers to the queries of a modality."""
    job.say(f"true answers {modality}>{job.target}")
    hits = search_parts(job.exact_parts, asked.queries_QD, LEVELS[-1] + asked.spare, None)
    return Trial(job.exact_parts, asked, asked.scores(hits), job.config.seed)


def _half(trial: Trial, which: int) -> Trial:
    return replace(trial, asked=trial.asked.part(which, None, 2), truth_QK=trial.truth_QK[which::2])


def _candidates(job: Job, trials: Mapping[str, Trial]) -> Iterator[Candidate]:
    """Build and tune one candidate after the other; lists, and which row is in which, are found once."""
    lists: dict[int, Lists] = {}
    rows = max(len(scan.vectors_ND) for scan in job.scans if job.is_approximate(scan))
    for factory in chosen_factories(rows, job.scans[0].vectors_ND.shape[1], job.config):
        parts, size, cpu_s = [], 0.0, 0.0
        for number, scan in enumerate(job.scans):
            if not job.is_approximate(scan):
                parts.append(Part(str(number), scan, None, None))
                continue
            job.say(f"{job.target}: {factory} is built")
            built = build_ann(scan, factory, job.config.seed, lists.get(number), job.assign)
            lists[number] = built.lists
            parts.append(Part(str(number), scan, built.ann, None))
            size, cpu_s = max(size, built.bytes_per_vector), cpu_s + built.cpu_s
        yield _tuned(job, Candidate(factory, tuple(parts), {}, 0.0, size, cpu_s, ""), trials)


def _tuned(job: Job, candidate: Candidate, trials: Mapping[str, Trial]) -> Candidate:
    settings: dict[str, list[Setting]] = {}
    seconds = 0.0
    for modality, trial in trials.items():
        job.say(f"{modality}>{job.target}: {candidate.factory} is tuned")
        trial = replace(trial, parts=candidate.parts)
        for level in LEVELS:
            best, reached = tune(trial, level, job.config.recall)
            if best is None:
                shortfall = f"{modality}>{job.target} reaches recall {reached:.4f} at {level}"
                return replace(candidate, shortfall=shortfall)
            settings.setdefault(modality, []).append(best.setting)
            seconds += best.cpu_s if level == LEVELS[0] else 0
    return replace(candidate, settings=settings, seconds=seconds)


def _write(job: Job, candidate: Candidate) -> Candidate:
    """Write a candidate's indexes beside the vectors and open them again: what is verified is what will be served."""
    faiss, parts = load_faiss(), []
    for draft, part in zip(job.drafts, candidate.parts, strict=True):
        if part.ann is not None:
            path = draft.folder / FILE
            write_file(path, partial(_write_index, faiss, part.ann.index))
            part = Part(part.id, part.scan, open_ann(path, part.scan), None)
        parts.append(part)
    return replace(candidate, parts=tuple(parts))


def _write_index(faiss: Any, index: Any, file: BinaryIO) -> None:
    faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def _verified(job: Job, candidate: Candidate, trials: Mapping[str, Trial]) -> tuple[dict[str, list[Setting]], str]:
    """Return settings that hold for the other half of the queries, and which direction has none."""
    settings: dict[str, list[Setting]] = {}
    for modality, trial in trials.items():
        job.say(f"{modality}>{job.target}: {candidate.factory} is verified")
        for setting in candidate.settings[modality]:
            held: Tuned | None = verify(replace(trial, parts=candidate.parts), setting, job.config.recall)
            if held is None:
                return {}, f"{modality}>{job.target} misses the recall at {setting.level} for other queries"
            settings.setdefault(modality, []).append(held.setting)
    return settings, ""


def _describe(
    job: Job, candidate: Candidate, trials: Mapping[str, Trial], tables: list[dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    served = {modality: replace(trial, parts=candidate.parts) for modality, trial in trials.items()}
    directions = {
        f"{modality}>{job.target}": measure_direction(trial, candidate.settings[modality], job.config.recall)
        for modality, trial in served.items()
    }
    files = [draft.folder / FILE for draft in job.drafts]
    rows = sum(len(scan.vectors_ND) for scan in job.scans)
    size = sum(path.stat().st_size for path in files if path.exists()) / rows
    segments = {
        "bytes_per_vector": round(2 * job.scans[0].vectors_ND.shape[1] + size, 1),
        "build_cpu_s": round(candidate.build_cpu_s, 2), "candidates": tables,
        "sums": measure_sums(served, candidate.settings),
    }  # fmt: skip
    search = {"factory": candidate.factory, "params": write_settings(candidate.settings)}
    return search, directions, segments
