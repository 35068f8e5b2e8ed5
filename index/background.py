"""How alike unrelated things score: the scale on which answers of different modalities can be compared.

Raw cosines of two modalities are not comparable: each pair of modalities has its own mean and spread.
Shapes: Q queries, N rows, D dimensions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .asked import gather_queries, sample_rows

SAMPLE_ROWS = 2000
PAIRS = 200_000
QUANTILES = 101
DIGITS = 6


def measure_background(
    vectors: Mapping[str, Sequence[np.ndarray]], queries: Mapping[str, np.ndarray], seed: int
) -> dict[str, Any]:
    """Return mean, deviation and quantiles of the cosines of random pairs by direction, such as `audio>image`.

    Args:
        vectors: float16 (N, D) of the segments, by modality.
        queries: held-out queries float32 (Q, D) by modality; those that are missing are sampled from the segments.
        seed: of the samples; equal input and seed give equal figures.
    """
    found = {}
    for target in sorted(vectors):
        rows, places_N2 = sample_rows(vectors[target], SAMPLE_ROWS, seed)
        for modality, asked in gather_queries(vectors, queries, target, seed).items():
            rng = np.random.default_rng([seed, len(found)])
            left, right = (rng.integers(0, len(of), PAIRS) for of in (asked.queries_QD, rows))
            if asked.own_Q2 is not None:  # a row is no random partner of itself
                others = (asked.own_Q2[left] != places_N2[right]).any(axis=1)
                left, right = left[others], right[others]
            found[f"{modality}>{target}"] = _describe((asked.queries_QD @ rows.T)[left, right])
    return found


def _describe(cosines: np.ndarray) -> dict[str, Any]:
    if not len(cosines):  # the index holds one row, and the query is that row
        return {"mean": 0.0, "sd": 1.0, "quantiles": [0.0] * QUANTILES}
    values = cosines.astype(np.float64)
    quantiles = np.quantile(values, np.linspace(0, 1, QUANTILES))
    mean, sd, *rest = (round(float(x), DIGITS) for x in (values.mean(), values.std(), *quantiles))
    return {"mean": mean, "sd": sd, "quantiles": rest}
