"""`ingest`: a list of clips becomes committed shards, and a second run does only what is missing."""

import hashlib
import math
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..shards import Commit, ShardError
from ..shards.atomic import is_foreign, write_bytes
from ..shards.catalog import (
    DATASET_FILE,
    ONTOLOGY_FILE,
    all_rows,
    committed_shards,
    read_dataset,
    write_dataset,
)
from ..shards.checks import check_ranges
from ..shards.commit import committed_paths
from ..shards.labels import Ontology
from ..shards.planfile import PLAN_FILE
from ..shards.schema import SPLIT_PATTERN
from .engine import EngineConfig, Progress, make_shards, writing
from .errors import ClipError, IngestError, PlanError
from .ffmpeg import find_ffmpeg
from .lists import ClipList, read_list
from .plan import Plan, make_plan, read_plan, write_plan
from .recipe import Recipe
from .select import SelectConfig, select
from .sources import FolderConfig, MediaFolder
from .worker import ShardTask


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """What `unibrivl ingest` was asked to do."""

    list_path: Path
    """A clip list (docs/ingest.md has the dialects)."""
    out: Path
    """Folder of the shard set; with `engine.upload`, the one in which it is made."""
    engine: EngineConfig
    recipe: Recipe = field(default_factory=Recipe)
    select: SelectConfig = field(default_factory=SelectConfig)
    """Which clips of the list."""
    ontology: Path | None = None
    """AudioSet's ontology.json; kept with the set."""
    split: str | None = None
    """For rows that name none."""
    shard_clips: int = 2048
    """Clips planned for one shard."""
    seed: int = 0
    """Of the order of the clips."""
    max_failed: float = 0.0
    """Share of clips that may fail before the run counts as failed."""

    @property
    def place(self) -> str:
        """Return the folder or address where the finished set lies, for messages."""
        return str(self.out) if self.engine.upload is None else self.engine.upload.url

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        check_ranges(self, shard_clips=(1, 1_000_000), max_failed=(0, 1))
        if self.split is not None and not SPLIT_PATTERN.fullmatch(self.split):
            raise ValueError(f"split is {self.split!r}, want a lower-case name, as in train")


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestResult:
    """What a shard set holds after a run."""

    planned: int
    ok: int
    errors: dict[str, int]
    """Failed clips by reason."""
    shards: int
    made: int
    """Shards made by this run; 0 when everything was there."""
    seconds: float


def read_and_plan(config: IngestConfig) -> tuple[ClipList, Plan]:
    """Read the list, choose its clips and plan their shards; touches nothing."""
    clips = read_list(config.list_path, split=config.split)
    ontology = Ontology.read(config.ontology) if config.ontology else None
    chosen = select(clips.table, config.select, ontology)
    return clips, make_plan(chosen, seed=config.seed, shard_clips=config.shard_clips)


def ingest(config: IngestConfig, plan: Plan, progress: Progress = lambda code, count: None) -> IngestResult:
    """Make every shard of `plan` that is not committed yet.

    Raises:
        PlanError: `out` holds another plan, or not one medium of the plan is in the media folder.
        IngestError: `out` cannot be written, or more clips failed than `max_failed` allows.
        ShardError: a committed shard is damaged.
    """
    started = time.monotonic()
    if config.recipe.decode.decoder == "ffmpeg":
        find_ffmpeg(config.recipe.decode.ffmpeg)
    _check_media(config, plan)
    upload = config.engine.upload
    with writing(config.out):
        if upload is not None:
            upload.pull(config.out)
        _adopt(config, plan)
        present = _present(config, plan)
        if upload is not None:
            upload.push_heads(config.out)
            upload.push_waiting(config.out)
        for commit in present.values():
            progress("", commit.ok)
            for code, count in commit.errors.items():
                progress(code, count)
        missing = (
            ShardTask(shard.name, shard.split, plan.clips(shard)) for shard in plan.shards if shard.name not in present
        )
        make_shards(config.out, config.recipe, plan.sha256, missing, config.engine, progress)
        commits = _present(config, plan)
        if upload is not None:
            upload.push_ledger(config.out)
    ok, errors = outcome(config.out, list(commits.values()), plan.num_clips, tars=upload is None)
    result = IngestResult(
        planned=plan.num_clips, ok=ok, errors=errors, shards=len(commits), made=len(commits) - len(present),
        seconds=time.monotonic() - started,
    )  # fmt: skip
    if plan.num_clips - ok > config.max_failed * plan.num_clips:
        raise IngestError(_failure(config, result), figures=asdict(result))
    return result


