"""A Ray cluster of real processes on this machine, for tests; skips them where there can be none."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}
WAIT_S = 120.0
"""For what happens in seconds on a machine that has nothing else to do."""


def wait_for(happened: Callable[[], Any], what: str) -> Any:
    until = time.monotonic() + WAIT_S
    while not (found := happened()):
        assert time.monotonic() < until, f"waited for {what}"
        time.sleep(0.05)
    return found


def processes(word: str) -> list[int]:
    """Return the processes whose command line has `word` in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has just ended
            continue
    return found


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """Yield a cluster of a head without cores and two nodes of one core; nothing of it is left afterwards."""
    pytest.importorskip("ray")
    before = set(processes("ray::"))
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets lie in it, whose names may have 107 bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", folder)
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False}
        try:
            cluster = Cluster(initialize_head=True, head_node_args=head)
        except Exception as e:  # containers may forbid what Ray's own servers need
            pytest.skip(f"Ray starts no cluster on this machine: {e}")
        try:
            for _ in range(2):
                cluster.add_node(**NODE)
            yield cluster
        finally:
            cluster.shutdown()
            try:
                wait_for(lambda: not processes(folder) and set(processes("ray::")) <= before, "the end of the cluster")
            finally:
                shutil.rmtree(folder)
