"""The figures of `bench vegas`, of the pictures, of the real frames in their place, and of pictures of other clips.

Shapes: N pictures, K clips, C classes, D dimensions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .clip_media import read_frame, read_sound_at
from .encoders import Embedder, Items, KnownEncoder, check_embeds, content_key, embed_items, embeds, open_encoder, unit
from .folds import class_texts
from .picture_metrics import (
    FID_PICTURES,
    KID_SUBSET,
    KID_SUBSETS,
    frechet_distance,
    inception_score,
    kernel_distance,
    softmax,
)
from .protocol import Progress
from .vegas_data import MIDDLE, Generated

PROMPTS = ("a photo of {}.",)
SCALE = 100.0
"""Of cosines before the softmax: that of CLIP's released models."""
PERMUTATIONS = 100
DIGITS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """Who judges."""

    judge: Embedder
    """Takes pictures and words."""
    extractor: Embedder | None = None
    """Takes pictures; None: the judge's features."""
    scorer: Embedder | None = None
    """Takes pictures and sounds; None: AIS is not measured."""

    def check_sides(self) -> None:
        """Refuse a model that does not take what it would be asked, before anything is read.

        Raises:
            BenchError: it lacks that side.
        """
        asked = (
            (self.judge, "image"), (self.judge, "text"), (self.extractor, "image"), (self.scorer, "image"),
            (self.scorer, "audio"),
        )  # fmt: skip
        for model, modality in asked:
            if model is not None:
                check_embeds(model, modality)


