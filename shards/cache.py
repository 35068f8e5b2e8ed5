"""Shard sets that lie elsewhere: a local mirror of all but the tars, and a bounded cache of tars fetched whole.

    CACHE/
      sets/{hash of the address}/        dataset.json, commits and sidecars as in the set itself, and address.json
      tars/{sha256}/{shard}.tar          of any set; the least recently used go when there is no more room

Any number of processes may share a cache. A tar is fetched while its folder is held, so it is fetched once; room is
given out while `tars/` is held, and a tar that is on its way already has its full size on disk, so the limit counts
it. Nothing is stored but the files themselves: a tar's time of modification says when it was last asked for.

A mirror may be opened like any set on disk: its `address.json` says where its tars come from.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .atomic import TEMPORARY_MARK, hold_directory, remove_leftovers, write_file, write_json
from .checks import check_ranges, parse_json
from .commit import COMMIT_SUFFIX, Commit, parse_commit, set_root
from .errors import ShardError
from .mirror import Mirror
from .transfer import RemoteFolder

ADDRESS_FILE = "address.json"
LIMITS = ("max_bytes", "retries", "backoff_s")
WAIT_S = 0.05
"""Between two looks for room that other processes may have made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheConfig:
    """Where remote shards are kept, and how much of them."""

    directory: Path
    max_bytes: int
    """Of all tars in the cache; commits and sidecars come on top (about 2 % of their tars)."""
    retries: int = 3
    backoff_s: float = 0.5
    """Pause before the first retry; each further one is twice as long."""

    def __post_init__(self) -> None:
        """Refuse limits that make no sense."""
        check_ranges(self, max_bytes=(1, None), retries=(0, None), backoff_s=(0, None))


@dataclass(frozen=True, slots=True)
class RemoteSet:
    """A shard set at an fsspec address (`s3://bucket/set`, `https://...`) and its cache; may be pickled."""

    url: str
    cache: CacheConfig

    @property
    def mirror(self) -> Path:
        """Local folder with everything of the set but its tars."""
        return self.cache.directory / "sets" / folder_name(self.url)

    def sync(self) -> Path:
        """Bring the mirror up to what is committed at the address now; return its folder.

        Raises:
            ShardError: there is no shard set, it cannot be read or listed, or a file does not fit its commit.
        """
        _make_folder(self.mirror)
        with hold_directory(self.mirror, wait=True):
            remove_leftovers(self.mirror)
            Mirror(self._folder, self.mirror).update()
        return self.mirror

    def open(self, commit: Commit) -> int:
        """Return a file descriptor of the tar of a shard, fetched if the cache lacks it; it outlives an eviction.

        Raises:
            ShardError: it cannot be fetched, is not the one that was committed, or is larger than the cache.
        """
        with self._held(commit) as path:
            return os.open(path, os.O_RDONLY)

    def where(self, name: str) -> str:
        """Return the address of a file of the set, without any password, for messages."""
        return self._folder.where(name)

    @property
    def _folder(self) -> RemoteFolder:
        return RemoteFolder(self.url, self.cache.retries, self.cache.backoff_s)

    @property
    def _tars(self) -> Path:
        return self.cache.directory / "tars"

    @contextmanager
    def _held(self, commit: Commit) -> Iterator[Path]:
        """Yield the path of a tar that nobody evicts meanwhile."""
        described = commit.files[".tar"]
        path = self._tars / described["sha256"] / f"{commit.name}.tar"
        _make_folder(path.parent)
        with hold_directory(path.parent, wait=True):
            if not _has_size(path, described["bytes"]):
                remove_leftovers(path.parent)
                path.unlink(missing_ok=True)
                self._fetch_tar(commit, path)
            now = time.time_ns()  # the kernel's own clock for files is too coarse to tell two uses apart
            os.utime(path, ns=(now, now))
            yield path

    def _fetch_tar(self, commit: Commit, path: Path) -> None:
        size, sha256 = commit.files[".tar"]["bytes"], commit.files[".tar"]["sha256"]
        remote = f"shards/{commit.split}/{commit.name}.tar"
        if size > self.cache.max_bytes:
            raise ShardError(
                f"{self._folder.where(remote)}: {size} bytes; the cache takes {self.cache.max_bytes}; raise max_bytes"
            )

        def write(file: BinaryIO) -> None:
            self._reserve(file, size)
            self._folder.fetch(remote, file, size=size, sha256=sha256)

        try:
            write_file(path, write)
        except FileNotFoundError as e:
            raise ShardError(f"{self._folder.where(remote)} is not there; repair that set") from e

    def _reserve(self, file: BinaryIO, size: int) -> None:
        """Give `file` its final size as soon as the cache has room for it, waiting for other processes' fetches."""
        while True:
            with hold_directory(self._tars, wait=True):
                if self._make_room(size):
                    file.truncate(size)
                    return
            time.sleep(WAIT_S)

    def _make_room(self, size: int) -> bool:
        """Evict what was not used for longest until `size` bytes fit; False if what is left is all in use."""
        files = _files(self._tars)
        used = sum(bytes_ for _, bytes_, _ in files)
        for path, bytes_, _ in files:
            if used + size <= self.cache.max_bytes:
                break
            with hold_directory(path.parent, wait=False) as held:
                if held:
                    path.unlink(missing_ok=True)
                    used -= bytes_
        return used + size <= self.cache.max_bytes


