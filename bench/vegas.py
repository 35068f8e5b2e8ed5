"""`bench vegas`: pictures that were generated from sounds, judged by models that did not make them.

Protocol. R@1: how often a judge of pictures and words finds a picture nearest to the name of its sound's class, among
all classes of the data set; chance is one in as many. IIS: cosine with the clip's real frame, by the judge; AIS: with
its sound, by a scorer that hears; AIC: R@1 by the extractor, where it reads words, too. KID and FID compare pictures
with the frames of the same clips, over the extractor's features; below 2,048 of either, FID is not told, since it is
biased there. IS is over the judge's class probabilities: it lies between 1 and the number of classes, and stands beside
no number of another classifier. Two rows bracket all: the real frames in the pictures' place, and the pictures handed
to other clips. Intervals draw clips, all pictures of a clip together.

The ideas of AIS, IIS and AIC are AudioToken's (arXiv 2305.13050). Shapes: N pictures, K clips, C classes, D dimensions.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..shards.checks import check_ranges
from .encoders import KnownEncoder
from .errors import BenchError
from .protocol import GROUP, ITEM, LEVEL, Progress, Result, bootstrap
from .vegas_data import Generated, find_generated, of_split, read_clips, with_media
from .vegas_figures import DIGITS, PERMUTATIONS, PROMPTS, SCALE, Figures, Judged, Models, measure_figures


@dataclass(frozen=True, kw_only=True, slots=True)
class VegasConfig:
    """What `unibrivl bench vegas` was asked to do."""

    data: Path
    """Folder with `manifest.csv`, or with a folder for each class."""
    images: Path
    """Folder with the pictures of each clip in `CLIP_ID/`."""
    name: str | None = None
    """Of what made them; None: the folder's."""
    split: str = "test"
    per_clip: int | None = None
    """Pictures a clip, the first by name; None: all that there are."""
    same_judge: bool = False
    """Whether a model may judge what it chose itself, or be judge and scorer at once; the result says so."""
    cache: Path | None = None
    seed: int = 0
    """Of permutations, subsets and the bootstrap."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_ranges(self, per_clip=(1, 10_000), seed=(0, 2**31 - 1))

    @property
    def tower(self) -> str:
        """Return what the pictures are called in tables."""
        return self.name or self.images.resolve().name

    def protocol(self, judge: str, extractor: str | None = None) -> str:
        """Return the protocol in words."""
        each = "all" if self.per_clip is None else f"the first {self.per_clip}"
        return (
            f"split {self.split}, {each} pictures a clip, R@1 of {judge} over names of all classes, KID and FID by "
            f"{extractor or judge}"
        )


def measure_vegas(config: VegasConfig, models: Models, progress: Progress = lambda done, total, text: None) -> Result:
    """Judge the pictures of a folder.

    Raises:
        NeedsError: the data set, its frames or sounds, or the pictures are missing.
        BenchError: the manifest is wrong, a file is damaged, a model lacks a side, or judges what it chose.
    """
    models.check_sides()
    every = read_clips(config.data)
    clips = of_split(every, config.split, config.data)
    found = find_generated(config.images, clips, config.per_clip, progress)
    hears = models.scorer is not None and not isinstance(models.scorer, KnownEncoder)
    kept = with_media(found, sound=hears)
    if len(kept) < 2:
        raise BenchError(f"{config.images}: pictures of {len(kept)} clip can be judged, want two clips at least")
    circular = _circular(config, models, kept)
    names = tuple(sorted({clip.category for clip in every}))
    judged = Judged(
        clips=kept, names=names, classes_K=np.array([names.index(one.clip.category) for one in kept]),
        clip_N=np.repeat(np.arange(len(kept)), [len(one.pictures) for one in kept]), cache=config.cache,
    )  # fmt: skip
    figures = measure_figures(models, judged, config.seed, progress)
    return _result(config, models, figures, found, len(clips), circular)


def _circular(config: VegasConfig, models: Models, kept: list[Generated]) -> list[str]:
    """Return which models judge themselves, refused unless they may."""
    choosers = frozenset().union(*(one.choosers for one in kept))
    roles = {"judge": models.judge, "extractor": models.extractor, "scorer": models.scorer}
    told = [
        f"the {role} chose the pictures" for role, model in roles.items() if model and model.fingerprint in choosers
    ]
    if models.scorer is not None and models.scorer.fingerprint == models.judge.fingerprint:
        told.append("the scorer is the judge")
    if told and not config.same_judge:
        raise BenchError(f"{told[0]}, so its figure is circular; name another model, or pass --same-judge to label it")
    return told


def _result(
    config: VegasConfig, models: Models, figures: Figures, found: list[Generated], listed: int, circular: list[str]
) -> Result:
    judged = figures.judged
    extractor = models.extractor or models.judge
    per_clip = config.per_clip or max(len(one.pictures) + one.black for one in found)
    coverage = _coverage(judged, found, listed, per_clip)
    whole = coverage["clips"] == listed and not coverage["short_clips"]
    fingerprints = {
        role: model.fingerprint
        for role, model in (("judge", models.judge), ("extractor", extractor), ("scorer", models.scorer)) if model
    }  # fmt: skip
    return Result(
        bench="vegas", protocol=config.protocol(models.judge.name, extractor.name), tower=config.tower,
        metrics=_rounded(figures.metrics),
        chance={"r1": round(1 / len(judged.names), DIGITS), "is_judge": 1.0},
        oracle=_rounded(figures.real), coverage=coverage, seed=config.seed, status="ok" if whole else "partial",
        interval={n: bootstrap(v, config.seed, judged.clip_N, digits=DIGITS) for n, v in figures.values_N.items()}
        | {"level": LEVEL},
        config={
            "split": config.split, "per_clip": per_clip, "candidates": list(judged.names), "prompts": list(PROMPTS),
            "scale": SCALE, "permutations": PERMUTATIONS, "fingerprints": fingerprints,
            "judge": models.judge.name, "extractor": extractor.name, "scorer": models.scorer and models.scorer.name,
        },
        more={"shuffled": figures.shuffled, "circular": circular} | figures.more,
        predictions=_predictions(figures),
    )  # fmt: skip


def _coverage(judged: Judged, found: list[Generated], listed: int, per_clip: int) -> dict[str, Any]:
    there = {one.clip.category for one in judged.clips}
    return {
        "clips": len(judged.clips), "listed": listed, "pictures": len(judged.clip_N),
        "black": sum(one.black for one in found),
        "short_clips": sum(len(one.pictures) < per_clip for one in judged.clips),
        "missing_classes": [name for name in judged.names if name not in there],
    }  # fmt: skip


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(float(value), DIGITS) for name, value in values.items()}


def _predictions(figures: Figures) -> pa.Table:
    judged = figures.judged
    ids = [one.clip.clip_id for one in judged.clips]
    return pa.table(
        {
            ITEM: [f"{ids[n]}/{path.name}" for n, path in zip(judged.clip_N, judged.pictures, strict=True)],
            GROUP: [ids[n] for n in judged.clip_N],
            "label": [judged.names[n] for n in judged.classes_K[judged.clip_N]],
            "predicted": [judged.names[n] for n in figures.predicted_N],
        }
        | figures.values_N
    )  # fmt: skip


def rows(told: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the table of a result as plain values: each figure between its floor and its ceiling."""
    found = []
    for name, value in told["metrics"].items():
        bounds, shuffled = told["interval"].get(name), told["shuffled"].get(name)
        found.append((
            name, f"{value:.4f}", "" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}",
            "" if shuffled is None else f"{shuffled['mean']:.4f} ± {shuffled['sd']:.4f}",
            f"{told['oracle'][name]:.4f}", f"{told['chance'][name]:.4f}" if name in told["chance"] else "",
        ))  # fmt: skip
    return found
