"""An index ready to answer: its snapshot, the encoder that built it, and the search, for `query` and the server alike.

Shapes: P parts, D dimensions, K answers.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..model.embed import Encoder, load_encoder
from ..shards.arrays import array_of
from .ann import Clock
from .answers import TOLD, Answer, FilterReport, Merged, QueryResult
from .calibrate import Background, Calibrator, stored_vectors
from .clips import place_in_shards
from .compose import Composed, compose, embed_parts
from .encoders import mismatch, place_of_run
from .errors import IndexMismatchError
from .milvus import Collection, connect, open_collection
from .milvus_search import MilvusSearcher, evaluation_of
from .question import Part, Question
from .recorded import directions_of, recall_of
from .retrieve import Found, Retriever
from .snapshot import Snapshot, open_snapshot

DIGITS = 6
PLACE = ("source", "tar_offset", "tar_len")
"""Columns that say where in its shard a clip lies."""

__all__ = ["Engine", "Part", "QueryResult", "Question", "open_engine"]


class Engine:
    """Answers questions from one snapshot."""

    def __init__(
        self, snapshot: Snapshot, encoder: Encoder, other_encoder: str | None = None, milvus: Collection | None = None
    ) -> None:
        """Answer from `snapshot`, with an encoder that was compared with it.

        Args:
            snapshot: stays open meanwhile.
            encoder: embeds the questions.
            other_encoder: what is wrong with it, if it was accepted all the same.
            milvus: where the snapshot's vectors are searched; None: in its folder.
        """
        self.snapshot, self.encoder, self.other_encoder, self.milvus = snapshot, encoder, other_encoder, milvus
        self.fingerprints = encoder.fingerprints()
        self.evaluation = snapshot.evaluation if milvus is None else evaluation_of(milvus.about)
        self.retriever = Retriever(snapshot, None if milvus is None else MilvusSearcher(snapshot, milvus))
        self.calibrator = Calibrator(snapshot)

    @property
    def has_text(self) -> bool:
        """Tell whether texts can be asked."""
        return self.encoder.has_text

    def embed(self, parts: Sequence[Part]) -> np.ndarray:
        """Return the embeddings (P, D) float32 of parts, unit norm.

        Raises:
            QueryError: an embedding is not finite, or a text cannot be read.
        """
        return embed_parts(self.encoder, parts)

    def reopen(self) -> "Engine":
        """Return an engine for the snapshot that is current now; the encoder stays.

        Raises:
            IndexStoreError: the snapshot is damaged.
            IndexMismatchError: another encoder built it, and this one was not accepted for any.
            MilvusError: it was not pushed yet; that is looked for first.
        """
        root = self.snapshot.root
        milvus = None if self.milvus is None else open_collection(self.milvus.store, root)
        snapshot = open_snapshot(root)
        fault = mismatch(snapshot, self.encoder)
        if fault and self.other_encoder is None:
            raise IndexMismatchError(fault)
        return Engine(snapshot, self.encoder, fault, milvus)

    def ask(self, question: Question) -> QueryResult:
        """Answer one question.

        Raises:
            QueryError: a part, the filter or their combination makes no question.
            IndexStoreError: the index holds nothing of the modality.
        """
        return self.ask_many([question])[0]

    def ask_many(self, questions: Sequence[Question]) -> list[QueryResult]:
        """Answer several questions with one pass of the encoder and one search for all that can share it.

        Raises:
            QueryError, IndexStoreError: as `ask`, for the first question that cannot be answered.
        """
        if not questions:
            return []
        marks = [time.perf_counter()]
        parts_PD = embed_parts(self.encoder, [part for question in questions for part in question.parts])
        embedded = np.split(parts_PD, np.cumsum([len(question.parts) for question in questions])[:-1])
        composed = [compose(*pair) for pair in zip(questions, embedded, strict=True)]
        marks.append(time.perf_counter())
        clock = Clock()
        found = self.retriever.lists(list(zip(questions, composed, strict=True)), clock)
        marks.append(time.perf_counter())
        told = self._tell_all(questions, composed, found)
        marks.append(time.perf_counter())
        encode_s, search_s, metadata_s = np.diff(marks).tolist()
        spent = {
            "encode": encode_s,
            "search": search_s - clock.refine_s,
            "refine": clock.refine_s,
            "metadata": metadata_s,
        }
        timings = {name: round(1000 * seconds, 3) for name, seconds in spent.items()}
        return [QueryResult(timings_ms=dict(timings), **fields) for fields in told]

    def _tell_all(
        self, questions: Sequence[Question], composed: list[Composed], found: list[dict[str, Found]]
    ) -> list[dict[str, Any]]:
        backgrounds: list[dict[str, Background]] = [{} for _ in questions]
        for target in dict.fromkeys(target for lists in found for target in lists):
            numbers = [number for number, lists in enumerate(found) if target in lists]
            of_target = self.calibrator.backgrounds([composed[number] for number in numbers], target)
            for number, background in zip(numbers, of_target, strict=True):
                backgrounds[number][target] = background
        return [self._tell(*answered) for answered in zip(questions, composed, found, backgrounds, strict=True)]

    def _tell(
        self, question: Question, composed: Composed, found: dict[str, Found], backgrounds: dict[str, Background]
    ) -> dict[str, Any]:
        """Return the fields of a result, apart from its timings."""
        results = {target: self._answers(composed, target, one, backgrounds[target]) for target, one in found.items()}
        ann = {target for target, one in found.items() if one.mode == "ann"}
        rows = {target: sum(len(segment.rows) for segment in self.snapshot.of(target)) for target in found}
        recall = recall_of(self.evaluation, question, found, rows)
        return {
            "index": str(self.snapshot.root), "snapshot": self.snapshot.id, "encoder": self.fingerprints,
            "other_encoder": self.other_encoder, "query": describe(question), "mode": "ann" if ann else "exact",
            "params": {target: found[target].params for target in sorted(ann)},
            "recall": recall.value, "recall_note": recall.note, "recorded": self._recorded(question, found),
            "partial": False,
            "filter": FilterReport(
                matched={target: one.matched for target, one in found.items()},
                strategy={target: one.strategy for target, one in found.items()},
            ),
            "calibration": {target: background.source for target, background in backgrounds.items()},
            "results": results, "merged": merged(results, question.k) if len(results) > 1 else None,
        }  # fmt: skip

    def _recorded(self, question: Question, found: dict[str, Found]) -> dict[str, dict[str, Any]]:
        directions = self.evaluation.get("directions", {})
        names = directions_of(question, list(found))
        return {name: directions[name]["recall"] for name in names if name in directions}

    def _answers(self, composed: Composed, target: str, found: Found, background: Background) -> list[Answer]:
        places = found.listed.places
        segments_K, rows_K = found.segments_K[places], found.rows_K[places]
        rows = self._rows(target, segments_K, rows_K)
        vectors_KD = stored_vectors(self.snapshot, target, segments_K, rows_K)
        parts_KP = vectors_KD @ composed.parts_PD.T
        scores_K = vectors_KD @ composed.scored_D if found.scores_K is None else found.scores_K[places]
        calibrated, percentiles = background.calibrated(scores_K), background.percentiles(scores_K)
        contents = self.retriever.contents(target)
        item_ids = dict(zip(places, (row["item_id"] for row in rows), strict=True))
        return [
            Answer(
                rank=n + 1, score=_round(scores_K[n]), calibrated=_round(calibrated[n]),
                percentile=_round(percentiles[n]),
                parts=[_round(s) for s in parts_KP[n]] if len(composed.weights_P) > 1 else None,
                fused=None if found.fused_K is None else float(found.fused_K[places[n]]),
                same_content=contents.others(int(contents.codes[segments_K[n]][rows_K[n]])),
                similar=found.listed.similar[n],
                duplicate_of=None if (first := found.listed.first[n]) is None else item_ids[first], **row,
            )
            for n, row in enumerate(rows)
        ]  # fmt: skip

    def _rows(self, modality: str, segments_K: np.ndarray, rows_K: np.ndarray) -> list[dict[str, Any]]:
        """Return what is told of rows, in their order."""
        rows: list[dict[str, Any]] = [{}] * len(rows_K)
        for number, segment in enumerate(self.snapshot.of(modality)):
            places = np.flatnonzero(segments_K == number)
            taken = segment.rows.select((*TOLD, *PLACE)).take(array_of(rows_K[places])).to_pylist()
            for place, row in zip(places.tolist(), taken, strict=True):
                clip = place_in_shards(self.snapshot.root, self.snapshot.manifest, row)
                rows[place] = {name: row[name] for name in TOLD} | {"clip": clip}
        return rows


def describe(question: Question) -> dict[str, Any]:
    """Return what was asked as plain values; a filter is told as JSON."""
    parts = [
        {"modality": part.modality, "name": part.value if isinstance(part.value, str) else part.name,
         "weight": part.weight, "minus": part.minus}
        for part in question.parts
    ]  # fmt: skip
    return {
        "parts": parts, "to": question.to, "k": question.k, "fuse": question.fuse, "exact": question.exact,
        "distinct": question.distinct, "near": question.near,
        "where": None if question.where is None else question.where.as_json(),
    }  # fmt: skip


def merged(results: dict[str, list[Answer]], k: int) -> list[Merged]:
    """Return lists of several modalities as one, by calibrated score."""
    every = [answer for answers in results.values() for answer in answers]
    every.sort(key=lambda answer: (-answer.calibrated, answer.rank, answer.modality))
    return [
        Merged(rank=rank, item_id=a.item_id, modality=a.modality, place=a.rank, calibrated=a.calibrated,
               percentile=a.percentile)
        for rank, a in enumerate(every[:k], 1)
    ]  # fmt: skip


def open_engine(
    index: Path, run: Path | None = None, image_tower: str | None = None, *, accept_other_encoder: bool = False,
    milvus: str | None = None,
) -> Engine:  # fmt: skip
    """Open an index with the encoder that built it.

    Args:
        index: folder of the index.
        run: where the run lies, if it was moved.
        image_tower: the image tower's name where its weights lie now, if they were moved.
        accept_other_encoder: go on with an encoder that does not fit; every answer says so.
        milvus: server or file that the snapshot was pushed to, and is searched by.

    Raises:
        IndexStoreError: the index is missing or damaged.
        IndexMismatchError: another model, or the same that computes something else here.
        CheckpointError: the run is missing or damaged.
        MilvusError: Milvus cannot be reached, or does not hold the snapshot.
    """
    collection = None if milvus is None else open_collection(connect(milvus), index)
    snapshot = open_snapshot(index)
    encoder = load_encoder(place_of_run(snapshot, run), image_tower)
    fault = mismatch(snapshot, encoder)
    if fault and not accept_other_encoder:
        raise IndexMismatchError(fault)
    return Engine(snapshot, encoder, fault, collection)


def _round(value: float) -> float:
    return round(float(value), DIGITS)
