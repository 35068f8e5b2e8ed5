"""Decodes uploads in child processes that may hang, crash or be killed without harm to the server."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..shards import SAMPLE_RATE
from ..shards.checks import check_ranges
from .errors import QueryError

RECYCLE_FILES = 200
"""A child that decoded so many files is replaced: decoders leak."""
MAX_SIDE_PX = 2048
"""Side of a picture as an encoder may want it."""
SHAPES = {"sound": (1, "float32"), "picture": (3, "uint8")}
"""By kind, the number of dimensions and the type that a child may answer with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeConfig:
    """How much a file from outside may cost."""

    children: int = 2
    """Processes that decode, and so files that are decoded at once."""
    timeout_s: float = 10.0
    """How long decoding one file may take."""
    memory_bytes: int = 2 << 30
    """Address space of a child."""
    max_seconds: float = 120.0
    """Length of a sound."""
    max_pixels: int = 40_000_000
    """Width times height of a picture."""

    def __post_init__(self) -> None:
        """Refuse what cannot decode anything."""
        check_ranges(
            self, children=(1, 64), timeout_s=(0.1, 600), memory_bytes=(256 << 20, None), max_seconds=(0.1, 3600),
            max_pixels=(64, None),
        )  # fmt: skip


class Decoder:
    """A few children that wait for files; start it inside a running event loop."""

    def __init__(self, config: DecodeConfig) -> None:
        """Remember the limits; children start with `start`."""
        self.config = config
        self.kills = 0
        """Children that were killed or died over a file."""
        self._idle: asyncio.LifoQueue[_Child] = asyncio.LifoQueue()
        self._all = [_Child(config) for _ in range(config.children)]

    async def start(self) -> None:
        """Start every child, so that nobody waits for one later."""
        await asyncio.gather(*(child.start() for child in self._all))
        for child in self._all:
            self._idle.put_nowait(child)

    async def sound(self, data: bytes, name: str) -> np.ndarray:
        """Return float32 (samples,) at 16 kHz mono.

        Raises:
            QueryError: `data` is no sound within the limits.
        """
        return await self._decode({"kind": "sound", "name": name, "max_seconds": self.config.max_seconds}, data)

    async def picture(self, data: bytes, name: str, side_px: int) -> np.ndarray:
        """Return uint8 (side_px, side_px, 3).

        Raises:
            QueryError: `data` is no picture within the limits.
        """
        head = {"kind": "picture", "name": name, "side_px": side_px, "max_pixels": self.config.max_pixels}
        return await self._decode(head, data)

    async def _decode(self, head: dict[str, Any], data: bytes) -> np.ndarray:
        child, name = await self._idle.get(), head["name"]
        is_whole = False
        try:
            async with asyncio.timeout(self.config.timeout_s):
                found = await child.ask(head, data)
            is_whole = True
            return found
        except TimeoutError as e:
            raise QueryError(f"{name}: not decoded within {self.config.timeout_s:g} s; give a shorter file") from e
        except _ChildDiedError as e:
            raise QueryError(f"{name}: broke its decoder; is the file damaged?") from e
        except QueryError:
            is_whole = True
            raise
        finally:
            if not is_whole:  # also where the request was given up: an answer on its way would go to the next one
                self.kills += 1
                child.kill()
            self._idle.put_nowait(child)

    async def close(self) -> None:
        """End every child, whatever it is at."""
        await asyncio.gather(*(child.close() for child in self._all))


class _ChildDiedError(QueryError):
    """The child has ended or does not keep to its frames."""


class _Child:
    """One process, started again when it is needed and gone."""

    def __init__(self, config: DecodeConfig) -> None:
        self._config = config
        self._most_bytes = int(max(4 * SAMPLE_RATE * (config.max_seconds + 1), 3 * MAX_SIDE_PX**2))
        self._process: Process | None = None
        self._files = 0

    async def start(self) -> Process:
        limits = json.dumps({name: asdict(self._config)[name] for name in ("memory_bytes", "timeout_s")})
        command = (sys.executable, "-m", "unibrivl.index.decode_child", limits)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment
        )
        self._files = 0
        return self._process

    async def ask(self, head: dict[str, Any], data: bytes) -> np.ndarray:
        """Return the answer of the process; QueryError where it says that the file is not right."""
        if self._process is not None and self._files >= RECYCLE_FILES:
            await self.close()
        process = self._process or await self.start()
        assert process.stdin is not None and process.stdout is not None
        self._files += 1
        try:
            process.stdin.write(json.dumps(head | {"size": len(data)}).encode() + b"\n")
            process.stdin.write(data)
            await process.stdin.drain()
            answer = json.loads(await process.stdout.readline())
            body = await process.stdout.readexactly(min(answer["size"], self._most_bytes))
        except (OSError, ValueError, KeyError, TypeError, asyncio.IncompleteReadError) as e:
            raise _ChildDiedError("the decoder has ended") from e
        if "error" in answer:
            raise QueryError(str(answer["error"]))
        return _array(head["kind"], answer, body)

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
        self._process = None  # the event loop's child watcher buries it

    async def close(self) -> None:
        process = self._process
        self.kill()
        if process is not None:
            await process.wait()


def _array(kind: str, answer: dict[str, Any], body: bytes) -> np.ndarray:
    num_dimensions, dtype = SHAPES[kind]
    try:
        found = np.frombuffer(body, dtype).reshape(answer["shape"])
    except (ValueError, TypeError, KeyError) as e:
        raise _ChildDiedError("the decoder answered with something else") from e
    if found.ndim != num_dimensions or not np.isfinite(found).all():
        raise _ChildDiedError("the decoder answered with something else")
    return found