def open_models(judge: str, extractor: str | None, scorer: str | None, seed: int = 0) -> Models:
    """Open models by name, as `open_encoder` does; each name once.

    Raises:
        NeedsError, BenchError, CheckpointError: as `open_encoder`.
    """
    opened = {name: open_encoder(name, seed=seed) for name in (judge, extractor, scorer) if name is not None}
    return Models(
        judge=opened[judge],
        extractor=opened[extractor] if extractor else None,
        scorer=opened[scorer] if scorer else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """Pictures in the order of their clips."""

    clips: list[Generated]
    names: tuple[str, ...]
    """Of the classes that are chosen among."""
    classes_K: np.ndarray
    clip_N: np.ndarray
    """Whose each picture is."""
    cache: Path | None = None

    @property
    def pictures(self) -> list[Path]:
        """Return the files (N)."""
        return [path for one in self.clips for path in one.pictures]

    def sides(self, encoder: Embedder, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 features of the pictures (N, D) and of the frames (K, D)."""
        frames = [one.clip.frame for one in self.clips]
        pictures_ND = self._embedded(encoder, self.pictures, self.clip_N, progress)
        return pictures_ND, self._embedded(encoder, frames, np.arange(len(frames)), progress)

    def _embedded(self, encoder: Embedder, paths: Sequence[Path], clip_N: np.ndarray, progress: Progress) -> np.ndarray:
        items = Items(
            _keys(paths), lambda number: read_frame(paths[number], MIDDLE), self.classes_K[clip_N], clip_N,
            "picture as it is",
        )  # fmt: skip
        return embed_items(encoder, "image", items, self.cache, progress)

    def sounds(self, encoder: Embedder, progress: Progress) -> np.ndarray:
        """Return float32 (K, D), unit norm, of the clips' sounds."""
        paths, rate = [one.clip.audio for one in self.clips], encoder.sample_rate
        keys = [one.clip.clip_id for one in self.clips] if isinstance(encoder, KnownEncoder) else _keys(paths)
        items = Items(
            keys, lambda number: read_sound_at(paths[number], rate), self.classes_K, np.arange(len(paths)),
            f"whole sound, {rate} Hz",
        )  # fmt: skip
        return unit(embed_items(encoder, "audio", items, self.cache, progress))


def _keys(paths: Sequence[Path]) -> list[str]:
    return [content_key(path.read_bytes()) for path in paths]


@dataclass(kw_only=True, slots=True)
class Figures:
    """What was measured, figure by figure."""

    judged: Judged
    seed: int
    """Of what is drawn."""
    predicted_N: np.ndarray
    """Classes that the judge chose."""
    metrics: dict[str, float] = field(default_factory=dict)
    real: dict[str, float] = field(default_factory=dict)
    """The same of the real frames."""
    shuffled: dict[str, dict[str, float]] = field(default_factory=dict)
    """Mean and deviation, of pictures handed to other clips."""
    values_N: dict[str, np.ndarray] = field(default_factory=dict)
    """Figures of single pictures, whose mean is the metric."""
    more: dict[str, Any] = field(default_factory=dict)

    def add_choice(self, name: str, scores_NC: np.ndarray, real_KC: np.ndarray) -> None:
        """Add how often the class of a picture's clip scores most."""
        chosen_N, classes_K, clip_N = scores_NC.argmax(axis=1), self.judged.classes_K, self.judged.clip_N
        self.real[name] = float((real_KC.argmax(axis=1) == classes_K).mean())
        self._add(name, lambda other_K: (chosen_N == classes_K[other_K][clip_N]).astype(np.float64))

    def add_cosine(self, name: str, pictures_ND: np.ndarray, frames_KD: np.ndarray, wanted_KD: np.ndarray) -> None:
        """Add the cosine of a picture with what its clip wants."""
        pictures_ND, clip_N = unit(pictures_ND), self.judged.clip_N
        self.real[name] = float((unit(frames_KD) * wanted_KD).sum(axis=1).mean())
        self._add(name, lambda other_K: (pictures_ND * wanted_KD[other_K][clip_N]).sum(axis=1).astype(np.float64))

    def _add(self, name: str, told: Callable[[np.ndarray], np.ndarray]) -> None:
        """Add a figure of single pictures, as clip k's and as those of others."""
        self.values_N[name] = told(np.arange(len(self.judged.clips)))
        self.metrics[name] = float(self.values_N[name].mean())
        means = [float(told(other_K).mean()) for other_K in others(len(self.judged.clips), self.seed)]
        self.shuffled[name] = {"mean": round(float(np.mean(means)), DIGITS), "sd": round(float(np.std(means)), DIGITS)}

    def add_distances(self, pictures_ND: np.ndarray, frames_KD: np.ndarray) -> None:
        """Add KID, and FID where there are enough of both."""
        counts = len(pictures_ND), len(frames_KD)
        size = min(KID_SUBSET, *counts)
        self.metrics["kid"], deviation = kernel_distance(pictures_ND, frames_KD, size=size, seed=self.seed)
        self.real["kid"] = 0.0
        self.more |= {"kid_sd": round(deviation, DIGITS), "kid_subset": size}
        self.more["kid_subsets"] = 1 if size == counts[0] == counts[1] else KID_SUBSETS
        if min(counts) < FID_PICTURES:
            self.more["fid_flag"] = (
                f"not told: {counts[0]:,} pictures and {counts[1]:,} frames, want {FID_PICTURES:,} of each; see KID"
            )
        else:
            self.more["fid_flag"] = None
            self.metrics["fid"], self.real["fid"] = frechet_distance(pictures_ND, frames_KD), 0.0


def measure_figures(models: Models, judged: Judged, seed: int, progress: Progress) -> Figures:
    """Return every figure that the models allow.

    Raises:
        BenchError: a model does not take what it is asked, or a file is damaged.
    """
    seen = judged.sides(models.judge, progress)
    scores_NC, real_KC = _class_scores(models.judge, judged, seen)
    found = Figures(judged=judged, seed=seed, predicted_N=scores_NC.argmax(axis=1))
    found.add_choice("r1", scores_NC, real_KC)
    found.add_cosine("iis", *seen, unit(seen[1]))
    found.metrics["is_judge"], found.real["is_judge"] = (
        inception_score(softmax(SCALE * each)) for each in (scores_NC, real_KC)
    )
    extractor = models.extractor
    if extractor is not None and extractor.fingerprint != models.judge.fingerprint:
        seen = judged.sides(extractor, progress)
        if embeds(extractor, "text"):
            found.add_choice("aic", *_class_scores(extractor, judged, seen))
    found.add_distances(*seen)
    if models.scorer is not None:
        found.add_cosine("ais", *judged.sides(models.scorer, progress), judged.sounds(models.scorer, progress))
    return found


def _class_scores(
    encoder: Embedder, judged: Judged, seen: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines of pictures (N, C) and frames (K, C) with the names of the classes."""
    texts_CD = class_texts(encoder, judged.names, PROMPTS)
    return unit(seen[0]) @ texts_CD.T, unit(seen[1]) @ texts_CD.T


def others(count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield permutations (K,) that leave no clip in its place: each a drawn order, moved on by one."""
    rng = np.random.Generator(np.random.Philox(key=[seed, count]))
    for _ in range(PERMUTATIONS):
        order = rng.permutation(count)
        other_K = np.empty(count, dtype=np.int64)
        other_K[order] = np.roll(order, 1)
        yield other_K
