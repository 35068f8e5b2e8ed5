"""Approximate search within one segment: FAISS proposes candidates from short codes, the mapped float16 rows decide.

The candidates are refined from the same memory, by the same routine, as in an exact search, so that both give a row
the same score. Parameters go with each call; nothing shared is changed.
Shapes: Q queries, N rows, D dimensions, K answers.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .errors import IndexStoreError
from .exact import ExactScan, Found, ordered
from .library import load_faiss
from .matches import Matches

FILE = "ann.faiss"
LEVELS = (10, 100)
"""Numbers of answers that parameters are tuned for; for more than the last the search is exact."""
AWAY = 0.5
"""A query whose nearest lists hold less than this share of the matches that a random filter would leave them looks for
something elsewhere: lists far from it are in no useful order (recall 0.78 in the tests), so it is searched exactly."""
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

    def as_dict(self) -> dict[str, int]:
        """Return plain values for JSON."""
        return {"nprobe": self.nprobe, "k_factor": self.k_factor, "level": self.level}

    def widened(self, share: float, nlist: int) -> "Setting":
        """Return what finds as much when only a share of the rows may be found."""
        nprobe = min(nlist, int(np.ceil(self.nprobe / max(share, 1 / nlist))))
        return Setting(nprobe=nprobe, k_factor=self.k_factor, level=self.level)


class AnnIndex:
    """An inverted-file index whose candidates are refined from the segment's own vectors; threads may share it."""

    def __init__(self, index: Any, scan: ExactScan) -> None:
        """Put a trained and filled index before the vectors of a segment."""
        faiss = load_faiss()
        self.index = index
        self.nlist = int(faiss.extract_index_ivf(index).nlist)
        self._scan = scan
        self._refined = faiss.IndexRefine(index, scan.flat)
        self._params: dict[tuple[int, ...], Any] = {}

    def search(self, queries_QD: np.ndarray, k: int, setting: Setting) -> Found:
        """Return about the `k` nearest rows; -inf and -1 where the lists looked through hold fewer."""
        key = setting.nprobe, setting.k_factor, setting.level, k
        params = self._params.get(key)
        if params is None:
            params = self._params[key] = self._prepare(setting, k)
        return _cleaned(*self._refined.search(queries_QD, k, params=params))

    def search_matches(self, queries_QD: np.ndarray, k: int, setting: Setting, matches: Matches) -> Found:
        """Return about the `k` nearest of the matching rows.

        Queries whose lists hold few matches are searched exactly: what they look for lies elsewhere.
        """
        wide = setting.widened(matches.share, self.nlist)
        candidates = max(k, min(matches.count, setting.k_factor * setting.level))
        params = self._prepare(wide, candidates, matches.selector)
        scores, rows = _cleaned(*self._refined.search(queries_QD, candidates, params=params))
        scores, rows = scores[:, :k].copy(), rows[:, :k].copy()
        short = np.flatnonzero((rows[:, -1] < 0) | self._looks_away(queries_QD, setting, matches))
        if len(short):
            scores[short], rows[short] = self._scan.search(np.ascontiguousarray(queries_QD[short]), k, matches)
        return scores, rows

    def _looks_away(self, queries_QD: np.ndarray, setting: Setting, matches: Matches) -> np.ndarray:
        """Tell which queries' nearest lists the filter leaves much emptier than others, bool (Q,)."""
        ivf = load_faiss().extract_index_ivf(self.index)
        nearest = ivf.quantizer.search(queries_QD, min(setting.nprobe, self.nlist))[1]
        sizes, matching = (
            np.bincount(lists, minlength=self.nlist) for lists in (self._list_of_row, self._list_of_row[matches.mask_N])
        )
        return matching[nearest].sum(axis=1) < AWAY * matches.share * sizes[nearest].sum(axis=1)

    @cached_property
    def _list_of_row(self) -> np.ndarray:
        faiss = load_faiss()
        lists, list_of_row = faiss.extract_index_ivf(self.index).invlists, np.empty(self.index.ntotal, np.int32)
        for number in range(self.nlist):
            size = lists.list_size(number)
            if size:
                list_of_row[faiss.rev_swig_ptr(lists.get_ids(number), size)] = number
        return list_of_row

    def _prepare(self, setting: Setting, k: int, selector: Any = None) -> Any:
        faiss = load_faiss()
        candidates = max(k, setting.k_factor * setting.level)
        return faiss.IndexRefineSearchParameters(
            k_factor=(candidates + 0.5) / k,  # FAISS rounds the product down
            base_index_params=faiss.SearchParametersIVF(nprobe=min(setting.nprobe, self.nlist), sel=selector),
        )


def open_ann(path: Path, scan: ExactScan) -> AnnIndex:
    """Open a file whose checksum was verified.

    Raises:
        IndexStoreError: FAISS cannot read it, or it belongs to other vectors.
    """
    faiss = load_faiss()
    faiss.set_deserialization_vector_byte_limit(max(path.stat().st_size, 2**20))
    faiss.set_deserialization_loop_limit(DESERIALIZATION_LOOPS)
    try:
        index = faiss.read_index(str(path))
        ivf = faiss.try_extract_index_ivf(index)
    except RuntimeError as e:
        raise IndexStoreError(f"{path}: FAISS cannot read it; build the index again") from e
    rows, dim = scan.vectors_ND.shape
    if ivf is None or (index.ntotal, index.d, index.metric_type) != (rows, dim, faiss.METRIC_INNER_PRODUCT):
        raise IndexStoreError(f"{path}: not the search index of {rows} vectors of {dim} numbers; build the index again")
    return AnnIndex(index, scan)


def _cleaned(scores_QK: np.ndarray, rows_QK: np.ndarray) -> Found:
    """Mark what is missing and order equal scores by row; FAISS has sorted the rest."""
    if rows_QK[:, -1].min() < 0:
        scores_QK[rows_QK < 0] = -np.inf
    elif not (scores_QK[:, 1:] == scores_QK[:, :-1]).any():
        return scores_QK, rows_QK
    return ordered(scores_QK, rows_QK)
