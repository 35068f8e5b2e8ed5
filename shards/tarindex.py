"""Tar bytes and the index beside them.

USTAR with every field that could vary set to zero, so that equal samples give equal bytes, ended by two zero
blocks. The index `X.tar.idx` holds little-endian u64 offsets: where each sample's first header starts, then the
tar's size (N + 1 entries), as lhotse's indexed tars have them.
"""

import tarfile
from pathlib import Path

import numpy as np

from .atomic import write_bytes
from .errors import ShardError

BLOCK = 512
END_OF_TAR = bytes(2 * BLOCK)


def member_bytes(name: str, data: bytes) -> bytes:
    """Return one tar member: header, data, padding to a whole block."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    header = info.tobuf(tarfile.USTAR_FORMAT)
    return header + data + bytes(-len(data) % BLOCK)


def parse_members(span: bytes, where: str) -> dict[str, bytes]:
    """Take the members of one sample out of its span of a tar: file extension to data.

    Raises:
        ShardError: a header's checksum is wrong, a member is cut, or two samples share the span.
    """
    members: dict[str, bytes] = {}
    stems: set[str] = set()
    position = 0
    while position < len(span):
        try:
            info = tarfile.TarInfo.frombuf(span[position : position + BLOCK], "utf-8", "strict")
        except tarfile.HeaderError as e:
            raise ShardError(f"{where}: damaged tar header ({e}); run the ingestion again") from e
        data = span[position + BLOCK : position + BLOCK + info.size]
        if len(data) != info.size:
            raise ShardError(f"{where}: the sample is cut short; run the ingestion again")
        stem, _, extension = info.name.partition(".")
        stems.add(stem)
        members[extension] = data
        position += BLOCK + info.size + (-info.size % BLOCK)
    if len(stems) != 1:
        raise ShardError(f"{where}: want one sample, found {len(stems)}")
    return members


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
