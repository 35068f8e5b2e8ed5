"""What `bench speed index` does to each engine's store: kills its process while it writes, and flips a block of it.

A small store is built, then written over with opposite vectors by a process that is killed after a share of the time
that this takes; what is opened afterwards answers as the old store, as the new one, as neither, or not at all. Then
4,096 bytes in the middle of the largest file are inverted.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .speed import ContenderError, Conversation
from .speed_index_data import make_vectors

ROWS, DIM, QUERIES = 4_000, 64, 100
SHARES = (0.3, 0.6, 0.8, 0.9, 0.97)
"""Of the time that writing takes, after which it is killed."""
SAME = 0.8
"""Share of equal answers from which a store counts as the old or the new one: graphs differ from build to build."""
BLOCK_BYTES = 4096
WAIT_S = 300

Start = Callable[[str, dict[str, Any], Path | None, Path], Conversation]


@dataclass(frozen=True, slots=True)
class Drill:
    """Which engine, and where."""

    name: str
    python: Path | None
    folder: Path
    seed: int
    start: Start


@dataclass(frozen=True, slots=True)
class Survived:
    """What became of an engine's stores."""

    kill_9: dict[str, int]
    """`old`, `new`, `refused`, `wrong`: how many of the killed ones answered so."""
    flipped_block: str
    """`refused`, `no answer changed`, or how many answers did."""


def drill(config: Drill) -> Survived:
    """Kill and damage the stores of an engine.

    Raises:
        ContenderError: it cannot build or open an undamaged one.
    """
    shutil.rmtree(config.folder, ignore_errors=True)
    config.folder.mkdir()
    job = _write(config)
    _order(config, job, "prepare")
    built = Path(job["folder"])
    kept = config.folder / "kept"
    shutil.copytree(built, kept)
    old = _answers(config, job)
    began = time.monotonic()
    _order(config, job, "replace")
    took = time.monotonic() - began
    new = _answers(config, job)
    found: Counter[str] = Counter()
    for share in SHARES:
        _restore(kept, built)
        _kill(config, job, share * took)
        found[_compare(config, job, old, new)] += 1
    _restore(kept, built)
    return Survived(dict(found), _flip(config, job, old))


def _write(config: Drill) -> dict[str, Any]:
    vectors = make_vectors(ROWS, DIM, config.seed, queries=2 * QUERIES)
    files = {
        "base": vectors.base_ND, "queries": vectors.far_QD[:QUERIES], "audio": vectors.far_QD[QUERIES:],
        "image": vectors.near_QD, "masks": np.ones((1, ROWS), bool),
    }  # fmt: skip
    for name, values in files.items():
        np.save(config.folder / f"{name}.npy", values, allow_pickle=False)
    paths = {name: str(config.folder / f"{name}.npy") for name in files}
    return {
        "engine": config.name, "folder": str(config.folder / "store"), "seed": config.seed, "core": 0, "threads": 1,
        "tuning": {name: paths[name] for name in ("audio", "image")}, "filtered": 1, "graph_build": 64,
        "factory": f"IVF64,PQ{DIM // 4}x4fsr", "base": paths["base"], "queries": paths["queries"],
        "masks": paths["masks"],
    }  # fmt: skip


def _order(config: Drill, job: dict[str, Any], do: str) -> None:
    conversation = config.start(config.name, job, config.python, config.folder)
    try:
        conversation.tell({"do": do, "epoch": 0})
        conversation.hear(WAIT_S)
    finally:
        conversation.close()


def _answers(config: Drill, job: dict[str, Any]) -> np.ndarray:
    """Return what a new process finds, rows (Q, K), with the most effort.

    Raises:
        ContenderError: it does not open, or fails to answer.
    """
    conversation = config.start(config.name, job, config.python, config.folder)
    try:
        conversation.tell({"do": "load", "epoch": 0})
        effort = conversation.hear(WAIT_S)["most"]
        conversation.tell({"do": "rows", "epoch": effort})
        return np.load(conversation.hear(WAIT_S)["rows"], allow_pickle=False)
    finally:
        conversation.close()


def _kill(config: Drill, job: dict[str, Any], after_s: float) -> None:
    """Write over the store, and kill the process after so long."""
    conversation = config.start(config.name, job, config.python, config.folder)
    try:
        conversation.tell({"do": "replace", "epoch": 0})
        with suppress(ContenderError):
            conversation.hear(max(after_s, 0.05))  # it is killed when the time is over
    finally:
        conversation.close()


def _compare(config: Drill, job: dict[str, Any], old: np.ndarray, new: np.ndarray) -> str:
    try:
        found = _answers(config, job)
    except ContenderError:
        return "refused"
    for name, known in (("old", old), ("new", new)):
        if _share(found, known) >= SAME:
            return name
    return "wrong"


def _flip(config: Drill, job: dict[str, Any], old: np.ndarray) -> str:
    largest = max((p for p in Path(job["folder"]).rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)
    data = np.fromfile(largest, np.uint8)
    middle = len(data) // 2
    data[middle : middle + BLOCK_BYTES] ^= 255
    data.tofile(largest)
    try:
        found = _answers(config, job)
    except ContenderError:
        return "refused"
    changed = int((np.sort(found, axis=1) != np.sort(old, axis=1)).any(axis=1).sum())
    return f"{changed} of {QUERIES} answers changed" if changed else "no answer changed"


def _share(found: np.ndarray, known: np.ndarray) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(found, known, strict=True)]))


def _restore(kept: Path, built: Path) -> None:
    shutil.rmtree(built, ignore_errors=True)
    shutil.copytree(kept, built)
