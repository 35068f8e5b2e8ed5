"""`ingest`: a list of clips becomes committed shards, and a second run does only what is missing."""

import errno
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import soundfile
from PIL import Image

from .. import __version__
from ..shards import FORMAT_VERSION, SAMPLE_RATE, Commit, ShardError
from ..shards.atomic import hold_directory, is_foreign, remove_leftovers, write_json
from ..shards.catalog import DATASET_FILE, committed_shards, read_dataset, read_sidecar
from ..shards.schema import SPLIT_PATTERN
from .errors import ClipError, IngestError, PlanError
from .lists import ClipList, read_list
from .plan import Plan, make_plan, write_plan
from .pool import Pool
from .sources import MediaFolder
from .worker import JPEG_QUALITY, ShardTask, WorkerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """What `unibrivl ingest` was asked to do."""

    list_path: Path
    """AudioSet's own dialect or a general CSV."""
    out: Path
    """Folder of the shard set."""
    media_dir: Path
    """Folder with the media."""
    split: str | None = None
    """For rows that name none."""
    frame_size: int = 64
    """Side of the stored picture in pixels; 64 is the paper's."""
    shard_clips: int = 2048
    """Clips planned for one shard."""
    seed: int = 0
    """Of the order of the clips."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Worker processes."""
    clip_timeout_s: float = 60.0
    """How long a clip may take."""
    max_pad_ms: int = 1000
    """How much sound of a clip may be missing."""
    max_failed: float = 0.0
    """Share of clips that may fail before the run counts as failed."""
    worker_memory_bytes: int = 4 << 30
    """Address space that a worker may take."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        for name, least, most in (
            ("frame_size", 16, 1024), ("shard_clips", 1, 1_000_000), ("workers", 1, 1024),
            ("max_failed", 0, 1), ("max_pad_ms", 0, 600_000), ("clip_timeout_s", 0.001, 86_400),
        ):  # fmt: skip
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name} is {value}, want {least} to {most}")
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


Progress = Callable[[str, int], None]
"""Called with an error code ("" for a good clip) and how many clips that concerns."""


def read_and_plan(config: IngestConfig) -> tuple[ClipList, Plan]:
    """Read the list and plan its shards; touches nothing."""
    clips = read_list(config.list_path, split=config.split)
    return clips, make_plan(clips.clips, seed=config.seed, shard_clips=config.shard_clips)


def ingest(config: IngestConfig, plan: Plan, progress: Progress = lambda code, count: None) -> IngestResult:
    """Make every shard of `plan` that is not committed yet.

    Raises:
        PlanError: `out` holds another plan, or not one medium of the plan is in the media folder.
        IngestError: `out` cannot be written, or more clips failed than `max_failed` allows.
        ShardError: a committed shard is damaged.
    """
    started = time.monotonic()
    _check_media(config, plan)
    with _writing(config.out):
        _clear(config.out)
        _adopt(config, plan)
        present = _present(config.out, plan)
        for commit in present.values():
            progress("", commit.ok)
            for code, count in commit.errors.items():
                progress(code, count)
        missing = [ShardTask(shard) for shard in plan.shards if shard.name not in present]
        failures = _make(config, plan, missing, progress)
        commits = _present(config.out, plan)
    errors = Counter(code for shard, code, _ in failures if shard not in commits)
    for commit in commits.values():
        errors.update(commit.errors)
    result = IngestResult(
        planned=plan.num_clips, ok=sum(commit.ok for commit in commits.values()), errors=dict(sorted(errors.items())),
        shards=len(commits), made=len(commits) - len(present), seconds=time.monotonic() - started,
    )  # fmt: skip
    if plan.num_clips - result.ok > config.max_failed * plan.num_clips:
        raise IngestError(_failure(config.out, result, _first_failure(failures, commits.values())))
    return result


def _check_media(config: IngestConfig, plan: Plan) -> None:
    """Refuse a media folder that has none of the media before anything is written."""
    folder = MediaFolder(config.media_dir)
    first: ClipError | None = None
    for shard in plan.shards:
        for clip in shard.clips:
            try:
                folder.find(clip)
                return
            except ClipError as e:
                first = first or e
    raise PlanError(f"none of {plan.num_clips} clips has its medium in {config.media_dir}; the first: {first}")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Create `out` and keep other writers away from it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with hold_directory(out, wait=False) as is_ours:
            if not is_ours:
                raise IngestError(f"{out}: another run is writing there; wait for it, or choose another folder")
            yield
    except OSError as e:
        raise IngestError(f"{e.filename or out}: cannot be written ({e.strerror or e})") from e


def _adopt(config: IngestConfig, plan: Plan) -> None:
    """Write data set file and plan, or check that those in place are the same."""
    value: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "plan_sha256": plan.sha256,
        "clips": plan.num_clips,
        "seed": config.seed,
        "shard_clips": config.shard_clips,
        "audio": {"codec": "flac", "sample_rate_hz": SAMPLE_RATE, "channels": 1, "subtype": "PCM_16"},
        "frame": {"codec": "jpeg", "size_px": config.frame_size, "quality": JPEG_QUALITY},
        "max_pad_ms": config.max_pad_ms,
        "made_with": {
            "unibrivl": __version__, "av": av.__version__, "soundfile": soundfile.__version__,
            "libsndfile": soundfile.__libsndfile_version__, "pillow": Image.__version__,
        },
    }  # fmt: skip
    path = config.out / DATASET_FILE
    if is_foreign(config.out, "plan"):
        raise PlanError(f"{config.out} is not empty and no shard set; choose another folder")
    if path.exists() and committed_shards(config.out):
        found = read_dataset(config.out)
        for name in ("plan_sha256", "frame", "max_pad_ms"):
            if found.get(name) != value[name]:
                raise PlanError(
                    f"{config.out} holds shards of another {name.removesuffix('_sha256')}; "
                    "ingest with the same list and options, or into another folder"
                )
    else:
        (config.out / "plan").mkdir(exist_ok=True)
        write_plan(plan, config.out / "plan" / "plan-00000.parquet")
        write_json(path, value)
    for split in plan.splits():
        (config.out / "shards" / split).mkdir(parents=True, exist_ok=True)


def _clear(out: Path) -> None:
    """Remove what dead runs and killed workers left half-written."""
    for directory in (out, out / "plan", *(out / "shards").glob("*/")):
        if directory.is_dir():
            remove_leftovers(directory)


def _present(out: Path, plan: Plan) -> dict[str, Commit]:
    present = {commit.name: commit for commit in committed_shards(out)}
    if strange := [name for name, commit in present.items() if commit.plan_sha256 != plan.sha256]:
        raise ShardError(f"{out}: shard {strange[0]} belongs to another plan; ingest into another folder")
    return present


def _make(config: IngestConfig, plan: Plan, tasks: list[ShardTask], progress: Progress) -> list[tuple[str, str, str]]:
    """Make shards; return shard, error code and detail of each clip that failed."""
    if not tasks:
        return []
    run = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f"-{os.getpid()}"
    (config.out / "ledger" / run).mkdir(parents=True, exist_ok=True)
    failures: dict[str, tuple[str, str, str]] = {}
    seen: set[str] = set()

    def on_clip(shard: str, key: str, code: str, detail: str) -> None:
        if key not in seen:  # a shard that is made again tells of its clips again
            progress(code, 1)
        seen.add(key)
        if code:
            failures[key] = (shard, code, detail)

    worker = WorkerConfig(
        out=config.out, media_dir=config.media_dir, plan_sha256=plan.sha256, frame_size=config.frame_size,
        max_pad_ms=config.max_pad_ms, memory_bytes=config.worker_memory_bytes, run=run,
    )  # fmt: skip
    Pool(worker, workers=config.workers, clip_timeout_s=config.clip_timeout_s, on_clip=on_clip).run(tasks)
    _clear(config.out)
    return list(failures.values())


def _first_failure(failures: list[tuple[str, str, str]], commits: Iterable[Commit]) -> str:
    """Find one failed clip to name: of this run, else in a sidecar."""
    if failures:
        return failures[0][2]
    damaged = next(commit for commit in commits if commit.errors)
    rows = read_sidecar(damaged).select(["status", "error_detail"]).to_pylist()
    return next(row["error_detail"] for row in rows if row["status"] != "ok")


def _failure(out: Path, result: IngestResult, first: str) -> str:
    failed = result.planned - result.ok
    reasons = ", ".join(f"{count} {code}" for code, count in result.errors.items())
    share = math.ceil(1000 * failed / result.planned) / 1000
    return (
        f"{failed} of {result.planned} clips failed ({reasons}): {first}; "
        f"the {result.ok} others are in {out}; to accept this, pass --max-failed {share:g}"
    )
