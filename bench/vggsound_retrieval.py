"""`bench vggsound-retrieval`: each clip's picture by its sound and its sound by its picture, on VGGSound's test list.

Protocol. Every clip asks for all, by cosine. What "MRR" means in the paper is not said, so three scorings stand side by
side, each beside its exact chance: the same clip (`instance`), any of its class, any other of its class. The size of
the gallery decides the number: the full list, five clips a class (CAV-MAE's), or a list of your own.
"""

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .cross_ranks import SCORINGS, TOLERANCE, Ranks, cross_ranks
from .encoders import Embedder, unit
from .errors import BenchError
from .given import read_embeddings
from .protocol import LEVEL, Progress, Result, bootstrap
from .vggsound import TEST_CLIPS, Clips, check_frames, embed_pictures, embed_sounds, present, read_list

GALLERIES = ("full", "5-per-class")
PER_CLASS = 5
DIRECTIONS = ("audio_to_image", "image_to_audio")


@dataclass(frozen=True, kw_only=True, slots=True)
class VggsoundRetrievalConfig:
    """What `unibrivl bench vggsound-retrieval` was asked to do."""

    data: Path
    """The test list, or the folder that holds it."""
    audio_embeddings: Path | None = None
    image_embeddings: Path | None = None
    gallery: str = "full"
    only: Path | None = None
    """A list of clips, one a line; the rest is left out."""
    frames: str = "single"
    cache: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is not offered."""
        check_frames(self.frames)
        if self.gallery not in GALLERIES:
            raise ValueError(f"gallery is {self.gallery!r}, want one of {', '.join(GALLERIES)}")
        if self.only is not None and self.gallery != "full":
            raise ValueError("gallery and --list: want one of them")

    def protocol(self) -> str:
        """Return the protocol in words."""
        gallery = "own list" if self.only else self.gallery
        return f"test list, gallery {gallery}, frames {self.frames}, cosine, rank = 1 + higher + ties / 2"


def measure_vggsound_retrieval(
    config: VggsoundRetrievalConfig,
    encoder: Embedder | None,
    progress: Progress = lambda done, total, text: None,
) -> Result:
    """Measure both directions under every scoring.

    Args:
        config: what is measured.
        encoder: embeds what is not given as embeddings; None if both are.
        progress: called as clips are embedded.

    Raises:
        NeedsError: the list or all clips are missing.
        BenchError: embeddings do not fit each other or the list.
    """
    whole = read_list(config.data)
    clips = _gallery(
        config, present(encoder, whole, sound=not config.audio_embeddings, picture=not config.image_embeddings)
    )
    clips, audio_ND, image_ND = _embedded(config, encoder, whole, clips, progress)
    if audio_ND.shape[1] != image_ND.shape[1]:
        raise BenchError(f"sounds have {audio_ND.shape[1]} dimensions, pictures {image_ND.shape[1]}; want one space")
    audio, image = unit(audio_ND), unit(image_ND)
    found, seconds = {}, {}
    for direction, sides in zip(DIRECTIONS, ((audio, image), (image, audio)), strict=True):
        began = time.perf_counter()
        found[direction] = cross_ranks(*sides, clips.classes)
        seconds[direction] = round(time.perf_counter() - began, 2)
    return _result(config, encoder, whole, clips, found, seconds)


def _gallery(config: VggsoundRetrievalConfig, clips: Clips) -> Clips:
    if config.only is not None:
        return clips.take(_listed(config.only, clips))
    if config.gallery == "full":
        return clips
    rng = np.random.Generator(np.random.Philox(key=config.seed))
    members = [np.flatnonzero(clips.classes == number) for number in np.unique(clips.classes)]
    return clips.take(np.sort(np.concatenate([rng.permutation(own)[:PER_CLASS] for own in members])))


def _listed(path: Path, clips: Clips) -> list[int]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise BenchError(f"{path}: not readable ({e}); want a clip a line") from e
    wanted = {line.split(",")[0].strip().removesuffix(".mp4") for line in lines if line.strip()}
    found = [number for number, name in enumerate(clips.names) if name in wanted]
    if not found:
        raise BenchError(f"{path}: names none of the {len(clips.names)} clips; want <id>_<start:06d>, one a line")
    return found


def _embedded(
    config: VggsoundRetrievalConfig, encoder: Embedder | None, whole: Clips, clips: Clips, progress: Progress
) -> tuple[Clips, np.ndarray, np.ndarray]:
    """Return the clips that have both embeddings, and those."""
    given = {
        modality: read_embeddings(path, modality, whole.names)
        for modality, path in (("audio", config.audio_embeddings), ("image", config.image_embeddings))
        if path is not None
    }
    kept = [n for n, name in enumerate(clips.names) if all(name in vectors for vectors in given.values())]
    if not kept:
        raise BenchError(f"{config.data}: not one of {len(clips.names)} clips has both embeddings")
    clips = clips.take(kept)
    sides = []
    for modality in ("audio", "image"):
        if modality in given:
            sides.append(np.stack([given[modality][name] for name in clips.names]))
        elif encoder is None:
            raise BenchError(f"no {modality} embeddings are given; want --{modality}-embeddings or --tower")
        elif modality == "audio":
            sides.append(embed_sounds(encoder, clips, config.cache, progress))
        else:
            sides.append(embed_pictures(encoder, clips, config.frames, config.seed, config.cache, progress))
    return clips, sides[0], sides[1]


def _result(
    config: VggsoundRetrievalConfig,
    encoder: Embedder | None,
    whole: Clips,
    clips: Clips,
    found: dict[str, dict[str, Ranks]],
    seconds: dict[str, float],
) -> Result:
    coverage = clips.coverage(whole)
    is_whole = len(clips.names) == whole.listed == TEST_CLIPS
    each = {(d, s): found[d][s] for d in DIRECTIONS for s in SCORINGS if len(found[d][s].queries)}
    unanswerable = {s: len(clips.names) - len(found[DIRECTIONS[0]][s].queries) for s in SCORINGS}
    chosen = [] if config.gallery == "full" and config.only is None else list(clips.names)

    def interval(ranks: Ranks) -> dict[str, Any]:
        return {"mrr": bootstrap(1 / ranks.ranks, config.seed, digits=6)}

    more: dict[str, Any] = {"ties_broken_at_random": _nested(each, Ranks.ties_broken), "ranking_s": seconds}
    return Result(
        bench="vggsound-retrieval", protocol=config.protocol(), tower=encoder.name if encoder else "given embeddings",
        metrics=_nested(each, Ranks.figures),
        chance=_nested(each, Ranks.chance),
        oracle=_nested(each, lambda ranks: {"mrr": 1.0, "r1": 1.0, "r5": 1.0, "r10": 1.0, "medr": 1.0}),
        coverage=coverage | {"unanswerable": unanswerable},
        interval=_nested(each, interval) | {"level": LEVEL},
        seed=config.seed, status="ok" if is_whole or (chosen and whole.listed == TEST_CLIPS) else "partial",
        config=_stored(config, encoder), more=more | ({"gallery_clips": chosen} if chosen else {}),
        predictions=_predictions(clips, each),
    )  # fmt: skip


def _nested(each: dict[tuple[str, str], Ranks], told: Any) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for (direction, scoring), ranks in each.items():
        nested.setdefault(direction, {})[scoring] = told(ranks)
    return nested


def _stored(config: VggsoundRetrievalConfig, encoder: Embedder | None) -> dict[str, Any]:
    """Return the configuration without folders of this machine; given embeddings by their hash."""
    files = ("audio_embeddings", "image_embeddings", "only")
    told = {name: value for name, value in asdict(config).items() if name not in {"data", "cache", *files}}
    for name in files:
        path: Path | None = getattr(config, name)
        if path is not None:
            told[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else path.name
    return told | {"tolerance": TOLERANCE, "fingerprint": encoder.fingerprint if encoder else None}


def _predictions(clips: Clips, each: dict[tuple[str, str], Ranks]) -> pa.Table:
    columns: dict[str, Any] = {
        "item": list(clips.names), "group": [name[:-7] for name in clips.names],
        "label": [clips.labels[number] for number in clips.classes],
    }  # fmt: skip
    for (direction, scoring), ranks in each.items():
        reciprocal = np.zeros(len(clips.names))
        reciprocal[ranks.queries] = 1 / ranks.ranks
        columns[f"{direction}_{scoring}_mrr"] = reciprocal
    return pa.table(columns)
