"""Sounds cut into windows of a second, as sed_eval's segments are, for an encoder and for the truth.

Shapes: F files, W windows of all files, C classes.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import soundfile

from .desed import CLASSES, Event, Listing
from .encoders import Items
from .errors import BenchError
from .supervised import read_sound

CLIP_S = 10.0
"""Length of a file that is not there."""
WINDOW_S = 1.0
"""Of a window and of the hop: sed_eval's segments, so that a window is one of them."""
LONGEST_S = 60.0
"""Of a file; a longer one is none of the data set's, or its header lies."""
SHORTEST_S = 0.1
"""A file's rest below this is no window: sounds of 10.0 s are a few samples longer once resampled."""


@dataclass(frozen=True)
class Windows:
    """Files cut into windows of a second."""

    listing: Listing
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
    def truth(self) -> np.ndarray:
        """Return which classes a window touches, boolean, as sed_eval's segments; of weak labels, those of its file."""
        if self.listing.is_weak:
            return self.listing.labels()[self.files]
        truth = np.zeros((len(self.files), len(CLASSES)), dtype=bool)
        for first, count, events in zip(self.firsts, self.counts, self.events, strict=True):
            own = truth[first : first + count]
            for event in events:
                own[math.floor(event.onset / WINDOW_S) : math.ceil(event.offset / WINDOW_S), event.label] = True
        return truth

    @cached_property
    def events(self) -> tuple[tuple[Event, ...], ...]:
        """Return the events of each file up to its end; one that begins behind it is left out, see `beyond`."""
        return tuple(
            tuple(event._replace(offset=min(event.offset, float(end))) for event in events if event.onset < end)
            for end, events in zip(self.ends, self.listing.events, strict=True)
        )

    @property
    def beyond(self) -> int:
        """Count the events that begin behind their file's end: a shorter copy of the file is there."""
        return sum(map(len, self.listing.events)) - sum(map(len, self.events))

    @cached_property
    def contents(self) -> tuple[str, ...]:
        """Return the hash of each file."""
        return tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in self.listing.paths)

    def items(self, sample_rate: int, *, is_known: bool = False) -> Items:
        """Return the windows as an encoder takes them; to one that sees no media, none is opened."""
        within_W = np.arange(len(self.files)) - self.firsts[self.files]
        tellers = [f"{self.listing.part} {name}" for name in self.listing.names] if is_known else self.contents
        keys = [f"{tellers[file]} {place}" for file, place in zip(self.files, within_W, strict=True)]
        size = round(WINDOW_S * sample_rate)

        @lru_cache(maxsize=2)
        def whole(file: int) -> np.ndarray:
            sound = _load(self.listing.paths[file], sample_rate)
            wanted = int(self.counts[file]) * size
            return np.pad(sound, (0, max(0, wanted - len(sound))))

        def load(number: int) -> np.ndarray:
            return whole(int(self.files[number]))[within_W[number] * size :][:size]

        return Items(
            keys, load, self.truth.astype(np.float64), np.arange(len(keys)),
            f"windows of {WINDOW_S:g} s, hop {WINDOW_S:g} s, mono, {sample_rate} Hz",
        )  # fmt: skip


def cut(listing: Listing) -> Windows:
    """Cut files into windows by the lengths that their headers tell; 10 s for one that is not there.

    Raises:
        BenchError: a file is not readable as sound, holds none, or more than a minute.
    """
    lengths = [_length(path) if path.is_file() else CLIP_S for path in listing.paths]
    return Windows(listing, np.array(lengths, dtype=np.float64))


def _length(path: Path) -> float:
    try:
        about = soundfile.info(path)
    except soundfile.SoundFileError as e:
        raise BenchError(f"{path}: not readable as sound ({e}); fetch it again") from e
    length = about.frames / about.samplerate
    if not 0 < length <= LONGEST_S:
        raise BenchError(f"{path}: holds {length:g} s of sound, want about {CLIP_S:g}; fetch it again")
    return length


def _load(path: Path, sample_rate: int) -> np.ndarray:
    try:
        return read_sound(*soundfile.read(path, dtype="float32", always_2d=True), sample_rate)
    except soundfile.SoundFileError as e:
        raise BenchError(f"{path}: not readable as sound ({e}); fetch it again") from e
