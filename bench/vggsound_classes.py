"""`bench vggsound`: VGGSound's classes told apart by frozen embeddings; macro mAP, accuracy, AUC and d-prime.

Protocol. The probe is trained on the training list, but for a drawn tenth of its videos, which chooses; the data set
has no validation split. A class without a clip in the test set is left out of the means, and named. Chance of mAP is
the share of positives, which equal scores give; a random order without ties gives a little more, told beside it. The
interval of mAP is over classes: clips drawn twice would be ties of their own and raise every precision.

Shapes: N test clips, C classes.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..model.retrieval import first_ranks
from .class_metrics import auc, average_precision, d_prime, random_order_ap
from .encoders import Embedder, unit
from .errors import BenchError, NeedsError
from .folds import TEMPLATES, check_way, class_texts
from .probes import PROBES, Samples, fit_probe
from .protocol import LEVEL, Progress, Result, bootstrap
from .vggsound import TEST_CLIPS, Clips, embed_sounds, present, read_list

VALID_SHARE = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class VggsoundConfig:
    """What `unibrivl bench vggsound` was asked to do."""

    data: Path
    scores: Path | None = None
    """Scores float (N, C) of the test list's clips, classes by name, in place of an encoder."""
    probe: str = "l3"
    template: str = "laion"
    """Of zero-shot."""
    cache: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is not offered."""
        check_way(self.probe, self.template)

    def protocol(self) -> str:
        """Return the protocol in words."""
        way = "given scores" if self.scores else f"frozen embeddings, {self.probe}"
        return f"test list, {way}, sounds tiled to 10 s, macro mean over classes"


def measure_vggsound(
    config: VggsoundConfig, encoder: Embedder | None, progress: Progress = lambda done, total, text: None
) -> Result:
    """Measure an encoder under a probe, or scores that were made elsewhere.

    Raises:
        NeedsError: a list or all clips are missing.
        BenchError: scores do not fit the list, or an encoder takes no sound.
    """
    whole = read_list(config.data)
    if encoder is None:
        clips, scores_NC, chosen = whole, _read_scores(config, whole), {}
    else:
        clips = present(encoder, whole, sound=True, picture=False)
        scores_NC, chosen = _scores(config, encoder, clips, progress)
    return _result(config, encoder, whole, clips, scores_NC, chosen)


def _read_scores(config: VggsoundConfig, clips: Clips) -> np.ndarray:
    path = config.scores
    if path is None or not path.is_file():
        raise NeedsError(f"{path}: there is no such file", status="needs-data", expected=(path.name if path else "",))
    try:
        scores_NC = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as e:
        raise BenchError(f"{path}: not readable as .npy ({e})") from e
    wanted = (len(clips.names), len(clips.labels))
    if scores_NC.shape != wanted or not np.isfinite(scores_NC).all():
        raise BenchError(f"{path}: shape {scores_NC.shape}, want {wanted}, clips by classes, all finite")
    return scores_NC.astype(np.float64)


def _scores(
    config: VggsoundConfig, encoder: Embedder, clips: Clips, progress: Progress
) -> tuple[np.ndarray, dict[str, Any]]:
    if config.probe == "zero-shot":
        texts_CD = class_texts(encoder, clips.labels, TEMPLATES[config.template])
        return unit(embed_sounds(encoder, clips, config.cache, progress)) @ texts_CD.T, {}
    train = _with_labels(read_list(config.data, "train"), clips.labels, config.data)
    train = present(encoder, train, sound=True, picture=False)
    samples = Samples(embed_sounds(encoder, train, config.cache, progress), train.classes)
    is_valid = _drawn_videos(train, config.seed)
    probe = fit_probe(
        PROBES[config.probe], samples.take(np.flatnonzero(~is_valid)), samples.take(np.flatnonzero(is_valid)),
        len(clips.labels), seed=config.seed,
    )  # fmt: skip
    chosen = probe.as_dict() | {"train_clips": int((~is_valid).sum()), "train_listed": train.listed}
    return probe.predict(embed_sounds(encoder, clips, config.cache, progress)), chosen


def _with_labels(train: Clips, labels: tuple[str, ...], data: Path) -> Clips:
    """Return the training clips by the numbers of the test list's classes."""
    if unknown := sorted(set(train.labels) - set(labels)):
        raise BenchError(f"{data}: class {unknown[0]!r} is trained on but not in the test list; want the same classes")
    numbers = np.array([labels.index(label) for label in train.labels])
    return replace(train, classes=numbers[train.classes], labels=labels)


