"""What `unibrivl serve` was asked to do, and the address that it takes; loads nothing heavy."""

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .. import UnibrivlError
from ..shards.checks import check_ranges
from .batcher import BatchConfig
from .decoder import DecodeConfig
from .guard import LOOPBACK, GuardConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """What `unibrivl serve` was asked to do."""

    index: Path
    run: Path | None = None
    """Where the run lies, if it was moved."""
    image_tower: str | None = None
    """The image tower's name where its weights lie now, if they were moved."""
    accept_other_encoder: bool = False
    """Serve although the encoder is another one; every answer says so."""
    milvus: str | None = None
    """Server or file of Milvus that searches the vectors; None: they are searched here."""
    host: str = "127.0.0.1"
    port: int = 8757
    """0 takes one that is free."""
    threads: int | None = None
    """Threads of torch and FAISS together; None: one a core."""
    max_k: int = 200
    record_s: float = 10.0
    """How long the page records."""
    watch_s: float = 1.0
    """Seconds between two looks for a new snapshot."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)

    def __post_init__(self) -> None:
        """Refuse an open door, and what cannot be served."""
        check_ranges(
            self, port=(0, 65_535), threads=(1, 1024), max_k=(1, 10_000), record_s=(1, self.decode.max_seconds),
            watch_s=(0.01, 3600),
        )  # fmt: skip
        if self.milvus is not None:
            from .milvus import check_uri

            check_uri("milvus", self.milvus)
        if self.host not in LOOPBACK and self.guard.token is None:
            raise ValueError(f"host is {self.host}, which others can reach: give a token with --token-file")


class Address(Protocol):
    """Where a server listens."""

    @property
    def host(self) -> str:
        """Return a name or number of this machine."""
        ...

    @property
    def port(self) -> int:
        """Return the port; 0 takes one that is free."""
        ...


def listen(config: Address) -> socket.socket:
    """Take the address, so that nobody is told of one that cannot be had.

    Raises:
        IndexStoreError: it is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except (OSError, OverflowError) as e:
        listener.close()
        why = getattr(e, "strerror", None) or e
        raise UnibrivlError(f"{config.host}:{config.port} cannot be used: {why}; choose another --port") from e
    listener.listen(1024)
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the address that a person opens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
