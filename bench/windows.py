"""Sounds cut into windows of a second, as an encoder takes them; the frames of a clip, and the segments of sed_eval.

Shapes: F files, W windows of all files.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import soundfile

from .encoders import Items
from .errors import BenchError
from .supervised import read_sound

WINDOW_S = 1.0
"""Of a window and of the hop: sed_eval's segments, so that a window is one of them."""
SHORTEST_S = 0.1
"""A file's rest below this is no window: sounds of 10.0 s are a few samples longer once resampled."""
LONGEST_S = 60.0
"""Of a file; a longer one is in none of the sets of short sounds, or its header lies."""


@dataclass(frozen=True)
class Windows:
    """Files cut into windows of a second."""

    paths: tuple[Path, ...]
    lengths: np.ndarray
    """Seconds of each file, (F,)."""

    @cached_property
    def counts(self) -> np.ndarray:
        """Return how many windows each file has, at least one; the last may hold less than a second."""
        return np.maximum(1, np.ceil((self.lengths - SHORTEST_S) / WINDOW_S)).astype(np.int64)

    @cached_property
    def ends(self) -> np.ndarray:
        """Return where the last window of each file ends, in seconds: never behind the file."""
        return np.minimum(self.lengths, self.counts * WINDOW_S)

    @cached_property
    def firsts(self) -> np.ndarray:
        """Return the number of each file's first window."""
        return np.concatenate([[0], np.cumsum(self.counts)[:-1]])

    @cached_property
    def files(self) -> np.ndarray:
        """Return the file of each window."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def contents(self) -> tuple[str, ...]:
        """Return the hash of each file."""
        return tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in self.paths)

    def items(self, sample_rate: int, classes: np.ndarray, tellers: Sequence[str] | None = None) -> Items:
        """Return the windows as an encoder takes them.

        Args:
            sample_rate: that they are brought to.
            classes: of each window, (W,), or weights (W, C).
            tellers: what tells each file from others, if its contents are not to be looked at.
        """
        within_W = np.arange(len(self.files)) - self.firsts[self.files]
        told = self.contents if tellers is None else tellers
        keys = [f"{told[file]} {place}" for file, place in zip(self.files, within_W, strict=True)]
        size = round(WINDOW_S * sample_rate)

        @lru_cache(maxsize=2)
        def whole(file: int) -> np.ndarray:
            sound = load_sound(self.paths[file], sample_rate)
            if len(sound) < (self.lengths[file] - SHORTEST_S) * sample_rate:
                told = f"{len(sound) / sample_rate:.1f} s of sound, of {self.lengths[file]:.1f} s in its header"
                raise BenchError(f"{self.paths[file]}: holds {told}; fetch it again")
            return np.pad(sound, (0, max(0, int(self.counts[file]) * size - len(sound))))

        def load(number: int) -> np.ndarray:
            return whole(int(self.files[number]))[within_W[number] * size :][:size]

        preprocessing = f"windows of {WINDOW_S:g} s, hop {WINDOW_S:g} s, mono, {sample_rate} Hz"
        return Items(keys, load, classes, np.arange(len(keys)), preprocessing)


def length_of(path: Path) -> float:
    """Return the seconds that a file's header tells.

    Raises:
        BenchError: it is not readable as sound, holds none, or more than a minute.
    """
    try:
        about = soundfile.info(path)
    except soundfile.SoundFileError as e:
        raise BenchError(f"{path}: not readable as sound ({e}); fetch it again") from e
    length = about.frames / about.samplerate
    if not 0 < length <= LONGEST_S:
        raise BenchError(f"{path}: holds {length:g} s of sound, want some, up to {LONGEST_S:g} s; fetch it again")
    return length


def load_sound(path: Path, sample_rate: int) -> np.ndarray:
    """Return a file as float32 (samples,), mono.

    Raises:
        BenchError: it is not readable.
    """
    try:
        return read_sound(*soundfile.read(path, dtype="float32", always_2d=True), sample_rate)
    except soundfile.SoundFileError as e:
        raise BenchError(f"{path}: not readable as sound ({e}); fetch it again") from e
