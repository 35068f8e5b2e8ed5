"""What sources have in common: the medium they hand out, the folder that fetched media pass through, HTTP's errors."""

import errno
import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..shards.atomic import hold_directory
from ..shards.httpstatus import Answer, answer_of
from .clips import Clip
from .errors import ClipError, PlanError

FOLDER_PREFIX = "unibrivl-media-"
HTTP_CODES = {
    Answer.WAIT: ("throttle.http_429", ": too many requests"),
    Answer.REFUSED: ("source.forbidden", ": not allowed"),
    Answer.GONE: ("source.gone", ": gone for good"),
    Answer.ABSENT: ("source.unavailable", ""),
}
"""What a server means to error code and words."""


@dataclass(frozen=True, slots=True)
class Medium:
    """A local file that holds a clip for as long as it is held open."""

    path: Path
    start_ms: int = 0
    """Instant of the medium at which the file begins; not 0 for a file that was cut from it."""


class Source(Protocol):
    """Where media come from. A worker has one of its own; `open` runs in processes that may be killed."""

    def open(self, clip: Clip) -> AbstractContextManager[Medium]:
        """Return the clip's medium as a local file, removed afterwards if it was fetched for this.

        Raises:
            ClipError: `source.*`, `throttle.*`, `transient.*`, `local.*`, `media.out_of_range` or `policy.*`, with a
                sentence.
            PlanError: no clip can be fetched this way: a package is missing.
            OSError: there is no room for what is fetched.
        """
        ...


class Spool:
    """A folder of this process for media on their way; it goes with the process, or with the next one to make one."""

    def __init__(self, parent: Path | None) -> None:
        """Make the folder, and remove those of processes that were killed.

        Args:
            parent: where; None: the system's folder for temporary files.

        Raises:
            PlanError: it cannot be written.
        """
        where = parent or Path(tempfile.gettempdir())
        try:
            where.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(where)
            self.directory, lock = _make_held(where)
        except OSError as e:
            raise PlanError(f"{where}: cannot be written ({e.strerror}); name another folder for fetched media") from e
        weakref.finalize(self, _remove, self.directory, lock)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Yield an empty folder that is removed afterwards, with all that was written there."""
        path = Path(tempfile.mkdtemp(dir=self.directory))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _make_held(where: Path) -> tuple[Path, int]:
    """Make a folder and lock it, so that it is known to be in use for as long as this process lives."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=where)).absolute()
        lock = os.open(directory, os.O_RDONLY)
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            directory.stat()  # another process may have taken it for abandoned just before it was locked
            return directory, lock
        os.close(lock)


def _remove(directory: Path, lock: int) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):
        os.close(lock)


def _remove_abandoned(where: Path) -> None:
    for path in where.glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError), hold_directory(path, wait=False) as is_abandoned:  # gone, or another user's
            if is_abandoned:
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def called(path: Path, name: str) -> Iterator[None]:
    """Let errors call the file by `name`: a temporary path says nothing, and differs from run to run."""
    try:
        yield
    except ClipError as e:
        raise ClipError(e.code, str(e).replace(str(path), name)) from e


def http_error(status: int, name: str, *, asks_to_wait: bool = False) -> ClipError:
    """Return the error for an HTTP status that is no success.

    Args:
        status: such as 404.
        name: of what was asked for.
        asks_to_wait: the answer says when to come back (`Retry-After`).
    """
    message = f"{name}: the server answers HTTP {status}"
    answer = answer_of(status, asks_to_wait=asks_to_wait)
    if answer is Answer.AGAIN:
        return ClipError("transient.http_5xx" if status >= 500 else "transient.network", message)
    code, words = HTTP_CODES[answer]
    return ClipError(code, message + words)


def is_disk_full(error: BaseException) -> bool:
    """Say whether this is about room on our own disk, which is no fault of a source."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it was raised from, by any of the ways in which libraries keep that."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting and len(seen) < 20:
        one = waiting.pop(0)
        if isinstance(one, tuple):  # as of sys.exc_info()
            waiting += [part for part in one if isinstance(part, BaseException)]
        elif isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            yield one
            more = (getattr(one, "exc_info", None), getattr(one, "cause", None), one.__cause__, one.__context__)
            waiting += [part for part in more if part is not None]


def first_line(text: object, limit: int = 300) -> str:
    """Return the first line of a message that has something to say, cut to `limit` characters."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return (lines or [type(text).__name__])[0][:limit]
