"""Figures of sound events: sed_eval's F1 of segments and of events, PSDS, and what is exact without a library.

A class that is never found has no precision, so sed_eval makes its F1 NaN and leaves it out of the macro mean: one
class found and one missed are 1.0. With its `zero_score` they are 0.5, which is the headline here; what it would be
without stands beside it. sed_eval's segment metric of 0.2.1 takes `zero_score` only as an attribute. A class without an
event in the reference is left out of both.

Shapes: F files, W windows of all files, C classes, R resamples.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np

from .class_metrics import auc, average_precision
from .desed import CLASSES, Event
from .desed_windows import EventWindows
from .errors import BenchError
from .protocol import RESAMPLES, bounds
from .windows import WINDOW_S

COLLAR_S, SHARE = 0.2, 0.2
"""Of an onset, and of an offset that may also be off by this share of the event. Source: DCASE-REPO/DESED_task
(desed_task/evaluation/evaluation_measures.py); sed_eval's own share is 0.5."""
PSDS = {
    "psds1": {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "alpha_ct": 0.0, "alpha_st": 1.0},
    "psds2": {
        "dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3, "alpha_ct": 0.5, "alpha_st": 1.0,
    },
}  # fmt: skip
"""The two scenarios of DCASE 2021 to 2024, task 4; at most 100 false positives an hour."""


