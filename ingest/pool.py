"""Runs shard tasks on worker processes that may hang, crash or be killed without harm to the run.

A clip that keeps its worker beyond the deadline costs that worker its life and is recorded as `system.timeout`; one
that kills its worker twice as `system.worker_killed`. The shard is then made again without it.
"""

import multiprocessing
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from .errors import ClipError, IngestError
from .worker import ShardTask, WorkerConfig, serve

MAX_DEATHS_BETWEEN_CLIPS = 3
"""A worker that dies outside any clip has met no bad file but a fault of the machine."""


class _Worker:
    """One child process and what it is doing."""

    def __init__(self, config: WorkerConfig, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self.number = number
        self.connection: Connection = ours
        self.process: SpawnProcess = context.Process(target=serve, args=(config, number, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.task: ShardTask | None = None
        self.key = ""
        self.since = time.monotonic()

    def give(self, task: ShardTask) -> None:
        self.task, self.key, self.since = task, "", time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):  # it died idle: the pool will hear of that
            self.connection.send(task)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class Pool:
    """Works through tasks; `on_clip(shard name, key, error code, detail)` hears of each clip as it is done."""

    def __init__(
        self,
        config: WorkerConfig,
        *,
        workers: int,
        clip_timeout_s: float,
        on_clip: Callable[[str, str, str, str], None],
    ) -> None:
        """Remember the settings; processes start with `run`."""
        self.config = config
        self.size = workers
        self.clip_timeout_s = clip_timeout_s
        self.on_clip = on_clip
        self.deaths = Counter[str]()
        self.queue: deque[ShardTask] = deque()
        self.workers: list[_Worker] = []

    def run(self, tasks: Iterable[ShardTask]) -> None:
        """Make every shard.

        Raises:
            IngestError: the output cannot be written, or workers keep dying outside any clip.
        """
        self.queue.extend(tasks)
        try:
            self.workers = [_Worker(self.config, n) for n in range(min(self.size, len(self.queue)))]
            while self.queue or any(worker.task for worker in self.workers):
                self._assign()
                self._listen()
                self._kill_overdue()
        finally:
            for worker in self.workers:
                worker.stop()

    def _assign(self) -> None:
        for worker in self.workers:
            if worker.task is None and self.queue:
                worker.give(self.queue.popleft())

    def _listen(self) -> None:
        busy = {worker.connection: worker for worker in self.workers if worker.task}
        for connection in wait(list(busy), timeout=0.5):
            worker = busy[connection]  # type: ignore[index]
            try:
                self._hear(worker, worker.connection.recv())
            except (EOFError, ConnectionResetError):
                self._bury(worker)

    def _hear(self, worker: _Worker, message: tuple[str, ...]) -> None:
        event, subject, *rest = message
        worker.since = time.monotonic()
        if event == "clip":
            worker.key = subject
        elif event == "done":
            assert worker.task is not None
            worker.key = ""
            self.on_clip(worker.task.shard.name, subject, *rest)
        elif event == "shard":
            worker.task = None
        else:
            raise IngestError("\n".join(part for part in (subject, *rest) if part))

    def _bury(self, worker: _Worker) -> None:
        """Replace a worker that died by itself, and give its shard to the next one."""
        worker.process.join()
        key = worker.key
        self.deaths[key] += 1
        if not key and self.deaths[key] >= MAX_DEATHS_BETWEEN_CLIPS:
            raise IngestError(f"workers keep dying (exit code {worker.process.exitcode}); is there enough memory?")
        died = f"{key}: its worker died twice (exit code {worker.process.exitcode})"
        self._replace(worker, ClipError("system.worker_killed", died) if key and self.deaths[key] >= 2 else None)

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for worker in self.workers:
            if worker.task and worker.key and now - worker.since > self.clip_timeout_s:
                late = f"{worker.key}: not decoded within {self.clip_timeout_s:g} s"
                self._replace(worker, ClipError("system.timeout", late))

    def _replace(self, worker: _Worker, error: ClipError | None) -> None:
        assert worker.task is not None
        if error is not None:
            worker.task.poison[worker.key] = error
        self.queue.appendleft(worker.task)
        worker.stop()
        self.workers[self.workers.index(worker)] = _Worker(self.config, worker.number)
