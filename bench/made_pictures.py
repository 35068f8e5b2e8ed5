"""Pictures of one prompt and several seeds, embedded: how much a score varies by the seed alone."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..index.engine import Engine
from ..index.pictures import Candidate, Shot
from ..index.studio import Studio
from ..index.verifier import picture_part
from .errors import BenchError
from .opened import open_given_pipeline

PROMPT = "a photo"


@dataclass(frozen=True, slots=True)
class MadePictures:
    """Pictures that differ by their seeds."""

    vectors_ND: np.ndarray
    """float32, unit norm."""
    facts: dict[str, Any]
    """What they were made with."""


def make_pictures(engine: Engine, pipeline: str, count: int, seed: int) -> MadePictures:
    """Make and embed pictures of `PROMPT`, as the pipeline's family wants it; flagged and black ones are left out.

    Raises:
        BenchError: fewer than two are left.
        NeedsError: the pipeline cannot be had.
        PipelineError: it is not in order, or fails.
    """
    opened = open_given_pipeline(pipeline)
    side, family = opened.side_px, opened.family
    shot = Shot(steps=family.steps, guidance=family.guidance, width_px=side, height_px=side)
    with tempfile.TemporaryDirectory() as work:
        studio = Studio(opened, (PROMPT,), shot, Path(work), Path(work))
        made = studio.make([Candidate(prompt=0, seeds=(seed + number,)) for number in range(count)])
        parts = [picture_part(engine, one.picture) for one in made if not one.dropped]
    if len(parts) < 2:
        raise BenchError(f"{pipeline} made {len(parts)} pictures that are neither flagged nor black, want 2 at least")
    facts = {"seeds": len(parts), "prompt": PROMPT, "steps": shot.steps, "pipeline": opened.fingerprint}
    return MadePictures(engine.embed(parts), facts)
