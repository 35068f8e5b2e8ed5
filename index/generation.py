"""What was asked of `generate`, and what came of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..shards.checks import check_ranges
from .noise_search import SearchConfig, Tried
from .pictures import Shot
from .pipelines import PipelineConfig
from .prompts import Prompt, PromptConfig
from .rerank import Ranked

REQUEST, RECORD, SHEET, PAGE = "request.json", "generation.json", "sheet.png", "index.html"
CANDIDATES, ESTIMATES, PREVIEWS, KEPT = "candidates", "estimates", "previews", "kept"
MAX_STEPS = 1000
MAX_SIDE_PX = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig:
    """What `unibrivl generate` was asked."""

    place: Path
    """Index, or run, that scores."""
    audio: Path
    pipeline: PipelineConfig
    out: Path
    """Folder of the pictures and their record."""
    prompts: PromptConfig = field(default_factory=PromptConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    keep: int = 4
    """Pictures that are chosen."""
    steps: int | None = None
    """None: as many as the pipeline's family takes."""
    guidance: float | None = None
    """None: as the pipeline's family wants it."""
    size_px: tuple[int, int] | None = None
    """Width and height; None: what the pipeline was trained for."""
    batch: int | None = None
    """Pictures at once; None: as memory allows, 8 at most."""
    previews: bool = False
    """Writes previews of what is being made."""
    judge: Path | None = None
    """Another run, or the folder of a CLIP-like model, whose opinion stands beside the verifier's."""
    run: Path | None = None
    """Where the run of the index lies, if it was moved."""
    image_tower: str | None = None
    """The image tower's name where its weights lie now, if they were moved."""

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        check_ranges(self, keep=(1, None), steps=(1, MAX_STEPS), guidance=(0, 100), batch=(1, 1024))
        if self.size_px is not None and not all(8 <= side <= MAX_SIDE_PX for side in self.size_px):
            raise ValueError(f"size is {'x'.join(map(str, self.size_px))}, want sides of 8 to {MAX_SIDE_PX} pixels")


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A candidate in its place."""

    tried: Tried
    ranked: Ranked | None
    """None where it was dropped."""
    kept: bool
    judged: float | None
    """What the judge says; None without one, or where it was dropped."""
    worded: float | None
    """Cosine with its prompt, where the run reads text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """What was made and chosen."""

    config: GenerateConfig
    sound: np.ndarray
    """float32 at 16 kHz."""
    prompts: tuple[Prompt, ...]
    shot: Shot
    pipeline: dict[str, Any]
    verifier: dict[str, Any]
    judge: dict[str, Any] | None
    placed: tuple[Placed, ...]
    """Best first; dropped ones last, in the order of the trials."""
    background: tuple[float, float] | None
    """Mean and deviation of random pairs' cosines; None without an index."""
    evaluations: int
    """Pictures that passed the network, those of earlier runs of the same request included."""
    found: int
    """Pictures that were there already."""

    @property
    def kept(self) -> tuple[Placed, ...]:
        """Return what was chosen, best first."""
        return tuple(one for one in self.placed if one.kept)

    def rows(self) -> list[dict[str, Any]]:
        """Return the ranked list as plain values; the dropped ones last."""
        return [
            {
                "path": None if one.tried.made is None else str(one.tried.made.path),
                "prompt": self.prompts[one.tried.candidate.prompt].text, "seed": one.tried.candidate.seed,
                "score": None if one.ranked is None else one.ranked.score,
                "z": None if one.ranked is None else one.ranked.calibrated,
                "percentile": None if one.ranked is None else one.ranked.percentile,
                "kept": one.kept, "dropped_reason": one.tried.dropped or None,
            }
            for one in self.placed
        ]  # fmt: skip
