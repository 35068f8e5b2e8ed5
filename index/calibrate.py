"""Scores that compare across modalities: how far a cosine stands above those of random pairs.

Cosines with pictures and with sounds lie around different means, so that a list of both, sorted by cosine, holds one
of them first, whatever is asked (arXiv 2507.19054). The build records mean, deviation and quantiles of the cosines of
random pairs for every direction; a composed question has no such record, and is compared with a fixed sample of rows.
Shapes: Q questions, N rows, D dimensions, K answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .compose import Composed
from .segment import Segment
from .snapshot import Snapshot

SAMPLE_ROWS = 1000
"""A deviation from so many is good to 2 %."""
MIN_SD = 1e-6
SHARES = np.linspace(0, 100, 101)


@dataclass(frozen=True, slots=True)
class Background:
    """The cosines of random pairs."""

    mean: float
    sd: float
    quantiles: np.ndarray
    """101 values, from the least to the largest."""
    source: Literal["recorded", "sampled"]
    """`recorded` at the build, of random queries; or `sampled` now, of this very query."""

    def calibrated(self, scores: np.ndarray) -> np.ndarray:
        """Return how many deviations cosines lie above the mean."""
        return (scores - self.mean) / max(self.sd, MIN_SD)

    def percentiles(self, scores: np.ndarray) -> np.ndarray:
        """Return how many percent of random pairs lie below, 0 to 100."""
        return np.interp(scores, self.quantiles, SHARES)


NOTHING = Background(0.0, 1.0, np.zeros(101), "sampled")
"""Where every row was deleted."""


class Calibrator:
    """Compares the answers of one snapshot with random pairs."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Read nothing yet; rows are sampled when first needed."""
        self._snapshot = snapshot
        self._samples: dict[str, np.ndarray] = {}

    def backgrounds(self, composed: Sequence[Composed], target: str) -> list[Background]:
        """Return the background of each question: the build's record where it has one part, else a sample's cosines."""
        found = [self._recorded(one, target) for one in composed]
        missing = [number for number, background in enumerate(found) if background is None]
        if missing and not len(self._sample(target)):
            found = [background or NOTHING for background in found]
        elif missing:
            scored_QD = np.stack([composed[number].scored_D for number in missing])
            cosines_QN = scored_QD @ self._sample(target).T
            for number, cosines in zip(missing, cosines_QN.astype(np.float64), strict=True):
                quantiles = np.quantile(cosines, SHARES / 100)
                found[number] = Background(float(cosines.mean()), float(cosines.std()), quantiles, "sampled")
        return [background for background in found if background is not None]

    def _recorded(self, composed: Composed, target: str) -> Background | None:
        told = self._snapshot.evaluation.get("background", {}).get(f"{composed.direction}>{target}")
        if told is None or len(composed.weights_P) > 1:
            return None
        return Background(told["mean"], told["sd"], np.asarray(told["quantiles"], np.float64), "recorded")

    def _sample(self, modality: str) -> np.ndarray:
        """Return the embeddings (N, D) float32 of live rows, drawn once, the same from any order of questions."""
        if modality not in self._samples:
            live = [_live_rows(self._snapshot, segment) for segment in self._snapshot.of(modality)]
            ends = np.cumsum([len(rows) for rows in live])
            drawn = np.random.default_rng(int(ends[-1])).permutation(int(ends[-1]))[:SAMPLE_ROWS]
            numbers = np.searchsorted(ends, drawn, side="right")
            places = drawn - np.concatenate([[0], ends])[numbers]
            rows = np.array([live[number][place] for number, place in zip(numbers, places, strict=True)], np.int64)
            self._samples[modality] = stored_vectors(self._snapshot, modality, numbers, rows)
        return self._samples[modality]


def _live_rows(snapshot: Snapshot, segment: Segment) -> np.ndarray:
    live = snapshot.live(segment)
    return np.arange(len(segment.rows)) if live is None else np.flatnonzero(live)


def stored_vectors(snapshot: Snapshot, modality: str, segments_K: np.ndarray, rows_K: np.ndarray) -> np.ndarray:
    """Return the stored embeddings of rows, float32 (K, D).

    Args:
        snapshot: holds them.
        modality: of the rows.
        segments_K: numbers within `snapshot.of(modality)`.
        rows_K: numbers within the segment.
    """
    segments = snapshot.of(modality)
    found_KD = np.empty((len(rows_K), segments[0].vectors_ND.shape[1]), np.float32)
    for number, segment in enumerate(segments):
        places = np.flatnonzero(segments_K == number)
        found_KD[places] = segment.vectors_ND[rows_K[places]]
    return found_KD
