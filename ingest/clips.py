"""What a clip is before anything was fetched: a stretch of one medium, with what a list says about it."""

from dataclasses import dataclass
from typing import NamedTuple

from ..shards import make_key


class Event(NamedTuple):
    """What sounds from when to when."""

    start_ms: int
    """From the clip's start."""
    end_ms: int
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One row of a list that could be read."""

    corpus: str
    """`as` for AudioSet, `gen` for general lists."""
    media_id: str
    """Identifies the medium within the corpus: letters, digits, `-` and `_`."""
    source: str = ""
    """Path of the medium relative to the media folder, or its address; empty: found by its id."""
    start_ms: int
    """Where the clip starts in the medium."""
    end_ms: int
    """Where it ends."""
    split: str = "train"
    """Lower-case name of the part of the corpus."""
    group: str = ""
    """What belongs together, such as all voices of one thing; empty: the medium is its own group."""
    labels: tuple[str, ...] = ()
    """Names or MIDs."""
    events: tuple[Event, ...] = ()
    """Strong labels, where the list has them."""
    caption: str = ""
    """A sentence or a name."""
    language: str = ""
    """Of the caption and the voice, as in BCP 47; empty: none or unknown."""
    license: str = ""
    """SPDX name where there is one."""

    @property
    def key(self) -> str:
        """Return the clip's key in shards and indexes."""
        return make_key(self.corpus, self.media_id, self.start_ms)
