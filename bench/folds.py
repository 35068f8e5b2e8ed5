"""Sound classes on the official folds of a data set: a probe on frozen embeddings, or words without any training.

Protocol. Fold i is measured, fold i+1 (after the last, the first) chooses, the others train. No other split is
offered: clips cut from one recording share a fold, and a random split would leak them. Zero-shot scores every clip
once, by the cosine of its embedding and that of its class's name in a recorded template.

Shapes: N clips, M embeddings (of clips or of their windows), C classes, D dimensions.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .encoders import Embedder, Items, KnownEncoder, check_embeds, embed, embed_items, unit
from .probes import PROBES, Samples, fit_probe
from .protocol import LEVEL, Progress, Result, bootstrap
from .windows import Windows, length_of, load_sound

TEMPLATES = {
    "bare": ("{}",),
    "laion": ("This is a sound of {}.",),
    "ensemble": ("{}", "This is a sound of {}.", "{} can be heard"),
}
"""Of a class's name, underscores as spaces; several: their unit embeddings are averaged. Sources: AudioCLIP, LAION-CLAP
(eval_zeroshot_classification.py), EVAR (zeroshot.py)."""
WAYS = (*PROBES, "zero-shot")


@dataclass(frozen=True, slots=True)
class FoldedSounds:
    """A data set with official folds, listed."""

    paths: tuple[Path, ...]
    targets: np.ndarray
    """int64 (N,), from 0."""
    folds: np.ndarray
    names: tuple[str, ...]
    """Of the classes."""
    groups: tuple[str, ...]
    """The recording that each clip was cut from."""
    listed: int
    """Clips that the table names, whether their files are there or not."""
    official: tuple[int, ...]
    """The folds that there are."""
    dataset: str
    absent: tuple[str, ...] = ()
    """Files that the table names and that are not there."""

    def load(self, number: int, sample_rate: int) -> np.ndarray:
        """Return a clip as float32 (samples,), mono.

        Raises:
            BenchError: it is not readable.
        """
        return load_sound(self.paths[number], sample_rate)

    def items(self, sample_rate: int) -> Items:
        """Return the clips as an encoder takes them."""
        keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.paths]
        return Items(
            keys, lambda number: self.load(number, sample_rate), self.targets, np.arange(len(keys)),
            f"whole clip, mono, {sample_rate} Hz",
        )  # fmt: skip

    def windows(self) -> Windows:
        """Return the clips cut into windows of a second.

        Raises:
            BenchError: a clip is not readable, holds no sound, or more than a minute.
        """
        return Windows(self.paths, np.array([length_of(path) for path in self.paths]))


def check_folds(folds: tuple[int, ...], official: tuple[int, ...]) -> None:
    """Raise a ValueError for folds that there are not."""
    if not folds or set(folds) - set(official) or len(set(folds)) < len(folds):
        raise ValueError(f"folds are {folds}, want different ones of {official}")


def check_way(probe: str, template: str) -> None:
    """Raise a ValueError for a way to tell classes apart that there is not."""
    if probe not in WAYS:
        raise ValueError(f"probe is {probe!r}, want one of {', '.join(WAYS)}")
    if template not in TEMPLATES:
        raise ValueError(f"template is {template!r}, want one of {', '.join(TEMPLATES)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenConfig:
    """How frozen embeddings are measured on folds."""

    probe: str = "l3"
    """`l3`, `hear`, or `zero-shot`."""
    template: str = "laion"
    """Of zero-shot's headline; all are told."""
    frames: bool = False
    """True: a probe trains on windows of a second, and a clip is what its windows are on average."""
    seed: int = 0
    cache: Path | None = None
    """Folder for embeddings, which other tables share."""

    def __post_init__(self) -> None:
        """Refuse what is not offered."""
        check_way(self.probe, self.template)
        if self.frames and self.probe == "zero-shot":
            raise ValueError("frames are for a probe, and zero-shot trains none; want one of them")

    def protocol(self) -> str:
        """Return the protocol in words."""
        if self.probe == "zero-shot":
            return f"zero-shot, template {self.template}, every clip once"
        frames = " of windows of 1 s, mean of their probabilities" if self.frames else ""
        return f"official folds, probe {self.probe} on frozen embeddings{frames}, next fold validates"


@dataclass(frozen=True, slots=True)
class Scored:
    """What the clips of the measured folds came to."""

    predicted: np.ndarray
    """int64 (N,), -1 where a clip was not measured."""
    chosen: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


def measure_frozen(
    bench: str,
    data: FoldedSounds,
    encoder: Embedder,
    folds: tuple[int, ...],
    config: FrozenConfig,
    progress: Progress = lambda done, total, text: None,
) -> Result:
    """Measure an encoder that nobody trains on the clips.

    Raises:
        BenchError: it takes no sound, or, for zero-shot, no text; or a clip is not readable.
    """
    if config.probe == "zero-shot":
        check_embeds(encoder, "text")
    if config.frames:
        windows = data.windows()
        items, clips_M = windows.items(encoder.sample_rate, data.targets[windows.files]), windows.files
    else:
        items, clips_M = data.items(encoder.sample_rate), np.arange(len(data.paths))
    embedded = embed_items(encoder, "audio", items, config.cache, progress)
    if config.probe == "zero-shot":
        scored = _zero_shot(data, encoder, embedded, folds, config)
    else:
        scored = _probed(data, embedded, clips_M, folds, config, progress)
    stored = asdict(config) | {"dim": embedded.shape[1], "fingerprint": encoder.fingerprint, "chosen": scored.chosen}
    stored.pop("cache")
    if config.probe == "zero-shot":
        stored["templates"] = {name: list(texts) for name, texts in TEMPLATES.items()}
    else:
        stored["recipe"] = asdict(PROBES[config.probe])
    return fold_result(
        bench, config.protocol(), encoder.name, data, folds, scored, seed=config.seed, config=stored,
    )  # fmt: skip


