"""The fast path: a position becomes one `pread`, one checksum and a look at the member headers.

`TarReader` holds plain columns (no Arrow table, no open file), so that it travels to worker processes as it is and
may be shared by threads.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash

from .catalog import Catalog
from .commit import Commit
from .errors import ShardError
from .sample import MEND, Members, Sample
from .tarindex import BLOCK, parse_members

if TYPE_CHECKING:
    from .cache import RemoteSet

MAX_OPEN, MAX_OPEN_REMOTE = 128, 4
"""Tars that one reader keeps open; the usual limit of a process is 1,024 files, and a fetched tar that is evicted from
its cache keeps its place on the disk until it is closed."""


@dataclass(frozen=True, slots=True)
class TarFiles:
    """Where the tars of a catalog are: in its folder, or at an address, fetched whole into a cache."""

    commits: tuple[Commit, ...]
    remote: "RemoteSet | None" = None

    def name(self, number: int) -> str:
        """Return path or address of the tar of shard `number`, for messages."""
        commit = self.commits[number]
        path = commit.path(".tar")
        return str(path) if self.remote is None else self.remote.where(f"shards/{commit.split}/{path.name}")

    def open(self, number: int) -> int:
        """Return a file descriptor of the tar of shard `number`.

        Raises:
            OSError: it is not there.
            ShardError: it cannot be fetched.
        """
        commit = self.commits[number]
        return os.open(commit.path(".tar"), os.O_RDONLY) if self.remote is None else self.remote.open(commit)


class OpenTar:
    """A file descriptor that is closed when the last thread that reads from it has let go of it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        """Take `fd` over."""
        self.fd = fd

    def __del__(self) -> None:
        """Close the file."""
        os.close(self.fd)


class OpenTars:
    """Tars by number: opened at first use, so many at a time, the one opened first closed first.

    It works without a lock (single dictionary operations are atomic), so a fork at any moment leaves nothing held.
    """

    def __init__(self, files: TarFiles) -> None:
        """Open nothing yet."""
        self.files = files
        self._open: dict[int, OpenTar] = {}

    def get(self, number: int) -> OpenTar:
        """Return the open tar of shard `number`; errors as `TarFiles.open`."""
        tar = self._open.get(number)
        if tar is None:
            tar = self._open[number] = OpenTar(self.files.open(number))
            while len(self._open) > (MAX_OPEN_REMOTE if self.files.remote else MAX_OPEN):
                with suppress(KeyError, RuntimeError, StopIteration):  # another thread was here
                    del self._open[next(iter(self._open))]
        return tar

    def close(self) -> None:
        """Let go of all files."""
        self._open.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay in their process."""
        return {"files": self.files, "_open": {}}


class TarReader:
    """Reads the clips of a catalog by position."""

    def __init__(self, catalog: Catalog, files: TarFiles, *, verify: bool) -> None:
        """Prepare the columns of `catalog`; with `verify`, every read is compared with the sidecar's checksum.

        Raises:
            ShardError: the sidecars lack a place or, with `verify`, a checksum.
        """
        table = catalog.table
        names = ["tar_offset", "tar_len", *(["sample_xxh3"] if verify else [])]
        for name in names:
            if table[name].null_count:
                raise ShardError(f"{catalog.root}: a sidecar has no {name} for a clip that is ok; {MEND}")
        self.verify = verify
        self.tars = OpenTars(files)
        self._shard = table["shard"].to_numpy()
        self._offset = table["tar_offset"].to_numpy()
        self._length = table["tar_len"].to_numpy()
        self._xxh3 = table["sample_xxh3"].to_numpy() if verify else None
        self._key_starts, self._keys = text_column(table["key"])

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self._shard)

    def key(self, position: int) -> str:
        """Return the key of a clip."""
        return self._keys[self._key_starts.item(position) : self._key_starts.item(position + 1)].decode()

    def shard(self, position: int) -> int:
        """Return the number of the shard in which a clip lies."""
        return self._shard.item(position)

    def read(self, position: int) -> Sample:
        """Read one clip.

        Raises:
            ShardError: the bytes at its place are not that clip's, or cannot be read.
        """
        offset, length = self._offset.item(position), self._length.item(position)
        key = self.key(position)
        try:
            tar = self.tars.get(self._shard.item(position))  # by name, so that it stays open until it was read
            span = os.pread(tar.fd, length, offset)
        except OSError as e:
            raise self._error(position, f"cannot be read ({e.strerror or e})") from e
        if len(span) != length:
            raise self._error(position, "the sample is cut short")
        if self._xxh3 is not None and xxhash.xxh3_64_intdigest(span) != self._xxh3.item(position):
            raise self._error(position, "the bytes do not fit their checksum")
        try:
            return Sample(key, split_span(span, key))
        except ValueError as e:
            raise self._error(position, f"damaged tar header ({e})") from e

    def _error(self, position: int, what: str) -> ShardError:
        return ShardError(f"{self.tars.files.name(self.shard(position))}: {self.key(position)}: {what}; {MEND}")


def split_span(span: bytes, key: str) -> Members:
    """Find the members of `key` in its span of a tar.

    It reads names and sizes and nothing else, in a third of the time of `parse_members`: the checksum of the whole
    span vouches for the rest.

    Raises:
        ValueError: the span is not this clip's members from end to end.
    """
    places: dict[str, tuple[int, int]] = {}
    stem = f"{key}.".encode()
    name_at, position, end = len(stem), 0, len(span)
    while position < end:
        header = span[position : position + 136]
        if not header.startswith(stem):
            raise ValueError("another clip lies there")
        start = position + BLOCK
        size = int(header[124:135], 8)
        if size < 0:
            raise ValueError("a member of negative size")
        stop = start + size
        places[header[name_at : header.index(0, name_at)].decode()] = start, stop
        position = stop + -stop % BLOCK
    if position != end or not places:
        raise ValueError("its members do not fill its place")
    return Members(span, places)


def text_column(column: pa.ChunkedArray) -> tuple[np.ndarray, bytes]:
    """Return a column of strings as int64 (rows + 1,) starts and the UTF-8 bytes of all rows, one after the other.

    A value then costs a slice; Arrow's own access by row costs several microseconds.
    """
    array = column.cast(pa.large_string()).combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.large_string())
    _, starts, data = array.buffers()
    starts = np.frombuffer(starts, dtype=np.int64, count=len(array) + 1, offset=8 * array.offset)
    first, last = (int(starts[0]), int(starts[-1])) if len(array) else (0, 0)
    return starts - first, (data[first:last].to_pybytes() if data is not None else b"")


def read_sample(fd: int, path: Path, key: str, offset: int, length: int) -> Sample:
    """Read one clip from an open tar without its checksum: every header is checked instead.

    Args:
        fd: the open tar.
        path: its path, for messages.
        key: of the clip that must lie there.
        offset: of the sample, in bytes.
        length: of the sample, in bytes.

    Raises:
        ShardError: the bytes there are not that clip.
    """
    sample = Sample(key, parse_members(os.pread(fd, length, offset), f"{path}: {key}"))
    missing = [name for name in ("jpg", "json") if name not in sample.members]
    if not {"flac", "wav"} & set(sample.members):
        missing.insert(0, "flac")
    if missing:
        raise ShardError(f"{path}: {key} has no {', '.join(missing)}; {MEND}")
    if sample.info().get("key") != key:
        raise ShardError(f"{path}: another clip than {key} lies at its place; {MEND}")
    return sample
