"""What can go wrong in a measurement."""

from .. import UnibrivlError


class BenchError(UnibrivlError):
    """A measurement that cannot be made, or a step of one that failed."""


class NeedsError(BenchError):
    """Weights or data are missing.

    Attributes:
        status: `needs-weights` or `needs-data`, of the row in a table.
        expected: names of the files that would be read.
    """

    def __init__(self, message: str, *, status: str, expected: tuple[str, ...]) -> None:
        """Keep what a row says in place of numbers."""
        super().__init__(message)
        self.status, self.expected = status, expected
