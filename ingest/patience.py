"""How long and how often a source is asked: pauses that all workers keep, and a few tries for passing faults.

A source that says "too many requests" is left alone by every worker at once; its refusals are no attempts. A fault of
the network is tried again a few times by the worker that met it.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ctypes import c_double
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from typing import Any

from .clips import Clip
from .errors import AGAIN, WAITS, ClipError, IngestError
from .sources import Medium, Source

MAX_TRIES = 4
"""Of a clip whose source fails in passing (`transient.*`)."""
FIRST_TRY_PAUSE_S = 0.5
LONGEST_PAUSE_S = 900.0
"""Between two requests to a source that refuses."""

GateState = tuple[float, float, float]
"""Seconds until a gate opens (0: it is open), its last pause and its pauses in a row in seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PatienceConfig:
    """How patient a run is with its source."""

    pause_s: float = 10.0
    """First pause after a refusal; it doubles while the refusals go on."""
    max_wait_s: float = 7200.0
    """Pauses in a row, in all, before the run ends and can be started again later."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        for name, most in (("pause_s", LONGEST_PAUSE_S), ("max_wait_s", 30 * 86_400)):
            if not 0 < getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}, want more than 0 and at most {most:g}")


class Gate:
    """Closed to all workers while the source wants a pause; lies in memory that they share."""

    def __init__(self, config: PatienceConfig, context: SpawnContext) -> None:
        """Open the gate."""
        self.config = config
        self._state: Any = context.Array(c_double, 3)  # open again at (monotonic), last pause, paused in a row

    def wait(self, beat: Callable[[], None]) -> None:
        """Return when the gate is open; call `beat` now and every second until then."""
        beat()
        while (left := self._state[0] - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
            beat()

    def refused(self, error: ClipError) -> None:
        """Close the gate for a while, unless another worker has just done so.

        Raises:
            IngestError: the source has refused for longer than the run is patient.
        """
        with self._state.get_lock():
            now = time.monotonic()
            if now < self._state[0]:
                return
            if self._state[2] >= self.config.max_wait_s:
                raise IngestError(
                    f"{error}; the source has refused for {self._state[2]:.0f} s; nothing is lost: "
                    "run the same command later"
                )
            pause = min(LONGEST_PAUSE_S, 2 * self._state[1] or self.config.pause_s)
            jittered = pause * random.uniform(0.75, 1.25)  # noqa: S311  (so that two machines do not knock together)
            self._state[:] = [now + jittered, pause, self._state[2] + jittered]

    def passed(self) -> None:
        """Note that the source answered."""
        if self._state[1]:
            self._state[1:] = [0.0, 0.0]

    @property
    def state(self) -> GateState:
        """How long it stays closed, and how it came to that."""
        until, pause, paused = self._state[:]
        return max(0.0, until - time.monotonic()), pause, paused

    def meet(self, state: GateState) -> None:
        """Hear what the gate of another machine has met: a refusal, unless this one is closed already, or an answer."""
        with self._state.get_lock():
            left_s, pause, paused = state
            if not pause:
                self.passed()
            elif left_s and time.monotonic() >= self._state[0]:
                self._state[:] = [time.monotonic() + left_s, pause, paused]


class GateMirror:
    """Keeps the gate of one machine like another one that all machines share."""

    def __init__(self, gate: Gate) -> None:
        """Begin with a gate that nobody has met yet."""
        self.gate = gate
        self._seen = gate._state[:]

    def news(self) -> GateState | None:
        """Return the gate's state if something was met here since it was last looked at."""
        with self.gate._state.get_lock():
            if self.gate._state[:] == self._seen:
                return None
            self._seen = self.gate._state[:]
            return self.gate.state

    def follow(self, state: GateState) -> None:
        """Take over the state of the shared gate, unless something was met here in the meantime."""
        with self.gate._state.get_lock():
            if self.gate._state[:] == self._seen:
                self.gate._state[:] = [time.monotonic() + state[0], *state[1:]]
                self._seen = self.gate._state[:]


@contextmanager
def patiently(
    source: Source, clip: Clip, gate: Gate, beat: Callable[[], None], on_try: Callable[[ClipError], None]
) -> Iterator[Medium]:
    """Open the clip's medium, with as many tries and pauses as its errors ask for.

    Args:
        source: where the medium is.
        clip: whose medium is wanted.
        gate: of the source.
        beat: called before each try and while waiting, which is no sign of a hang.
        on_try: hears of each error that is not the last word.

    Raises:
        ClipError: the last word.
        IngestError: the source refuses for good.
    """
    with ExitStack() as stack:
        yield _enter(stack, source, clip, gate, beat, on_try)


def _enter(
    stack: ExitStack,
    source: Source,
    clip: Clip,
    gate: Gate,
    beat: Callable[[], None],
    on_try: Callable[[ClipError], None],
) -> Medium:
    tries = 0
    while True:
        gate.wait(beat)
        try:
            medium = stack.enter_context(source.open(clip))
        except ClipError as e:
            if e.kind in WAITS:
                on_try(e)
                gate.refused(e)
                continue
            if e.kind not in AGAIN:  # the source did answer
                gate.passed()
            tries += 1
            if e.kind not in AGAIN or tries == MAX_TRIES:
                raise
            on_try(e)
            time.sleep(FIRST_TRY_PAUSE_S * 2 ** (tries - 1))
        else:
            gate.passed()
            return medium
