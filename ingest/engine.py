"""Makes a list of shards, on this machine or a cluster; `run.py`, `retry.py` and `repair.py` say which."""

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from ..shards.atomic import hold_directory, remove_leftovers
from ..shards.checks import check_ranges
from ..shards.cluster import ClusterConfig
from ..shards.upload import Upload
from ..shards.writer import remove_finished_parts
from .addresses import check_address
from .errors import AGAIN, IngestError
from .fleet import Fleet
from .patience import PatienceConfig
from .pool import Pool
from .recipe import Recipe
from .sources import SourceConfig
from .worker import ShardTask, WorkerConfig

MAX_FAULTS_IN_A_ROW = 100
"""Clips that fail in passing (network, time limit, memory) one after the other before a run stops: the fault is not
theirs then (the rule of Megatron-Energon's loaders)."""

Progress = Callable[[str, int], None]
"""Called with an error code ("" for a good clip) and how many clips that concerns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How shards are made; none of it changes their bytes."""

    source: SourceConfig | None
    """Where media come from; None: nowhere, which is enough to repair shards whose samples are whole."""
    workers: int | None = None
    """Worker processes; None: one a core, on a cluster one a core of it and as many shards in waiting."""
    cluster: ClusterConfig | None = None
    """The Ray cluster that makes the shards; None: processes of this machine."""
    clip_timeout_s: float = 60.0
    """How long decoding a clip may take."""
    fetch_timeout_s: float = 600.0
    """How long getting its medium may take."""
    patience: PatienceConfig = field(default_factory=PatienceConfig)
    worker_memory_bytes: int = 4 << 30
    """Address space that a worker may take."""
    upload: Upload | None = None
    """Where each shard is sent as soon as it is made; None: it stays where it was made."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        check_ranges(
            self, workers=(1, 1024), clip_timeout_s=(0.001, 86_400), fetch_timeout_s=(0.001, 86_400),
            worker_memory_bytes=(1 << 28, 1 << 50),
        )  # fmt: skip


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Create `out`, keep other writers away from it, and remove what dead ones left."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with hold_directory(out, wait=False) as is_ours:
            if not is_ours:
                raise IngestError(f"{out}: another run is writing there; wait for it, or choose another folder")
            _clear(out)
            yield
            _clear(out)
    except OSError as e:
        raise IngestError(f"{e.filename or out}: cannot be written ({e.strerror or e})") from e


def make_shards(
    out: Path, recipe: Recipe, plan_sha256: str, tasks: Iterable[ShardTask], config: EngineConfig, progress: Progress
) -> None:
    """Make and commit every shard of `tasks`.

    Raises:
        PlanError: the address that media come from cannot be reached.
        IngestError: the output cannot be written, the source refuses for good, or everything fails in passing.
    """
    tasks = iter(tasks)
    first = next(tasks, None)
    if first is None:
        return
    check_address(config.source, first.clips)
    run = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f"-{os.getpid()}"
    (out / "ledger" / run).mkdir(parents=True, exist_ok=True)
    faults = 0

    def on_clip(shard: str, key: str, code: str, detail: str, is_new: bool) -> None:
        nonlocal faults
        progress(code, 1)
        if is_new:  # what an earlier run met says nothing about now
            faults = faults + 1 if code.partition(".")[0] in AGAIN | {"system"} else 0
        if faults >= MAX_FAULTS_IN_A_ROW:
            raise IngestError(
                f"{faults} clips in a row failed in passing, the last: {detail}; mend that and run the same command "
                "again, it goes on where it was"
            )

    worker = WorkerConfig(
        out=out, source=config.source, recipe=recipe, plan_sha256=plan_sha256, memory_bytes=config.worker_memory_bytes,
        clip_timeout_s=config.clip_timeout_s, fetch_timeout_s=config.fetch_timeout_s, run=run,
        upload=config.upload,
    )  # fmt: skip
    tasks = chain([first], tasks)
    if config.cluster is None:
        workers = config.workers or len(os.sched_getaffinity(0))
        Pool(worker, workers=workers, patience=config.patience, on_clip=on_clip).run(tasks)
    else:
        Fleet(worker, config.cluster, shards=config.workers, patience=config.patience, on_clip=on_clip).run(tasks)


def _clear(out: Path) -> None:
    for directory in (out, out / "plan", *(out / "shards").glob("*/")):
        if directory.is_dir():
            remove_leftovers(directory)
            remove_finished_parts(directory)
