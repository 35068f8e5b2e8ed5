"""`bench drills`: faults of many kinds, drawn at random, while the real commands work on small real media.

The commands run as a user runs them, in processes of their own. What they end with after faults is compared with what
they make undisturbed, byte for byte, and counted clip by clip and item by item (`drill_account.py`).
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..shards.checks import check_ranges
from .drill_account import Account
from .drill_interrupt import clock, full_disk, kill, kill_change, source
from .drill_stage import Stage
from .drill_torn import readers, torn_index, torn_run, torn_shards
from .environment import environment
from .speed import Progress, figure, no_progress, working_folder

Drill = Callable[[Stage, Account, random.Random, str], None]

QUICK: dict[str, tuple[Drill, ...]] = {
    "kill": (partial(kill, name="shards"), kill_change),
    "disk": (partial(full_disk, name="shards"),),
    "source": (partial(source, refusals=0),),
    "clock": (clock,),
    "torn": (partial(torn_shards, times=20), partial(torn_index, times=20), readers),
}
"""Kinds, and the drills of each that take a few seconds."""
SLOW: dict[str, tuple[Drill, ...]] = {
    "kill": (partial(kill, name="run"), partial(kill, name="index")),
    "disk": (partial(full_disk, name="index"),),
    "source": (partial(source, refusals=2),),
    "torn": (torn_run,),
}
"""Drills that take longer: with a network to be loaded, or pauses of ten seconds."""
KINDS = tuple(QUICK)


@dataclass(frozen=True, kw_only=True, slots=True)
class DrillsConfig:
    """What `unibrivl bench drills` was asked to do."""

    minutes: float = 10.0
    """How long rounds are begun; the last one ends."""
    quick: bool = False
    """One round of the drills that take a few seconds."""
    kinds: tuple[str, ...] = KINDS
    seed: int = 0
    work: Path | None = None
    """Where a folder for media and all that is made is put, and removed again; None: where temporary files go."""

    def __post_init__(self) -> None:
        """Refuse what is no drill."""
        check_ranges(self, minutes=(0, 10_000), seed=(0, 2**31 - 1))
        unknown = [name for name in self.kinds if name not in KINDS]
        if unknown or not self.kinds:
            raise ValueError(f"kinds is {', '.join(unknown) or 'empty'}, want some of {', '.join(KINDS)}")


def run_drills(config: DrillsConfig, progress: Progress = no_progress) -> dict[str, Any]:
    """Disturb the commands in rounds, every drill once a round; return the account as plain JSON values.

    Raises:
        BenchError: the commands fail although nothing disturbs them.
    """
    began, account, rounds = time.monotonic(), Account(), 0
    limit_s = 0.0 if config.quick else config.minutes * 60
    with working_folder(config.work) as folder:
        stage = Stage(folder, config.seed, epochs=1 if config.quick else 3)
        stage.make(lambda what: progress(0, 1, what))
        while rounds == 0 or time.monotonic() - began < limit_s:
            for name, drill in _round(config):
                done_s = time.monotonic() - began
                progress(int(min(done_s, limit_s)), int(limit_s) or 1, f"round {rounds + 1}: {name}")
                draws = random.Random(f"{config.seed} {rounds} {name}")  # noqa: S311
                drill(stage, account, draws, f"{name}, seed {config.seed}, round {rounds + 1}")
            rounds += 1
    return {
        "bench": "drills", "minutes": figure((time.monotonic() - began) / 60), "rounds": rounds,
        "injected": dict(sorted(account.injected.items())), "drills": dict(sorted(account.drills.items())),
        "lost": len(account.lost), "doubled": len(account.doubled), "wrong": len(account.wrong),
        "cases": {name: getattr(account, name) for name in ("lost", "doubled", "wrong")},
        "config": asdict(config) | {"work": None}, "environment": environment(),
    }  # fmt: skip


def _round(config: DrillsConfig) -> Iterator[tuple[str, Drill]]:
    for kind in config.kinds:
        drills = QUICK[kind] + (() if config.quick else SLOW.get(kind, ()))
        for number, drill in enumerate(drills):
            yield f"{kind} {number + 1}", drill


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the table of a result: what was injected."""
    return [(name, f"{count:,}") for name, count in result["injected"].items()]


COLUMNS = ("fault", "times")
