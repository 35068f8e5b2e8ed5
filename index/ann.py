"""Approximate search within one segment: FAISS proposes candidates from short codes, the mapped float16 rows decide.

The candidates are refined from the same memory, by the same routine, as in an exact search, so that both give a row
the same score. Parameters go with each call; nothing shared is changed.
Shapes: Q queries, N rows, D dimensions, K answers.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import IndexStoreError
from .exact import ExactScan, Found, ordered, padded
from .library import load_faiss
from .matches import Matches

FILE = "ann.faiss"
LEVELS = (10, 100)
"""Numbers of answers that parameters are tuned for; for more than the last the search is exact."""
LATE = 0.1
"""Share of a filtered query's answers that may come from the later half of what was looked through. Parameters are
tuned without a filter: what a filter keeps may lie elsewhere, or so close together that short codes do not order it."""
TABLES = 8
"""Times its file's size that FAISS may take at once for an index: the products of centroids and codes, which it makes
at reading, take four times the centroids."""
DESERIALIZATION_LOOPS = 10**8
"""Most turns that a file may make FAISS's reader take in one loop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How thorough an approximate search is."""

    nprobe: int
    """Inverted lists that are looked through."""
    k_factor: int
    """Candidates that are refined, in multiples of the level."""
    level: int = LEVELS[0]
    """Answers that it was tuned for."""

    @property
    def candidates(self) -> int:
        """Return how many candidates are refined."""
        return self.k_factor * self.level

    def as_dict(self) -> dict[str, int]:
        """Return plain values for JSON."""
        return {"nprobe": self.nprobe, "k_factor": self.k_factor, "level": self.level}

    def widened(self, share: float, nlist: int) -> "Setting":
        """Return what finds as much when only a share of the rows may be found.

        It looks through twice as much as is needed without a filter, at least: that is then the first half of it.
        """
        nprobe = min(nlist, int(np.ceil(self.nprobe * max(2, 1 / share))))
        return Setting(nprobe=nprobe, k_factor=self.k_factor * (2 if share > 0.5 else 1), level=self.level)


@dataclass(slots=True)
class Clock:
    """What searches that share it have spent so far."""

    refine_s: float = 0.0
    """On comparing candidates of ANN indexes with the stored vectors."""


