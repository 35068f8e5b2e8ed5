"""Runs `unibrivl` under a clock that jumps by hours, forward and back, each time that it is read.

`UNIBRIVL_DRILL_CLOCK` is the seed of the jumps. Worker processes load this module again and get a clock of their own.
What measures spans (`time.monotonic`, `time.perf_counter`) stays: no change of the clock moves it.
"""

import os
import random
import runpy
import time
from collections.abc import Callable
from typing import Any

SEED = "UNIBRIVL_DRILL_CLOCK"
JUMP_S = 12 * 3600
"""The farthest that one reading lies from the true time."""


def jumping(real: Callable[[], Any], scale: int) -> Callable[[], Any]:
    """Return a clock that is wrong by up to twelve hours, another amount at every reading.

    Args:
        real: the true clock.
        scale: its units in a second.
    """
    draws = random.Random(f"{os.environ.get(SEED)} {scale}")  # noqa: S311

    def read() -> Any:
        return real() + type(real())(draws.uniform(-JUMP_S, JUMP_S) * scale)

    return read


if os.environ.get(SEED):
    time.time = jumping(time.time, 1)
    time.time_ns = jumping(time.time_ns, 10**9)

if __name__ == "__main__":
    runpy.run_module("unibrivl", run_name="__main__")
