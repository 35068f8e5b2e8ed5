"""Which clips are true answers to each other, and so no negatives: the one rule for training and measuring.

Two clips are related when they are of one group and, where both come from one medium, their spans overlap. Pictures
and voices of one thing are related; distant moments of one film are not.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

MIN_OVERLAP = 0.5
"""Intersection over union from which a moment counts as found; training spares every overlapping pair."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spans:
    """What the rule needs to know of N clips."""

    groups: np.ndarray
    media: np.ndarray
    start_ms: np.ndarray
    end_ms: np.ndarray

    @classmethod
    def of(cls, rows: list[dict[str, Any]]) -> Self:
        """Take the spans of rows of a sidecar or an index."""
        return cls(
            groups=np.array([row["group"] for row in rows]),
            media=np.array([row["media_id"] for row in rows]),
            start_ms=np.array([row["start_ms"] for row in rows], dtype=np.int64),
            end_ms=np.array([row["end_ms"] for row in rows], dtype=np.int64),
        )

    def take(self, positions: np.ndarray) -> Self:
        """Return the spans of some clips."""
        return type(self)(
            groups=self.groups[positions],
            media=self.media[positions],
            start_ms=self.start_ms[positions],
            end_ms=self.end_ms[positions],
        )

    def numbered(self) -> Self:
        """Return the same spans with numbers for groups and media, which compare faster; only with each other."""
        groups, media = (np.unique(names, return_inverse=True)[1] for names in (self.groups, self.media))
        return type(self)(groups=groups, media=media, start_ms=self.start_ms, end_ms=self.end_ms)


def related(first: Spans, second: Spans, *, min_overlap: float = 0.0) -> np.ndarray:
    """Return which pairs are related, boolean (N of first, N of second).

    Args:
        first: clips.
        second: clips.
        min_overlap: least intersection over union of two spans of one medium; 0: any time in common.
    """
    same_group = first.groups[:, None] == second.groups[None]
    same_medium = first.media[:, None] == second.media[None]
    begin = np.maximum(first.start_ms[:, None], second.start_ms[None])
    end = np.minimum(first.end_ms[:, None], second.end_ms[None])
    shared = np.clip(end - begin, 0, None)
    union = (first.end_ms - first.start_ms)[:, None] + (second.end_ms - second.start_ms)[None] - shared
    overlaps = (shared > 0) & (shared >= min_overlap * union)
    return same_group & (~same_medium | overlaps)
