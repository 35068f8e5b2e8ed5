"""What both speed benches share: contenders in processes of their own, what they cost, and how it is told.

A contender runs pinned to one core, the contenders take turns, and every figure is a median over the turns: on a
machine that others use too, a slow minute then falls on all of them alike.
"""

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import Empty, Queue
from statistics import median
from typing import Any

from .errors import BenchError

Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all and what comes next."""
TIDY_S = 15
"""How long a contender may take to end by itself: some leave shared memory behind when they are killed."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def no_progress(done: int, total: int, what: str) -> None:
    """Tell nobody."""


class ContenderError(BenchError):
    """A contender crashed, hung or delivered other than it should; one line. The bench goes on without it."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that ended well, and what it cost."""

    stdout: str
    wall_s: float
    cpu_s: float
    """User and system time, with that of all its own children."""


def run_process(
    words: Sequence[str | Path],
    *,
    core: int | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 3600,
    watch: Callable[[int], None] | None = None,
) -> Finished:
    """Run a program to its end.

    Args:
        words: the program and its arguments.
        core: the core that it and its children may use; None: any.
        env: added to the environment.
        timeout_s: killed after so long.
        watch: called with the process id every 50 ms or so while it runs.

    Raises:
        ContenderError: it cannot be started, fails, or takes too long.
    """
    words = [str(word) for word in words]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        try:
            with pinned(core):
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
                    env={**os.environ, **ONE_THREAD, **(env or {})},
                )  # fmt: skip
        except OSError as e:
            raise ContenderError(f"{words[0]}: cannot be started ({e.strerror})") from e
        with _ended(process, timeout_s, watch):
            # wait4 and not `wait`: it tells what this one process and its children have used
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - began
        if process.returncode:
            raise ContenderError(_fault(Path(words[0]).name, process.returncode, _text(err)))
        return Finished(_text(out), wall, usage.ru_utime + usage.ru_stime)


@contextmanager
def _ended(process: subprocess.Popen[bytes], timeout_s: float, watch: Callable[[int], None] | None) -> Iterator[None]:
    """Kill the process and its children when time is over or we are interrupted; call `watch` meanwhile."""
    over = threading.Event()

    def look() -> None:
        deadline = time.monotonic() + timeout_s
        while not over.wait(0.05 if watch else max(0.0, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                _kill_group(process.pid)
                return
            if watch:
                watch(process.pid)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    except BaseException:
        _kill_group(process.pid)
        process.wait()
        raise
    finally:
        over.set()
        watcher.join()


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _text(file: Any) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _fault(name: str, code: int, stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{name}: {how}: {lines[-1][:300] if lines else 'it said nothing'}"


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Start processes on one core: what this thread starts inside keeps to it."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def last_core() -> int:
    """Return the core that contenders run on: the last, since systems keep their own work on the first."""
    return max(os.sched_getaffinity(0))


class Conversation:
    """A process that obeys JSON lines, one answer a line: a contender that is set up once and then takes turns."""

    def __init__(self, words: Sequence[str | Path], *, env: Mapping[str, str], folder: Path, name: str) -> None:
        """Start it in `folder`; `name` is for messages.

        Raises:
            ContenderError: it cannot be started.
        """
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `close`)
        self._answers: Queue[str] = Queue()
        self.process = subprocess.Popen(
            [str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**os.environ, **ONE_THREAD, **env}, cwd=folder, start_new_session=True, text=True,
        )  # fmt: skip
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def tell(self, order: dict[str, Any]) -> None:
        """Send one order; `hear` waits for its answer."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it died: `hear` will say so
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()

    def hear(self, timeout_s: float) -> dict[str, Any]:
        """Wait for the answer to the last order.

        Raises:
            ContenderError: the process failed, died or did not answer in time.
        """
        try:
            line = self._answers.get(timeout=timeout_s)
        except Empty:
            self._kill()
            raise ContenderError(f"{self.name}: no answer within {timeout_s:g} s") from None
        if not line:
            self._kill()
            raise ContenderError(_fault(self.name, self.process.returncode, _text(self._errors)))
        answer = json.loads(line)
        if "error" in answer:
            raise ContenderError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process and what it has started; it may tidy up for a while."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(TIDY_S)
        self._kill()
        self._listener.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _kill(self) -> None:
        if self.process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)  # it may be on its way out by itself: then its exit code is its own
        _kill_group(self.process.pid)
        self.process.wait()


@contextmanager
def working_folder(work: Path | None) -> Iterator[Path]:
    """Yield a new folder, below `work` or where temporary files go, and remove it afterwards.

    Raises:
        BenchError: it cannot be made.
    """
    try:
        if work is not None:
            work.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix="unibrivl-speed-", dir=work, ignore_cleanup_errors=True)
    except OSError as e:
        raise BenchError(f"{work}: no folder can be made there ({e.strerror}); name another with --work") from e
    with folder as path:
        yield Path(path).resolve()


def fill_in(config: Any, sizes: Mapping[str, Any]) -> None:
    """Give the fields of a frozen configuration that were left open (None) the sizes of a quick or a full run."""
    for name, value in sizes.items():
        if getattr(config, name) is None:
            object.__setattr__(config, name, value)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return least, middle and most of the repeats."""
    return {"min": figure(min(values)), "median": figure(median(values)), "max": figure(max(values))}


def figure(value: float) -> float:
    """Round to four significant digits: more would be noise."""
    return float(f"{value:.4g}")


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Return `ours / theirs`, None where one is missing."""
    return figure(ours / theirs) if ours and theirs else None


def versions(names: Sequence[str]) -> dict[str, str | None]:
    """Return the installed version of each package, None where it is missing."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def spread_text(values: Mapping[str, float] | None) -> str:
    """Return `min-max` for a table, empty where there is none."""
    return "" if values is None else f"{values['min']:.3g}-{values['max']:.3g}"
