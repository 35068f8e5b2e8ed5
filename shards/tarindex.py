"""Tar bytes and the index beside them.

USTAR with every field that could vary set to zero, so that equal samples give equal bytes, ended by two zero
blocks. The index `X.tar.idx` holds little-endian u64 offsets: where each sample's first header starts, then the
tar's size (N + 1 entries), as lhotse's indexed tars have them.
"""

import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .atomic import write_bytes
from .errors import ShardError

BLOCK = 512
END_OF_TAR = bytes(2 * BLOCK)
MEND = "run `unibrivl shards repair`"


def member_bytes(name: str, data: bytes) -> bytes:
    """Return one tar member: header, data, padding to a whole block."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    header = info.tobuf(tarfile.USTAR_FORMAT)
    return header + data + bytes(-len(data) % BLOCK)


def sample_bytes(key: str, members: Mapping[str, bytes]) -> bytes:
    """Return the span of one sample; `members` maps file extension to data, in storage order."""
    return b"".join(member_bytes(f"{key}.{extension}", data) for extension, data in members.items())


def find_members(span: bytes | memoryview, where: str) -> tuple[str, dict[str, slice]]:
    """Find the members of one sample in its span of one of our tars, without copying their data.

    Args:
        span: whole blocks, from the sample's first header on.
        where: for messages.

    Returns:
        The sample's key, and file extension (`flac`, `jpg`, `384.jpg`) to where its data lie, in storage order.

    Raises:
        ShardError: a header is damaged, a member is cut or there twice, or two samples share the span.
    """
    found: dict[str, slice] = {}
    key, others = "", set[str]()
    position, end = 0, len(span)
    while position < end:
        name, size = _read_header(span, position, where)
        first = position + BLOCK
        position = first + size + -size % BLOCK
        if position > end:
            raise ShardError(f"{where}: the sample is cut short; {MEND}")
        stem, _, extension = name.partition(".")
        if found and stem != key:
            others.add(stem)
        elif extension in found:
            raise ShardError(f"{where}: two members {extension}; {MEND}")
        else:
            key, found[extension] = stem, slice(first, first + size)
    if not found or others:
        raise ShardError(f"{where}: want one sample, found {bool(found) + len(others)}; {MEND}")
    return key, found


def parse_members(span: bytes | memoryview, where: str) -> dict[str, bytes]:
    """Take the members of one sample out of its span of one of our tars: file extension to data, each copied once.

    Arguments and errors are those of `find_members`.
    """
    return {extension: bytes(span[place]) for extension, place in find_members(span, where)[1].items()}


def _read_header(span: bytes | memoryview, position: int, where: str) -> tuple[str, int]:
    """Return name and size of the member whose header stands at `position`; `tarfile` needs ten times as long."""
    header = bytes(span[position : position + BLOCK])
    try:
        name = header[: header.index(b"\0")].decode("ascii")
        size = int(header[124:135], 8)
        # the checksum is over the header with its own eight bytes taken as blanks
        is_whole = sum(header) - sum(header[148:156]) + 8 * 32 == int(header[148:154], 8)
    except ValueError as e:
        raise ShardError(f"{where}: damaged tar header ({e}); {MEND}") from e
    if not is_whole or size < 0 or not 0 < len(name) <= 100 or header[156:157] not in (b"0", b"\0"):
        raise ShardError(f"{where}: damaged tar header; {MEND}")
    return name, size


def write_index(path: Path, offsets: list[int]) -> None:
    """Write sample offsets and, last, the tar's size."""
    write_bytes(path, np.asarray(offsets, dtype="<u8").tobytes())


def read_index(path: Path) -> np.ndarray:
    """Return the offsets as uint64 (samples + 1,).

    Raises:
        ShardError: the file is no such index.
    """
    data = path.read_bytes()
    if len(data) < 8 or len(data) % 8:
        raise ShardError(f"{path}: {len(data)} bytes are no index of 8-byte offsets")
    offsets = np.frombuffer(data, dtype="<u8")
    if (np.diff(offsets.astype(np.int64)) <= 0).any():
        raise ShardError(f"{path}: offsets do not rise")
    return offsets
