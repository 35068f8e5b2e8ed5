"""`serve`: an index over HTTP, for programs and for people.

One process, one event loop, one thread that computes. The guard decides who may ask, children decode what strangers
send, the batcher answers in passes, and the engine is exchanged when a new snapshot is published.
"""

import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from .. import UnibrivlError, __version__
from ..shards.checks import check_ranges
from .batcher import BatchConfig, Batcher
from .counters import Counters
from .decoder import DecodeConfig, Decoder
from .engine import Engine, QueryResult, Question, open_engine
from .guard import LOOPBACK, Guard, GuardConfig
from .live import Live
from .routes import Api, add_routes
from .site import ASSETS
from .wire import Protocol

DESCRIPTION = "Sounds find pictures, pictures find sounds: the index over HTTP. Errors are JSON: code, message, hint."
SHUTDOWN_S = 5


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
        if self.host not in LOOPBACK and self.guard.token is None:
            raise ValueError(f"host is {self.host}, which others can reach: give a token with --token-file")


class Server:
    """Everything that the routes need."""

    def __init__(self, config: ServeConfig, engine: Engine) -> None:
        """Put the parts together; they start with `running`."""
        self.config = config
        self.live = Live(engine, config.watch_s)
        self.decoder = Decoder(config.decode)
        self.batcher: Batcher[Question, QueryResult] = Batcher(self.live.answer, config.batch, lambda: self._coming)
        self.counters = Counters()
        self.is_ready = False
        self._coming = 0
        self.app = Api(
            title="UniBriVL", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None,
            lifespan=self._lifespan,
        )  # fmt: skip
        add_routes(self.app, self)
        self.guard = Guard(self.app, config.guard, self.counters, open_paths=tuple(ASSETS))
        self._add_gauges()

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Count a question that is on its way to the batcher."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        await self.decoder.start()
        self.batcher.start()
        self.live.start()
        self.is_ready = True
        try:
            yield
        finally:
            self.is_ready = False
            await self.live.close()
            await self.batcher.close()
            await self.decoder.close()

    def _add_gauges(self) -> None:
        gauges = self.counters.gauges
        gauges["unibrivl_requests_waiting"] = ("Questions being worked on or waiting.", lambda: self.guard.waiting)
        gauges["unibrivl_batch_waiting"] = ("Questions that no pass has taken.", lambda: self.batcher.waiting)
        gauges["unibrivl_decoder_kills"] = ("Decoders that a file cost.", lambda: self.decoder.kills)
        gauges["unibrivl_snapshot_swaps"] = ("Snapshots that followed the first.", lambda: self.live.swaps)
        gauges["unibrivl_snapshot_refused"] = ("1: the current snapshot is damaged.", lambda: bool(self.live.failed))
        gauges["unibrivl_peak_memory_bytes"] = ("Most memory so far, without decoders.", peak_memory_bytes)


def peak_memory_bytes() -> int:
    """Return the most memory that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def limit_threads(count: int | None) -> None:
    """Give torch and FAISS one budget: they take turns in the one thread that computes."""
    import faiss
    import torch

    threads = count or os.cpu_count() or 1
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)


def listen(config: ServeConfig) -> socket.socket:
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


def open_server(config: ServeConfig) -> Server:
    """Open the index with its encoder.

    Raises:
        IndexStoreError, IndexMismatchError, CheckpointError: the index or its encoder is not in order.
    """
    limit_threads(config.threads)
    engine = open_engine(config.index, config.run, config.image_tower, accept_other_encoder=config.accept_other_encoder)
    return Server(config, engine)


def run_server(server: Server, listener: socket.socket) -> None:
    """Serve until a signal ends it."""
    uvicorn_server(server).run(sockets=[listener])


def uvicorn_server(server: Server) -> uvicorn.Server:
    """Return uvicorn's server around ours, not yet running."""
    settings = uvicorn.Config(
        server.guard, http=Protocol, ws="none", loop="asyncio", lifespan="on", log_config=None, log_level="error",
        access_log=False, server_header=False, timeout_keep_alive=15, timeout_graceful_shutdown=SHUTDOWN_S,
    )  # fmt: skip
    return uvicorn.Server(settings)


def url_of(listener: socket.socket) -> str:
    """Return the address that a person opens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