@cache
def libraries() -> tuple[Any, Any]:
    """Return sed_eval and sed_scores_eval, whose warnings at import are about their own code.

    Raises:
        BenchError: one is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import sed_eval
            import sed_scores_eval
    except ImportError as e:
        raise BenchError(f"desed: {e.name} is not installed; run pip install 'unibrivl[tables]'") from e
    return sed_eval, sed_scores_eval


def counts(windows: EventWindows, found_WC: np.ndarray) -> np.ndarray:
    """Return hits, false alarms and misses of windows, int64 (F, C, 3)."""
    truth_WC = windows.truth
    outcomes = np.stack([truth_WC & found_WC, ~truth_WC & found_WC, truth_WC & ~found_WC], axis=-1)
    return np.add.reduceat(outcomes.astype(np.int64), windows.firsts, axis=0)


def f1(counts_3: np.ndarray) -> np.ndarray:
    """Return F1 of hits, false alarms and misses (..., 3), 0 for a missed class, NaN for one without an event."""
    hits, false, missed = (counts_3[..., n].astype(np.float64) for n in range(3))
    return np.where(hits + missed > 0, 2 * hits / np.maximum(2 * hits + false + missed, 1e-12), np.nan)


def macro_f1(counts_C3: np.ndarray) -> np.ndarray:
    """Return the mean F1 over the classes that have events, (...) of (..., C, 3); 0 where none has."""
    values = f1(counts_C3)
    have = ~np.isnan(values)
    return np.where(have, values, 0).sum(axis=-1) / np.maximum(have.sum(axis=-1), 1)


def shares(counts_FC3: np.ndarray) -> np.ndarray:
    """Return what each file brings to macro F1, (F,), whose mean is the figure exactly.

    F1 is a ratio of sums over files; a file's part in its change is (2 hits - F1 (2 hits + false + missed)) over the
    mean of those denominators. Two runs are compared file by file with these (the ratio's influence function).
    """
    values_C = f1(counts_FC3.sum(axis=0))
    have = ~np.isnan(values_C)
    doubled_FC = 2.0 * counts_FC3[..., 0]
    whole_FC = doubled_FC + counts_FC3[..., 1] + counts_FC3[..., 2]
    change_FC = (doubled_FC - values_C * whole_FC) / np.maximum(whole_FC.mean(axis=0), 1e-12)
    return (values_C + change_FC)[:, have].mean(axis=1)


def file_interval(counts_FC3: np.ndarray, seed: int) -> list[float]:
    """Return the bounds that hold 95 % of macro F1 over resampled files."""
    files = len(counts_FC3)
    rng = np.random.Generator(np.random.Philox(key=[seed, 3]))
    times_RF = rng.multinomial(files, np.full(files, 1 / files), RESAMPLES)
    drawn = times_RF @ counts_FC3.reshape(files, -1)
    return bounds(macro_f1(drawn.reshape(RESAMPLES, *counts_FC3.shape[1:])))


def best_thresholds(scores_WC: np.ndarray, truth_WC: np.ndarray) -> np.ndarray:
    """Return the threshold of each class with the best F1 on these windows, (C,); the lowest of several.

    A window is found where its score is above. A threshold lies in the middle between two scores that occur, or below
    all; a class without an event has infinity, and is never found.
    """
    return np.array([_best_threshold(scores, truth) for scores, truth in zip(scores_WC.T, truth_WC.T, strict=True)])


def _best_threshold(scores_W: np.ndarray, truth_W: np.ndarray) -> float:
    if not truth_W.any():
        return math.inf
    distinct, place = np.unique(scores_W.astype(np.float64), return_inverse=True)
    positive = np.bincount(place, truth_W)[::-1].cumsum()[::-1]  # windows at this score or above
    found = np.bincount(place)[::-1].cumsum()[::-1]
    best = int((2 * positive / (found + truth_W.sum())).argmax())
    return -math.inf if best == 0 else float((distinct[best - 1] + distinct[best]) / 2)


def found_events(windows: EventWindows, found_WC: np.ndarray) -> list[list[Event]]:
    """Return the events of each file: neighbouring windows of a class are one, which ends with the file at the last."""
    events = []
    for first, count, end in zip(windows.firsts, windows.counts, windows.ends, strict=True):
        own = np.pad(found_WC[first : first + count].astype(np.int8), ((1, 1), (0, 0)))
        turns = np.diff(own, axis=0)
        runs = [
            Event(float(onset * WINDOW_S), min(float(offset * WINDOW_S), float(end)), label)
            for label in range(turns.shape[1])
            for onset, offset in zip(
                np.flatnonzero(turns[:, label] == 1), np.flatnonzero(turns[:, label] == -1), strict=True
            )
        ]
        events.append(sorted(runs))
    return events


def library_figures(windows: EventWindows, found: Sequence[Sequence[Event]]) -> dict[str, float | None]:
    """Return sed_eval's macro and micro F1 of segments of 1 s, and of events; one call a file, empty ones too."""
    sed_eval, _ = libraries()
    segments = sed_eval.sound_event.SegmentBasedMetrics(list(CLASSES), time_resolution=WINDOW_S)
    events = sed_eval.sound_event.EventBasedMetrics(list(CLASSES), t_collar=COLLAR_S, percentage_of_length=SHARE)
    for name, count, true, own in zip(windows.listing.names, windows.counts, windows.events, found, strict=True):
        reference, estimated = _rows(name, true), _rows(name, own)
        segments.evaluate(reference, estimated, evaluated_length_seconds=float(count * WINDOW_S))
        events.evaluate(reference, estimated)
    without = _f_measure(segments.results_class_wise_average_metrics)
    segments.empty_system_output_handling = events.empty_system_output_handling = "zero_score"
    return {
        "macro_f1": _f_measure(segments.results_class_wise_average_metrics), "macro_f1_without_missed": without,
        "micro_f1": _f_measure(segments.results_overall_metrics),
        "event_macro_f1": _f_measure(events.results_class_wise_average_metrics),
        "event_micro_f1": _f_measure(events.results_overall_metrics),
    }  # fmt: skip


def _rows(name: str, events: Iterable[Event]) -> list[dict[str, Any]]:
    return [
        {"filename": name, "onset": onset, "offset": offset, "event_label": CLASSES[label]}
        for onset, offset, label in events
    ]


def _f_measure(results: Any) -> float | None:
    """Return an F1 of sed_eval's; None where it is NaN."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of means over nothing
        value = float(results()["f_measure"]["f_measure"])
    return None if math.isnan(value) else round(value, 6)


def threshold_free(windows: EventWindows, scores_WC: np.ndarray) -> dict[str, float | None]:
    """Return PSDS of both scenarios, and the means over classes of average precision and AUC of windows.

    None: AUC where no class is both in and out of windows, and PSDS of one class, which sed_scores_eval does not know.
    """
    truth_WC = windows.truth
    have = [c for c in range(truth_WC.shape[1]) if truth_WC[:, c].any()]
    both = [c for c in have if not truth_WC[:, c].all()]
    told = {name: _psds(windows, scores_WC, have, name) if len(have) > 1 else None for name in PSDS}
    told["map"] = float(np.mean([average_precision(scores_WC[:, c], truth_WC[:, c]) for c in have]))
    told["auc"] = float(np.mean([auc(scores_WC[:, c], truth_WC[:, c]) for c in both])) if both else None
    return {name: None if value is None else round(value, 6) for name, value in told.items()}


def _psds(windows: EventWindows, scores_WC: np.ndarray, have: list[int], scenario: str) -> float:
    """Return PSDS over the classes that have events; events of a class that touch or overlap are one, as it demands."""
    _, library = libraries()
    labels = [CLASSES[c] for c in have]
    scores, truth, lengths = {}, {}, {}
    for name, first, count, end, events in zip(
        windows.listing.names, windows.firsts, windows.counts, windows.ends, windows.events, strict=True
    ):
        onsets = np.arange(count) * WINDOW_S
        own = scores_WC[first : first + count][:, have].astype(np.float64)
        table = np.column_stack([onsets, np.append(onsets[1:], end), own])
        scores[name] = _writable_frame()(table, columns=["onset", "offset", *labels])
        truth[name] = [(onset, offset, CLASSES[label]) for onset, offset, label in joined(events)]
        lengths[name] = float(end)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value, *_ = library.intersection_based.psds(
            scores=scores, ground_truth=truth, audio_durations=lengths, **PSDS[scenario]
        )
    return float(value)


@cache
def _writable_frame() -> Any:
    """Return a DataFrame whose arrays may be written: sed_scores_eval 0.0.4 wants that, and pandas 3 hands out none."""
    import pandas

    class Writable(pandas.DataFrame):
        @property
        def _constructor(self) -> Any:
            return Writable

        def to_numpy(self, *words: Any, **options: Any) -> np.ndarray:
            return super().to_numpy(*words, **options).copy()

    return Writable


def joined(events: Iterable[Event]) -> list[Event]:
    """Return the events with those of one class that touch or overlap as one."""
    found: list[Event] = []
    for event in sorted(events, key=lambda event: (event.label, event)):
        if found and found[-1].label == event.label and event.onset <= found[-1].offset:
            found[-1] = found[-1]._replace(offset=max(found[-1].offset, event.offset))
        else:
            found.append(event)
    return found
