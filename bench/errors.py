"""What can go wrong in a measurement."""

from .. import UnibrivlError


class BenchError(UnibrivlError):
    """A measurement that cannot be made, or a step of one that failed."""