def outcome(out: Path, commits: list[Commit], planned: int, *, tars: bool = True) -> tuple[int, dict[str, int]]:
    """Return how many clips of a set are there, and the others by reason, retries included; as `committed_shards`."""
    if sum(commit.planned for commit in commits) == planned:
        errors = Counter[str]()
        for commit in commits:
            errors.update(commit.errors)
        return sum(commit.ok for commit in commits), dict(sorted(errors.items()))
    codes = Counter(all_rows(out, tars=tars)["error_code"].to_pylist())  # some clips were retried and have several rows
    ok = codes.pop(None, 0)
    return ok, dict(sorted(codes.items()))


def _check_media(config: IngestConfig, plan: Plan) -> None:
    """Refuse a media folder that has none of the media before anything is written."""
    source = config.engine.source
    if not isinstance(source, FolderConfig):
        return
    folder = MediaFolder(source)
    first: ClipError | None = None
    for shard in plan.shards:
        for clip in plan.clips(shard):
            try:
                folder.find(clip)
                return
            except ClipError as e:
                first = first or e
    raise PlanError(f"none of {plan.num_clips} clips has its medium in {source.root}; the first: {first}")


def _adopt(config: IngestConfig, plan: Plan) -> None:
    """Write data set file, ontology and plan, or check that those in place are the same."""
    value: dict[str, Any] = {
        "plan_sha256": plan.sha256,
        "clips": plan.num_clips,
        "seed": config.seed,
        "shard_clips": config.shard_clips,
        "recipe": config.recipe.stored(),
    } | config.recipe.described()
    out = config.out
    if is_foreign(out, "plan"):
        raise PlanError(f"{out} is not empty and no shard set; choose another folder")
    ontology = config.ontology.read_bytes() if config.ontology else b""
    if (out / DATASET_FILE).exists() and committed_paths(out):
        found = read_dataset(out)
        for name, what in (("plan_sha256", "plan"), ("recipe", "recipe (frame, audio, decoder, drop, max-pad-ms)")):
            if found.get(name) != value[name]:
                raise PlanError(
                    f"{out} holds shards of another {what}; ingest with the same list and options, "
                    "or into another folder"
                )
        _restore_plan(plan, out / PLAN_FILE)
        if _sha256(ontology) == found.get("ontology_sha256"):
            _restore(out / ONTOLOGY_FILE, ontology)
    else:
        (out / "plan").mkdir(exist_ok=True)
        write_plan(plan, out / PLAN_FILE)
        (out / ONTOLOGY_FILE).unlink(missing_ok=True)
        if ontology:
            write_bytes(out / ONTOLOGY_FILE, ontology)
            value["ontology_sha256"] = _sha256(ontology)
        write_dataset(out, value)
    for split in plan.splits():
        (out / "shards" / split).mkdir(parents=True, exist_ok=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _restore(path: Path, data: bytes) -> None:
    """Write a file again where it is lost or damaged."""
    if not path.exists() or path.read_bytes() != data:
        write_bytes(path, data)


def _restore_plan(plan: Plan, path: Path) -> None:
    """Write the plan again where it is lost or damaged; the commits say which one it was."""
    try:
        is_whole = read_plan(path).sha256 == plan.sha256
    except PlanError:
        is_whole = False
    if not is_whole:
        path.parent.mkdir(exist_ok=True)
        write_plan(plan, path)


def _present(config: IngestConfig, plan: Plan) -> dict[str, Commit]:
    out = config.out
    present = {commit.name: commit for commit in committed_shards(out, tars=config.engine.upload is None)}
    if strange := [name for name, commit in present.items() if commit.plan_sha256 != plan.sha256]:
        raise ShardError(f"{out}: shard {strange[0]} belongs to another plan; ingest into another folder")
    return present


def _failure(config: IngestConfig, result: IngestResult) -> str:
    out, source, upload = config.out, config.engine.source, config.engine.upload
    where = f", media in {source.root}" if isinstance(source, FolderConfig) else ""
    failed = result.planned - result.ok
    reasons = ", ".join(f"{count} {code}" for code, count in result.errors.items())
    share = math.ceil(1000 * failed / result.planned) / 1000
    rows = all_rows(out, tars=upload is None)
    first = next(text for text in rows["error_detail"].to_pylist() if text)
    again = f"to try the failed ones again, `unibrivl shards retry {out}` with the same source; "
    return (
        f"{failed} of {result.planned} clips failed ({reasons}){where}: {first}; the {result.ok} others are in "
        f"{config.place}; {again if upload is None else ''}to accept this, pass --max-failed {share:g}"
    )
