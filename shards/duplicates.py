"""Finds clips with equal or nearly equal sound or pictures; they are flagged, never dropped.

Equal means equal bytes as stored (SHA-256). Nearly equal means that the 64-bit hashes `audio_fp` or `frame_dhash`
differ in at most `max_distance` bits; such pairs are joined into groups, whose ends may differ in more.

**How it scales.** Comparing all pairs is out of the question at two million clips. The hash is cut into
`max_distance + 2` bands: two hashes that differ in at most `max_distance` bits agree in at least two bands, so it is
enough to compare those that agree, for each pair of bands. Where very many different hashes agree in two bands, each
is compared with the `reach` next ones in order of their values only; how many hashes that concerned is counted in
`Duplicates.cut`, and groups may then be missing or in parts.

**What is left out.** A hash within `max_distance` bits of all zeros or all ones is that of silence, of a black frame or
of one flat colour. Such clips are like each other without being copies, so that they are counted in
`Duplicates.featureless` and take part in the search for equal bytes only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Kind = Literal["audio", "frame"]
HASHES: dict[Kind, tuple[str, str]] = {"audio": ("audio_sha256", "audio_fp"), "frame": ("frame_sha256", "frame_dhash")}
"""Columns of the sidecar: the hash of the bytes, and the hash of what is heard or seen."""
COLUMNS = ("key", "media_id", "split", "status", *(name for names in HASHES.values() for name in names))
"""What of the sidecar the search needs."""
BITS = 64
_BATCH = 1_000_000  # pairs that are joined at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class DuplicateGroup:
    """Clips that are alike."""

    kind: Kind
    exact: bool
    """Whether the stored bytes are equal; else the hashes are near."""
    keys: tuple[str, ...]
    """In alphabetical order."""
    media: int
    """Different media that they come from; 1 for clips of one medium, which often overlap."""
    splits: tuple[str, ...]
    """Splits that they belong to: with more than one, what is learnt from leaks into what is tested on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicates:
    """What a search found."""

    clips: int
    """Clips searched: those that came."""
    max_distance: int
    groups: tuple[DuplicateGroup, ...]
    """Across splits first, then across media, then the largest."""
    featureless: dict[Kind, int]
    """Clips left out of the search for near ones, since their hash says only that nothing is there."""
    cut: dict[Kind, int]
    """Hashes that were compared with their next neighbours only."""

    def select(self, *, kind: Kind, exact: bool, same_medium: bool) -> tuple[DuplicateGroup, ...]:
        """Return the groups of one kind; `same_medium` takes those whose clips all come from one medium."""
        return tuple(
            g for g in self.groups if g.kind == kind and g.exact == exact and (g.media == 1) == same_medium
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as plain JSON values, and the groups as lists of keys."""
        counts: dict[str, Any] = {}
        for kind in HASHES:
            for exact in (True, False):
                for same in (True, False):
                    groups = self.select(kind=kind, exact=exact, same_medium=same)
                    name = f"{'equal' if exact else 'near'}_{kind}_{'same_medium' if same else 'different_media'}"
                    counts[name] = {
                        "groups": [list(group.keys) for group in groups],
                        "clips": sum(len(group.keys) for group in groups),
                        "across_splits": sum(len(group.splits) > 1 for group in groups),
                    }
        counts |= {"featureless": dict(self.featureless), "cut": dict(self.cut)}
        return counts | {"clips": self.clips, "max_distance": self.max_distance}


def find_duplicates(rows: pa.Table, *, max_distance: int = 3, reach: int = 256) -> Duplicates:
    """Search the clips that came.

    Args:
        rows: a table with `COLUMNS`, one row a clip; rows whose status is not ok are left out.
        max_distance: bits in which near hashes may differ, 0 to 6.
        reach: how many neighbours a hash is compared with where very many agree.

    Raises:
        ValueError: an argument is out of range.
    """
    if not 0 <= max_distance <= 6:
        raise ValueError(f"max_distance is {max_distance}, want 0 to 6 bits")
    if reach < 1:
        raise ValueError(f"reach is {reach}, want at least 1")
    came = rows.select(COLUMNS).filter(pc.field("status") == "ok")
    groups: list[DuplicateGroup] = []
    featureless: dict[Kind, int] = {}
    cut: dict[Kind, int] = {}
    for kind, (exact, near) in HASHES.items():
        bytes_of = _codes(came[exact])
        groups += _describe(came, kind, True, list(_members(bytes_of)))
        cluster_of, featureless[kind], cut[kind] = _clusters(came[near], max_distance, reach)
        near_members = [m for m in _members(cluster_of) if bytes_of[m[0]] < 0 or (bytes_of[m] != bytes_of[m[0]]).any()]
        groups += _describe(came, kind, False, near_members)  # the others have equal bytes and are there already
    groups.sort(key=lambda g: (-len(g.splits), g.media == 1, not g.exact, -len(g.keys), g.kind, g.keys))
    return Duplicates(
        clips=len(came), max_distance=max_distance, groups=tuple(groups), featureless=featureless, cut=cut
    )


def _describe(came: pa.Table, kind: Kind, exact: bool, groups: list[np.ndarray]) -> Iterator[DuplicateGroup]:
    """Yield a group for each array of rows."""
    rows = came.select(["key", "media_id", "split"]).take(np.concatenate([np.arange(0), *groups]))
    keys, media, splits = (rows[name].to_pylist() for name in ("key", "media_id", "split"))
    end = 0
    for members in groups:
        here = slice(end, end := end + len(members))
        yield DuplicateGroup(
            kind=kind, exact=exact, keys=tuple(sorted(keys[here])), media=len(set(media[here])),
            splits=tuple(sorted(set(splits[here]))),
        )  # fmt: skip


def _codes(values: pa.ChunkedArray) -> np.ndarray:
    """Return a number for each different value, -1 for null: int64 (rows,)."""
    encoded = values.combine_chunks().dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _members(codes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows that share a code with another row; a code below zero is none."""
    order = np.argsort(codes, kind="stable")
    order = order[codes[order] >= 0]
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    ends = np.append(starts[1:], len(order))
    for i in np.flatnonzero(ends - starts > 1):
        yield order[starts[i] : ends[i]]


def _clusters(values: pa.ChunkedArray, max_distance: int, reach: int) -> tuple[np.ndarray, int, int]:
    """Return a number for each cluster of near hashes, -1 for none (rows,); and how many were left out and cut."""
    valid = values.is_valid().to_numpy()
    hashes = values.fill_null(0).to_numpy().astype(np.uint64)
    ones = np.bitwise_count(hashes)
    featureless = valid & ((ones <= max_distance) | (ones >= BITS - max_distance))
    searched = valid & ~featureless
    distinct, place = np.unique(hashes[searched], return_inverse=True)
    labels, cut = _join(distinct, max_distance, reach)
    clusters = np.full(len(hashes), -1, np.int64)
    clusters[searched] = labels[place]
    return clusters, int(featureless.sum()), cut


def _join(hashes: np.ndarray, max_distance: int, reach: int) -> tuple[np.ndarray, int]:
    """Return the cluster of each of the distinct hashes (their number,), and how many had more rivals than `reach`."""
    labels = np.arange(len(hashes))
    cut = np.zeros(len(hashes), bool)
    left: list[np.ndarray] = []
    right: list[np.ndarray] = []
    waiting = 0
    for mask in _masks(max_distance):
        order = np.argsort(hashes & mask, kind="stable")  # stable: within a bucket in order of value
        bucket = (hashes & mask)[order]
        here = np.arange(len(order))
        for step in range(1, reach + 1):
            here = here[: np.searchsorted(here, len(order) - step)]
            here = here[bucket[here] == bucket[here + step]]
            if not len(here):
                break
            a, b = order[here], order[here + step]
            near = (np.bitwise_count(hashes[a] ^ hashes[b]) <= max_distance) & (labels[a] != labels[b])
            left.append(a[near])
            right.append(b[near])
            waiting += int(near.sum())
            if waiting > _BATCH:
                labels = _unite(labels, np.concatenate(left), np.concatenate(right))
                left, right, waiting = [], [], 0
        else:
            here = here[: np.searchsorted(here, len(order) - reach - 1)]
            cut[order[here[bucket[here] == bucket[here + reach + 1]]]] = True
    return _unite(labels, np.concatenate([*left, labels[:0]]), np.concatenate([*right, labels[:0]])), int(cut.sum())


def _masks(max_distance: int) -> list[np.uint64]:
    """Return, for each pair of bands, a mask of their bits."""
    bounds = np.linspace(0, BITS, max_distance + 3).round().astype(int).tolist()
    bands = [(1 << high) - (1 << low) for low, high in pairwise(bounds)]
    return [np.uint64(a | b) for a, b in combinations(bands, 2)]


def _unite(labels: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Join the clusters of each pair; the label of a cluster is the least number of its members."""
    while True:
        a, b = labels[left], labels[right]
        differ = a != b
        if not differ.any():
            return labels
        left, right, a, b = left[differ], right[differ], a[differ], b[differ]
        labels = labels.copy()
        labels[np.maximum(a, b)] = np.minimum(a, b)  # of several, the last one stays; the others come round again
        while (labels[labels] != labels).any():
            labels = labels[labels]
