"""`shards retry`: clips that failed get another chance, and what is recovered goes into patch shards.

Committed shards are never touched. A round of retries is a plan of its own beside the first, so that a killed round
goes on where it was; its shards are named `CORPUS-SPLIT-rNN-NNNNNN`.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ..shards import read_dataset
from ..shards.catalog import all_rows, committed_shards
from ..shards.planfile import PLAN_FILE, keys_of, round_file
from .engine import EngineConfig, Progress, make_shards, writing
from .errors import PlanError
from .plan import Plan, make_plan, read_plan, write_plan
from .recipe import read_recipe
from .run import outcome
from .worker import ShardTask

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryConfig:
    """What `unibrivl shards retry` was asked to do."""

    root: Path
    """Folder of the shard set."""
    engine: EngineConfig
    only: tuple[str, ...] = ()
    """Error codes or patterns such as `transient.*`; empty: every reason but `quality.*` and `policy.*`."""
    ffmpeg: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryResult:
    """What a round of retries brought."""

    tried: int
    recovered: int
    errors: dict[str, int]
    """What still fails in the whole set, by reason."""
    shards: int
    """Patch shards made."""


def retry(config: RetryConfig, progress: Progress = lambda code, count: None) -> RetryResult:
    """Try failed clips again, finishing an interrupted round first.

    Raises:
        PlanError: the set's plan is damaged.
        IngestError: the set cannot be written.
        ShardError: a committed shard is damaged.
    """
    root, dataset = config.root, read_dataset(config.root)
    recipe = read_recipe(dataset, root, ffmpeg=config.ffmpeg)
    with writing(root):
        base = read_plan(root / PLAN_FILE)
        before, _ = outcome(root, committed_shards(root), base.num_clips)
        round_plan = _open_round(root) or _new_round(config, base, dataset)
        if round_plan is None:
            _, errors = outcome(root, committed_shards(root), base.num_clips)
            return RetryResult(tried=0, recovered=0, errors=errors, shards=0)
        there = {commit.name for commit in committed_shards(root)}
        shards = [shard for shard in round_plan.shards if shard.name not in there]
        tasks = (ShardTask(shard.name, shard.split, round_plan.clips(shard)) for shard in shards)
        make_shards(root, recipe, base.sha256, tasks, config.engine, progress)
        after, errors = outcome(root, committed_shards(root), base.num_clips)
    tried = sum(shard.num_clips for shard in shards)
    return RetryResult(tried=tried, recovered=after - before, errors=errors, shards=len(shards))


def _rounds(root: Path) -> list[Path]:
    return sorted((root / "plan").glob("retry-[0-9][0-9].parquet"))


def _open_round(root: Path) -> Plan | None:
    """Return the last round's plan if some of its shards are not committed."""
    if not (rounds := _rounds(root)):
        return None
    plan = read_plan(rounds[-1])
    there = {commit.name for commit in committed_shards(root)}
    return plan if any(shard.name not in there for shard in plan.shards) else None


def _new_round(config: RetryConfig, base: Plan, dataset: dict[str, Any]) -> Plan | None:
    """Plan another try of the clips that failed; None if there is none to try."""
    root = config.root
    rows = all_rows(root)
    codes = rows["error_code"].to_pylist()
    wanted = np.array([code is not None and _is_wanted(code, config.only) for code in codes], dtype=bool)
    if not wanted.any():
        return None
    keys = pc.is_in(keys_of(base.table), value_set=rows["key"].filter(pa.array(wanted)).combine_chunks())
    number = len(_rounds(root)) + 1
    if number > 99:
        raise PlanError(f"{root}: 99 rounds of retries were made; ingest the set anew")
    clips = base.table.filter(keys)
    plan = make_plan(clips, seed=dataset["seed"], shard_clips=dataset["shard_clips"], retry=number)
    write_plan(plan, root / round_file(number))
    return plan


def _is_wanted(code: str, only: tuple[str, ...]) -> bool:
    if not only:
        return not code.startswith(("quality.", "policy."))
    return any(fnmatchcase(code, pattern) or code.startswith(f"{pattern}.") for pattern in only)
