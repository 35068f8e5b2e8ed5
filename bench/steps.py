"""Runs commands of ours as a user would, each in a process of its own."""

import shlex
import subprocess
import sys
import time

from .errors import BenchError


def answer_of(name: str, words: list[str]) -> str:
    """Run `unibrivl` with these words; return what it printed.

    Raises:
        BenchError: it failed.
    """
    return _run(name, words, subprocess.PIPE).stdout


def run_step(name: str, words: list[str]) -> float:
    """Run `unibrivl` with these words, its progress on our standard error; return its seconds.

    Raises:
        BenchError: it failed.
    """
    began = time.monotonic()
    _run(name, words, subprocess.DEVNULL)
    return time.monotonic() - began


def _run(name: str, words: list[str], stdout: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "unibrivl", *words], stdout=stdout, text=True, check=False)
    if done.returncode:
        raise BenchError(f"step {name} failed with exit code {done.returncode}: unibrivl {shlex.join(words)}")
    return done
