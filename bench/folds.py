"""Sound classes on the official folds of a data set: a probe on frozen embeddings, or words without any training.

Protocol. Fold i is measured, fold i+1 (after the last, the first) chooses, the others train. No other split is
offered: clips cut from one recording share a fold, and a random split would leak them. Zero-shot scores every clip
once, by the cosine of its embedding and that of its class's name in a recorded template.

Shapes: N clips, C classes, D dimensions.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile

from .encoders import Embedder, Items, KnownEncoder, embed, embed_items, embeds, unit
from .errors import BenchError
from .probes import PROBES, Samples, fit_probe
from .protocol import LEVEL, Progress, Result, bootstrap
from .supervised import read_sound

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
        path = self.paths[number]
        try:
            return read_sound(*soundfile.read(path, dtype="float32", always_2d=True), sample_rate)
        except soundfile.SoundFileError as e:
            raise BenchError(f"{path}: not readable as sound ({e}); fetch it again") from e

    def items(self, sample_rate: int) -> Items:
        """Return the clips as an encoder takes them."""
        keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.paths]
        return Items(
            keys, lambda number: self.load(number, sample_rate), self.targets, np.arange(len(keys)),
            f"whole clip, mono, {sample_rate} Hz",
        )  # fmt: skip


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
    seed: int = 0
    cache: Path | None = None
    """Folder for embeddings, which other tables share."""

    def __post_init__(self) -> None:
        """Refuse what is not offered."""
        check_way(self.probe, self.template)


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
    if config.probe == "zero-shot" and not embeds(encoder, "text"):
        embed(encoder, "text", [])  # says so before an hour of embedding
    embedded = embed_items(encoder, "audio", data.items(encoder.sample_rate), config.cache, progress)
    if config.probe == "zero-shot":
        scored = _zero_shot(data, encoder, embedded, folds, config)
        protocol = f"zero-shot, template {config.template}, every clip once"
    else:
        scored = _probed(data, embedded, folds, config, progress)
        protocol = f"official folds, probe {config.probe} on frozen embeddings, next fold validates"
    stored = asdict(config) | {"dim": embedded.shape[1], "fingerprint": encoder.fingerprint, "chosen": scored.chosen}
    stored.pop("cache")
    if config.probe == "zero-shot":
        stored["templates"] = {name: list(texts) for name, texts in TEMPLATES.items()}
    else:
        stored["recipe"] = asdict(PROBES[config.probe])
    return fold_result(
        bench, protocol, encoder.name, data, folds, scored, seed=config.seed, config=stored,
    )  # fmt: skip


def _probed(
    data: FoldedSounds, features_ND: np.ndarray, folds: tuple[int, ...], config: FrozenConfig, progress: Progress
) -> Scored:
    samples, recipe = Samples(features_ND, data.targets), PROBES[config.probe]
    predicted, chosen = np.full(len(data.targets), -1), {}
    points = None
    for number, fold in enumerate(folds):
        valid_fold = data.official[(data.official.index(fold) + 1) % len(data.official)]
        train, valid, test = (
            np.flatnonzero(held)
            for held in (~np.isin(data.folds, (fold, valid_fold)), data.folds == valid_fold, data.folds == fold)
        )
        probe = fit_probe(
            recipe, samples.take(train), samples.take(valid), len(data.names), seed=config.seed, points=points
        )
        if recipe.grid_on_first_split:
            points = [probe.point]
        predicted[test] = probe.predict(features_ND[test]).argmax(axis=1)
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
