"""Shard sets that lie elsewhere: a local mirror of all but the tars, and a bounded cache of tars fetched whole.

    CACHE/
      sets/{hash of the address}/        dataset.json, commits and sidecars as in the set itself
      tars/{sha256}/{shard}.tar          of any set; the least recently used go when there is no more room

Any number of processes may share a cache. A tar is fetched while its folder is held, so it is fetched once; room is
given out while `tars/` is held, and a tar that is on its way already has its full size on disk, so the limit counts
it. Nothing is stored but the files themselves: a tar's time of modification says when it was last asked for.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .atomic import TEMPORARY_MARK, hold_directory, remove_leftovers, write_bytes, write_file
from .catalog import DATASET_FILE, ONTOLOGY_FILE, read_dataset
from .checks import check_ranges
from .commit import COMMIT_SUFFIX, Commit, DamageError, check_split, committed_paths, parse_commit
from .compaction import CATALOG_FILES
from .errors import ShardError
from .schema import SPLIT_PATTERN
from .seal import check_seal, parse_object
from .transfer import RemoteFolder

SHARD_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+")
THREADS = 8
"""Small files fetched at a time: most of that time is waiting."""
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
        name = hashlib.sha256(self.url.rstrip("/").encode()).hexdigest()[:16]
        return self.cache.directory / "sets" / name

    def sync(self) -> Path:
        """Bring the mirror up to what is committed at the address now; return its folder.

        Raises:
            ShardError: there is no shard set, it cannot be read or listed, or a file does not fit its commit.
        """
        _make_folder(self.mirror)
        with hold_directory(self.mirror, wait=True):
            remove_leftovers(self.mirror)
            self._copy_heads()
            shards = self._committed()
            for path in committed_paths(self.mirror):
                if (path.parent.name, path.name.removesuffix(COMMIT_SUFFIX)) not in shards:
                    path.unlink()  # first, as it was written last
                    path.with_name(path.name.removesuffix(COMMIT_SUFFIX) + ".parquet").unlink(missing_ok=True)
            with _scratch(self.mirror) as scratch, ThreadPoolExecutor(THREADS) as threads:
                list(threads.map(lambda shard: self._copy_shard(scratch, *shard), shards))
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

    def _copy_heads(self) -> None:
        """Copy the files that the set has once."""
        for name in (DATASET_FILE, ONTOLOGY_FILE, *CATALOG_FILES):
            try:
                data = self._folder.read(name)
            except FileNotFoundError:
                if name == DATASET_FILE:
                    raise ShardError(f"{self._folder.where(name)} is not there: this is no shard set") from None
                (self.mirror / name).unlink(missing_ok=True)
                continue
            if not _holds(self.mirror / name, data):
                write_bytes(self.mirror / name, data)
        try:
            read_dataset(self.mirror)
        except ShardError as e:
            raise ShardError(f"{self._folder.where(DATASET_FILE)}: {e}") from e

    def _committed(self) -> dict[tuple[str, str], None]:
        """Return split and name of every committed shard, in order.

        A web server may show no listings; then `catalog.json` says what there is.
        """
        folder, shards = self._folder, dict[tuple[str, str], None]()
        for split in folder.listing("shards"):
            for name in folder.listing(f"shards/{split}") if SPLIT_PATTERN.fullmatch(split) else ():
                if name.endswith(COMMIT_SUFFIX) and SHARD_NAME.fullmatch(stem := name.removesuffix(COMMIT_SUFFIX)):
                    shards[split, stem] = None
        if not shards:
            shards = self._catalogued()
        if not shards:
            raise ShardError(
                f"{folder.where('shards')}: nothing is committed there, or the server lists no folders; "
                "in the second case run `unibrivl shards index` on the set, so that its catalog.json says what it holds"
            )
        return shards

    def _catalogued(self) -> dict[tuple[str, str], None]:
        path = self.mirror / CATALOG_FILES[1]
        if not path.exists():
            return {}
        try:
            data = path.read_bytes()
            check_seal(value := parse_object(data), data)
            shards = [(str(entry[0]), str(entry[1])) for entry in value["shards"]]
            if bad := [pair for pair in shards if not SPLIT_PATTERN.fullmatch(pair[0]) or not _is_name(pair[1])]:
                raise ValueError(f"{bad[0]} is no shard")
        except (ValueError, KeyError, TypeError, IndexError) as e:
            raise ShardError(f"{self._folder.where(path.name)}: damaged ({e}); run `unibrivl shards index`") from e
        return dict.fromkeys(shards)

    def _copy_shard(self, scratch: Path, split: str, name: str) -> None:
        """Put sidecar, then commit of one shard in place, unless the mirror has them."""
        remote = f"shards/{split}/{name}"
        try:
            data = self._folder.read(remote + COMMIT_SUFFIX)
            incoming = scratch / split / f"{name}{COMMIT_SUFFIX}"
            incoming.parent.mkdir(exist_ok=True)
            incoming.write_bytes(data)
            commit = parse_commit(incoming)
            if misplaced := check_split(commit):
                raise DamageError(misplaced[0])
            sidecar = commit.files[".parquet"]
            target = self.mirror / remote
            target.parent.mkdir(parents=True, exist_ok=True)
            if _holds(place := target.with_name(incoming.name), data) and _has_size(
                target.with_suffix(".parquet"), sidecar["bytes"]
            ):
                return
            place.unlink(missing_ok=True)
            write_file(
                target.with_suffix(".parquet"),
                lambda f: self._folder.fetch(f"{remote}.parquet", f, size=sidecar["bytes"], sha256=sidecar["sha256"]),
            )
            write_bytes(place, data)
        except FileNotFoundError as e:
            raise ShardError(f"{self._folder.where(remote)}: a file of the shard is not there; repair that set") from e
        except DamageError as e:
            raise ShardError(f"{self._folder.where(remote + COMMIT_SUFFIX)} {e.damage.reason}; repair that set") from e

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


def _files(tars: Path) -> list[tuple[Path, int, int]]:
    """Return path, size and time of everything in the cache: leftovers of the dead first, then the least used."""
    while True:
        try:
            found = [(path, path.stat()) for path in tars.glob("*/*")]
        except FileNotFoundError:
            continue  # a fetch has just ended and its file has its last name: it must not go uncounted
        found.sort(key=lambda entry: (TEMPORARY_MARK not in entry[0].name, entry[1].st_mtime_ns, entry[0].name))
        return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in found]


@contextmanager
def _scratch(mirror: Path) -> Iterator[Path]:
    path = mirror / "incoming"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ShardError(f"{path}: the cache cannot be written ({e}); name another folder") from e


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _is_name(name: str) -> bool:
    return bool(SHARD_NAME.fullmatch(name))
