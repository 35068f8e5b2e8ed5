"""What a reader does with damage: stop, or take the next intact clip, leave out a shard, and keep count of both."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from .catalog import Catalog
from .commit import COMMIT_SUFFIX, Damage, parse_commit
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


@dataclass(frozen=True, kw_only=True, slots=True)
class SkipLimit:
    """How much of a set may be damaged."""

    num_clips: int
    """Of the set, those that are lost included."""
    lost: int
    """Clips of the shards that were left out whole."""
    max_skipped: float
    """Share of `num_clips`; one clip is allowed in any case."""

    def scaled(self, chosen: int, found: int) -> "SkipLimit":
        """Return the limit where `chosen` of the `found` clips are read; the same share of the lost ones counts."""
        lost = self.lost * chosen // found
        return replace(self, num_clips=chosen + lost, lost=lost)

    def check(self, damaged: int, last: str) -> None:
        """Raise a ShardError if `damaged` clips, beside those that are lost, are too many; `last` tells of one."""
        count = self.lost + damaged
        if count > max(1, int(self.max_skipped * self.num_clips)):
            left_out = f" ({self.lost:,} of them in shards left out)" if self.lost else ""
            raise ShardError(
                f"{count:,} of {self.num_clips:,} clips are damaged{left_out}, more than max_skipped allows; "
                f"the last: {last}"
            )


def limit_of(catalog: Catalog, max_skipped: float) -> SkipLimit:
    """Warn of each shard that the catalog left out; return the limit with their clips counted.

    Raises:
        ShardError: more clips are lost with these shards than `max_skipped` allows.
    """
    largest = max((commit.ok for commit in catalog.shards), default=0)
    lost = [_clips_lost(damage, largest) for damage in catalog.damaged]
    for damage, count in zip(catalog.damaged, lost, strict=True):
        log.warning("leaving out a shard of %d clips: %s", count, damage)
    limit = SkipLimit(num_clips=len(catalog) + sum(lost), lost=sum(lost), max_skipped=max_skipped)
    if lost:
        limit.check(0, str(catalog.damaged[-1]))
    return limit


def _clips_lost(damage: Damage, largest: int) -> int:
    """Count the clips of a shard: by its commit, else by its tar's index, else as many as the `largest` other has."""
    stem = damage.path.with_name(damage.shard or "")
    try:
        return parse_commit(stem.with_name(stem.name + COMMIT_SUFFIX)).ok
    except ShardError:
        index = stem.with_name(f"{stem.name}.tar.idx")
        return max(0, index.stat().st_size // 8 - 1) if index.is_file() else largest


class IntactReader:
    """Reads a position or, where that clip is damaged, the next intact one in catalog order, past the end the first.

    So what stands in for a clip depends on the shards alone, not on the order, the rank or what was read before.
    It may be pickled; the copy begins with the damage known so far.
    """

    def __init__(self, reader: TarReader, *, skip: bool, limit: SkipLimit) -> None:
        """Raise at damage unless `skip`, and at more damaged clips than `limit` allows in any case."""
        self.reader = reader
        self.skip = skip
        self.limit = limit
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
            if self.skipped:  # the rest is not read to the end to find out that it is too much
                self.limit.check(len(self.skipped), next(reversed(self.skipped.values())).reason)
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


class SkipLog:
    """Counts what was skipped, warns once a shard, and gives up when it is too much."""

    def __init__(self, limit: SkipLimit, files: TarFiles) -> None:
        """Give up at more damaged clips than `limit` allows."""
        self.limit = limit
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
        if self.skipped:
            self.limit.check(len(self.skipped), next(reversed(self.skipped.values())).reason)
