"""A Ray cluster for work beyond one machine: what connects to it and tells its errors; Ray loads when it is asked for.

The cluster's machines see the same files under the same paths. Only names and counts travel through Ray.
"""

import io
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import UnibrivlError
from .checks import first_line

NAMESPACE = "unibrivl"
CONNECT_S = 5.0
"""How long a cluster's address may be silent; Ray itself would ask for some minutes."""
ANSWER_S = 30.0
"""How long what is at the address may take to answer as the head of a cluster, a process that asks included."""
ASK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
"""Asks a head for its cluster; nothing stops it from inside, so it is a process of its own."""
ENGINES = ("local", "ray")
MAX_LOSSES = 8
"""How often a task may lose its worker to the death of a process or a machine before the run ends."""
STOP_S = 10.0
"""How long tasks that were told to end may take; then they are killed, and may as long again."""
SEEN_S = 90.0
"""How long a file that another machine wrote may stay unseen here; NFS remembers for up to 60 s what was not there."""
LOOK_S = 0.5
"""Between two looks for such a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """Which Ray cluster works."""

    address: str = "auto"
    """`HOST:PORT` of its head, or `auto`: the cluster that this machine belongs to."""

    def __post_init__(self) -> None:
        """Refuse what is no address of a head; Ray's client (`ray://`) may be a machine with other files."""
        host, _, port = self.address.rpartition(":")
        if self.address != "auto" and not (host and "/" not in host and port.isdecimal() and int(port) < 1 << 16):
            raise ValueError(f"address is {self.address!r}, want auto or HOST:PORT of a Ray cluster's head")


def cluster_of(engine: str, address: str | None) -> ClusterConfig | None:
    """Return the cluster that `--engine` and `--address` name; None: this machine alone."""
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}, want {' or '.join(ENGINES)}")
    if engine == "local" and address is not None:
        raise ValueError(f"address is {address!r}, which goes with --engine ray")
    return None if engine == "local" else ClusterConfig(address=address or "auto")


@contextmanager
def connected(config: ClusterConfig, error: type[UnibrivlError]) -> Iterator[Any]:
    """Yield the module `ray`, connected; what Ray meets inside the block becomes one line.

    A connection that was there before stays.

    Raises:
        UnibrivlError: of the kind `error`: Ray is not installed, there is no cluster, or it is of another version.
    """
    try:
        import ray
    except ImportError as e:
        raise error(f"--engine ray needs Ray ({e}); install it with: pip install 'unibrivl[ray]'") from e
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, config, error)
    try:
        with redirect_stdout(io.StringIO()), explained(error):  # results go there, and Ray's pages about lost machines
            yield ray
    finally:
        if is_ours:
            ray.shutdown()


def _connect(ray: Any, config: ClusterConfig, error: type[UnibrivlError]) -> None:
    hint = "start one with `ray start --head`, or name its head with --address HOST:PORT"
    address = config.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address  # as Ray does
    try:
        host, _, port = address.rpartition(":")
        if port.isdecimal():
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
            # Ray itself says what is wrong with an answer
            subprocess.run([sys.executable, "-c", ASK, address], timeout=ANSWER_S, capture_output=True, check=False)
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except OSError as e:  # Ray's own ConnectionError too
        raise error(f"no Ray cluster at {address} ({first_line(e)}); {hint}") from e
    except subprocess.TimeoutExpired as e:
        mute = f"the port is open, but does not answer as Ray's within {ANSWER_S:g} s"
        raise error(f"no Ray cluster at {address} ({mute}); {hint}") from e
    except (RuntimeError, ValueError) as e:
        raise error(f"the Ray cluster at {address} cannot be used: {_one_line(e)}") from e


@contextmanager
def explained(error: type[UnibrivlError]) -> Iterator[None]:
    """Turn what Ray raises into one line; our error, or a system's, comes out as it was on the other machine."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError as e:
        if isinstance(e.cause, UnibrivlError | OSError):
            raise e.cause from None
        raise error(f"an error of the program itself on the cluster\n{e}") from e
    except RayError as e:
        again = "nothing is lost: mend the cluster and run the same command again"
        raise error(f"the Ray cluster failed ({type(e).__name__}: {first_line(e)}); {again}") from e


def end_tasks(ray: Any, tasks: Iterable[Any]) -> None:
    """End tasks that still run, and wait until they have ended: they write nothing after this."""
    from ray.exceptions import RayError

    left = list(tasks)
    with suppress(RayError):
        for force in (False, True):
            for task in left:
                ray.cancel(task, force=force)
            if not left or not ray.wait(left, num_returns=len(left), timeout=STOP_S)[1]:
                break


def see(path: Path, error: type[UnibrivlError]) -> None:
    """Wait until a file that another machine wrote is seen here, too.

    Raises:
        UnibrivlError: of the kind `error`: it is not.
    """
    until = time.monotonic() + SEEN_S
    while not path.exists():
        if time.monotonic() > until:
            raise error(f"{path}: written by another machine, but not to be seen here; is that one folder?")
        time.sleep(LOOK_S)


def this_node() -> str:
    """Return the name of this process's machine, for messages."""
    return socket.gethostname()


def check_same(what: str, here: object, there: object, error: type[UnibrivlError]) -> None:
    """Refuse a machine on which something is otherwise than where the command was given.

    Args:
        what: that must be the same, as in `unibrivl`.
        here: as it is on this machine.
        there: as it is where the command was given.
        error: what to raise.
    """
    if here != there:
        raise error(f"{this_node()} has {what} {here}, the command was given with {there}; install the same on both")


def _one_line(e: BaseException) -> str:
    return " ".join(str(e).split()) or type(e).__name__
