"""From vectors to listed rows: filters as masks, one search for all questions that can share it, contents once.

Shapes: P parts, D dimensions, N rows, K candidates.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..shards.catalog import ONTOLOGY_FILE
from .ann import Clock
from .calibrate import stored_vectors
from .classes import Classes, read_classes
from .compose import Composed
from .contents import Contents, Listed, list_all, list_distinct, read_contents
from .errors import IndexStoreError
from .question import Question
from .search import Hits, Searcher
from .snapshot import Snapshot
from .where import Where

RRF_CONSTANT = 60
"""Source: Cormack, Clarke and Buettcher, SIGIR 2009."""
RRF_DEPTH = 100
"""Answers of each part that are fused, at least."""
OVERFETCH = 4
"""Candidates for each answer where contents repeat."""
MAX_NEAR = 20_000
"""Candidates among which `near` looks for answers that differ."""
MAX_FILTERS = 32
"""Filters whose masks are kept."""


@dataclass(frozen=True, slots=True)
class Matches:
    """The rows of a modality that a filter keeps."""

    allowed: Mapping[str, np.ndarray] | None
    """By segment id, bool (N,); None: all."""
    count: int
    """That are not deleted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The list of one question in one modality."""

    segments_K: np.ndarray
    """Numbers within `snapshot.of(modality)`."""
    rows_K: np.ndarray
    scores_K: np.ndarray | None
    """Cosines with the question's vector; None with `rrf`."""
    fused_K: np.ndarray | None
    listed: Listed
    mode: str
    strategy: str
    params: dict[str, Any]
    matched: int


@dataclass(slots=True)
class _Job:
    """One question in one modality, with what is known so far."""

    question: Question
    composed: Composed
    target: str
    matches: Matches
    wanted: int
    found: Found | None = None
    hits: list[Hits] = field(default_factory=list)
    """One for the sum, one a part for `rrf`; each of one query."""

    @property
    def vectors(self) -> np.ndarray:
        return self.composed.parts_PD if self.question.fuse == "rrf" else self.composed.query_D[None]

    @property
    def directions(self) -> list[str | None]:
        if self.question.fuse == "rrf":
            return [part.modality for part in self.question.parts]
        return [self.composed.direction]


