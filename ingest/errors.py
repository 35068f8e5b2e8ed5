"""What can go wrong on the way from a list to shards."""

from .. import UnibrivlError


class ListError(UnibrivlError):
    """A clip list that cannot be read at all: missing, empty, or of unknown columns."""


class PlanError(UnibrivlError):
    """A plan that does not fit what the output folder already holds."""


class IngestError(UnibrivlError):
    """A run of ingestion that did not reach what it was asked for."""


class SampleError(UnibrivlError):
    """A sample corpus that cannot be fetched or made."""


class ClipError(UnibrivlError):
    """One clip that cannot be turned into sound and picture, for now or for good.

    Attributes:
        code: the reason as `class.reason` (`reasons.py` lists them), the unit in which failures are counted. The
            class says what to do: those of `WAITS` and `AGAIN` are tried again at once.
    """

    def __init__(self, code: str, message: str) -> None:
        """Keep `code` beside the one-line `message`."""
        super().__init__(message)
        self.code = code

    @property
    def kind(self) -> str:
        """Return the class of the code."""
        return self.code.partition(".")[0]

    def __reduce__(self) -> tuple[type["ClipError"], tuple[str, str]]:
        """Survive the way from a worker process to its parent."""
        return ClipError, (self.code, str(self))


WAITS = frozenset({"throttle"})
"""The source wants a pause: all workers stop asking it for a while, and the clip is tried again, without end."""
AGAIN = frozenset({"transient"})
"""Tried again after a short pause, a few times."""
