"""Reads committed clips by position, one `pread` a sample, in any order.

`ClipShards` is a plain sequence of samples: bytes as stored, decoded on request. It knows no torch.
"""

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import soundfile
from PIL import Image

from .catalog import Catalog, open_catalog
from .errors import ShardError
from .schema import SAMPLE_RATE
from .tarindex import parse_members

MEMBERS = ("flac", "jpg", "json")


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip as stored."""

    key: str
    members: dict[str, bytes]
    """File extension to data: `flac`, `jpg`, `json`."""

    def audio(self) -> np.ndarray:
        """Return the sound: float32 (samples,) at 16 kHz, in -1 to 1."""
        try:
            samples, sample_rate = soundfile.read(io.BytesIO(self.members["flac"]), dtype="float32")
        except soundfile.SoundFileError as e:
            raise ShardError(f"{self.key}: its sound is damaged ({e}); run the ingestion again") from e
        if sample_rate != SAMPLE_RATE or samples.ndim != 1:
            raise ShardError(f"{self.key}: want mono sound at {SAMPLE_RATE} Hz, found {sample_rate} Hz")
        return samples

    def frame(self) -> np.ndarray:
        """Return the picture: uint8 (height, width, 3)."""
        try:
            with Image.open(io.BytesIO(self.members["jpg"]), formats=("JPEG",)) as image:
                return np.asarray(image.convert("RGB"))
        except OSError as e:
            raise ShardError(f"{self.key}: its picture is damaged; run the ingestion again") from e

    def info(self) -> dict[str, Any]:
        """Return the clip's JSON: labels, times, caption."""
        try:
            return dict(json.loads(self.members["json"].decode()))
        except (ValueError, TypeError) as e:
            raise ShardError(f"{self.key}: its description is damaged; run the ingestion again") from e


class ClipShards:
    """The committed clips of a shard set as a sequence; close it, or use it as a context manager."""

    def __init__(self, root: Path, *, split: str | None = None) -> None:
        """Open the set at `root`; `split` None takes every split.

        Raises:
            ShardError: as `open_catalog`.
        """
        self.catalog: Catalog = open_catalog(root, split=split)
        self._shard = self.catalog.table["shard"].to_numpy()
        self._offset = self.catalog.table["tar_offset"].to_numpy()
        self._length = self.catalog.table["tar_len"].to_numpy()
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.catalog)

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the open tars."""
        self.close()

    def close(self) -> None:
        """Close the open tars; reading opens them again."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def __getitem__(self, position: int) -> Sample:
        """Return the clip at `position` in the catalog.

        Raises:
            IndexError: there is no such position.
            ShardError: the bytes there are not that clip.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"clip {position} of {len(self)}")
        number = int(self._shard[position])
        path = self.catalog.shards[number].path(".tar")
        if number not in self._files:
            self._files[number] = os.open(path, os.O_RDONLY)
        key = self.catalog.table["key"][position].as_py()
        return read_sample(self._files[number], path, key, int(self._offset[position]), int(self._length[position]))


def read_sample(fd: int, path: Path, key: str, offset: int, length: int) -> Sample:
    """Read one clip from an open tar.

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
    if missing := [name for name in MEMBERS if name not in sample.members]:
        raise ShardError(f"{path}: {key} has no {', '.join(missing)}; the shard is damaged")
    if sample.info().get("key") != key:
        raise ShardError(f"{path}: another clip than {key} lies at its place; the shard is damaged")
    return sample
