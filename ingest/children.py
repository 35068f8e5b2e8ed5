"""What our child processes do first: they end with their parent, and they live within bounds."""

import os
import signal
import threading
from multiprocessing import parent_process


def follow_parent() -> None:
    """Leave the interrupt key to the parent, and end when the parent is gone, however it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def limit_memory(limit_bytes: int) -> None:
    """Bound this process's address space, so that a hostile file cannot take the machine's memory."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
