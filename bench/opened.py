"""Indexes, judges and pipelines that a measurement asks for; if one is missing, the row says which files it needs."""

from pathlib import Path

from ..index.encoders import place_of_run
from ..index.engine import Engine, open_engine
from ..index.errors import PipelineError
from ..index.judge import Judge, open_judge
from ..index.pipelines import INDEX_FILE, Pipeline, PipelineConfig, local_folder, open_pipeline
from ..index.snapshot import open_snapshot
from ..model.checkpoint import CHECKPOINT_FILE
from .errors import NeedsError

CURRENT = "CURRENT"


def open_index(place: Path) -> Engine:
    """Open an index with the encoder that built it.

    Raises:
        NeedsError: there is no index, or its run is gone.
        IndexStoreError, IndexMismatchError, CheckpointError: they are there, and not in order.
    """
    if not (place / CURRENT).is_file():
        what = "holds no index" if place.is_dir() else "there is no such folder"
        raise NeedsError(
            f"{place}: {what}; want a folder of unibrivl index",
            status="needs-data",
            expected=(f"{place.name}/{CURRENT}",),
        )
    run = place_of_run(open_snapshot(place), None)
    if not (run / CHECKPOINT_FILE).is_file():
        raise NeedsError(
            f"{place}: its run is not at {run}; put it back there, or build the index again", status="needs-weights",
            expected=(f"{run.name}/{CHECKPOINT_FILE}",),
        )  # fmt: skip
    return open_engine(place)


def open_second(place: Path, engine: Engine) -> Judge:
    """Open a judge of what `engine` chooses.

    Raises:
        NeedsError: the folder has no weights.
        GenerateError, CheckpointError: as `open_judge`.
    """
    if not (place / CHECKPOINT_FILE).is_file() and not (place / "config.json").is_file():
        raise NeedsError(
            f"{place}: neither a run nor a CLIP-like model", status="needs-weights",
            expected=(f"{place.name}/{CHECKPOINT_FILE}",),
        )  # fmt: skip
    return open_judge(place, engine)


def open_given_pipeline(name: str) -> Pipeline:
    """Open a pipeline by folder or hub id.

    Raises:
        NeedsError: it is not there and cannot be had.
        PipelineError: it is there, and not in order.
    """
    try:
        local_folder(name)
    except PipelineError as e:
        raise NeedsError(str(e), status="needs-weights", expected=(f"{Path(name).name}/{INDEX_FILE}",)) from e
    return open_pipeline(PipelineConfig(name=name))
