"""`bench retrieval`: held-out queries against an index, beside chance and a permutation control.

Protocol. Queries are the distinct sounds (or pictures) of the query split, the gallery the distinct pictures (or
sounds) of the gallery split, compared by the embeddings that the index stores. An item answers a query truly when the
two are related (`model/relation.py`): of one group and, where both come from one medium, overlapping by half. The
control scores the same embeddings with the queries' true answers handed to other queries. With `ridge` the same
queries are also answered by a linear map from mean log-mel spectra (`ridge.py`), fitted on every clip that is neither
query nor gallery.

Shapes: Q queries, G gallery items, D dimensions.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..index.clips import stored_sample
from ..index.snapshot import Snapshot, open_snapshot
from ..model.relation import MIN_OVERLAP, Spans, related
from ..model.retrieval import RetrievalScores, figures, first_ranks, score
from ..shards.checks import check_ranges
from .errors import BenchError
from .ridge import RidgeMap, fit_ridge, mean_log_mel

DIRECTIONS = {"audio_to_image": ("audio", "image"), "image_to_audio": ("image", "audio")}


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalConfig:
    """What `unibrivl bench retrieval` was asked to do."""

    index: Path
    query_split: str = "test"
    gallery_split: str = "test"
    permutations: int = 200
    seed: int = 0
    ridge: bool = False
    """Also measure the linear control, which reads all sounds from the shards."""

    def __post_init__(self) -> None:
        """Refuse a control without a spread."""
        check_ranges(self, permutations=(2, None))


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of retrieval, measured."""

    query_rows: list[dict[str, Any]]
    gallery_rows: list[dict[str, Any]]
    scores_QG: np.ndarray
    relevant_QG: np.ndarray
    ranks_Q: np.ndarray
    scores: RetrievalScores
    shuffled: dict[str, float]
    """The control: mean and standard deviation of each figure, as `shuffled_r10` and `shuffled_r10_sd`."""
    ridge: dict[str, float]
    """The linear control's figures, as `ridge_r10`; empty if it was not asked for."""

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {name: round(value, 6) for name, value in (asdict(self.scores) | self.shuffled | self.ridge).items()}


def measure(config: RetrievalConfig) -> dict[str, Direction]:
    """Measure both directions.

    Raises:
        BenchError: a split has no items, or no query has a true answer.
        IndexStoreError: the index is damaged.
    """
    snapshot = open_snapshot(config.index)
    linear = fit_linear(config.index, snapshot, {config.query_split, config.gallery_split}) if config.ridge else None
    return {name: _direction(config, snapshot, linear, *modalities) for name, modalities in DIRECTIONS.items()}


@dataclass(frozen=True, slots=True)
class Side:
    """The items of one modality and split; equal contents are one item."""

    modality: str
    members: list[dict[str, Any]]
    """Every row."""
    item_of: np.ndarray
    """For each member, its item."""
    items: list[dict[str, Any]]
    """The first member of each item."""
    vectors_ND: np.ndarray


def read_side(snapshot: Snapshot, modality: str, split: str) -> Side:
    """Read the items of a split.

    Raises:
        BenchError: there are none.
    """
    held = snapshot.items(modality)
    splits = held.rows["split"].to_numpy(zero_copy_only=False)
    positions = np.flatnonzero(splits == split)
    if not len(positions):
        raise BenchError(f"{snapshot.root} has no split {split!r}; it has {', '.join(sorted(set(splits.tolist())))}")
    members = held.rows.take(positions).to_pylist()
    number: dict[str, int] = {}
    item_of = np.array([number.setdefault(row["content_sha256"], len(number)) for row in members])
    first = np.unique(item_of, return_index=True)[1]
    vectors = held.vectors_ND[positions[first]].astype(np.float32)
    return Side(modality, members, item_of, [members[i] for i in first], vectors)


def related_items(queries: Side, gallery: Side, min_overlap: float) -> np.ndarray:
    """Return which items are related, boolean (Q, G): those of which a member is to a member."""
    found = np.zeros((len(queries.items), len(gallery.items)), dtype=bool)
    spans = Spans.of(queries.members), Spans.of(gallery.members)
    pairs = np.argwhere(related(*spans, min_overlap=min_overlap))
    found[queries.item_of[pairs[:, 0]], gallery.item_of[pairs[:, 1]]] = True
    return found


def _direction(
    config: RetrievalConfig, snapshot: Snapshot, linear: RidgeMap | None, asked: str, sought: str
) -> Direction:
    queries = read_side(snapshot, asked, config.query_split)
    gallery = read_side(snapshot, sought, config.gallery_split)
    relevant = related_items(queries, gallery, MIN_OVERLAP)
    answerable = np.flatnonzero(relevant.any(axis=1))
    if not len(answerable):
        raise BenchError(f"{config.index}: no {asked} of split {config.query_split} has a true {sought} to be found")
    relevant = relevant[answerable]
    scores = queries.vectors_ND[answerable] @ gallery.vectors_ND.T
    ridge = {}
    if linear is not None:
        asked_QD, sought_GD = (mapped(snapshot, linear, side) for side in (queries, gallery))
        ridge = {
            f"ridge_{k}": v
            for k, v in asdict(figures(first_ranks(asked_QD[answerable] @ sought_GD.T, relevant))).items()
        }
    return Direction(
        [queries.items[i] for i in answerable], gallery.items, scores, relevant, first_ranks(scores, relevant),
        score(scores, relevant), _permuted(scores, relevant, config), ridge,
    )  # fmt: skip


def fit_linear(index: Path, snapshot: Snapshot, apart: set[str]) -> RidgeMap:
    """Fit the linear control on the clips of all splits but those.

    Raises:
        BenchError: there are no others.
    """
    sounds, images = snapshot.items("audio"), snapshot.items("image")
    image_of = {key: n for n, key in enumerate(images.rows["key"].to_pylist())}
    rows = [row for row in sounds.rows.to_pylist() if row["split"] not in apart]
    if len(rows) < 2:
        raise BenchError(f"{index}: no clips outside split {' and '.join(sorted(apart))} to fit a linear map on")
    vectors_NV = images.vectors_ND[[image_of[row["key"]] for row in rows]].astype(np.float64)
    return fit_ridge(_spectra(snapshot, rows), vectors_NV)


def mapped(snapshot: Snapshot, linear: RidgeMap, side: Side) -> np.ndarray:
    """Return the vectors of pictures as they are, and those of sounds as the linear map sees them."""
    return linear(_spectra(snapshot, side.items)) if side.modality == "audio" else side.vectors_ND


def _spectra(snapshot: Snapshot, rows: list[dict[str, Any]]) -> np.ndarray:
    return mean_log_mel([stored_sample(snapshot, row).audio() for row in rows])


def _permuted(scores_QG: np.ndarray, relevant_QG: np.ndarray, config: RetrievalConfig) -> dict[str, float]:
    """Return mean and deviation of each figure when the true answers are permuted among the queries."""
    rng = np.random.Generator(np.random.Philox(key=config.seed))
    runs = [
        asdict(figures(first_ranks(scores_QG, relevant_QG[rng.permutation(len(relevant_QG))])))
        for _ in range(config.permutations)
    ]
    control = {}
    for name in runs[0]:
        values = np.array([run[name] for run in runs])
        control |= {f"shuffled_{name}": float(values.mean()), f"shuffled_{name}_sd": float(values.std(ddof=1))}
    return control
