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


class DecodeError(UnibrivlError):
    """One clip that cannot be turned into sound and picture.

    Attributes:
        code: the reason as `class.reason` (docs/formats.md lists them), the unit in which failures are counted.
    """

    def __init__(self, code: str, message: str) -> None:
        """Keep `code` beside the one-line `message`."""
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[str, str]]:
        """Survive the way from a worker process to its parent."""
        return DecodeError, (self.code, str(self))