class Retriever:
    """Searches one snapshot for lists of questions."""

    def __init__(self, snapshot: Snapshot, searcher: Searcher | None = None) -> None:
        """Search `snapshot`, which stays open meanwhile, with its own searcher or one that asks others."""
        self.snapshot = snapshot
        self._searcher = searcher or Searcher(snapshot)
        self._contents: dict[str, Contents] = {}
        self._filters: OrderedDict[tuple[Where, str], Matches] = OrderedDict()

    def contents(self, modality: str) -> Contents:
        """Return the contents of a modality; they are numbered once."""
        if modality not in self._contents:
            self._contents[modality] = read_contents(self.snapshot, modality)
        return self._contents[modality]

    @cached_property
    def classes(self) -> Classes:
        """What labels stand for, by the ontologies of the index's shard sets, where these lie where they were."""
        sources = self.snapshot.manifest["sources"]
        return read_classes(self.snapshot.root / source["shards"] / ONTOLOGY_FILE for source in sources)

    def matches(self, where: Where | None, modality: str) -> Matches:
        """Return the rows that a filter keeps; the masks of the latest filters are kept.

        Raises:
            QueryError: the filter names a label, split or language that no item has.
        """
        if where is None:
            return Matches(None, self.snapshot.count(modality))
        key = (where, modality)
        if key not in self._filters:
            self._filters[key] = self._masks(where, modality)
        self._filters.move_to_end(key)
        while len(self._filters) > MAX_FILTERS:
            self._filters.popitem(last=False)
        return self._filters[key]

    def _masks(self, where: Where, modality: str) -> Matches:
        where.check([segment.rows for segment in self.snapshot.segments], self.classes)
        masks, count = {}, 0
        for segment in self.snapshot.of(modality):
            mask, live = where.mask(segment.rows, self.classes), self.snapshot.live(segment)
            masks[segment.id] = mask
            count += int(np.count_nonzero(mask if live is None else mask & live))
        return Matches(masks, count)

    def lists(self, asked: Sequence[tuple[Question, Composed]], clock: Clock) -> list[dict[str, Found]]:
        """Return each question's lists by modality; the clock notes what refining took.

        Raises:
            IndexStoreError: the index has nothing of the modality that is searched.
            QueryError: as `matches`.
        """
        jobs = [[self._job(*pair, target) for target in self._targets(pair[0])] for pair in asked]
        pending = [job for group in jobs for job in group]
        while pending:
            self._search(pending, clock)
            for job in pending:
                job.found = self._list(job)
            pending = [job for job in pending if self._may_have_more(job)]
            for job in pending:
                job.wanted = min(2 * job.wanted, job.matches.count)
        return [{job.target: job.found for job in group if job.found is not None} for group in jobs]

    def _targets(self, question: Question) -> list[str]:
        there = [target for target in question.targets if self.snapshot.of(target)]
        if not there:
            raise IndexStoreError(f"{self.snapshot.root} holds no {' or '.join(question.targets)} embeddings")
        return there

    def _job(self, question: Question, composed: Composed, target: str) -> _Job:
        matches = self.matches(question.where, target)
        collapses = question.distinct and (question.near is not None or self.contents(target).repeat)
        wanted = question.k * (OVERFETCH if collapses else 1)
        if question.fuse == "rrf":
            wanted = max(question.k, RRF_DEPTH)  # the depth decides the order, so contents must not decide the depth
        return _Job(question, composed, target, matches, max(1, min(wanted, matches.count)))

    def _may_have_more(self, job: _Job) -> bool:
        assert job.found is not None
        most = job.matches.count if job.question.near is None else min(job.matches.count, MAX_NEAR)
        return len(job.found.listed.places) < job.question.k and job.wanted < most

    def _search(self, jobs: Sequence[_Job], clock: Clock) -> None:
        """Give each job its hits; queries of one kind are searched together, each as it would be alone."""
        groups: dict[tuple[Any, ...], list[tuple[_Job, int]]] = defaultdict(list)
        for job in jobs:
            job.hits = [None] * len(job.vectors)  # type: ignore[list-item]
            for number, direction in enumerate(job.directions):
                exact, where = job.question.exact, job.question.where
                setting = None if exact else self._searcher.setting(job.target, direction, job.wanted)
                groups[job.target, direction, exact, where, setting].append((job, number))
        for (target, direction, exact, *_), members in groups.items():
            first = members[0][0]
            hits = self._searcher.search(
                target, np.stack([job.vectors[number] for job, number in members]),
                max(job.wanted for job, _ in members), allowed=first.matches.allowed, direction=direction, exact=exact,
                clock=clock, where=first.question.where, classes=self.classes if first.question.where else None,
            )  # fmt: skip
            for place, (job, number) in enumerate(members):
                job.hits[number] = _one(hits, place, job.wanted)

    def _list(self, job: _Job) -> Found:
        question, contents = job.question, self.contents(job.target)
        segments, rows, scores, fused = _fused(job) if question.fuse == "rrf" else _summed(job)
        codes = np.array([contents.codes[s][r] for s, r in zip(segments, rows, strict=True)], np.int64)
        if question.distinct:
            vectors = None if question.near is None else stored_vectors(self.snapshot, job.target, segments, rows)
            listed = list_distinct(codes, vectors, question.k, question.near)
        else:
            listed = list_all(codes, question.k)
        return Found(
            segments_K=segments, rows_K=rows, scores_K=scores, fused_K=fused, listed=listed,
            mode="ann" if any(hits.mode == "ann" for hits in job.hits) else "exact",
            strategy="+".join(dict.fromkeys(hits.strategy for hits in job.hits)), params=_most(job.hits),
            matched=job.matches.count,
        )  # fmt: skip


def _most(hits: Sequence[Hits]) -> dict[str, int]:
    """Return the parameters of a search, those of several the largest of each."""
    names = dict.fromkeys(name for one in hits for name in one.params)
    return {name: max(one.params.get(name, 0) for one in hits) for name in names}


def _one(hits: Hits, place: int, wanted: int) -> Hits:
    """Return the hits of one query, without padding."""
    kept = np.flatnonzero(hits.rows_QK[place, :wanted] >= 0)
    return Hits(
        scores_QK=hits.scores_QK[place, kept], segments_QK=hits.segments_QK[place, kept],
        rows_QK=hits.rows_QK[place, kept], mode=hits.mode, strategy=hits.strategy, params=hits.params,
    )  # fmt: skip


def _summed(job: _Job) -> tuple[np.ndarray, np.ndarray, np.ndarray, None]:
    hits = job.hits[0]
    return hits.segments_QK, hits.rows_QK, hits.scores_QK, None


def _fused(job: _Job) -> tuple[np.ndarray, np.ndarray, None, np.ndarray]:
    """Fuse the parts' lists by reciprocal ranks; what only parts with `minus` found is no answer."""
    fused: dict[tuple[int, int], float] = defaultdict(float)
    for weight, hits in sorted(zip(job.composed.weights_P.tolist(), job.hits, strict=True), key=lambda pair: -pair[0]):
        for rank, place in enumerate(zip(hits.segments_QK.tolist(), hits.rows_QK.tolist(), strict=True), 1):
            if weight > 0 or place in fused:
                fused[place] += weight / (RRF_CONSTANT + rank)
    order = sorted(fused, key=lambda place: (-fused[place], place))
    places = np.array(order, np.int64).reshape(-1, 2)
    return places[:, 0], places[:, 1], None, np.array([fused[place] for place in order])