def default_cache() -> Path:
    """Return the folder for what is fetched: `unibrivl` below XDG_CACHE_HOME, else below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unibrivl"


def folder_name(url: str) -> str:
    """Return the name of the folder that stands for an address in a cache."""
    return hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


def is_address(root: Path | str) -> bool:
    """Tell whether a set is named by an fsspec address and not by a folder."""
    return "://" in str(root)


def check_no_password(url: str) -> None:
    """Refuse an address with a password, which would be written down beside the data.

    Raises:
        ValueError: it has one.
    """
    if re.match(r"[^:]+://[^/@:]*:[^/@]*@", url):
        raise ValueError(f"{url.partition('://')[0]}://... holds a password; give credentials in the environment")


def local_set(shards: str, *, directory: Path, max_bytes: int) -> Path:
    """Return the folder to open for a set: itself, or of one at an address its mirror, up to date with what is there.

    Args:
        shards: a folder, or an fsspec address.
        directory: of the cache.
        max_bytes: of all tars in the cache.

    Raises:
        ShardError: as `RemoteSet.sync`.
        ValueError: the address holds a password, or `max_bytes` makes no sense.
    """
    if not is_address(shards):
        return Path(shards)
    check_no_password(shards)
    cache = CacheConfig(directory=directory, max_bytes=max_bytes)
    mirror = RemoteSet(shards, cache).sync()
    write_json(mirror / ADDRESS_FILE, {"url": shards} | {name: getattr(cache, name) for name in LIMITS})
    return mirror


def remote_of(root: Path) -> RemoteSet | None:
    """Return the set that the folder `root` mirrors, None if it has its tars itself.

    Raises:
        ShardError: its address file is damaged.
    """
    path = root / ADDRESS_FILE
    if not path.exists():
        return None
    try:
        value = parse_json(path.read_bytes())
        limits = {name: value[name] for name in LIMITS}
        return RemoteSet(str(value["url"]), CacheConfig(directory=root.absolute().parent.parent, **limits))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ShardError(f"{path}: not readable ({e}); delete it and name the set by its address again") from e


def open_tar(path: Path) -> int:
    """Return a file descriptor of a committed tar by its path in the set, fetched if that set is a mirror.

    Raises:
        FileNotFoundError: it is not there.
        ShardError: it cannot be fetched.
    """
    remote = None if path.exists() else remote_of(set_root(path.parent))
    if remote is None:
        return os.open(path, os.O_RDONLY)
    return remote.open(parse_commit(path.with_name(f"{path.stem}{COMMIT_SUFFIX}")))


def _files(tars: Path) -> list[tuple[Path, int, int]]:
    """Return path, size and time of everything in the cache: leftovers of the dead first, then the least used."""
    while True:
        try:
            found = [(path, path.stat()) for path in tars.glob("*/*")]
        except FileNotFoundError:
            continue  # a fetch has just ended and its file has its last name: it must not go uncounted
        found.sort(key=lambda entry: (TEMPORARY_MARK not in entry[0].name, entry[1].st_mtime_ns, entry[0].name))
        return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in found]


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ShardError(f"{path}: the cache cannot be written ({e}); name another folder") from e


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
