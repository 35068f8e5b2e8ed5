"""Runs shard tasks on a Ray cluster that may lose machines and workers without harm to the run.

A shard whose worker or machine dies is given to another one, which goes on behind the clips that were done; both work
in the output folder, which all machines share. Ray carries names, lists of clips and reasons, never media.
"""

import fcntl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..shards.cluster import MAX_LOSSES, NAMESPACE, ClusterConfig, connected, end_tasks, see
from ..shards.commit import commit_path
from .errors import IngestError
from .machine import LOCK_FILE, Desk, make_shard
from .patience import PatienceConfig
from .worker import ShardTask, WorkerConfig

LISTEN_S = 0.5
"""Between two looks at what was reported."""
DESK_S = 10.0
"""How long the desk of a run that was killed may take to go."""


class Fleet:
    """Works through tasks as `Pool` does; `on_clip` hears of each clip once, however often its machine was lost."""

    def __init__(
        self,
        config: WorkerConfig,
        cluster: ClusterConfig,
        *,
        shards: int | None,
        patience: PatienceConfig,
        on_clip: Callable[[str, str, str, str, bool], None],
    ) -> None:
        """Remember the settings.

        Args:
            config: of every worker.
            cluster: where they work.
            shards: given to the cluster at one time; None: twice as many as it has cores now.
            patience: with the source, of all machines together.
            on_clip: as `Pool` has it.
        """
        self.config = _everywhere(config)
        self.cluster = cluster
        self.shards = shards
        self.patience = patience
        self.on_clip = on_clip
        self.running: dict[Any, ShardTask] = {}
        self.told = Counter[str]()
        self.ray: Any = None
        self.desk: Any = None

    def run(self, tasks: Iterable[ShardTask]) -> None:
        """Make every shard; `tasks` is read as the cluster gets free.

        Raises:
            IngestError: there is no such cluster, one of its machines has other files or versions, or whatever ends a
                run on one machine.
        """
        with self._held(), connected(self.cluster, IngestError) as self.ray:
            self.desk = self._open_desk()
            try:
                self._work(iter(tasks))
            finally:
                self._stop()

    def _work(self, tasks: Iterator[ShardTask]) -> None:
        made_with = self.config.recipe.described()["made_with"]
        make = self.ray.remote(num_cpus=1, max_retries=MAX_LOSSES)(make_shard)
        while True:
            for task in islice(tasks, max(0, self._room() - len(self.running))):
                self.running[make.remote(self.config, task, self.desk, self.patience, made_with)] = task
            if not self.running:
                return
            done, _ = self.ray.wait(list(self.running), timeout=LISTEN_S)
            self._listen()
            for one in done:
                self.ray.get(one)
                self._see(self.running.pop(one))

    def _room(self) -> int:
        """Return how many shards the cluster may have: those that it makes, and as many in waiting."""
        return self.shards or 2 * max(1, int(self.ray.cluster_resources().get("CPU", 0)))

    def _listen(self) -> None:
        """Tell of the clips that were reported; one whose shard went to another machine is reported again."""
        tasks = {task.name: task for task in self.running.values()}
        for shard, slot, outcomes in self.ray.get(self.desk.take.remote()):
            for code, detail, is_new in outcomes[self.told[shard] - slot :]:
                key = tasks[shard].clips[self.told[shard]].key
                self.told[shard] += 1
                self.on_clip(shard, key, code, detail, is_new)

    def _see(self, task: ShardTask) -> None:
        """Wait until the shard is seen here, too; a repair may have left it as it was."""
        if not task.repair:
            see(commit_path(self.config.out, task.split, task.name), IngestError)

    def _open_desk(self) -> Any:
        """Start the actor where this process is: they live and die together. A folder has one in the whole cluster."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=False)
        desk = self.ray.remote(num_cpus=0)(Desk).options(
            name=f"ingest {self.config.out}", namespace=NAMESPACE, scheduling_strategy=here
        )
        until = time.monotonic() + DESK_S
        while True:
            try:
                return desk.remote(self.patience)
            except ValueError as e:  # the name is taken
                if time.monotonic() > until:
                    raise IngestError(
                        f"{self.config.out}: another run on the cluster is writing there; wait for it"
                    ) from e
                time.sleep(LISTEN_S)

    def _stop(self) -> None:
        """End what still runs, and wait until it has ended: nobody writes after this."""
        from ray.exceptions import RayError

        end_tasks(self.ray, self.running)
        with suppress(RayError):
            self.ray.kill(self.desk)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the file by which machines see that they share storage and locks with this one."""
        path = self.config.out / "ledger" / self.config.run / LOCK_FILE
        with path.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                path.unlink()


def _everywhere(config: WorkerConfig) -> WorkerConfig:
    """Return the configuration with paths that mean the same in every process, whatever its working folder."""
    decode = _absolute(config.recipe.decode)
    source = _absolute(config.source) if config.source else None
    return _absolute(replace(config, source=source, recipe=replace(config.recipe, decode=decode)))


def _absolute(config: Any) -> Any:
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return replace(config, **{name: value.absolute() for name, value in values.items() if isinstance(value, Path)})
