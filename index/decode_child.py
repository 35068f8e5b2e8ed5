"""The child process that decodes what strangers send: one frame in, one frame out, nothing else within its reach.

Run as `python -m unibrivl.index.decode_child LIMITS`. A frame is a line of JSON and as many bytes as its `size` says.
Nothing is unpickled on either side, so that a child that a hostile file has taken over can only answer wrongly.
"""

import io
import json
import os
import sys
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np

from .errors import QueryError
from .media import picture_of, sound_of

MESSAGE_LETTERS = 300


def bound(memory_bytes: int) -> None:
    """Take this process's ways to harm: memory without end, files on disk, core dumps."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def bound_cpu(seconds: float) -> None:
    """Let the system end this process if it computes for longer from now on, should its parent not be there to."""
    with suppress(ImportError, ValueError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Return the next head and its bytes, or None where the other side has gone."""
    line = stream.readline()
    if not line:
        return None
    head = json.loads(line)
    return head, stream.read(head["size"])


def write_frame(stream: BinaryIO, head: dict[str, Any], data: bytes | memoryview = b"") -> None:
    """Write a head and its bytes."""
    stream.write(json.dumps(head | {"size": len(data)}).encode() + b"\n")
    stream.write(data)
    stream.flush()


def decode(head: dict[str, Any], data: bytes) -> np.ndarray:
    """Return the samples or pixels that a request asks for.

    Raises:
        QueryError: the data are no sound or picture within the limits.
    """
    name, file = head["name"], io.BytesIO(data)
    try:
        if head["kind"] == "sound":
            return sound_of(file, name, head["max_seconds"])
        return picture_of(file, name, head["side_px"], head["max_pixels"])
    except MemoryError as e:
        raise QueryError(f"{name}: takes more memory than may be spent on one file") from e
    except QueryError:
        raise
    except Exception as e:  # whatever a decoder makes of a hostile file, the child lives on
        raise QueryError(f"{name}: cannot be decoded ({type(e).__name__}); is the file damaged?") from e


def serve(limits: dict[str, Any]) -> None:
    """Answer requests on standard input until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints must not speak into the answers
    picture_of(io.BytesIO(_SMALLEST_GIF), "", 8, 64)  # loads what Pillow loads late, before the limits
    bound(limits["memory_bytes"])
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        bound_cpu(limits["timeout_s"])
        try:
            found = np.ascontiguousarray(decode(*frame))
        except QueryError as e:
            write_frame(answers, {"error": str(e)[:MESSAGE_LETTERS]})
        else:
            write_frame(answers, {"shape": found.shape, "dtype": found.dtype.name}, found.data.cast("B"))


_SMALLEST_GIF = bytes.fromhex("47494638396101000100800000000000ffffff2c00000000010001000002024401003b")

if __name__ == "__main__":
    with suppress(BrokenPipeError, KeyboardInterrupt):
        serve(json.loads(sys.argv[1]))
