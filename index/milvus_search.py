"""Search over a snapshot whose vectors lie in Milvus: it proposes rows, the snapshot's own float16 vectors score them.

A filter goes along as the keys of the rows that it keeps, where these are few, or as an expression of Milvus, where it
can be said exactly so. What can be neither, and more answers than recall was measured for, is searched in the folder.
Shapes: Q queries, N rows, D dimensions, C candidates, K answers.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from .ann import LATE, LEVELS, Clock, Setting
from .classes import Classes
from .conditions import COLUMNS, Condition, Junction, texts_of
from .errors import IndexMismatchError, MilvusError
from .exact import SPARE, ExactScan, Found, padded
from .matches import Matches
from .milvus import METRIC, ROW_BITS, About, Collection
from .recall import recalls
from .search import Hits, Searcher, checked, merge
from .snapshot import Snapshot
from .where import Where

MAX_IDS = 4096
"""Up to so many rows are named by their keys."""
MAX_EXPRESSION = 200_000
"""Characters of a filter."""
QUERIES = 100
"""Sent in one call, so that answers stay far below what a message may hold."""
SEARCH_TIMEOUT_S = 5.0
SHARES = ("0.5", "0.1", "0.01", "0.001")
"""Of rows that a filter keeps, at which recall is not measured when a collection is pushed."""


class MilvusSearcher(Searcher):
    """Searches one snapshot by its collection; where that cannot answer, as `Searcher` does."""

    def __init__(self, snapshot: Snapshot, collection: Collection) -> None:
        """Search `snapshot`, which stays open meanwhile.

        Raises:
            IndexMismatchError: the collection is that of another snapshot.
        """
        super().__init__(snapshot)
        self.collection, self._segments = collection, snapshot.segments
        if collection.about.snapshot != snapshot.id:
            raise IndexMismatchError(
                f"{collection.store.uri}: collection {collection.name} holds snapshot {collection.about.snapshot}, "
                f"{snapshot.root} is at {snapshot.id}; push it again"
            )

    def setting(self, modality: str, direction: str | None, k: int) -> Setting | None:
        """Return how thorough a search without a filter is; None: there are more answers than recall is known for."""
        level = next((level for level in LEVELS if k <= level), None)
        nprobe = self.collection.about.nprobe.get(str(level), self.collection.about.lists)
        return None if level is None else Setting(nprobe=nprobe, k_factor=1, level=level)

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
        """Return the `k` nearest rows, as `Searcher.search`.

        What a filter keeps may lie far from the question. Where more than `LATE` of the answers come from the later
        half of the lists, as many may lie beyond them, and the question is searched in the folder.

        Raises:
            MilvusError: it does not answer, or answers with rows that cannot be.
        """
        parts = self.parts(modality)
        queries = checked(queries_QD, k, parts)
        masks = [part.matches(allowed) for part in parts]
        count = sum(len(p.scan.vectors_ND) if m is None else m.count for p, m in zip(parts, masks, strict=True))
        setting = None if exact or count == 0 else self.setting(modality, direction, k)
        told = "" if allowed is None or setting is None else self._told(modality, masks, count, where, classes)
        if setting is None or told is None:
            return super().search(modality, queries, k, allowed=allowed, exact=True)
        share = count / sum(len(part.scan.vectors_ND) for part in parts)
        nprobe = self._nprobe(setting.nprobe, share, count) if told else setting.nprobe
        hits = self.nearest(modality, queries, k, masks, told, nprobe, clock)
        unsure_Q = (hits.rows_QK >= 0).sum(axis=1) < min(k, count)
        if told and hits.mode == "ann":
            half = self.nearest(modality, queries, k, masks, told, nprobe // 2, clock)
            unsure_Q |= recalls(half.scores_QK, hits.scores_QK, k) < 1 - LATE
        if len(unsure := np.flatnonzero(unsure_Q)):
            sure = super().search(modality, queries[unsure], k, allowed=allowed, exact=True)
            hits.scores_QK[unsure], hits.segments_QK[unsure] = sure.scores_QK, sure.segments_QK
            hits.rows_QK[unsure] = sure.rows_QK
        strategy = "milvus" if not told else "milvus ids" if count <= MAX_IDS else "milvus filter"
        params = {} if hits.mode == "exact" else {"nprobe": nprobe, "level": setting.level}
        return replace(hits, strategy=strategy, params=params, matched=count)

    def nearest(
        self, modality: str, queries_QD: np.ndarray, k: int, masks: Sequence[Matches | None], told: str, nprobe: int,
        clock: Clock | None = None,
    ) -> Hits:  # fmt: skip
        """Return the best of what Milvus proposes; fewer than `k` where it proposes fewer.

        Args:
            modality: of the rows.
            queries_QD: float32, unit norm.
            k: answers a query.
            masks: by segment of the modality, the rows that may be found; None: all.
            told: the same as a filter of Milvus; empty: none.
            nprobe: lists that are looked through.
            clock: notes what scoring took.

        Raises:
            MilvusError: it does not answer, or answers with rows that cannot be.
        """
        keys = self._ask(modality, queries_QD, k + SPARE, told, nprobe)
        began = time.perf_counter()
        found = [self._score(modality, *pair, k, masks) for pair in zip(queries_QD, keys, strict=True)]
        if clock is not None:
            clock.refine_s += time.perf_counter() - began
        scores, segments, rows = (np.concatenate(each) for each in zip(*found, strict=True))
        return Hits(
            scores_QK=scores, segments_QK=segments, rows_QK=rows, strategy="milvus",
            mode="exact" if nprobe >= self.collection.about.lists else "ann",
        )  # fmt: skip

    def _told(
        self, modality: str, masks: Sequence[Matches | None], count: int, where: Where | None, classes: Classes | None
    ) -> str | None:
        """Return a filter as Milvus reads it; None: it cannot be said."""
        if count <= MAX_IDS:
            keys = [
                key << ROW_BITS | row
                for key, matches in zip(self._numbers(modality), masks, strict=True)
                for row in (matches.rows.tolist() if matches else ())
            ]
            return f"id in {keys}"
        tables = [segment.rows for segment in self._segments if segment.modality == modality]
        return None if where is None else expression(where.root, tables, classes or Classes())

    def _numbers(self, modality: str) -> list[int]:
        """Return the places of a modality's segments among all."""
        return [number for number, segment in enumerate(self._segments) if segment.modality == modality]

    def _nprobe(self, nprobe: int, share: float, count: int) -> int:
        """Return how many lists are looked through with a filter, which leaves fewer answers in each."""
        lists = self.collection.about.lists
        return lists if count <= MAX_IDS else min(lists, math.ceil(nprobe * max(2, 1 / share)))

    def _ask(self, modality: str, queries_QD: np.ndarray, k: int, told: str, nprobe: int) -> list[np.ndarray]:
        """Return the keys of the candidates of each query, int64 (C,)."""
        store, keys = self.collection.store, []
        params = {"nprobe": nprobe} if self.collection.about.lists else {}
        for start in range(0, len(queries_QD), QUERIES):
            found = store.search(
                self.collection.name, list(queries_QD[start : start + QUERIES]), filter=told, limit=k,
                anns_field="vector", output_fields=["id"], partition_names=[modality], timeout=SEARCH_TIMEOUT_S,
                search_params={"metric_type": METRIC, "params": params},
            )  # fmt: skip
            keys += [np.array([hit["id"] for hit in hits], np.int64) for hits in found]
        return keys

    def _score(
        self, modality: str, query_D: np.ndarray, keys_C: np.ndarray, k: int, masks: Sequence[Matches | None]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Score the candidates of one query from the snapshot's own vectors, as a scan would."""
        segments_C, rows_C = keys_C >> ROW_BITS, keys_C & ((1 << ROW_BITS) - 1)
        numbers, found = self._numbers(modality), []
        for number, part, matches in zip(numbers, self.parts(modality), masks, strict=True):
            rows = np.sort(rows_C[segments_C == number])
            is_there = rows < len(part.scan.vectors_ND)
            if not is_there.all() or (matches is not None and not matches.mask_N[rows].all()):
                raise self._stranger()
            found.append(_scored(part.scan, query_D, rows, k))
        if not np.isin(segments_C, numbers).all():
            raise self._stranger()
        return merge(found, 1, k)

    def _stranger(self) -> MilvusError:
        return MilvusError(
            f"{self.collection.store.uri}: collection {self.collection.name} answers with a row that cannot be found "
            "in the index; somebody changed it: drop it and push again"
        )


def _scored(scan: ExactScan, query_D: np.ndarray, rows: np.ndarray, k: int) -> Found:
    if not len(rows):
        return padded(np.empty((1, 0), np.float32), np.empty((1, 0), np.int64), k)
    return padded(*scan.score(query_D[None], rows[None], min(k, len(rows))), k)


def evaluation_of(about: About) -> dict[str, Any]:
    """Return what was measured at the push as `eval.json` has it; with filters nothing was."""
    unknown = dict.fromkeys(SHARES)
    return {"directions": {name: {"recall": told, "filters": unknown} for name, told in about.recall.items()}}


def expression(node: Condition | Junction, tables: Sequence[pa.Table], classes: Classes) -> str | None:
    """Return a filter as an expression of Milvus that keeps the very same rows; None: there is none.

    Args:
        node: the filter.
        tables: the rows of every segment of the modality.
        classes: a label stands for all below it too.
    """
    if isinstance(node, Condition):
        told = _compared(node, tables, classes)
    else:
        parts = [expression(part, tables, classes) for part in node.parts]
        if any(part is None for part in parts):
            return None
        told = f"not ({parts[0]})" if node.op == "not" else f" {node.op} ".join(f"({part})" for part in parts)
    return None if told is None or len(told) > MAX_EXPRESSION else told


def _compared(condition: Condition, tables: Sequence[pa.Table], classes: Classes) -> str | None:
    column, op = condition.column, condition.op
    if COLUMNS[column] == "number":
        if any(column in table.schema.names and table[column].null_count for table in tables):
            return None
        sign = "==" if op in ("=", "!=") else op
        told = " or ".join(f"{column} {sign} {float(value)!r}" for value in condition.values)
    else:
        chosen = {frozenset(texts_of(condition, table, classes)) for table in tables}
        if op == "~" or len(chosen) != 1 or not all(map(_is_plain, *chosen)):
            return None  # Milvus compares the case of letters; words with commas may be cut otherwise in each segment
        values = ", ".join(json.dumps(value, ensure_ascii=False) for value in sorted(*chosen))
        told = f"array_contains_any(labels, [{values}])" if column == "labels" else f"{column} in [{values}]"
    return f"not ({told})" if op == "!=" else told


def _is_plain(text: str) -> bool:
    """Tell whether a text is told alike by JSON and by Milvus; an empty one also stands there for none at all."""
    return bool(text) and text.isprintable()
