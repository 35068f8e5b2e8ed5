"""What runs on a cluster's machines: tasks that make one shard each, and the desk that they all report to.

A task is a pool of one worker, so that clips hang, crash and are replaced as on one machine. What becomes of a clip
stands in the shard; the desk only hears of it, so that the command that was given can show how far all have come.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..shards import read_commit
from ..shards.cluster import check_same, this_node
from ..shards.commit import commit_path
from ..shards.sidecar import read_sidecar
from .errors import IngestError
from .patience import Gate, GateMirror, GateState, PatienceConfig
from .pool import CONTEXT, Pool
from .worker import ShardTask, WorkerConfig

REPORT_S = 1.0
"""Between two reports of a task; so late do other machines hear that the source wants a pause."""
LOCK_FILE = "lock"
"""In the ledger of a run on a cluster: held by the process that drives it, as long as it lives."""

Outcome = tuple[str, str, bool]
"""Of a clip: error code or empty, sentence, and whether it is new."""
Report = tuple[str, int, list[Outcome]]
"""Shard, slot of the first clip, outcomes of the clips from there on."""


class Desk:
    """An actor that all tasks of a run report to; it has the one gate of the source."""

    def __init__(self, patience: PatienceConfig) -> None:
        """Open the gate."""
        self.gate = Gate(patience, CONTEXT)
        self.reports: list[Report] = []

    def report(self, report: Report, met: GateState | None) -> GateState:
        """Take what became of some clips and what a machine has met of the source; return how the gate stands."""
        if report[2]:
            self.reports.append(report)
        if met is not None:
            self.gate.meet(met)
        return self.gate.state

    def take(self) -> list[Report]:
        """Return what was reported since the last call."""
        reports, self.reports = self.reports, []
        return reports


class Reporter:
    """Tells the desk of one shard's clips, and keeps the gate of this machine like the desk's."""

    def __init__(self, desk: Any, shard: str) -> None:
        """Begin before the first clip."""
        self.desk, self.shard = desk, shard
        self.outcomes: list[Outcome] = []
        self.sent = 0
        self.mirror: GateMirror | None = None

    def hear(self, shard: str, key: str, code: str, detail: str, is_new: bool) -> None:
        """Note what became of the next clip."""
        self.outcomes.append((code, detail, is_new))

    def send(self) -> None:
        """Report what is not reported yet."""
        import ray

        outcomes = self.outcomes[self.sent :]
        met = self.mirror.news() if self.mirror else None
        state: Any = ray.get(self.desk.report.remote((self.shard, self.sent, outcomes), met))
        self.sent += len(outcomes)
        if self.mirror:
            self.mirror.follow(state)

    @contextmanager
    def reporting(self, gate: Gate) -> Iterator[None]:
        """Report now, then every `REPORT_S`."""
        self.mirror = GateMirror(gate)
        self.send()
        over = threading.Event()

        def repeat() -> None:
            while not over.wait(REPORT_S):
                self.send()

        thread = threading.Thread(target=repeat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def make_shard(
    config: WorkerConfig, task: ShardTask, desk: Any, patience: PatienceConfig, made_with: dict[str, str]
) -> None:
    """Make and commit a shard on this machine, going on with what another one has left of it.

    Args:
        config: of the run, with absolute paths.
        task: the shard.
        desk: of the run.
        patience: with the source.
        made_with: versions of what decides the bytes, where the command was given.

    Raises:
        IngestError: this machine has other files or versions, or whatever ends a run on one machine.
    """
    import ray

    check_same("the versions", config.recipe.described()["made_with"], made_with, IngestError)
    check_storage(config)
    reporter = Reporter(desk, task.name)
    if not _tell_committed(config, task, reporter):
        node = ray.get_runtime_context().get_node_id()
        config = replace(config, machine=f"{node[:8]}-{os.getpid()}-")
        pool = Pool(config, workers=1, patience=patience, on_clip=reporter.hear)
        try:
            with reporter.reporting(pool.gate):
                pool.run([task])
        except IngestError as e:
            raise IngestError(f"on {this_node()}: {e}") from None
    reporter.send()


def check_storage(config: WorkerConfig) -> None:
    """Refuse a machine that does not have the output where the others have it, or that no lock of theirs reaches.

    Raises:
        IngestError: so it is. A shard that two machines write at a time would be the end of both.
    """
    path = config.out / "ledger" / config.run / LOCK_FILE
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    except OSError as e:
        raise IngestError(
            f"{this_node()} does not see {config.out} as the command's own machine does ({e.strerror}); "
            "every machine of the cluster must have the output and the media under the same paths"
        ) from e
    raise IngestError(
        f"{config.out}: file locks do not reach {this_node()}; mount it so that they do (NFS 4 without nolock, Lustre "
        f"with flock, ...) or use another storage ({os.strerror(errno.ENOLCK)})"
    )


def _tell_committed(config: WorkerConfig, task: ShardTask, reporter: Reporter) -> bool:
    """Tell of a shard that another machine has just committed and then could not say so; tell whether it is there."""
    path = commit_path(config.out, task.split, task.name)
    if task.repair or not path.exists():
        return False
    rows = read_sidecar(read_commit(path)).select(["error_code", "error_detail"]).to_pylist()
    for row in rows:
        reporter.hear(task.name, "", row["error_code"] or "", row["error_detail"] or "", False)
    return True
