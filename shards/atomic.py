"""Files that appear whole or not at all: write beside the target, flush to disk, rename; one writer a folder.

Every file that UniBriVL writes goes through here or follows the same order by itself (`writer.py`).
"""

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY_MARK = ".tmp-"


def temporary_path(target: Path) -> Path:
    """Return a hidden name beside `target` that no other process uses."""
    return target.with_name(f".{target.name}{TEMPORARY_MARK}{os.getpid()}-{secrets.token_hex(4)}")


def sync_directory(directory: Path) -> None:
    """Make renames in `directory` survive a power cut."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(target: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write `target` by calling `write` with an open binary file; leave nothing behind if it fails."""
    temporary = temporary_path(target)
    with naming(target, temporary):
        try:
            with temporary.open("xb") as f:
                write(f)
                f.flush()
                os.fsync(f.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(target.parent)


@contextmanager
def naming(target: Path, temporary: Path | None = None) -> Iterator[None]:
    """Give `target`'s name to an OSError without one, as of a full disk, and to one about its `temporary` file."""
    try:
        yield
    except OSError as e:
        if e.filename in (None, str(temporary)):
            e.filename = str(target)
        raise


def write_bytes(target: Path, data: bytes) -> None:
    """Write `data` to `target`, whole or not at all."""
    write_file(target, lambda f: f.write(data))


def canonical_json(value: Any) -> bytes:
    """Encode `value` the same way every time: sorted keys, UTF-8, a newline at the end."""
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode()


def write_json(target: Path, value: Any) -> None:
    """Write `value` to `target` as canonical JSON, whole or not at all."""
    write_bytes(target, canonical_json(value))


def is_foreign(directory: Path, marker: str) -> bool:
    """Tell whether `directory` is a file or holds something, but not the `marker` that our outputs begin with."""
    if not directory.exists() or (directory / marker).exists():
        return False
    return not directory.is_dir() or any(TEMPORARY_MARK not in path.name for path in directory.iterdir())


def remove_leftovers(directory: Path) -> int:
    """Delete what interrupted writes left in `directory`; return how many files and folders that were.

    Call it only while holding the writer's lock of that directory.
    """
    leftovers = [p for p in directory.iterdir() if p.name.startswith(".") and TEMPORARY_MARK in p.name]
    for path in leftovers:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return len(leftovers)


@contextmanager
def hold_directory(directory: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the directory against other processes; yield whether that worked (always, with `wait`).

    The lock is on the directory itself, so it leaves no file and a killed process releases it.
    """
    fd = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)
