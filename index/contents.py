"""Which items of a modality hold the same sound or picture, and lists in which each stands once.

Shapes: N rows, K answers, D dimensions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ..shards.arrays import numpy_of
from .segment import Segment
from .snapshot import Snapshot

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers

UNKNOWN = -1
"""The content of an item without a hash is like no other."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a modality as numbers, equal ones alike."""

    codes: tuple[np.ndarray, ...]
    """int64 (N,) of each segment."""
    counts: np.ndarray
    """Live items of each content."""

    @property
    def repeat(self) -> bool:
        """Tell whether any content stands twice."""
        return bool(len(self.counts)) and int(self.counts.max()) > 1

    def others(self, code: int) -> int:
        """Return how many more items hold a content."""
        return 0 if code == UNKNOWN else int(self.counts[code]) - 1


def read_contents(snapshot: Snapshot, modality: str) -> Contents:
    """Number the contents of a modality."""
    segments = snapshot.of(modality)
    hashes = [chunk for segment in segments for chunk in segment.rows["content_sha256"].chunks]
    encoded = pa.chunked_array(hashes, pa.string()).dictionary_encode().combine_chunks()
    codes = numpy_of(pc.fill_null(encoded.indices, UNKNOWN).cast(pa.int64()))
    empty = pc.index(encoded.dictionary, pa.scalar("", pa.string())).as_py()
    codes = codes if empty == UNKNOWN else np.where(codes == empty, UNKNOWN, codes)
    split = tuple(np.split(codes, np.cumsum([len(segment.rows) for segment in segments])[:-1]))
    live = [_live(snapshot, segment, part) for segment, part in zip(segments, split, strict=True)]
    counted = np.concatenate(live) if live else codes
    return Contents(split, np.bincount(counted[counted >= 0], minlength=len(encoded.dictionary)))


def _live(snapshot: Snapshot, segment: Segment, codes: np.ndarray) -> np.ndarray:
    live = snapshot.live(segment)
    return codes if live is None else codes[live]


@dataclass(frozen=True, slots=True)
class Listed:
    """Which of the candidates are listed."""

    places: list[int]
    """Among the candidates, best first."""
    first: list[int | None]
    """For each, the place of a better one with the same content; None: it is the first."""
    similar: list[int]
    """For each, how many were left out for it because they lie near."""


def list_distinct(codes_K: np.ndarray, vectors_KD: np.ndarray | None, k: int, near: float | None) -> Listed:
    """List candidates, equal contents once.

    Args:
        codes_K: their contents, best candidate first.
        vectors_KD: unit norm, where `near` is given.
        k: how many are listed at most.
        near: cosine from which on a candidate is left out for a better one.
    """
    listed, seen = Listed([], [], []), set[int]()
    for place, code in enumerate(codes_K.tolist()):
        if code in seen:
            continue
        if near is not None and vectors_KD is not None and listed.places:
            cosines = vectors_KD[listed.places] @ vectors_KD[place]
            if cosines.max() >= near:
                listed.similar[int(cosines.argmax())] += 1
                continue
        if len(listed.places) == k:
            break
        seen.update([code] if code != UNKNOWN else [])
        listed.places.append(place)
        listed.first.append(None)
        listed.similar.append(0)
    return listed


def list_all(codes_K: np.ndarray, k: int) -> Listed:
    """List the first `k` candidates, and say which repeat the content of a better one."""
    first: dict[int, int] = {}
    places = list(range(min(k, len(codes_K))))
    of = [first.setdefault(code, place) if code != UNKNOWN else place for place, code in enumerate(codes_K.tolist())]
    return Listed(places, [None if of[place] == place else of[place] for place in places], [0] * len(places))
