"""Figures of sound events: sed_eval's trap as it is, our own counts equal to it, thresholds, events, intervals."""

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.bench.desed import CLASSES, Event, Listing
from unibrivl.bench.desed_windows import EventWindows
from unibrivl.bench.errors import BenchError
from unibrivl.bench.sed_figures import (
    best_thresholds,
    counts,
    f1,
    file_interval,
    found_events,
    joined,
    libraries,
    library_figures,
    macro_f1,
    shares,
    threshold_free,
)

DOG, CAT = CLASSES.index("Dog"), CLASSES.index("Cat")


def windows_of(*files: list[Event], length: float = 10.0) -> EventWindows:
    names = tuple(f"{number}.wav" for number in range(len(files)))
    listing = Listing("real-val", names, tuple(tuple(sorted(own)) for own in files), Path("nowhere"), len(files))
    return EventWindows(listing.paths, np.full(len(files), length), listing)


def found_of(windows: EventWindows, *cells: tuple[int, int]) -> np.ndarray:
    found = np.zeros_like(windows.truth)
    for window, label in cells:
        found[window, label] = True
    return found


def test_a_missed_class_leaves_sed_eval_s_mean_unless_it_counts_zero() -> None:
    """Of two classes one is found and one missed: 1.0 without zero scores, 0.5 with them (sed_eval issue 14)."""
    windows = windows_of([Event(0.0, 1.0, DOG), Event(2.0, 3.0, CAT)], [])
    found = found_of(windows, (0, DOG))
    told = library_figures(windows, found_events(windows, found))
    assert told["macro_f1"] == 0.5 and told["macro_f1_without_missed"] == 1.0
    assert told["micro_f1"] == told["event_micro_f1"] == pytest.approx(2 / 3, abs=1e-6)
    assert told["event_macro_f1"] == 0.5
    assert macro_f1(counts(windows, found).sum(axis=0)) == 0.5


def test_nothing_found_is_zero_and_without_missed_classes_no_figure() -> None:
    windows = windows_of([Event(0.0, 1.0, DOG)], [])
    told = library_figures(windows, found_events(windows, found_of(windows)))
    assert told["macro_f1"] == told["micro_f1"] == told["event_macro_f1"] == 0
    assert told["macro_f1_without_missed"] is None


def test_files_without_events_count_when_something_is_heard_in_them() -> None:
    """One hit, and one false alarm in a file without events: F1 is 2 / 3, and would be 1 were the file left out."""
    windows = windows_of([Event(0.0, 1.0, DOG)], [])
    told = library_figures(windows, found_events(windows, found_of(windows, (0, DOG), (15, DOG))))
    assert told["macro_f1"] == told["event_macro_f1"] == pytest.approx(2 / 3, abs=1e-6)


cells = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 3)), max_size=25)
times = st.tuples(st.integers(0, 95), st.integers(1, 50), st.integers(0, 3))


@settings(max_examples=40, deadline=None)
@given(true=st.lists(st.lists(times, max_size=4), min_size=3, max_size=3), cells=cells)
def test_our_counts_are_sed_eval_s(true: list[list[tuple[int, int, int]]], cells: list[tuple[int, int]]) -> None:
    """Events anywhere, in tenths of a second; the bounds are of six kept digits."""
    files = [[Event(onset / 10, (onset + long) / 10, label) for onset, long, label in own] for own in true]
    windows = windows_of(*files, length=9.7)
    found = found_of(windows, *cells)
    own = counts(windows, found)
    told = library_figures(windows, found_events(windows, found))
    if not windows.truth.any():
        assert told["macro_f1"] is None
        return
    assert told["macro_f1"] == pytest.approx(float(macro_f1(own.sum(axis=0))), abs=1e-6)
    assert told["micro_f1"] == pytest.approx(float(f1(own.sum(axis=(0, 1)))), abs=1e-6)
    assert shares(own).mean() == pytest.approx(float(macro_f1(own.sum(axis=0))), abs=1e-9)
    joined_truth = found_events(windows, windows.truth)
    assert library_figures(windows, joined_truth)["macro_f1"] == 1  # a grid of sed_eval's segments costs them nothing


