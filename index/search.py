"""Search over a snapshot: every segment of a modality, the deleted left out, filters kept, one list of hits.

What one segment does stands in `exact.py` and `ann.py`; this module chooses between them and merges.
Shapes: Q queries, N rows, D dimensions, K answers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from .ann import FILE, LEVELS, AnnIndex, Clock, Setting, open_ann
from .classes import Classes
from .exact import ExactScan, Found, padded
from .matches import Matches
from .where import Where

Mode = Literal["exact", "ann"]
EXACT_MAX_NUMBERS = 10**8
"""Up to so many numbers (matching rows times dimensions) are scanned: about 10 ms on one core."""


class SegmentLike(Protocol):
    """What search needs of a segment."""

    @property
    def id(self) -> str:
        """Name within the snapshot."""
        ...

    @property
    def vectors_ND(self) -> np.ndarray:  # noqa: N802  (shape letters)
        """float16, unit norm, mapped."""
        ...

    @property
    def folder(self) -> Path:
        """May hold `ann.faiss`."""
        ...


class SnapshotLike(Protocol):
    """What search needs of a snapshot."""

    @property
    def manifest(self) -> dict[str, Any]:
        """Holds `search`: factory and parameters of each modality."""
        ...

    def of(self, modality: str) -> Sequence[Any]:
        """Return the segments of a modality."""
        ...

    def live(self, segment: Any) -> np.ndarray | None:
        """Return which rows are not deleted, bool (N,); None: all."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Hits:
    """The nearest rows of each query, best first; equal scores in the order of segments and rows."""

    scores_QK: np.ndarray
    """float32 cosines; -inf where fewer than K match."""
    segments_QK: np.ndarray
    """int32, numbers within `snapshot.of(modality)`; -1 where fewer than K match."""
    rows_QK: np.ndarray
    """int64, numbers within the segment; -1 where fewer than K match."""
    mode: Mode
    """`ann` where at least one segment was searched by its ANN index."""
    strategy: str
    """`all`: no filter; `matches`: the matching rows, exactly; `selector`: ANN that passes over the others; joined by
    `+` where segments differ. `milvus`, `milvus ids`, `milvus filter`: by Milvus, the filter as keys or expression."""
    params: dict[str, int] = field(default_factory=dict)
    """Of the ANN search: `nprobe`, `k_factor`, `level`."""
    matched: int = 0
    """Rows that match and are not deleted."""


@dataclass(frozen=True, slots=True)
class Part:
    """A segment, opened for searching."""

    id: str
    scan: ExactScan
    ann: AnnIndex | None
    live: Matches | None
    """None: no row is deleted."""

    def matches(self, allowed: Mapping[str, np.ndarray] | None) -> Matches | None:
        """Return the rows that may be found; None: all.

        Raises:
            ValueError: `allowed` lacks this segment, or its mask has another length.
        """
        if allowed is None:
            return self.live
        mask, rows = allowed.get(self.id), len(self.scan.vectors_ND)
        if mask is None or mask.shape != (rows,):
            found = "none" if mask is None else f"one of shape {mask.shape}"
            raise ValueError(f"segment {self.id[:12]} of {rows} rows needs a mask of as many, got {found}")
        return Matches(mask if self.live is None else mask & self.live.mask_N)

    def search(
        self, queries_QD: np.ndarray, k: int, matches: Matches | None, setting: Setting | None,
        clock: Clock | None = None, fill: bool = True,
    ) -> Found:  # fmt: skip
        """Return the nearest rows, approximately where there are an ANN index, a setting and many rows.

        Where the lists looked through hold fewer than `k`, a query is searched exactly, unless `fill` is off.
        """
        if not self.is_approximate(matches, setting):
            return self.scan.search(queries_QD, k, matches)
        assert self.ann is not None and setting is not None
        if matches is not None:
            return self.ann.search_matches(queries_QD, k, setting, matches, clock)
        scores, rows = self.ann.search(queries_QD, k, setting, clock)
        if fill and rows[:, -1].min() < 0:
            short = np.flatnonzero(rows[:, -1] < 0)
            scores[short], rows[short] = self.scan.search(np.ascontiguousarray(queries_QD[short]), k)
        return scores, rows

    def is_approximate(self, matches: Matches | None, setting: Setting | None) -> bool:
        """Tell whether `search` uses the ANN index."""
        if self.ann is None or setting is None:
            return False
        return matches is None or matches.count * self.scan.vectors_ND.shape[1] > EXACT_MAX_NUMBERS


def open_part(segment: SegmentLike, live_N: np.ndarray | None = None) -> Part:
    """Open a segment for searching.

    Raises:
        IndexStoreError: its ANN index cannot be read.
    """
    scan, path = ExactScan(segment.vectors_ND), segment.folder / FILE
    return Part(
        segment.id, scan, open_ann(path, scan) if path.exists() else None, None if live_N is None else Matches(live_N)
    )


