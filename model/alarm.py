"""Notices a training run whose embeddings have become one: nothing else shows it, since the loss stays finite."""

import math
from collections.abc import Callable

STEPS = 200
SHARE = 0.01


class CollapseAlarm:
    """Says once that the loss has stayed at ln(candidates), where guessing leaves it."""

    def __init__(self, say: Callable[[str], None], *, steps: int = STEPS, share: float = SHARE) -> None:
        """Watch for `steps` steps in a row within `share` of the level.

        Args:
            say: is called once, with one line.
            steps: that make an alarm.
            share: of ln(candidates), by which the loss may differ.
        """
        self.say, self.steps, self.share = say, steps, share
        self.steps_there = 0
        self.has_spoken = False

    def feed(self, loss: float, candidates: float) -> None:
        """Take a step's mean cross-entropy (`LossTerms.per_direction`) and number of candidates."""
        level = math.log(candidates)
        is_there = level > 0 and abs(loss - level) <= self.share * level
        self.steps_there = self.steps_there + 1 if is_there else 0
        if self.steps_there >= self.steps and not self.has_spoken:
            self.has_spoken = True
            self.say(
                f"the loss has stayed at ln({candidates:.0f}) = {level:.2f} for {self.steps} steps: "
                "all embeddings look alike; lower --lr, or look at the data"
            )
