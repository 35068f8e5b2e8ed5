"""What a run writes down as it goes: a line a step and a line a validation, and the same for TensorBoard."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..shards.atomic import naming, write_bytes
from ..shards.checks import parse_json
from .errors import TrainError
from .retrieval import RetrievalScores

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"
Validation = dict[str, RetrievalScores]
"""Scores of both directions, `audio_to_image` and `image_to_audio`."""


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's `metrics.jsonl`, without those that a power cut tore or a disk damaged."""
    return [entry for _, entry in _entries(run / METRICS_FILE)]


def last_validation(run: Path) -> Validation | None:
    """Return the scores of a run's last validation."""
    for entry in reversed(read_metrics(run)):
        if "validation" in entry:
            return _scores(entry["validation"])
    return None


class Journal:
    """Appends to `metrics.jsonl`, in the one process that writes."""

    def __init__(self, run: Path, *, step: int, tensorboard: bool) -> None:
        """Go on after `step`: what was written about later steps is forgotten, since they are made again.

        Raises:
            TrainError: TensorBoard is wanted and not installed.
        """
        self.path = run / METRICS_FILE
        kept = [line for line, entry in _entries(self.path) if entry["step"] <= step]
        data = "".join(f"{line}\n" for line in kept).encode()
        if not self.path.exists() or self.path.read_bytes() != data:  # a finished run may lie where nobody can write
            write_bytes(self.path, data)
        self._events = event_writer()(str(run / TENSORBOARD_DIR), purge_step=step + 1) if tensorboard else None

    def write(self, entry: dict[str, Any]) -> None:
        """Add a line; it has a `step`."""
        with naming(self.path), self.path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(entry) + "\n")
        if self._events is not None:
            for name, value in _scalars(entry):
                self._events.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        """Write what TensorBoard's writer holds back."""
        if self._events is not None:
            self._events.close()


def event_writer() -> Any:
    """Return TensorBoard's writer class.

    Raises:
        TrainError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as e:
        raise TrainError(
            "--tensorboard needs the package tensorboard; install it (the extra `tensorboard`), or leave the option out"
        ) from e
    return SummaryWriter


def _scalars(entry: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of an entry under the names that TensorBoard groups them by."""
    kind = "validation" if "validation" in entry else "train"
    for name, value in entry.items():
        if isinstance(value, dict):
            for direction, scores in value.items():
                for figure, number in scores.items():
                    yield f"{kind}/{direction}/{figure}", number
        elif isinstance(value, list):
            for number, one in enumerate(value):
                yield f"{kind}/{name}/{number}", one
        elif isinstance(value, int | float) and name != "step":
            yield f"{kind}/{name}", value


def _entries(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return each whole line of a log, and what it says."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [(line, entry) for line in lines if (entry := _entry(line)) is not None]


def _entry(line: str) -> dict[str, Any] | None:
    """Return what a line of the log says, or None if it was torn or damaged."""
    try:
        entry = parse_json(line)
        if not isinstance(entry["step"], int):
            return None
        _scores(entry.get("validation", {}))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return entry


def _scores(validation: dict[str, dict[str, Any]]) -> Validation:
    return {name: RetrievalScores(**figures) for name, figures in validation.items()}
