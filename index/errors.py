"""What can be wrong with an index or a query."""

from .. import UnibrivlError


class IndexStoreError(UnibrivlError):
    """An index that is missing, damaged, locked or of another format version."""


class IndexMismatchError(UnibrivlError):
    """An index and an encoder that do not belong together."""


class QueryError(UnibrivlError):
    """A query that cannot be answered: its file is no sound or picture, or the index has nothing of that kind."""


class MilvusError(UnibrivlError):
    """A Milvus server or file that cannot be reached, does not answer, or does not hold what was pushed there."""


class RequestError(UnibrivlError):
    """A request to the server that is refused.

    Attributes:
        status: of HTTP.
        code: the kind of mistake in one word, for programs.
        hint: what to do; may be empty.
    """

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        """Keep what the answer needs."""
        super().__init__(message)
        self.status, self.code, self.hint = status, code, hint


class GateError(UnibrivlError):
    """An index that does not reach the recall asked for, or not within the memory given."""


class PipelineError(UnibrivlError):
    """A pipeline that cannot be had, is of another kind, or does not fit into memory."""


class GenerateError(UnibrivlError):
    """Pictures that cannot be made as asked: of another request, without prompts, or all of them dropped."""
