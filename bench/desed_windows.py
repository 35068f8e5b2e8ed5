"""DESED's files cut into windows of a second, with what is true in each.

Shapes: F files, W windows of all files, C classes.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .desed import CLASSES, Event, Listing
from .encoders import Items
from .windows import WINDOW_S, Windows, length_of

CLIP_S = 10.0
"""Length of a file that is not there."""


@dataclass(frozen=True)
class EventWindows(Windows):
    """Files cut into windows of a second, and their events."""

    listing: Listing

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

    def embeddable(self, sample_rate: int, *, is_known: bool) -> Items:
        """Return the windows as an encoder takes them; to one that sees no media, none is opened."""
        tellers = [f"{self.listing.part} {name}" for name in self.listing.names] if is_known else None
        return self.items(sample_rate, self.truth.astype(np.float64), tellers)


def cut(listing: Listing) -> EventWindows:
    """Cut files into windows by the lengths that their headers tell; 10 s for one that is not there.

    Raises:
        BenchError: a file is not readable as sound, holds none, or more than a minute.
    """
    lengths = [length_of(path) if path.is_file() else CLIP_S for path in listing.paths]
    return EventWindows(listing.paths, np.array(lengths, dtype=np.float64), listing)
