"""Makes pictures of prompts and seeds, chunk by chunk, each whole on disk before the next chunk begins.

A candidate is made from its own generator on the processor, so that its picture depends on nothing but its own seeds:
not on its place, its neighbours, the size of the chunk (but for rounding), or on what was there when a run went on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import UnibrivlError
from ..shards.atomic import write_bytes
from .denoised import Watched, count_evaluations, decode, watch
from .errors import PipelineError
from .memory import available_gb
from .pictures import Candidate, Made, Shot, png, read_made, write_made
from .pipelines import Pipeline, first_line, is_out_of_memory, quiet_transformers

MAX_CHUNK = 8
MEMORY_SHARE = 0.5
"""Of what is available, that a chunk may take."""
ACTIVATIONS = 4
"""Copies of the widest layer at full size that decoding holds."""
PREVIEWS = 4
"""Previews of a picture that is being made."""
UNKNOWN_GB = 4.0
"""Taken where the system does not say what is available."""

Progress = Callable[[int, int, str], None]


@dataclass(slots=True)
class Studio:
    """A pipeline with the prompts and settings of one request, and where its pictures lie."""

    pipeline: Pipeline
    prompts: tuple[str, ...]
    shot: Shot
    folder: Path
    """Of the pictures."""
    estimates: Path
    """Of what `estimate` returns."""
    previews: Path | None = None
    """Of previews of what is being made; None: none are written."""
    chunk: int | None = None
    """Pictures at once; None: as many as memory holds, 8 at most. Halved when memory does not suffice."""
    probes: int = 0
    """Evaluations of the network for noises alone."""
    found: int = 0
    """Pictures and estimates that were there already."""
    _noises: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def make(self, candidates: Sequence[Candidate], progress: Progress = lambda done, total, text: None) -> list[Made]:
        """Return finished candidates in their order; those on disk are read, only the others made.

        Raises:
            PipelineError: the pipeline fails, or not even one picture fits into memory.
            GenerateError: a file on disk is not what it is named after.
        """
        return self._complete(candidates, self.folder, None, progress)

    def estimate(
        self, candidates: Sequence[Candidate], steps: int, progress: Progress = lambda done, total, text: None
    ) -> list[Made]:
        """Return the denoised estimates of candidates after the first of their steps, as `make` does.

        Raises:
            PipelineError, GenerateError: as `make`, or the pipeline gives no estimates.
        """
        return self._complete(candidates, self.estimates, steps, progress)

    def _complete(
        self, candidates: Sequence[Candidate], folder: Path, steps: int | None, progress: Progress
    ) -> list[Made]:
        paths = {one: folder / f"{one.name}.png" for one in candidates}
        made = {one: found for one, path in paths.items() if (found := read_made(path, one, self.facts(one, steps)))}
        self.found += len(made)
        missing = [one for one in paths if one not in made]
        progress(len(made), len(paths), "")
        while missing:
            chunk = missing[: self._chunk_size()]
            pictures, flags, each = self._work(chunk, steps)
            for one, picture, flagged in zip(chunk, pictures, flags, strict=False):
                facts = self.facts(one, steps)
                made[one] = write_made(paths[one], one, picture, facts, flagged=flagged, evaluations=each)
            missing = missing[len(pictures) :]
            progress(len(made), len(paths), paths[chunk[0]].name)
        return [made[one] for one in candidates]

    def facts(self, candidate: Candidate, estimate_steps: int | None = None) -> dict[str, Any]:
        """Return what makes a candidate again."""
        shot = self.shot
        return {
            "prompt": self.prompts[candidate.prompt], "seeds": list(candidate.seeds), "steps": shot.steps,
            "guidance": shot.guidance, "width_px": shot.width_px, "height_px": shot.height_px,
            "mix": shot.mix if len(candidate.seeds) > 1 else None, "pipeline": self.pipeline.fingerprint,
            "estimate_steps": estimate_steps,
        }  # fmt: skip

    def _chunk_size(self) -> int:
        if self.chunk is None:
            self.chunk = chunk_size(self.pipeline, self.shot)
        return self.chunk

    def _work(
        self, chunk: Sequence[Candidate], steps: int | None
    ) -> tuple[list[np.ndarray], list[bool], int]:  # fmt: skip
        """Return a chunk's pictures, which are flagged, and the evaluations that each took.

        There are none where memory did not suffice, and the next chunk is to be smaller.
        """
        try:
            with count_evaluations(self.pipeline.denoiser) as passed, quiet_transformers():
                before = self.probes
                pictures, flags = self._estimate(chunk, steps) if steps else self._finish(chunk)
            return pictures, flags, (passed() - (self.probes - before)) // len(chunk)
        except UnibrivlError:
            raise
        except Exception as e:  # a pipeline raises many kinds
            if not is_out_of_memory(e):
                raise PipelineError(f"{self.pipeline.name}: makes no picture ({first_line(e)})") from e
            if len(chunk) == 1:
                size = f"{self.shot.width_px}x{self.shot.height_px}"
                raise PipelineError(
                    f"memory does not suffice for one picture of {size}; pass a smaller --size, or --offload on a GPU"
                ) from e
            self.chunk = len(chunk) // 2
            return [], [], 0

    def _finish(self, chunk: Sequence[Candidate]) -> tuple[list[np.ndarray], list[bool]]:
        noise = self._mixed(chunk)
        with watch(self.pipeline.pipe.scheduler, estimates=self.previews is not None) as watched:
            output = self._call(chunk, noise, watched, stop_after=None)
        flags = getattr(output, "nsfw_content_detected", None) or [False] * len(chunk)
        pictures = [(255 * np.nan_to_num(picture)).round().astype(np.uint8) for picture in output.images]
        return pictures, [bool(flag) for flag in flags]

    def _estimate(self, chunk: Sequence[Candidate], steps: int) -> tuple[list[np.ndarray], list[bool]]:
        noise = self._mixed(chunk)
        with watch(self.pipeline.pipe.scheduler, estimates=True) as watched:
            self._call(chunk, noise, watched, stop_after=steps)
        assert watched.estimate is not None
        return decode(self.pipeline.pipe, watched.estimate, self.shot.size_px), [False] * len(chunk)

    def _call(
        self, chunk: Sequence[Candidate], noise: Tensor | None, watched: Watched, *, stop_after: int | None
    ) -> Any:
        """Run the pipeline on a chunk, from its own noise or from `noise`; where it is stopped, no picture comes."""
        shot = self.shot

        def after_step(pipe: Any, number: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if stop_after is not None and number + 1 >= stop_after:
                pipe._interrupt = True  # what the pipeline itself asks before each step
            elif self.previews is not None and stop_after is None:
                self._show(chunk, watched, number)
            return tensors

        more: dict[str, Any] = dict(self.pipeline.family.call)
        if noise is not None:
            more["latents"] = noise
        if stop_after is not None or self.previews is not None:  # not every pipeline calls back
            more["callback_on_step_end"] = after_step
        output = self.pipeline.pipe(
            [self.prompts[candidate.prompt] for candidate in chunk], num_inference_steps=shot.steps,
            guidance_scale=shot.guidance, width=shot.width_px, height=shot.height_px,
            generator=[torch.Generator("cpu").manual_seed(candidate.seed) for candidate in chunk],
            output_type="np" if stop_after is None else "latent", **more,
        )  # fmt: skip
        if watched.noise is not None and noise is None and self.shot.mix:
            self._noises |= {one.seeds: first for one, first in zip(chunk, watched.noise, strict=True)}
        return output

    def _mixed(self, chunk: Sequence[Candidate]) -> Tensor | None:
        """Return the noises of a chunk in which some are mixed; None: the pipeline draws them."""
        if all(len(candidate.seeds) == 1 for candidate in chunk):
            return None
        noise = torch.stack([self.noise(candidate.seeds, candidate.prompt) for candidate in chunk])
        return noise.to(self.pipeline.device, self.pipeline.denoiser.dtype)

    def noise(self, seeds: tuple[int, ...], prompt: int = 0) -> Tensor:
        """Return the noise of seeds as the pipeline takes it for one picture, mixed so that its variance stays one.

        Source: arXiv 2501.09732, section 3.2: neighbours of a pivot noise.
        """
        if seeds not in self._noises and len(seeds) == 1:
            self._probe(Candidate(prompt=prompt, seeds=seeds))
        elif seeds not in self._noises:
            pivot = self.noise(seeds[:-1], prompt)
            new = torch.randn(pivot.shape, generator=torch.Generator("cpu").manual_seed(seeds[-1]))
            self._noises[seeds] = (1 - self.shot.mix**2) ** 0.5 * pivot + self.shot.mix * new
        return self._noises[seeds]

    def _probe(self, candidate: Candidate) -> None:
        """Make one step, whose first sample is the noise: pipelines draw and pack it each in their own way."""
        with watch(self.pipeline.pipe.scheduler, estimates=False) as watched:
            with count_evaluations(self.pipeline.denoiser) as passed:
                self._call([candidate], None, watched, stop_after=1)
            self.probes += passed()

    def _show(self, chunk: Sequence[Candidate], watched: Watched, number: int) -> None:
        """Write previews of what is being made, a few times each."""
        every = max(1, self.shot.steps // PREVIEWS)
        if self.previews is None or watched.estimate is None or (number + 1) % every:
            return
        pictures = decode(self.pipeline.pipe, watched.estimate, self.shot.size_px)
        for candidate, picture in zip(chunk, pictures, strict=True):
            write_bytes(self.previews / f"{candidate.name}.png", png(picture, {"preview_after_steps": number + 1}))


def chunk_size(pipeline: Pipeline, shot: Shot) -> int:
    """Return how many pictures memory holds at once, by what decoding one takes; 1 to 8."""
    config = getattr(getattr(pipeline.pipe, "vae", None), "config", {})
    channels = max(config.get("block_out_channels", (256,))[:2])
    each = ACTIVATIONS * shot.width_px * shot.height_px * channels * torch.finfo(pipeline.denoiser.dtype).bits // 8
    left = torch.cuda.mem_get_info()[0] if pipeline.device == "cuda" else (available_gb() or UNKNOWN_GB) * 1e9
    return int(min(max(1, MEMORY_SHARE * left // each), MAX_CHUNK))
