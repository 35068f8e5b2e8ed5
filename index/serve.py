"""`serve`: an index over HTTP, for programs and for people.

One process, one event loop, one thread that computes. The guard decides who may ask, children decode what strangers
send, the batcher answers in passes, and the engine is exchanged when a new snapshot is published.
"""

import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import uvicorn
from fastapi import FastAPI

from .. import __version__
from .batcher import Batcher
from .counters import Counters
from .decoder import Decoder
from .engine import Engine, QueryResult, Question, open_engine
from .guard import Guard
from .live import Live
from .routes import Api, add_routes
from .serve_config import ServeConfig
from .site import ASSETS
from .wire import uvicorn_around

DESCRIPTION = "Sounds find pictures, pictures find sounds: the index over HTTP. Errors are JSON: code, message, hint."


class Server:
    """Everything that the routes need."""

    def __init__(self, config: ServeConfig, engine: Engine) -> None:
        """Put the parts together; they start with the application."""
        self.config = config
        self.live = Live(engine, config.watch_s)
        self.decoder = Decoder(config.decode)
        self.counters = Counters()
        self.batcher: Batcher[Question, QueryResult] = Batcher(
            self.live.answer, config.batch, coming=lambda: self._coming, on_pass=self.counters.batches.add
        )
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


def open_server(config: ServeConfig) -> Server:
    """Open the index with its encoder.

    Raises:
        IndexStoreError, IndexMismatchError, CheckpointError: the index or its encoder is not in order.
        MilvusError: Milvus cannot be reached, or does not hold the snapshot.
    """
    limit_threads(config.threads)
    engine = open_engine(
        config.index, config.run, config.image_tower, accept_other_encoder=config.accept_other_encoder,
        milvus=config.milvus,
    )  # fmt: skip
    return Server(config, engine)


def run_server(server: Server, listener: socket.socket) -> None:
    """Serve until a signal ends it; the interrupt key is the usual one."""
    with suppress(KeyboardInterrupt):
        uvicorn_server(server).run(sockets=[listener])


def uvicorn_server(server: Server) -> uvicorn.Server:
    """Return uvicorn's server around ours, not yet running."""
    return uvicorn_around(server.guard)
