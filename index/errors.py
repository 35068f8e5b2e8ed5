"""What can be wrong with an index or a query."""

from .. import UnibrivlError


class IndexStoreError(UnibrivlError):
    """An index that is missing, damaged, locked or of another format version."""


class IndexMismatchError(UnibrivlError):
    """An index and an encoder that do not belong together."""


class QueryError(UnibrivlError):
    """A query that cannot be answered: its file is no sound or picture, or the index has nothing of that kind."""


class GateError(UnibrivlError):
    """An index that does not reach the recall asked for, or not within the memory given."""
