"""Work done ahead of its use, results in the order of the tasks: in a thread, or in processes of their own.

Every process has a socket to itself, whose other end nobody else holds: one that is killed, even in the middle of
an answer, is an end of file at once. (The processes of `concurrent.futures` share one pipe for their answers: in
Python 3.11, the rest of a large answer was still awaited 16 s after its process had been killed.) Answers travel in
memory that both sides map, so only their sizes go through the socket, and nothing depends on the size of `/dev/shm`.
"""

import mmap
import os
import pickle
import signal
import tempfile
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import get_context, reduction
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

from .errors import ShardError

ALIGNMENT = 64
"""Arrays begin at multiples of this many bytes, as NumPy and torch like them."""
EXIT_S = 5.0
"""How long a worker that was told to end may take."""


class ThreadWorker:
    """Does tasks one after the other in a thread of this process."""

    def __init__(self, job: Callable[[Any], Any]) -> None:
        """Start the thread; `job` maps a task to its result."""
        self._job = job
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="readahead")
        self._pending: deque[Future[Any]] = deque()

    @property
    def outstanding(self) -> int:
        """Tasks whose results were not taken."""
        return len(self._pending)

    def submit(self, task: Any) -> None:
        """Add a task."""
        self._pending.append(self._pool.submit(self._job, task))

    def take(self) -> Any:
        """Return the result of the oldest task, or raise what it raised."""
        return self._pending.popleft().result()

    def close(self) -> None:
        """Drop all tasks that have not begun, and end."""
        self._pool.shutdown(cancel_futures=True)


class ProcessWorkers:
    """Hands tasks in turn to `count` processes, which hold a copy of `job`."""

    def __init__(self, job: Callable[[Any], Any], count: int) -> None:
        """Start the processes, by `spawn`: a fork of a process with threads or a GPU may hang."""
        context = get_context("spawn")
        self._given = self._taken = 0
        self._workers = []
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, job), name=f"reader worker {number}", daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours))

    @property
    def outstanding(self) -> int:
        """Tasks whose results were not taken."""
        return self._given - self._taken

    @property
    def pids(self) -> list[int | None]:
        """Process ids of the workers."""
        return [process.pid for process, _ in self._workers]

    def submit(self, task: Any) -> None:
        """Add a task; ShardError where its worker has died."""
        process, connection = self._workers[self._given % len(self._workers)]
        try:
            connection.send(task)
        except OSError as e:
            raise _died(process) from e
        self._given += 1

    def take(self) -> Any:
        """Return the result of the oldest task, or raise what it raised; ShardError where its worker has died."""
        process, connection = self._workers[self._taken % len(self._workers)]
        try:
            sizes = connection.recv()
            fd = reduction.recv_handle(connection)
        except (EOFError, OSError) as e:
            raise _died(process) from e
        self._taken += 1
        result = _unpack(fd, sizes)
        if isinstance(result, BaseException):
            raise result
        return result

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for process, connection in self._workers:
            connection.close()
            process.terminate()
        for process, _ in self._workers:
            process.join(EXIT_S)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self._workers = []


def _died(process: Any) -> ShardError:
    process.join(EXIT_S)
    code = process.exitcode
    if code is not None and code < 0:
        how = f"was killed by signal {-code}; out of memory perhaps: take fewer workers or a smaller batch"
    else:
        how = f"ended with exit code {code}; a script that uses workers must start under `if __name__ == '__main__':`"
    return ShardError(f"{process.name} (pid {process.pid}) {how}. The loader stands behind the last batch that it gave")


def _serve(connection: Connection, job: Callable[[Any], Any]) -> None:
    """Answer tasks until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = os.getppid()
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result = job(task)
        except ShardError as e:
            result = ShardError(str(e))  # its subclasses may not travel
        except Exception:
            result = RuntimeError(f"a reader worker failed:\n{traceback.format_exc()}")
        file, sizes = _pack(result)
        with file:
            try:
                connection.send(sizes)
                reduction.send_handle(connection, file.fileno(), parent)
            except OSError:
                return


def _pack(value: Any) -> tuple[BinaryIO, list[int]]:
    """Write `value` to memory with a file descriptor; return that file and the size of each part.

    The first part is a pickle, the others are the arrays that it refers to.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    file = _anonymous_file()
    for part in parts:
        file.write(part)
        file.write(bytes(-len(part) % ALIGNMENT))
    file.flush()
    return file, [len(part) for part in parts]


def _anonymous_file() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("batch"), "w+b")
    return tempfile.TemporaryFile()  # other systems: a file that has no name


def _unpack(fd: int, sizes: list[int]) -> Any:
    """Return what `_pack` wrote; its arrays lie in the mapped memory, which goes when the last of them goes."""
    try:
        memory = memoryview(mmap.mmap(fd, 0))
    finally:
        os.close(fd)
    parts, start = [], 0
    for size in sizes:
        parts.append(memory[start : start + size])
        start += size + -size % ALIGNMENT
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 - our own process wrote it
