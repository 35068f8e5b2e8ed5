"""`query`: one sound or picture, the nearest clips, and how they were found."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..model.embed import Encoder, load_encoder
from ..shards.checks import check_ranges
from .errors import IndexMismatchError, QueryError
from .media import read_picture, read_sound
from .search import search_distinct
from .snapshot import Snapshot, open_snapshot

Target = Literal["image", "audio", "both"]
CANARY_COSINE = 0.999
"""Least cosine between a canary embedded at build time and now, on any device and precision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryConfig:
    """What `unibrivl query` was asked."""

    index: Path
    audio: Path | None = None
    image: Path | None = None
    """Exactly one of the two."""
    to: Target = "both"
    """Which modality is searched."""
    k: int = 10
    run: Path | None = None
    """Where the run lies, if it was moved."""
    image_tower: str | None = None
    """The image tower's name where its weights lie now, if they were moved."""

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        if (self.audio is None) == (self.image is None):
            raise ValueError("give one query: --audio FILE or --image FILE")
        check_ranges(self, k=(1, 10_000))


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One clip that was found."""

    rank: int
    item_id: str
    modality: str
    score: float
    """Cosine."""
    key: str
    caption: str
    labels: list[str]
    language: str
    split: str
    start_ms: int
    end_ms: int
    shard: str
    same_content: int
    """How many more clips hold the very same sound or picture; they are not listed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryResult:
    """What `query --json` prints."""

    index: str
    snapshot: str
    encoder: dict[str, str]
    query: dict[str, str]
    mode: str
    """`exact`."""
    recall: float
    """Of the search against an exact scan; 1 for an exact scan."""
    timings_ms: dict[str, float]
    results: dict[str, list[Answer]]
    """By modality, best first."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def open_encoder(snapshot: Snapshot, run: Path | None = None, image_tower: str | None = None) -> Encoder:
    """Load the encoder of an index and make sure that it is the one that built it.

    Raises:
        IndexMismatchError: another model, or the same that computes something else here.
        CheckpointError: the run is missing or damaged.
    """
    place = run or (snapshot.root / snapshot.manifest["run"]).resolve()
    encoder = load_encoder(place, image_tower)
    built = snapshot.manifest["encoder"]
    for modality, fingerprint in encoder.fingerprints().items():
        if fingerprint != built["fingerprints"][modality]:
            raise IndexMismatchError(
                f"{snapshot.root} was built by the {modality} model {built['fingerprints'][modality][:12]}, "
                f"{place} holds {fingerprint[:12]}; name the right run with --run, or build the index again"
            )
    for modality, embedding in encoder.canaries().items():
        cosine = float(embedding @ np.asarray(built["canaries"][modality], dtype=np.float32))
        if cosine < CANARY_COSINE:
            raise IndexMismatchError(
                f"{place} embeds the {modality} canary of {snapshot.root} at cosine {cosine:.4f}, "
                f"want {CANARY_COSINE}; library versions differ from those of the build: build the index again"
            )
    return encoder


def run_query(config: QueryConfig) -> QueryResult:
    """Answer one query.

    Raises:
        QueryError: the query file is not readable.
        IndexStoreError, IndexMismatchError, CheckpointError: the index or its encoder is not in order.
    """
    marks = [("open", time.perf_counter())]
    snapshot = open_snapshot(config.index)
    encoder = open_encoder(snapshot, config.run, config.image_tower)
    marks.append(("decode", time.perf_counter()))
    if config.audio is not None:
        sound = read_sound(config.audio)
        marks.append(("encode", time.perf_counter()))
        embedding = encoder.audio([sound])[0]
    else:
        assert config.image is not None
        picture = read_picture(config.image, snapshot.manifest["encoder"]["frame_px"])
        marks.append(("encode", time.perf_counter()))
        embedding = encoder.image([picture])[0]
    if not np.isfinite(embedding).all():
        raise QueryError(f"{config.audio or config.image}: its embedding is not finite")
    marks.append(("search", time.perf_counter()))
    targets = ("image", "audio") if config.to == "both" else (config.to,)
    results = {target: answers(snapshot, target, embedding, config.k) for target in targets}
    marks.append(("", time.perf_counter()))
    return QueryResult(
        index=str(config.index), snapshot=snapshot.id, encoder=encoder.fingerprints(),
        query={"audio": str(config.audio)} if config.audio else {"image": str(config.image)},
        mode=snapshot.manifest["search"], recall=1.0, results=results,
        timings_ms={name: round(1000 * (marks[i + 1][1] - t), 2) for i, (name, t) in enumerate(marks[:-1])},
    )  # fmt: skip


def answers(snapshot: Snapshot, modality: str, embedding_D: np.ndarray, k: int) -> list[Answer]:
    """Return the `k` nearest items of one modality, equal contents once."""
    segment = snapshot.segment(modality)
    contents = segment.rows["content_sha256"].to_pylist()
    found = []
    for rank, (cosine, row, more) in enumerate(search_distinct(segment.vectors_ND, contents, embedding_D, k), 1):
        fields = segment.rows.slice(row, 1).to_pylist()[0]
        names = (
            "item_id",
            "modality",
            "key",
            "caption",
            "labels",
            "language",
            "split",
            "start_ms",
            "end_ms",
            "shard",
        )
        plain = {name: fields[name] for name in names}
        found.append(Answer(rank=rank, score=round(cosine, 6), same_content=more, **plain))
    return found