class Searcher:
    """Searches one snapshot; any number of threads may share it."""

    def __init__(self, snapshot: SnapshotLike) -> None:
        """Search `snapshot`, which stays open meanwhile."""
        self.snapshot = snapshot
        self._opened: dict[str, tuple[Part, ...]] = {}
        self._settings: dict[str, dict[str, list[Setting]]] = {}

    def search(
        self,
        modality: str,
        queries_QD: np.ndarray,
        k: int,
        *,
        allowed: Mapping[str, np.ndarray] | None = None,
        direction: str | None = None,
        exact: bool = False,
        clock: Clock | None = None,
        where: Where | None = None,
        classes: Classes | None = None,
    ) -> Hits:
        """Return the `k` nearest rows of `modality` to each query.

        Args:
            modality: of the rows.
            queries_QD: float32, unit norm.
            k: answers a query; fewer come only where fewer rows match.
            allowed: by segment id, bool (N,): the rows that may be found; None: all.
            direction: the modality of the queries, whose parameters were tuned apart; None: the most thorough ones.
            exact: scan every row although an ANN index is there.
            clock: notes what refining took.
            where: the filter that `allowed` stands for, for a searcher that has to say it to others; none here.
            classes: what its labels stand for.

        Raises:
            ValueError: queries of another dimension or not finite, `k` under 1, or a mask is missing.
        """
        parts = self.parts(modality)
        queries = checked(queries_QD, k, parts)
        setting = None if exact else self.setting(modality, direction, k)
        return search_parts(parts, queries, k, setting, allowed, clock)

    def parts(self, modality: str) -> tuple[Part, ...]:
        """Return the opened segments of a modality."""
        if modality not in self._opened:
            self._opened[modality] = tuple(
                open_part(segment, self.snapshot.live(segment)) for segment in self.snapshot.of(modality)
            )
        return self._opened[modality]

    def setting(self, modality: str, direction: str | None, k: int) -> Setting | None:
        """Return the parameters for `k` answers to queries of modality `direction`; None: search exactly."""
        if modality not in self._settings:
            self._settings[modality] = read_settings(self.snapshot.manifest.get("search"), modality)
        settings = self._settings[modality]
        levels = settings.get(direction or "") or settings.get("", ())
        return next((setting for setting in levels if k <= setting.level), None)


def read_settings(search: Any, modality: str) -> dict[str, list[Setting]]:
    """Return the settings of a manifest's `search` by direction, by level; the most thorough under the empty name."""
    found = search.get(modality, {}) if isinstance(search, dict) else {}
    settings = {
        direction: [Setting(level=int(level), **values) for level, values in sorted(levels.items(), key=_level)]
        for direction, levels in found.get("params", {}).items()
    }
    if settings:
        settings[""] = [most_thorough(s for each in settings.values() for s in each if s.level == n) for n in LEVELS]
    return settings


def write_settings(settings: Mapping[str, Sequence[Setting]]) -> dict[str, dict[str, dict[str, int]]]:
    """Return settings as a manifest holds them: by direction, by level."""
    return {
        direction: {str(s.level): {"nprobe": s.nprobe, "k_factor": s.k_factor} for s in levels}
        for direction, levels in settings.items()
    }


def _level(item: tuple[str, Any]) -> int:
    return int(item[0])


def most_thorough(settings: Iterable[Setting]) -> Setting:
    """Return a setting that is no less thorough than any of the same level."""
    settings = list(settings)
    return Setting(
        nprobe=max(s.nprobe for s in settings),
        k_factor=max(s.k_factor for s in settings),
        level=settings[0].level,
    )


def checked(queries_QD: np.ndarray, k: int, parts: Sequence[Part]) -> np.ndarray:
    """Return the queries as FAISS wants them.

    Raises:
        ValueError: they or `k` cannot be searched.
    """
    if k < 1:
        raise ValueError(f"k is {k}, want at least 1")
    queries = np.ascontiguousarray(queries_QD, dtype=np.float32)
    dim = parts[0].scan.vectors_ND.shape[1] if parts else queries.shape[-1]
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise ValueError(f"queries have shape {queries.shape}, want (number, {dim}): the dimensions of the index")
    if not np.isfinite(queries).all():
        raise ValueError("a query holds a number that is not finite")
    return queries


def search_parts(
    parts: Sequence[Part],
    queries_QD: np.ndarray,
    k: int,
    setting: Setting | None,
    allowed: Mapping[str, np.ndarray] | None = None,
    clock: Clock | None = None,
    fill: bool = True,
) -> Hits:
    """Search several segments and merge what they find; queries are `checked`, `clock` and `fill` as in `Part`."""
    matches = [part.matches(allowed) for part in parts]
    ways = [part.is_approximate(m, setting) for part, m in zip(parts, matches, strict=True)]
    found = [part.search(queries_QD, k, m, setting, clock, fill) for part, m in zip(parts, matches, strict=True)]
    scores, segments, rows = merge(found, len(queries_QD), k)
    filtered = ["all" if allowed is None else "selector" if ann else "matches" for ann in ways]
    return Hits(
        scores_QK=scores, segments_QK=segments, rows_QK=rows, mode="ann" if any(ways) else "exact",
        strategy="+".join(sorted(set(filtered))) or "all",
        params=setting.as_dict() if setting is not None and any(ways) else {},
        matched=sum(
            len(part.scan.vectors_ND) if m is None else m.count for part, m in zip(parts, matches, strict=True)
        ),
    )  # fmt: skip


def merge(found: Sequence[Found], num_queries: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge scores and rows of several segments into the best `k`: scores, segments and rows, each (Q, K)."""
    if len(found) == 1:
        scores, rows = found[0]
        segments = np.zeros(rows.shape, np.int32)
        if rows[:, -1].min(initial=0) < 0:
            segments[rows < 0] = -1
        return scores, segments, rows
    nothing = padded(np.empty((num_queries, 0), np.float32), np.empty((num_queries, 0), np.int64), k)
    parts = [*found, nothing]
    scores = np.concatenate([scores for scores, _ in parts], axis=1)
    rows = np.concatenate([rows for _, rows in parts], axis=1)
    segments = np.concatenate([np.full(rows.shape, n, np.int32) for n, (_, rows) in enumerate(parts)], axis=1)
    segments[rows < 0] = -1
    order = np.lexsort((rows, segments, -scores), axis=1)[:, :k]
    scores, segments, rows = (np.take_along_axis(a, order, axis=1) for a in (scores, segments, rows))
    return scores, segments, rows
