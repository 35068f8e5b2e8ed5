"""The statistics of the human test: shares with their intervals, tests, agreement; NumPy and whole numbers only.

Shapes: R raters, I items, S resamples, C choices.
"""

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np


def wilson(successes: int, count: int, level: float = 0.95) -> tuple[float, float] | None:
    """Return the score interval of a share; None of nothing.

    Source: Wilson 1927, as method 3 of Newcombe, Statistics in Medicine 17 (1998).

    >>> [round(bound, 4) for bound in wilson(81, 263)]
    [0.2553, 0.3662]
    """
    if count == 0:
        return None
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, extra = successes / count, z * z / count
    middle = share + extra / 2
    reach = z * math.sqrt(share * (1 - share) / count + extra / (4 * count))
    low, high = ((middle + sign * reach) / (1 + extra) for sign in (-1, 1))
    return (0.0 if successes == 0 else low), (1.0 if successes == count else high)


def coin_p(successes: int, count: int) -> float:
    """Return the exact two-sided p of a share under a fair coin; 1 of nothing.

    >>> coin_p(8, 10)
    0.109375
    """
    more = max(successes, count - successes)
    tail = ways = math.comb(count, more)
    for k in range(more, count):
        ways = ways * (count - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**count)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the exact conditional p of pairs of which one answer only was right.

    Source: Fagerland, Lydersen, Laake, BMC Medical Research Methodology 13:91 (2013), whose first example this is.

    >>> round(mcnemar_p(1, 7), 3)
    0.07
    """
    return coin_p(only_first, only_first + only_second)


def krippendorff_alpha(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Return how far raters agree beyond chance, for nominal values; None where all values are the same or unpaired.

    Args:
        units: the values that each unit was given, without missing ones.

    Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), sections A to C.
    """
    paired = [list(values) for values in units if len(values) > 1]
    totals: dict[Hashable, float] = {}
    agreeing = 0.0
    for values in paired:
        counts = {value: values.count(value) for value in values}
        agreeing += sum(count * (count - 1) for count in counts.values()) / (len(values) - 1)
        for value, count in counts.items():
            totals[value] = totals.get(value, 0) + count
    n = sum(totals.values())
    expected = n * (n - 1) - sum(count * (count - 1) for count in totals.values())
    return None if expected == 0 else 1 - (n - 1) * (n - agreeing) / expected


def cluster_bootstrap(
    parts_RI: np.ndarray, wholes_RI: np.ndarray, *, seed: int, resamples: int, level: float = 0.95
) -> tuple[float, float] | None:
    """Return the interval of sum(parts) / sum(wholes) when raters and items are both drawn anew, with putting back.

    A rater who is drawn twice counts twice with every item, and the other way round, so both kinds of dependence widen
    the interval. A difference of two shares is one with -1 and 1 among the parts. None where nothing was answered.

    Source: the pigeonhole bootstrap, Owen, Annals of Applied Statistics 1 (2007); for two factors it errs on the
    wide side.
    """
    if not wholes_RI.any():
        return None
    rng = np.random.Generator(np.random.Philox(key=seed))
    raters, items = parts_RI.shape
    raters_SR = rng.multinomial(raters, np.full(raters, 1 / raters), resamples).astype(np.float64)
    items_SI = rng.multinomial(items, np.full(items, 1 / items), resamples).astype(np.float64)
    parts_S = ((raters_SR @ parts_RI) * items_SI).sum(axis=1)
    wholes_S = ((raters_SR @ wholes_RI) * items_SI).sum(axis=1)
    shares = parts_S[wholes_S > 0] / wholes_S[wholes_S > 0]
    low, high = np.quantile(shares, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)