def _drawn_videos(train: Clips, seed: int) -> np.ndarray:
    """Return which clips are of the drawn tenth of the videos, boolean."""
    videos, video_of = np.unique([name[:-7] for name in train.names], return_inverse=True)
    rng = np.random.Generator(np.random.Philox(key=[seed, 2]))
    drawn = rng.permutation(len(videos)) < max(1, round(VALID_SHARE * len(videos)))
    return drawn[video_of]


def _result(
    config: VggsoundConfig,
    encoder: Embedder | None,
    whole: Clips,
    clips: Clips,
    scores_NC: np.ndarray,
    chosen: dict[str, Any],
) -> Result:
    relevant_NC = np.eye(len(clips.labels), dtype=bool)[clips.classes]
    have = np.flatnonzero(relevant_NC.any(axis=0))
    aps = np.array([average_precision(scores_NC[:, c], relevant_NC[:, c]) for c in have])
    mean_auc = float(np.mean([auc(scores_NC[:, c], relevant_NC[:, c]) for c in have])) if len(have) > 1 else 1.0
    ranks_N = first_ranks(scores_NC, relevant_NC)
    top = {name: (ranks_N <= k).astype(np.float64) for name, k in (("top1", 1), ("top5", 5))}
    prime = d_prime(mean_auc)
    metrics = {"map": round(float(aps.mean()), 6), **{name: round(float(hit.mean()), 6) for name, hit in top.items()}}
    metrics |= {"auc": round(mean_auc, 6), "d_prime": None if prime is None else round(prime, 4), "classes": len(have)}
    interval: dict[str, Any] = {name: bootstrap(hit, config.seed) for name, hit in top.items()}
    interval |= {"map": bootstrap(aps, config.seed, digits=6), "level": LEVEL}
    return Result(
        bench="vggsound", protocol=config.protocol(), tower=encoder.name if encoder else "given scores",
        metrics=metrics, chance=_chance(relevant_NC[:, have]),
        oracle={"map": 1.0, "top1": 1.0, "top5": 1.0, "auc": 1.0}, coverage=clips.coverage(whole),
        interval=interval, seed=config.seed, status="ok" if len(clips.names) == TEST_CLIPS else "partial",
        config={"probe": config.probe, "template": config.template, "chosen": chosen}
        | {"fingerprint": encoder.fingerprint if encoder else None},
        more={"map_by_class": {clips.labels[c]: round(float(ap), 6) for c, ap in zip(have, aps, strict=True)}},
        predictions=_predictions(clips, scores_NC, top),
    )  # fmt: skip


def _chance(relevant_NC: np.ndarray) -> dict[str, float]:
    samples, classes = relevant_NC.shape
    exact = np.mean([random_order_ap(int(positives), samples) for positives in relevant_NC.sum(axis=0)])
    told = {"map": relevant_NC.mean(), "map_random_order": exact, "top1": 1 / classes, "top5": min(1, 5 / classes)}
    return {name: round(float(value), 6) for name, value in told.items()} | {"auc": 0.5, "d_prime": 0.0}


def _predictions(clips: Clips, scores_NC: np.ndarray, top: dict[str, np.ndarray]) -> pa.Table:
    return pa.table(
        {
            "item": list(clips.names),
            "group": [name[:-7] for name in clips.names],
            "label": [clips.labels[number] for number in clips.classes],
            "predicted": [clips.labels[number] for number in scores_NC.argmax(axis=1)],
            **top,
        }
    )