def test_neighbours_are_one_event_that_ends_with_its_file() -> None:
    windows = windows_of([], [], length=3.5)
    found = found_of(windows, (0, DOG), (1, DOG), (3, DOG), (4, CAT), (7, CAT))
    assert found_events(windows, found) == [
        [Event(0.0, 2.0, DOG), Event(3.0, 3.5, DOG)],
        [Event(0.0, 1.0, CAT), Event(3.0, 3.5, CAT)],
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.booleans()), min_size=1, max_size=12))
def test_the_best_threshold_is_the_best_of_all(pairs: list[tuple[float, bool]]) -> None:
    scores, truth = np.array([score for score, _ in pairs]), np.array([true for _, true in pairs])
    (best,) = best_thresholds(scores[:, None], truth[:, None])
    if not truth.any():
        assert best == np.inf
        return

    def reached(threshold: float) -> float:
        found = scores > threshold
        return 2 * (found & truth).sum() / (found.sum() + truth.sum())

    assert reached(best) == pytest.approx(max(map(reached, [-1.0, *np.unique(scores)])))
    assert best not in scores  # in the middle between two, so that rounding decides nothing


def test_shares_compare_files_and_intervals_draw_them() -> None:
    """A run that misses more files has shares below; the interval holds the figure and narrows with more files."""
    windows = windows_of(*([Event(0.0, 2.0, DOG), Event(4.0, 5.0, CAT)] for _ in range(40)))
    good, bad = windows.truth.copy(), windows.truth.copy()
    bad[200:] = False
    few, many = counts(windows, bad)[::2], counts(windows, bad)
    assert shares(counts(windows, good)).tolist() == pytest.approx([1.0] * 40)
    assert shares(many)[20:].max() < shares(many)[:20].min()
    (low, high), (low_few, high_few) = file_interval(many, 0), file_interval(few, 0)
    assert low < macro_f1(many.sum(axis=0)) < high and high - low < high_few - low_few
    assert file_interval(counts(windows, good), 0) == [1, 1]


def test_scores_that_are_right_reach_the_ceiling_and_others_do_not() -> None:
    """Events on the grid: PSDS, average precision and AUC are 1; turned scores are below chance."""
    windows = windows_of([Event(0.0, 2.0, DOG), Event(4.0, 5.0, CAT)], [Event(2.0, 4.0, DOG)], [])
    scores = windows.truth * 0.5 + 0.1
    assert threshold_free(windows, scores) == {"psds1": 1, "psds2": 1, "map": 1, "auc": 1}
    turned = threshold_free(windows, -scores)
    assert turned["psds1"] == 0 and turned["auc"] == 0 and turned["map"] < 0.2
    assert threshold_free(windows, scores.astype(np.float32))["psds1"] == 1


def test_events_that_touch_are_one_for_psds() -> None:
    """It refuses others; DESED has such rows."""
    events = [Event(0.0, 1.0, DOG), Event(1.0, 2.0, DOG), Event(0.5, 1.5, CAT), Event(1.2, 1.3, CAT)]
    assert joined(events) == [Event(0.5, 1.5, CAT), Event(0.0, 2.0, DOG)]
    windows = windows_of(events, [])
    assert threshold_free(windows, windows.truth.astype(float))["psds2"] == 1


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *words: Any, **options: Any) -> Any:
        if name == "sed_eval":
            raise ModuleNotFoundError("No module named 'sed_eval'", name="sed_eval")
        return real(name, *words, **options)

    libraries.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BenchError, match=r"sed_eval is not installed; run pip install 'unibrivl\[tables\]'"):
        libraries()
    monkeypatch.undo()
    assert libraries()[0] is sys.modules["sed_eval"]


def test_what_has_no_figure_has_none() -> None:
    """Two classes in every window are never out of one; one class alone is none that sed_scores_eval measures."""
    for events in ([Event(0.0, 10.0, DOG), Event(0.0, 10.0, CAT)], [Event(0.0, 5.0, DOG)]):
        windows = windows_of(events)
        told = threshold_free(windows, windows.truth.astype(np.float64))
        assert told["map"] == 1 and (told["auc"], told["psds1"]) == ((None, 1) if len(events) > 1 else (1, None))
