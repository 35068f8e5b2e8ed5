"""`shards repair`: damaged shards are made again from what is whole in them, and from the media for the rest."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from ..shards import Commit, ShardError, read_commit, read_dataset
from ..shards.commit import COMMIT_SUFFIX, DamageError, check_hashes, commit_path, committed_paths, parse_commit
from ..shards.planfile import PLAN_FILE, PlanFile, keys_of, plan_sha256, round_file, write_plan_file
from ..shards.schema import ROUND_PATTERN
from ..shards.sidecar import parse_table, read_sidecar
from ..shards.verify import VerifyReport, verify
from .engine import EngineConfig, Progress, make_shards, writing
from .errors import PlanError
from .ledger import last_failures
from .plan import Plan, read_plan
from .recipe import read_recipe
from .worker import ShardTask

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers


@dataclass(frozen=True, kw_only=True, slots=True)
class RepairConfig:
    """What `unibrivl shards repair` was asked to do."""

    root: Path
    """Folder of the shard set."""
    engine: EngineConfig
    accept_loss: bool = False
    """Commit a shard again although clips of it could not be made again."""
    ffmpeg: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RepairResult:
    """What a repair brought."""

    damaged: int
    """Shards that were damaged."""
    identical: int
    """Shards that are again what was committed, bit for bit; one whose commit file was damaged cannot be compared."""
    left: tuple[str, ...]
    """Shards left as they are, since some of their clips could not be made again."""
    lost: dict[str, int]
    """With `accept_loss`: clips that had come and are gone, by the reason why they could not be made again."""
    bare: int = 0
    """Clips of those shards without what only their media tell: their rows were made again from the samples alone."""
    plans: tuple[str, ...] = ()
    """Plans of retries that were lost or damaged and are written again."""
    others: tuple[str, ...] = ()
    """Damaged files of the whole set that a repair cannot make again, each with what can."""


def repair(config: RepairConfig, progress: Progress = lambda code, count: None) -> RepairResult:
    """Make damaged shards again; one that would lose clips is left as it is unless `accept_loss`.

    Raises:
        ShardError: `dataset.json` is damaged.
        PlanError: the plan is lost or damaged, which `ingest` with the same list writes again.
        IngestError: the set cannot be written.
    """
    root = config.root
    recipe = read_recipe(read_dataset(root), root, ffmpeg=config.ffmpeg)
    with writing(root):
        report = verify(root, level="hash")
        base = read_plan(root / PLAN_FILE)
        plans = _restore_rounds(root, base, report)
        tasks = _tasks(root, report)
        before = {task.name: _old(root, task) for task in tasks}
        _note_failures(root, tasks)
        for task in tasks:
            task.failed_before = None if config.accept_loss else before[task.name][1]
        make_shards(root, recipe, base.sha256, tasks, config.engine, progress)
    still = set(verify(root, level="hash").damaged_shards) if tasks else set()
    left = tuple(task.name for task in tasks if task.name in still)
    identical, bare, lost = 0, 0, Counter[str]()
    for task in (task for task in tasks if task.name not in still):
        files, failed = before[task.name]
        new = read_commit(commit_path(root, task.split, task.name))
        identical += files == new.files
        bare += _count_bare(new)
        lost += Counter(new.errors) - failed
    return RepairResult(
        damaged=len(tasks), identical=identical, left=left, lost=dict(sorted(lost.items())), bare=bare,
        plans=tuple(path.name for path in plans),
        others=tuple(str(d) for d in report.damaged if d.shard is None and d.path not in plans),
    )  # fmt: skip


def _restore_rounds(root: Path, base: Plan, report: VerifyReport) -> list[Path]:
    """Write the damaged plans of retries again, from the clips of the shards that the rounds have made; return them.

    Raises:
        PlanError: a shard of such a round is damaged, too.
    """
    plans = sorted(damage.path for damage in report.damaged if damage.path.match("plan/retry-*.parquet"))
    for path in plans:
        try:
            sidecars = _sidecars_of_round(root, path)
        except DamageError as e:
            raise PlanError(
                f"{path}: lost, and cannot be written again, since {e.damage}; delete the shards of that round and its "
                f"plan, then `unibrivl shards retry {root}`"
            ) from e
        keys = pa.chunked_array([rows["key"].combine_chunks() for rows in sidecars.values()], pa.string())
        table = base.table.take(pc.index_in(keys, value_set=keys_of(base.table))).combine_chunks()
        counts = tuple((name, len(rows)) for name, rows in sidecars.items())
        write_plan_file(PlanFile(table, counts, plan_sha256(table, counts)), path)
    return plans


def _sidecars_of_round(root: Path, plan: Path) -> dict[str, pa.Table]:
    """Return the sidecars of the committed shards that belong to a round of retries, in the order of their names."""
    found = {}
    for path in committed_paths(root):
        match = ROUND_PATTERN.search(path.name.removesuffix(COMMIT_SUFFIX))
        if match and plan == root / round_file(int(match[1])):
            commit = parse_commit(path)
            found[commit.name] = read_sidecar(commit)
    return dict(sorted(found.items()))


def _tasks(root: Path, report: VerifyReport) -> list[ShardTask]:
    """Return a task for every damaged shard, of the plan and of the rounds of retries."""
    damaged = set(report.damaged_shards)
    tasks = []
    for path in (root / PLAN_FILE, *sorted((root / "plan").glob("retry-*.parquet"))) if damaged else ():
        plan = read_plan(path)
        for shard in plan.shards:
            if shard.name in damaged:
                tasks.append(ShardTask(shard.name, shard.split, plan.clips(shard), repair=True))
                damaged.remove(shard.name)
    if damaged:
        raise PlanError(f"{root}: shard {min(damaged)} is damaged and stands in no plan; delete its files")
    return tasks


def _note_failures(root: Path, tasks: list[ShardTask]) -> None:
    """Tell the tasks whose sidecars are lost why clips of theirs had failed, as far as the ledger still says so."""
    lost = [task for task in tasks if not _has_sidecar(commit_path(root, task.split, task.name))]
    failures = last_failures(root, [task.name for task in lost])
    for task in lost:
        planned = {clip.key for clip in task.clips}
        task.noted = {key: failure for key, failure in failures[task.name].items() if key in planned}


def _has_sidecar(commit_path: Path) -> bool:
    try:
        return not check_hashes(parse_commit(commit_path), (".parquet",))
    except ShardError:
        return False


def _count_bare(commit: Commit) -> int:
    rows = read_sidecar(commit)
    return pc.sum(pc.and_(pc.equal(rows["status"], "ok"), pc.is_null(rows["src_sha256"]))).as_py() or 0


def _old(root: Path, task: ShardTask) -> tuple[dict[str, Any] | None, Counter[str]]:
    """Return what the shard's files were and which clips had failed, as far as commit file or sidecar still say so."""
    path = commit_path(root, task.split, task.name)
    try:
        commit = parse_commit(path)
    except ShardError:
        pass
    else:
        return commit.files, Counter(commit.errors)
    try:
        rows = parse_table(path.with_name(f"{task.name}.parquet").read_bytes())
    except (pa.ArrowException, KeyError, ValueError, OSError):
        return None, Counter()
    return None, Counter(code for code in rows["error_code"].to_pylist() if code)