class AnnIndex:
    """An inverted-file index whose candidates are refined from the segment's own vectors; threads may share it."""

    def __init__(self, index: Any, scan: ExactScan) -> None:
        """Put a trained and filled index before the vectors of a segment.

        Raises:
            IndexStoreError: a row is in none of its lists, or in two, or is none of the segment's.
        """
        faiss = load_faiss()
        self.index = index
        self.nlist = int(faiss.extract_index_ivf(index).nlist)
        self._scan = scan
        self._refined = faiss.IndexRefine(index, scan.flat)
        self._list_of_row = _list_of_row(index, self.nlist)
        self._params: dict[tuple[int, ...], Any] = {}

    def search(self, queries_QD: np.ndarray, k: int, setting: Setting, clock: Clock | None = None) -> Found:
        """Return about the `k` nearest rows; -inf and -1 where the lists looked through hold fewer.

        With a clock, candidates are refined apart, which takes longer and finds the same.
        """
        if clock is not None:
            rows_QC = self._candidates(queries_QD, max(k, setting.candidates), setting.nprobe)
            scores, rows = self._refine(queries_QD, rows_QC, k, clock)
            if rows_QC[:, -1].min() >= 0:
                return scores, rows
        key = setting.nprobe, setting.k_factor, setting.level, k
        params = self._params.get(key)
        if params is None:
            params = self._params[key] = self._prepare(setting, k)
        return _cleaned(*self._refined.search(queries_QD, k, params=params))

    def search_matches(
        self, queries_QD: np.ndarray, k: int, setting: Setting, matches: Matches, clock: Clock | None = None
    ) -> Found:
        """Return about the `k` nearest of the matching rows.

        Queries whose answers come late in what was looked through, where further ones may follow, are searched exactly.
        """
        wide = setting.widened(matches.share, self.nlist)
        answers = min(matches.count, max(k, setting.level))
        rows_QC = self._candidates(queries_QD, min(matches.count, max(k, wide.candidates)), wide.nprobe, matches)
        scores, rows = self._refine(queries_QD, rows_QC, answers, clock)
        unsure = np.flatnonzero(self._may_lack(queries_QD, rows_QC, rows[:, : setting.level], wide.nprobe, matches))
        scores, rows = padded(scores[:, :k].copy(), rows[:, :k].copy(), k)
        if len(unsure):
            scores[unsure], rows[unsure] = self._scan.search(np.ascontiguousarray(queries_QD[unsure]), k, matches)
        return scores, rows

    def _candidates(
        self, queries_QD: np.ndarray, count: int, nprobe: int, matches: Matches | None = None
    ) -> np.ndarray:
        """Return the rows with the best codes, int64 (Q, count), best first; -1 where the lists hold fewer."""
        selector = None if matches is None else matches.selector
        params = load_faiss().SearchParametersIVF(nprobe=min(nprobe, self.nlist), sel=selector)
        return self.index.search(queries_QD, count, params=params)[1]

    def _refine(self, queries_QD: np.ndarray, rows_QC: np.ndarray, k: int, clock: Clock | None) -> Found:
        """Return the best of the candidates; what is missing among them counts as row 0, so look for it before."""
        began = time.perf_counter()
        found = self._scan.score(queries_QD, rows_QC, k)
        if clock is not None:
            clock.refine_s += time.perf_counter() - began
        return found

    def _may_lack(
        self, queries_QD: np.ndarray, rows_QC: np.ndarray, rows_QK: np.ndarray, nprobe: int, matches: Matches
    ) -> np.ndarray:
        """Tell which queries' answers are no sure ones, bool (Q,).

        Either the lists hold too few matches, or more than `LATE` of the answers come from the later half of the
        candidates or of the lists: as many or more may then lie beyond what was looked through.
        """
        lacking_Q = rows_QC[:, -1] < 0
        if rows_QC.shape[1] < matches.count:
            lacking_Q |= _share_in(rows_QK, rows_QC[:, rows_QC.shape[1] // 2 :]) > LATE
        if nprobe < self.nlist:
            ivf = load_faiss().extract_index_ivf(self.index)
            lists_QP = ivf.quantizer.search(queries_QD, nprobe)[1]
            lacking_Q |= _share_in(self._list_of_row[rows_QK], lists_QP[:, nprobe // 2 :]) > LATE
        return lacking_Q

    def _prepare(self, setting: Setting, k: int) -> Any:
        faiss = load_faiss()
        return faiss.IndexRefineSearchParameters(
            k_factor=(max(k, setting.candidates) + 0.5) / k,  # FAISS rounds the product down
            base_index_params=faiss.SearchParametersIVF(nprobe=min(setting.nprobe, self.nlist)),
        )


def open_ann(path: Path, scan: ExactScan) -> AnnIndex:
    """Open a file whose checksum was verified.

    Raises:
        IndexStoreError: FAISS cannot read it, or it belongs to other vectors.
    """
    faiss = load_faiss()
    faiss.set_deserialization_vector_byte_limit(max(TABLES * path.stat().st_size, 2**20))
    faiss.set_deserialization_loop_limit(DESERIALIZATION_LOOPS)
    rows, dim = scan.vectors_ND.shape
    try:
        index = faiss.read_index(str(path))
        ivf = faiss.try_extract_index_ivf(index)
        if ivf is None or (index.ntotal, index.d, index.metric_type) != (rows, dim, faiss.METRIC_INNER_PRODUCT):
            raise IndexStoreError(f"not the search index of {rows} vectors of {dim} numbers; build the index again")
        ann = AnnIndex(index, scan)
        # some of what a file declares is met only in a search
        ann.search(scan.vectors_ND[:1].astype(np.float32), 1, Setting(nprobe=1, k_factor=1))
    except IndexStoreError as e:
        raise IndexStoreError(f"{path}: {e}") from e
    except (RuntimeError, MemoryError) as e:
        raise IndexStoreError(f"{path}: FAISS cannot read it; build the index again") from e
    return ann


def _list_of_row(index: Any, nlist: int) -> np.ndarray:
    """Return the number of the list that each row is in, int32 (N,)."""
    faiss = load_faiss()
    lists, found_N = faiss.extract_index_ivf(index).invlists, np.full(index.ntotal, -1, np.int32)
    for number in range(nlist):
        if size := lists.list_size(number):
            rows = faiss.rev_swig_ptr(lists.get_ids(number), size)
            if rows.min() < 0 or rows.max() >= len(found_N):
                raise IndexStoreError(
                    f"list {number} of the search index has a row that is none; build the index again"
                )
            found_N[rows] = number
    held = sum(lists.list_size(number) for number in range(nlist))
    if held != len(found_N) or found_N.min(initial=0) < 0:
        raise IndexStoreError("a row is in none of the search index's lists, or in two; build the index again")
    return found_N


def _share_in(values_QK: np.ndarray, chosen_QC: np.ndarray) -> np.ndarray:
    """Return which share of each row's values is among those chosen for it, float64 (Q,)."""
    return np.array([np.isin(values, chosen).mean() for values, chosen in zip(values_QK, chosen_QC, strict=True)])


def _cleaned(scores_QK: np.ndarray, rows_QK: np.ndarray) -> Found:
    """Mark what is missing and order equal scores by row; FAISS has sorted the rest."""
    if rows_QK[:, -1].min() < 0:
        scores_QK[rows_QK < 0] = -np.inf
    elif not (scores_QK[:, 1:] == scores_QK[:, :-1]).any():
        return scores_QK, rows_QK
    return ordered(scores_QK, rows_QK)
