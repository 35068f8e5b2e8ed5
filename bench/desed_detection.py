"""`bench desed`: sounds at home found in time by a frozen tower, window by window, judged by sed_eval.

Protocol. A window of a second, every second, is embedded; a probe, trained on windows of the synthetic training set
(or on files with labels of the whole, each window bearing its file's), or the cosine with a class's name scores it; a
threshold for each class makes it found or not; neighbours are joined to events. What chooses, thresholds and the
probe's epoch, is a drawn tenth of the synthetic training files for every subset: it has events in time, and no subset
holds its files. Real recordings have no other such set, so their thresholds come from synthetic ones.

Chance: the same scores in another order, on the tenth and on the measured files, thresholds chosen anew; the mean of
20 orders for F1 of segments, one order for what is slow, exact for average precision. Beside it stands `everything`,
every class in every window. Ceiling: the windows' true classes, through the same joining; events shorter than a window
or across its edges cost events their F1 and PSDS, never segments theirs.

Shapes: F files, W windows, C classes.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..shards.checks import check_ranges
from .class_metrics import random_order_ap
from .desed import CLASSES, PARTS, SUBSETS, TRAIN, WEAK_TRAIN, Listing, read_part
from .desed_windows import EventWindows, cut
from .encoders import Embedder, KnownEncoder, check_embeds, embed_items, unit
from .errors import BenchError, NeedsError
from .folds import TEMPLATES, check_way, class_texts
from .probes import PROBES, Samples, fit_probe
from .protocol import LEVEL, Progress, Result
from .sed_figures import (
    COLLAR_S,
    SHARE,
    best_thresholds,
    counts,
    file_interval,
    found_events,
    libraries,
    library_figures,
    macro_f1,
    shares,
    threshold_free,
)

VALID_SHARE = 0.1
PERMUTATIONS = 20
LABELS = ("strong", "weak")


@dataclass(frozen=True, kw_only=True, slots=True)
class DesedConfig:
    """What `unibrivl bench desed` was asked to do."""

    data: Path
    """Folder that holds `metadata/` and `audio/`."""
    subset: str = "synth21-val"
    """Files that are measured; the paper's 2,500 are the size of this one."""
    probe: str = "l3"
    labels: str = "strong"
    """What a probe is trained on: events of the synthetic training set, or labels of whole real files."""
    template: str = "laion"
    """Of zero-shot."""
    cache: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is not offered."""
        check_ranges(self, seed=(0, 2**31 - 1))
        check_way(self.probe, self.template)
        if self.subset not in SUBSETS:
            raise ValueError(f"subset is {self.subset!r}, want one of {', '.join(SUBSETS)}")
        if self.labels not in LABELS:
            raise ValueError(f"labels is {self.labels!r}, want one of {', '.join(LABELS)}")

    @property
    def is_zero_shot(self) -> bool:
        """Tell whether nothing is trained."""
        return self.probe == "zero-shot"

    def protocol(self) -> str:
        """Return the protocol in words."""
        trained = f"probe {self.probe} on frozen embeddings, {self.labels} labels"
        way = f"zero-shot, template {self.template}" if self.is_zero_shot else trained
        chosen = "thresholds by class" if self.is_zero_shot else "thresholds by class and epoch"
        return (
            f"{self.subset}, windows of 1 s, {way}, {chosen} from a tenth of {TRAIN}, neighbours joined, "
            "sed_eval segments of 1 s, zero for a missed class"
        )


@dataclass(frozen=True, slots=True)
class Scored:
    """What windows came to."""

    windows: EventWindows
    scores_WC: np.ndarray
    valid: EventWindows
    valid_scores_VC: np.ndarray
    chosen: dict[str, Any] = field(default_factory=dict)


def measure_desed(
    config: DesedConfig, encoder: Embedder, progress: Progress = lambda done, total, text: None
) -> Result:
    """Find the events of a subset and measure them.

    Raises:
        NeedsError: a table or all its files are missing.
        BenchError: a table or a file is damaged, a measured file is trained on, the encoder takes no sound, or, for
            zero-shot, no text; or a library is not installed.
    """
    libraries()  # says that one is missing before an hour of embedding
    _check_modalities(config, encoder)
    windows = cut(_present(encoder, read_part(config.data, config.subset)))
    if not windows.truth.any():
        own = windows.listing
        raise BenchError(f"{own.folder}: not one event is in the files of {own.part} that are there")
    used = [_present(encoder, read_part(config.data, TRAIN))]
    train, valid = drawn_tenth(used[0], config.seed)
    if config.labels == "weak" and not config.is_zero_shot:
        train = _present(encoder, read_part(config.data, WEAK_TRAIN))
        used.append(train)
    scored = _scores(config, encoder, windows, cut(valid), train, progress)
    thresholds_C = best_thresholds(scored.valid_scores_VC, scored.valid.truth)
    return _result(config, encoder, scored, thresholds_C, used)


def _check_modalities(config: DesedConfig, encoder: Embedder) -> None:
    """Raise a BenchError now if the encoder lacks what will be asked of it."""
    for modality in ("audio", "text") if config.is_zero_shot else ("audio",):
        check_embeds(encoder, modality)


def _present(encoder: Embedder, listing: Listing) -> Listing:
    """Return the files that are there; all of them for an encoder that looks at none.

    Raises:
        NeedsError: not one is there.
    """
    if isinstance(encoder, KnownEncoder):
        return listing
    there = listing.there()
    if not there.names:
        folder = PARTS[listing.part].folders[0]
        raise NeedsError(
            f"{listing.folder}: not one of the {len(listing.names)} files of {PARTS[listing.part].table} is there",
            status="needs-data", expected=tuple(f"{folder}/{name}" for name in listing.names[:3]),
        )  # fmt: skip
    return there


def drawn_tenth(listing: Listing, seed: int) -> tuple[Listing, Listing]:
    """Return the files that train and those that choose: a drawn tenth, and more until it has every class.

    Raises:
        BenchError: a class is in no file, or none is left to train on.
    """
    labels_FC = listing.labels()
    if missing := [CLASSES[c] for c in np.flatnonzero(~labels_FC.any(axis=0))]:
        raise BenchError(f"{listing.folder}: no file of {listing.part} with {missing[0]} is there; want the whole set")
    order = np.random.Generator(np.random.Philox(key=[seed, 2])).permutation(len(listing.names))
    tenth = max(1, round(VALID_SHARE * len(order)))
    is_valid = np.zeros(len(order), dtype=bool)
    is_valid[order[:tenth]] = True
    for label in range(len(CLASSES)):
        if not labels_FC[is_valid, label].any():
            is_valid[next(n for n in order if labels_FC[n, label])] = True
    if is_valid.all():
        raise BenchError(f"{listing.folder}: {len(order)} files of {listing.part} are too few to train and to choose")
    return listing.take(np.flatnonzero(~is_valid)), listing.take(np.flatnonzero(is_valid))


def _scores(
    config: DesedConfig,
    encoder: Embedder,
    windows: EventWindows,
    valid: EventWindows,
    train: Listing,
    progress: Progress,
) -> Scored:
    def embedded(some: EventWindows) -> np.ndarray:
        def step(done: int, total: int, text: str) -> None:
            progress(done, total, f"{some.listing.part}, {text}")

        items = some.embeddable(encoder.sample_rate, is_known=isinstance(encoder, KnownEncoder))
        return embed_items(encoder, "audio", items, config.cache, step)

    if config.is_zero_shot:
        _keep_apart(encoder, windows, valid)
        texts_CD = class_texts(encoder, CLASSES, TEMPLATES[config.template])
        scores_WC, valid_VC = (unit(embedded(some)) @ texts_CD.T for some in (windows, valid))
        return Scored(windows, scores_WC, valid, valid_VC, {"valid_files": len(valid.listing.names)})
    trained = cut(train)
    _keep_apart(encoder, windows, valid, trained)
    samples, valid_ND = Samples(embedded(trained), trained.truth.astype(np.float32)), embedded(valid)
    probe = fit_probe(
        PROBES[config.probe], samples, Samples(valid_ND, valid.truth.astype(np.float32)), len(CLASSES),
        seed=config.seed,
    )  # fmt: skip
    chosen = probe.as_dict() | {
        "valid_files": len(valid.listing.names), "train_part": train.part, "train_files": len(train.names),
        "train_listed": train.listed,
    }  # fmt: skip
    return Scored(windows, probe.predict(embedded(windows)), valid, probe.predict(valid_ND), chosen)


def _keep_apart(encoder: Embedder, windows: EventWindows, *others: EventWindows) -> None:
    """Refuse files that are measured and also train or choose, by their contents."""
    if isinstance(encoder, KnownEncoder):
        return
    measured = dict(zip(windows.contents, windows.listing.paths, strict=True))
    for other in others:
        for content, path in zip(other.contents, other.listing.paths, strict=True):
            if content in measured:
                raise BenchError(f"{path}: the same sound as {measured[content]}, which is measured; take it out")


def _result(
    config: DesedConfig, encoder: Embedder, scored: Scored, thresholds_C: np.ndarray, used: list[Listing]
) -> Result:
    windows = scored.windows
    found_WC = scored.scores_WC > thresholds_C
    truth_WC, events, own = windows.truth, found_events(windows, found_WC), counts(windows, found_WC)
    metrics = library_figures(windows, events) | threshold_free(windows, scored.scores_WC)
    ceiling = library_figures(windows, found_events(windows, truth_WC))
    ceiling |= threshold_free(windows, truth_WC.astype(np.float64))
    is_whole = all(part.is_whole for part in (windows.listing, *used)) and not windows.beyond
    stored = {"subset": config.subset, "probe": config.probe, "template": config.template, "labels": config.labels}
    stored |= {"collar_s": COLLAR_S, "share_of_length": SHARE, "fingerprint": encoder.fingerprint}
    thresholds = {name: _finite(value) for name, value in zip(CLASSES, thresholds_C, strict=True)}
    return Result(
        bench="desed", protocol=config.protocol(), tower=encoder.name, metrics=metrics,
        chance=_chance(scored, config.seed), oracle=ceiling, coverage=_coverage(windows, used),
        interval={"macro_f1": file_interval(own, config.seed), "level": LEVEL}, seed=config.seed,
        status="ok" if is_whole else "partial",
        config=stored | {"recipe": _recipe(config), "chosen": scored.chosen | {"thresholds": thresholds}},
        more={"dataset": config.subset, "classes": list(CLASSES), "by_class": _by_class(own)},
        predictions=_predictions(windows, own, events),
    )  # fmt: skip


def _recipe(config: DesedConfig) -> dict[str, Any]:
    return {"texts": list(TEMPLATES[config.template])} if config.is_zero_shot else asdict(PROBES[config.probe])


def _finite(value: float) -> float | None:
    """Return a threshold for JSON; None: everything is above it."""
    return round(float(value), 6) if np.isfinite(value) else None


def _chance(scored: Scored, seed: int) -> dict[str, Any]:
    windows, truth_WC = scored.windows, scored.windows.truth
    rng = np.random.Generator(np.random.Philox(key=[seed, 4]))
    drawn, figures = [], {}
    for number in range(PERMUTATIONS):
        scores_WC, valid_VC = (rng.permutation(scores) for scores in (scored.scores_WC, scored.valid_scores_VC))
        found_WC = scores_WC > best_thresholds(valid_VC, scored.valid.truth)
        drawn.append([_macro(windows, found_WC), _micro(windows, found_WC)])
        if not number:
            figures = library_figures(windows, found_events(windows, found_WC)) | threshold_free(windows, scores_WC)
    exact = [random_order_ap(int(positive), len(truth_WC)) for positive in truth_WC.sum(axis=0) if positive]
    macro, micro = np.mean(drawn, axis=0)
    always = np.ones_like(truth_WC)
    told = {"macro_f1": macro, "micro_f1": micro, "map": np.mean(exact), "auc": 0.5}
    told |= {"macro_f1_everything": _macro(windows, always), "micro_f1_everything": _micro(windows, always)}
    figures.pop("macro_f1_without_missed")  # one order's, which would stand beside the mean of twenty
    return figures | {name: round(float(value), 6) for name, value in told.items()}


def _macro(windows: EventWindows, found_WC: np.ndarray) -> float:
    return float(macro_f1(counts(windows, found_WC).sum(axis=0)))


def _micro(windows: EventWindows, found_WC: np.ndarray) -> float:
    return float(macro_f1(counts(windows, found_WC).sum(axis=(0, 1))[None]))


def _coverage(windows: EventWindows, used: list[Listing]) -> dict[str, Any]:
    have, own = windows.truth.any(axis=0), windows.listing
    told = {
        "clips": len(own.names), "listed": own.listed, "classes": int(have.sum()),
        "classes_listed": len(CLASSES), "missing_classes": [CLASSES[c] for c in np.flatnonzero(~have)],
        "without_events": sum(not events for events in windows.events), "windows": len(windows.truth),
        "events_beyond_end": windows.beyond,
    }  # fmt: skip
    for part in used:
        told |= {part.part: len(part.names), f"{part.part}_listed": part.listed}
    return told


def _by_class(counts_FC3: np.ndarray) -> dict[str, Any]:
    """Return F1 and counts of windows of each class; F1 None where there is no event."""
    told = {}
    for name, (hits, false, missed) in zip(CLASSES, counts_FC3.sum(axis=0).tolist(), strict=True):
        whole = 2 * hits + false + missed
        figure = round(2 * hits / whole, 6) if hits + missed else None
        told[name] = {"f1": figure, "hits": hits, "false": false, "missed": missed}
    return told


def _predictions(windows: EventWindows, counts_FC3: np.ndarray, events: list[list[Any]]) -> pa.Table:
    hits_F, false_F, missed_F = counts_FC3.sum(axis=1).T
    told = [[[CLASSES[label], onset, offset] for onset, offset, label in own] for own in events]
    return pa.table(
        {
            "item": list(windows.listing.names),
            "macro_f1": shares(counts_FC3),
            "micro_f1": shares(counts_FC3.sum(axis=1, keepdims=True)),
            "hits": hits_F, "false": false_F, "missed": missed_F,
            "predicted": [json.dumps(own) for own in told],
        }
    )  # fmt: skip
