"""The cheapest parameters that reach a recall: measured on queries, of each number of candidates in turn.

Shapes: Q queries, K answers.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .ann import Setting
from .asked import Asked
from .recall import Recall, recalls, summarize
from .search import Part, search_parts

K_FACTORS = (2, 4, 8, 16, 32)
"""From least to most: refining many candidates costs more than looking through lists."""
LADDER_STEP = 1.3
"""From one number of lists to the next; finer steps would be within the noise of the measurement."""
PLATEAU = 4, 0.002
"""Steps over which the recall must rise by so much: else the candidates are too few, however many lists are read."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """A setting and what was measured with it."""

    setting: Setting
    recall: Recall
    cpu_s: float
    """Of one search with all queries; steadier than the wall's where other processes are busy."""
    wall_s: float


@dataclass(frozen=True, slots=True)
class Trial:
    """Queries with their true scores, and the segments that are searched."""

    parts: Sequence[Part]
    asked: Asked
    truth_QK: np.ndarray
    seed: int

    def run(self, setting: Setting, *, fill: bool = False) -> Tuned:
        """Search with a setting.

        Args:
            setting: how thorough.
            fill: search exactly where its lists hold too few rows, as serving does. Without, these are missing: too few
                lists would else be right always, and slow.
        """
        began = time.process_time(), time.perf_counter()
        wanted = setting.level + self.asked.spare
        hits = search_parts(self.parts, self.asked.queries_QD, wanted, setting, fill=fill)
        cpu_s, wall_s = time.process_time() - began[0], time.perf_counter() - began[1]
        found = recalls(self.asked.scores(hits), self.truth_QK, setting.level)
        return Tuned(setting, summarize(found, self.seed), cpu_s, wall_s)

    @property
    def nlist(self) -> int:
        """Most lists of any segment."""
        return max(part.ann.nlist for part in self.parts if part.ann is not None)


def tune(trial: Trial, level: int, wanted: float) -> tuple[Tuned | None, float]:
    """Return the fastest setting whose recall has a lower bound of at least `wanted`, and the best recall seen.

    The setting is None where none reaches it.

    Args:
        trial: what is searched.
        level: answers that count.
        wanted: recall.
    """
    best, most, reached = None, trial.nlist, 0.0
    for k_factor in K_FACTORS:
        good, value = _climb(trial, level, k_factor, wanted, most)
        reached = max(reached, value)
        if good is None and best is not None:
            break
        if good is not None:
            best = good if best is None or good.cpu_s < best.cpu_s else best
            most = good.setting.nprobe - 1  # more candidates pay only if fewer lists suffice
        if most < 1:
            break
    return best, reached


def _climb(trial: Trial, level: int, k_factor: int, wanted: float, most: int) -> tuple[Tuned | None, float]:
    """Return the first number of lists that suffices, and the best recall seen."""
    values: list[float] = []
    steps, least_rise = PLATEAU
    for nprobe in ladder(1, most):
        tried = trial.run(Setting(nprobe=nprobe, k_factor=k_factor, level=level))
        if tried.recall.low >= wanted:
            return trial.run(tried.setting), tried.recall.value  # once more: the first run warms what it reads
        values.append(tried.recall.value)
        if len(values) > steps and values[-1] - values[-1 - steps] < least_rise:
            break
    return None, max(values)


def verify(trial: Trial, setting: Setting, wanted: float) -> Tuned | None:
    """Return the setting, or the next more thorough one, whose lower bound holds for other queries too; None: none."""
    for step, nprobe in enumerate(ladder(setting.nprobe, trial.nlist)):
        # every other step also refines twice as many candidates: which of the two is lacking is not known
        k_factor = max(setting.k_factor, min(K_FACTORS[-1], setting.k_factor << step // 2))
        tried = trial.run(Setting(nprobe=nprobe, k_factor=k_factor, level=setting.level))
        if tried.recall.low >= wanted:
            return tried
    return None


def ladder(least: int, most: int) -> Iterator[int]:
    """Yield growing numbers of lists from `least` to `most`, both included."""
    value = float(least)
    while round(value) < most:
        yield round(value)
        value = max(value * LADDER_STEP, value + 1)
    yield most
