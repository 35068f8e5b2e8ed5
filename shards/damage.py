"""What a reader does with a damaged clip: stop, or take the next intact one and keep count."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from .errors import ShardError
from .sample import Sample
from .tars import TarFiles, TarReader

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A clip that was found damaged and passed over."""

    position: int
    key: str
    shard: int
    """Number of its shard in the catalog."""
    reason: str


class IntactReader:
    """Reads a position or, where that clip is damaged, the next intact one in catalog order, past the end the first.

    So what stands in for a clip depends on the shards alone, not on the order, the rank or what was read before.
    It may be pickled; the copy begins with the damage known so far.
    """

    def __init__(self, reader: TarReader, *, skip: bool, allowed: int) -> None:
        """Raise at damage unless `skip`, and at more than `allowed` damaged clips in any case."""
        self.reader = reader
        self.skip = skip
        self.allowed = allowed
        self.skipped: dict[int, Skipped] = {}

    def get(self, position: int, take: Callable[[Sample], T]) -> tuple[int, T]:
        """Return the position that was read and what `take` makes of the sample there.

        Raises:
            ShardError: the clip is damaged and `skip` is off, or no clip at all is intact.
        """
        if not self.skip:
            return position, take(self.reader.read(position))
        count = len(self.reader)
        for step in range(count):
            if len(self.skipped) > self.allowed:  # the rest is not read to the end to find that out
                raise too_many(len(self.skipped), count, list(self.skipped.values())[-1].reason)
            candidate = (position + step) % count
            if candidate in self.skipped:
                continue
            try:
                return candidate, take(self.reader.read(candidate))
            except ShardError as e:
                self.skipped[candidate] = Skipped(
                    position=candidate, key=self.reader.key(candidate),
                    shard=self.reader.shard(candidate), reason=str(e),
                )  # fmt: skip
        raise ShardError(f"none of {count:,} clips is intact; the last: {self.skipped[position].reason}")


def too_many(damaged: int, num_clips: int, last: str) -> ShardError:
    """Return the error of a set with more damaged clips than are allowed."""
    return ShardError(f"{damaged:,} of {num_clips:,} clips are damaged, more than max_skipped allows; the last: {last}")


def allowed_damage(num_clips: int, max_skipped: float) -> int:
    """Return how many clips may be damaged: a share of all, and one clip in any case."""
    return max(1, int(max_skipped * num_clips))


class SkipLog:
    """Counts what was skipped, warns once a shard, and gives up when it is too much."""

    def __init__(self, num_clips: int, allowed: int, files: TarFiles) -> None:
        """Give up at more than `allowed` of `num_clips` clips."""
        self.allowed = allowed
        self.num_clips = num_clips
        self._files = files
        self.skipped: dict[int, Skipped] = {}
        self._warned: set[int] = set()

    def note(self, found: Iterable[Skipped]) -> None:
        """Add what a reader skipped.

        Raises:
            ShardError: more clips are damaged than is allowed.
        """
        for one in found:
            if one.position in self.skipped:
                continue
            self.skipped[one.position] = one
            if one.shard not in self._warned:
                self._warned.add(one.shard)
                log.warning("skipping damaged clips of %s, the first: %s", self._files.name(one.shard), one.reason)
        if len(self.skipped) > self.allowed:
            raise too_many(len(self.skipped), self.num_clips, list(self.skipped.values())[-1].reason)
