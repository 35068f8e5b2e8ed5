"""Checks that a child process ends with its parent, ignores the interrupt key and stays within its memory."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CHILD = """
import sys
import time
from multiprocessing import get_context
from pathlib import Path

from unibrivl.ingest.children import follow_parent, limit_memory


def work(path):
    follow_parent()
    limit_memory(1 << 30)
    try:
        bytearray(2 << 30)
    except MemoryError:
        Path(path).write_text("refused")
    time.sleep(1000)


if __name__ == "__main__":
    child = get_context("spawn").Process(target=work, args=(sys.argv[1],))
    child.start()
    print(child.pid, flush=True)
    child.join()
"""


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(claim: str, holds: object) -> None:
    deadline = time.monotonic() + 20
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, claim
        time.sleep(0.02)


def test_a_child_ends_with_its_parent_and_only_then(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(CHILD)
    done = tmp_path / "done"
    with subprocess.Popen([sys.executable, tmp_path / "parent.py", done], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            wait_until("a child may not take more memory than it was given", done.exists)
            os.kill(child, signal.SIGINT)
            time.sleep(0.2)
            assert is_there(child)
            parent.kill()
            wait_until("a child ends with its parent", lambda: not is_there(child))
        finally:
            parent.kill()
            if is_there(child):
                os.kill(child, signal.SIGKILL)
