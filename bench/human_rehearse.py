"""`bench human rehearse`: simulated raters with a known preference answer a study, so that it can be tried and sized.

Their answers go the way of all others into the log, each marked as simulated, and are never counted with people's.
"""

import secrets
from dataclasses import dataclass

import numpy as np

from ..shards.checks import check_ranges
from .human import Study
from .human_answers import AnswerLog, Session

SLOWEST_MS = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class RehearseConfig:
    """What simulated raters are like."""

    raters: int = 30
    preference: float = 0.75
    """How often they choose the own picture, where they decide."""
    neither: float = 0.1
    """How often they do not decide."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        check_ranges(self, raters=(1, 10_000), preference=(0, 1), neither=(0, 1), seed=(0, 2**63 - 1))


def rehearse(config: RehearseConfig, study: Study, log: AnswerLog) -> list[Session]:
    """Add the answers of simulated raters, who see every photo of a catch trial for what it is."""
    rng = np.random.Generator(np.random.Philox(key=config.seed))
    sessions = []
    for _ in range(config.raters):
        session = log.begin(secrets.token_urlsafe(24), simulated=True)
        while (shown := session.next) is not None:
            other = "right" if shown.picture_side == "left" else "left"
            side = shown.picture_side if rng.random() < config.preference else other
            side = "neither" if rng.random() < config.neither else side
            side = shown.picture_side if shown.trial.is_catch else side
            time_ms = int(rng.integers(shown.trial.sound_ms, shown.trial.sound_ms + SLOWEST_MS))
            log.answer(session, side, time_ms=time_ms, plays=1)
        sessions.append(session)
    return sessions
