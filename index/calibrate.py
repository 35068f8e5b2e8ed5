"""Scores that compare across modalities: how far a cosine stands above those of random pairs.

Cosines with pictures and with sounds lie around different means, so that a list of both, sorted by cosine, holds one
of them first, whatever is asked (arXiv 2507.19054). The build records mean, deviation and quantiles of the cosines of
random pairs for every direction; a composed question has no such record, and is compared with a fixed sample of rows.
Shapes: N rows, D dimensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

SAMPLE_ROWS = 2000
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


def recorded_background(evaluation: Mapping[str, Any], query: str | None, target: str) -> Background | None:
    """Return what the build recorded for a direction; None where it did not."""
    told = evaluation.get("background", {}).get(f"{query}>{target}")
    if told is None:
        return None
    return Background(told["mean"], told["sd"], np.asarray(told["quantiles"], np.float64), "recorded")


def sampled_background(query_D: np.ndarray, sample_ND: np.ndarray) -> Background:
    """Return the cosines of one query with sampled rows."""
    cosines = (sample_ND @ query_D).astype(np.float64)
    return Background(
        float(cosines.mean()), float(cosines.std()), np.quantile(cosines, np.linspace(0, 1, len(SHARES))), "sampled"
    )
