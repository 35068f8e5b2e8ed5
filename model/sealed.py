"""Safetensors files that hold their own SHA-256: the same tensors give the same bytes, and a changed bit is seen.

safetensors itself writes metadata in an order that differs from process to process, and takes any numbers for tensors.
"""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from safetensors.torch import save
from torch import Tensor

from ..shards.atomic import canonical_json, write_file

METADATA, SEAL = "__metadata__", "seal"
LENGTH_BYTES = 8
"""Of the header's length, which is a multiple of it, too."""
MOST_HEADER_BYTES = 100_000_000
"""safetensors' own limit."""
BLOCK_BYTES = 1 << 22


def write_sealed(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and metadata, whole or not at all; any reader of safetensors can read it."""
    data = memoryview(save(tensors, metadata))
    begin = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    header = json.loads(bytes(data[LENGTH_BYTES:begin]))
    header[METADATA] = dict(sorted(metadata.items()))
    digest = hashlib.sha256(canonical_json(header))
    digest.update(data[begin:])
    header[METADATA][SEAL] = digest.hexdigest()
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % LENGTH_BYTES)
    write_file(path, partial(_write, len(head).to_bytes(LENGTH_BYTES, "little") + head, data[begin:]))


def _write(head: bytes, data: memoryview, file: BinaryIO) -> None:
    file.write(head)
    file.write(data)


def check_sealed(path: Path) -> None:
    """Read a file through and compare it with its seal; one without, of an earlier version, is taken as it is.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        header = _header(file)
        metadata = header.get(METADATA)
        if not isinstance(metadata, dict) or SEAL not in metadata:
            return
        seal = metadata.pop(SEAL)
        digest = hashlib.sha256(canonical_json(header))
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    if digest.hexdigest() != seal:
        raise ValueError("its SHA-256 is not the one that was written with it")


def _header(file: BinaryIO) -> dict[str, Any]:
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if length > MOST_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes cannot be")
    try:
        header = json.loads(file.read(length))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("it has no header")
    return header
