"""Runs shard tasks on worker processes that may hang, crash or be killed without harm to the run.

A clip that keeps its worker beyond the deadline costs that worker its life and is recorded as `system.timeout`; one
that kills its worker twice as `system.worker_killed`. The next worker goes on behind the clips that were done.
"""

import multiprocessing
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from .errors import ClipError, IngestError
from .patience import Gate, PatienceConfig
from .worker import ShardTask, WorkerConfig, serve

MAX_DEATHS_BETWEEN_CLIPS = 3
"""A worker that dies outside any clip has met no bad file but a fault of the machine."""
RECYCLE_CLIPS = 2000
"""A worker that made so many clips is replaced after its shard: decoders and downloaders leak."""
CONTEXT = multiprocessing.get_context("spawn")


class _Worker:
    """One child process and what it is doing."""

    def __init__(self, config: WorkerConfig, number: int, gate: Gate) -> None:
        ours, theirs = CONTEXT.Pipe()
        self.connection: Connection = ours
        self.process: SpawnProcess = CONTEXT.Process(target=serve, args=(config, number, gate, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.task: ShardTask | None = None
        self.is_new = True
        self.slot = 0
        self.clips = 0
        self.key = ""
        self.deadline = float("inf")

    def give(self, task: ShardTask) -> None:
        """Send a task to a worker that waits for one; a new worker asks for it when it has started."""
        is_new = self.is_new
        self.task, self.slot, self.key, self.deadline, self.is_new = task, 0, "", float("inf"), False
        if not is_new:
            self.send()

    def send(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it died idle: the pool will hear of that
            self.connection.send(self.task)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class Pool:
    """Works through tasks; `on_clip(shard name, key, error code, detail, is_new)` hears of each clip as it is done.

    It hears of a clip once; `is_new` is False if an earlier run had done it.
    """

    def __init__(
        self,
        config: WorkerConfig,
        *,
        workers: int,
        patience: PatienceConfig,
        on_clip: Callable[[str, str, str, str, bool], None],
        recycle_clips: int = RECYCLE_CLIPS,
    ) -> None:
        """Remember the settings; processes start with `run`."""
        self.config = config
        self.size = workers
        self.on_clip = on_clip
        self.recycle_clips = recycle_clips
        self.gate = Gate(patience, CONTEXT)
        self.deaths = Counter[str]()
        self.again: deque[ShardTask] = deque()
        self.tasks: Iterator[ShardTask] = iter(())
        self.workers: list[_Worker] = []
        self.numbers = count()

    def run(self, tasks: Iterable[ShardTask]) -> None:
        """Make every shard; `tasks` is read as workers get free.

        Raises:
            IngestError: the output cannot be written, the source refuses for good, or workers keep dying.
        """
        self.tasks = iter(tasks)
        try:
            while self._assign():
                self._listen()
                self._kill_overdue()
        finally:
            for worker in self.workers:
                worker.stop()

    def _assign(self) -> bool:
        """Give tasks to idle workers, starting up to `size` of them; tell whether any is at work."""
        idle = [worker for worker in self.workers if worker.task is None]
        while idle or len(self.workers) < self.size:
            task = self.again.popleft() if self.again else next(self.tasks, None)
            if task is None:
                break
            if idle:
                idle.pop().give(task)
            else:
                self.workers.append(self._start())
                self.workers[-1].give(task)
        return any(worker.task for worker in self.workers)

    def _start(self) -> _Worker:
        return _Worker(self.config, next(self.numbers), self.gate)

    def _listen(self) -> None:
        busy = {worker.connection: worker for worker in self.workers if worker.task}
        for connection in wait(list(busy), timeout=0.5):
            worker = busy[connection]  # type: ignore[index]
            try:
                self._hear(worker, worker.connection.recv())
            except (EOFError, ConnectionResetError):
                self._bury(worker)

    def _hear(self, worker: _Worker, message: tuple[Any, ...]) -> None:
        event, subject, *rest = message
        if event == "clip":
            worker.key, worker.deadline = subject, time.monotonic() + rest[0]
        elif event in ("done", "kept"):
            assert worker.task is not None
            worker.key, worker.deadline = "", float("inf")
            worker.clips += event == "done"
            worker.slot += 1
            if worker.slot > worker.task.told:  # the worker that goes on with a shard tells of its clips again
                worker.task.told = worker.slot
                code, detail = rest
                self.on_clip(worker.task.name, subject, code, detail, event == "done")
        elif event == "ready":
            worker.send()
        elif event == "shard":
            worker.task = None
            self.deaths[""] = 0
            if worker.clips >= self.recycle_clips:
                worker.stop()
                self.workers.remove(worker)
        elif event == "fatal":
            raise IngestError("\n".join(part for part in (subject, *rest) if part))

    def _bury(self, worker: _Worker) -> None:
        """Replace a worker that died by itself, and give its shard to the next one."""
        worker.process.join()
        key = worker.key
        self.deaths[key] += 1
        if not key and self.deaths[key] >= MAX_DEATHS_BETWEEN_CLIPS:
            raise IngestError(f"workers keep dying (exit code {worker.process.exitcode}); is there enough memory?")
        died = f"{key}: its worker died twice (exit code {worker.process.exitcode})"
        self._retire(worker, ClipError("system.worker_killed", died) if key and self.deaths[key] >= 2 else None)

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for worker in self.workers:
            if worker.task and worker.key and now > worker.deadline:
                late = f"{worker.key}: not done within its time limit (--clip-timeout, --fetch-timeout)"
                self._retire(worker, ClipError("system.timeout", late))

    def _retire(self, worker: _Worker, error: ClipError | None) -> None:
        assert worker.task is not None
        if error is not None:
            worker.task.poison[worker.key] = error
        self.again.appendleft(worker.task)
        worker.stop()
        self.workers.remove(worker)