def _probed(
    data: FoldedSounds,
    features_MD: np.ndarray,
    clips_M: np.ndarray,
    folds: tuple[int, ...],
    config: FrozenConfig,
    progress: Progress,
) -> Scored:
    samples, recipe = Samples(features_MD, data.targets[clips_M]), PROBES[config.probe]
    folds_M = data.folds[clips_M]
    predicted, chosen = np.full(len(data.targets), -1), {}
    points = None
    for number, fold in enumerate(folds):
        valid_fold = data.official[(data.official.index(fold) + 1) % len(data.official)]
        train, valid, test = (
            np.flatnonzero(held)
            for held in (~np.isin(folds_M, (fold, valid_fold)), folds_M == valid_fold, folds_M == fold)
        )
        probe = fit_probe(
            recipe, samples.take(train), samples.take(valid), len(data.names), seed=config.seed, points=points
        )
        if recipe.grid_on_first_split:
            points = [probe.point]
        sums_NC = np.zeros((len(data.targets), len(data.names)))
        np.add.at(sums_NC, clips_M[test], probe.predict(features_MD[test]))
        predicted[data.folds == fold] = sums_NC[data.folds == fold].argmax(axis=1)
        chosen[str(fold)] = probe.as_dict()
        progress(number + 1, len(folds), f"fold {fold}")
    return Scored(predicted, chosen)


def _zero_shot(
    data: FoldedSounds, encoder: Embedder, embedded: np.ndarray, folds: tuple[int, ...], config: FrozenConfig
) -> Scored:
    asked = np.isin(data.folds, folds)
    found, metrics = {}, {}
    for name, templates in TEMPLATES.items():
        scores_NC = unit(embedded) @ class_texts(encoder, data.names, templates).T
        found[name] = np.where(asked, scores_NC.argmax(axis=1), -1)
        metrics[f"accuracy_{name}"] = round(float((found[name] == data.targets)[asked].mean()), 4)
    return Scored(found[config.template], metrics=metrics)


def class_texts(encoder: Embedder, names: tuple[str, ...], templates: tuple[str, ...]) -> np.ndarray:
    """Return float32 (C, D), unit norm: the mean of each class's unit embeddings in all templates."""
    if isinstance(encoder, KnownEncoder):
        return encoder.embed_known("text", np.arange(len(names)), np.full(len(names), -1))
    words = [name.replace("_", " ") for name in names]
    each = [unit(embed(encoder, "text", [template.format(word) for word in words])) for template in templates]
    return unit(np.mean(each, axis=0))


def fold_result(
    bench: str,
    protocol: str,
    tower: str,
    data: FoldedSounds,
    folds: tuple[int, ...],
    scored: Scored,
    *,
    seed: int,
    config: dict[str, Any],
) -> Result:
    """Return the row: mean over folds of top-1 accuracy, its deviation, and an interval over clips."""
    asked = np.isin(data.folds, folds)
    correct = (scored.predicted == data.targets).astype(np.float64)
    by_fold = {fold: float(correct[data.folds == fold].mean()) for fold in folds}
    values = np.array(list(by_fold.values()))
    shares = np.bincount(data.targets, minlength=len(data.names)) / len(data.targets)
    chance = {"accuracy": round(1 / len(data.names), 4)}
    if shares.max() > 1.1 / len(data.names):
        chance["majority"] = round(float(shares.max()), 4)
    is_whole = set(folds) == set(data.official) and len(data.paths) == data.listed
    metrics = {
        "accuracy": round(float(values.mean()), 4),
        "accuracy_sd": round(float(values.std(ddof=1)), 4) if len(values) > 1 else None,
        "accuracy_by_fold": {str(fold): round(value, 4) for fold, value in by_fold.items()},
    }
    return Result(
        bench=bench, protocol=protocol, tower=tower, metrics=metrics | scored.metrics, chance=chance,
        oracle={"accuracy": 1.0},
        coverage={"clips": len(data.paths), "listed": data.listed, "folds": list(folds)},
        interval={"accuracy": bootstrap(correct[asked], seed), "level": LEVEL}, seed=seed,
        status="ok" if is_whole else "partial", config=config,
        more={"dataset": data.dataset, "classes": list(data.names)},
        predictions=_predictions(data, scored, correct, np.flatnonzero(asked)),
    )  # fmt: skip


def _predictions(data: FoldedSounds, scored: Scored, correct: np.ndarray, asked: np.ndarray) -> pa.Table:
    return pa.table(
        {
            "item": [data.paths[n].name for n in asked],
            "group": [data.groups[n] for n in asked],
            "fold": data.folds[asked],
            "target": data.targets[asked],
            "predicted": scored.predicted[asked],
            "accuracy": correct[asked],
        }
    )
