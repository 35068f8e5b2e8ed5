"""UniBriVL: search across sound and sight.

The package lives at the repository root; its parts depend on each other one way only:
``ingest -> shards <- model <- index <- bench, cli`` (docs/architecture.md).

Every error that a user can cause is a `UnibrivlError`, whose message is one line:

    UnibrivlError
    |-- ingest: ListError, PlanError, ClipError, SampleError, IngestError
    |-- shards: ShardError
    |-- model:  CheckpointError, LostProcessError, TextError, TowerError, TrainError
    |-- index:  IndexStoreError, IndexMismatchError, QueryError, GateError, MilvusError, RequestError, PipelineError, \
GenerateError
    `-- bench:  BenchError, NeedsError
"""

from typing import Any

__version__ = "0.1.0"


class UnibrivlError(Exception):
    """A mistake in what the user gave, or a fault of a file: one line says what, where and what to do.

    Attributes:
        figures: what was reached all the same, as plain JSON values, for commands with `--json`.
    """

    def __init__(self, message: str, *, figures: dict[str, Any] | None = None) -> None:
        """Keep `figures` beside the one-line `message`."""
        super().__init__(message)
        self.figures = figures or {}


__all__ = ["UnibrivlError", "__version__"]
