"""Makes pictures of prompts and seeds, chunk by chunk, each whole on disk before the next chunk begins.

A candidate is made from its own generator on the processor, so that its picture depends on nothing but its own name:
not on its place, its neighbours, the size of the chunk (but for rounding) or what was there when a run went on.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from ..shards.atomic import write_bytes
from .denoised import Watched, count_evaluations, decode, watch
from .errors import GenerateError, PipelineError
from .memory import available_gb
from .pipelines import Pipeline, first_line, is_out_of_memory

MAX_CHUNK = 8
MEMORY_SHARE = 0.5
"""Of what is available, that a chunk may take."""
ACTIVATIONS = 4
"""Copies of the widest layer at full size that decoding holds."""
METADATA = "unibrivl"
"""Key of a PNG's text that says what made it."""
PREVIEWS = 4
"""Previews of a picture that is being made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A picture that is, or could be, made."""

    prompt: int
    """Its number among the prompts."""
    seeds: tuple[int, ...]
    """Of its noise: drawn from the first, then mixed with that of each further one."""

    @property
    def seed(self) -> int:
        """Return the seed that no other candidate of the prompt has: the last one."""
        return self.seeds[-1]

    @property
    def name(self) -> str:
        """Return the name of its file."""
        return f"{self.prompt:02d}-{self.seed:010d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """How pictures are made."""

    steps: int
    guidance: float
    width_px: int
    height_px: int
    mix: float
    """Share of new noise, 0 to 1, in a candidate with further seeds."""

    @property
    def size_px(self) -> tuple[int, int]:
        """Return height and width."""
        return self.height_px, self.width_px


@dataclass(frozen=True, slots=True)
class Made:
    """A finished candidate."""

    candidate: Candidate
    path: Path
    picture: np.ndarray
    """uint8 (H, W, 3)."""
    flagged: bool
    """By the pipeline's safety checker, which blanks the picture."""
    evaluations: int
    """Times that the network was asked for it."""

    @property
    def is_blank(self) -> bool:
        """Tell whether every pixel is black."""
        return not self.picture.any()


Progress = Callable[[int, int, str], None]


@dataclass(slots=True)
class Studio:
    """A pipeline with the prompts and settings of one request, and its folder."""

    pipeline: Pipeline
    prompts: tuple[str, ...]
    shot: Shot
    folder: Path
    """Of the pictures."""
    chunk: int | None = None
    """Pictures at once; None: as many as memory holds, 8 at most. Halved when memory does not suffice."""
    estimates: Path | None = None
    """Folder of the estimates that `preview` returns."""
    previews: Path | None = None
    """Folder for previews of what is being made."""
    found: int = 0
    """Pictures that were there already."""
    made: int = 0
    probes: int = 0
    """Evaluations of the network for noises alone."""
    noises: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def make(self, candidates: Sequence[Candidate], progress: Progress) -> list[Made]:
        """Return finished candidates in their order; those on disk are read, only the others made.

        Raises:
            PipelineError: the pipeline fails, or not even one picture fits into memory.
            GenerateError: a file on disk is not what it is named after.
        """
        made = {c: self._read(c) for c in candidates}
        missing = [c for c in candidates if made[c] is None]
        self.found += len(candidates) - len(missing)
        progress(len(candidates) - len(missing), len(candidates), "")
        while missing:
            taken = missing[: self._chunk_size()]
            finished = self._halving(taken, self._finish)
            if finished is None:
                continue
            for one in finished:
                made[one.candidate] = one
            missing = missing[len(taken) :]
            progress(len(candidates) - len(missing), len(candidates), finished[-1].path.name)
        return [one for c in candidates if (one := made[c]) is not None]

    def preview(self, candidates: Sequence[Candidate], steps: int, progress: Progress) -> list[np.ndarray]:
        """Return the denoised estimates of candidates after a few steps, uint8 (H, W, 3).

        Raises:
            PipelineError: as `make`, or the pipeline gives no previews.
        """
        pictures: list[np.ndarray] = []
        while len(pictures) < len(candidates):
            taken = candidates[len(pictures) : len(pictures) + self._chunk_size()]
            found = self._halving(taken, lambda chunk: self._glance(chunk, steps))
            if found is not None:
                pictures += found
                progress(len(pictures), len(candidates), f"{steps} of {self.shot.steps} steps")
        return pictures

    def _chunk_size(self) -> int:
        if self.chunk is None:
            self.chunk = chunk_size(self.pipeline, self.shot)
        return self.chunk

    def _halving(self, taken: Sequence[Candidate], work: Callable[[Sequence[Candidate]], Any]) -> Any:
        """Return what `work` makes of a chunk; None: memory did not suffice, and the next chunk is to be smaller."""
        try:
            with count_evaluations(self.pipeline.denoiser) as passed:
                result = work(taken)
                self.evaluations += passed()
            return result
        except (GenerateError, PipelineError):
            raise
        except Exception as e:  # a pipeline raises many kinds
            if not is_out_of_memory(e):
                raise PipelineError(f"{self.pipeline.name}: makes no picture ({first_line(e)})") from e
            if len(taken) == 1:
                height, width = self.shot.size_px
                raise PipelineError(
                    f"memory does not suffice for one picture of {width} x {height}; pass a smaller --size, or "
                    "--offload with a GPU"
                ) from e
            self.chunk = len(taken) // 2
            return None

    def _finish(self, chunk: Sequence[Candidate]) -> list[Made]:
        with watch(self.pipeline.pipe.scheduler, estimates=self.previews is not None) as watched:
            output = self._call(chunk, watched, stop_after=None, output_type="np")
        flags = getattr(output, "nsfw_content_detected", None) or [False] * len(chunk)
        self._keep_noise(chunk, watched)
        return [
            self._write(candidate, (255 * picture).round().astype(np.uint8), bool(flag))
            for candidate, picture, flag in zip(chunk, output.images, flags, strict=True)
        ]

    def _glance(self, chunk: Sequence[Candidate], steps: int) -> list[np.ndarray]:
        with watch(self.pipeline.pipe.scheduler, estimates=True) as watched:
            self._call(chunk, watched, stop_after=steps, output_type="latent")
        self._keep_noise(chunk, watched)
        assert watched.estimate is not None
        return decode(self.pipeline.pipe, watched.estimate, self.shot.size_px)

    def _call(self, chunk: Sequence[Candidate], watched: Watched, *, stop_after: int | None, output_type: str) -> Any:
        shot, pipe = self.shot, self.pipeline.pipe

        def after_step(pipe: Any, number: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if stop_after is not None and number + 1 >= stop_after:
                pipe._interrupt = True
            elif stop_after is None and self.previews is not None:
                self._show(chunk, watched, number)
            return tensors

        mixed = [candidate for candidate in chunk if len(candidate.seeds) > 1]
        latents = {"latents": self._latents(chunk)} if mixed else {}
        return pipe(
            [self.prompts[candidate.prompt] for candidate in chunk], num_inference_steps=shot.steps,
            guidance_scale=shot.guidance, width=shot.width_px, height=shot.height_px,
            generator=[torch.Generator("cpu").manual_seed(candidate.seed) for candidate in chunk],
            output_type=output_type, callback_on_step_end=after_step, **latents, **dict(self.pipeline.family.call),
        )  # fmt: skip

    def _latents(self, chunk: Sequence[Candidate]) -> Tensor:
        noise = torch.stack([self.noise(candidate.seeds, candidate.prompt) for candidate in chunk])
        return noise.to(self.pipeline.device, self.pipeline.denoiser.dtype)

    def noise(self, seeds: tuple[int, ...], prompt: int) -> Tensor:
        """Return the noise of seeds, as the pipeline takes it for one picture: mixed so that its variance stays one."""
        if seeds not in self.noises:
            if len(seeds) == 1:
                self._glance_at_noise(Candidate(prompt=prompt, seeds=seeds))
            else:
                before = self.noise(seeds[:-1], prompt)
                new = torch.randn(before.shape, generator=torch.Generator("cpu").manual_seed(seeds[-1]))
                mix = self.shot.mix
                self.noises[seeds] = (1 - mix**2) ** 0.5 * before + mix * new
        return self.noises[seeds]

    def _glance_at_noise(self, candidate: Candidate) -> None:
        """Make one step, whose first sample is the noise: pipelines draw and pack it each in their own way."""
        with watch(self.pipeline.pipe.scheduler, estimates=False) as watched:
            self._call([candidate], watched, stop_after=1, output_type="latent")
        self._keep_noise([candidate], watched)

    def _keep_noise(self, chunk: Sequence[Candidate], watched: Watched) -> None:
        if watched.noise is not None:
            for candidate, noise in zip(chunk, watched.noise, strict=True):
                self.noises[candidate.seeds] = noise

    def _show(self, chunk: Sequence[Candidate], watched: Watched, number: int) -> None:
        """Write previews of what is being made, a few times each."""
        every = max(1, self.shot.steps // PREVIEWS)
        if self.previews is None or watched.estimate is None or (number + 1) % every:
            return
        pictures = decode(self.pipeline.pipe, watched.estimate, self.shot.size_px)
        for candidate, picture in zip(chunk, pictures, strict=True):
            write_bytes(self.previews / f"{candidate.name}.png", png(picture, {"preview after": number + 1}))

    def facts(self, candidate: Candidate) -> dict[str, Any]:
        """Return what makes a candidate again."""
        shot = self.shot
        return {
            "prompt": self.prompts[candidate.prompt], "seeds": list(candidate.seeds), "steps": shot.steps,
            "guidance": shot.guidance, "width_px": shot.width_px, "height_px": shot.height_px,
            "mix": shot.mix if len(candidate.seeds) > 1 else None, "pipeline": self.pipeline.fingerprint,
        }  # fmt: skip

    def _write(self, candidate: Candidate, picture: np.ndarray, flagged: bool) -> Made:
        path = self.folder / f"{candidate.name}.png"
        write_bytes(path, png(picture, self.facts(candidate) | {"flagged": flagged}))
        return Made(candidate, path, picture, flagged)

    def _read(self, candidate: Candidate) -> Made | None:
        path = self.folder / f"{candidate.name}.png"
        if not path.exists():
            return None
        picture, told = read_png(path)
        wanted = self.facts(candidate)
        for name, value in wanted.items():
            if told.get(name) != value:
                raise GenerateError(
                    f"{path}: was made with {name} {str(told.get(name))[:60]!r}, want {str(value)[:60]!r}; "
                    "remove it, or name another --out"
                )
        return Made(candidate, path, picture, bool(told.get("flagged")))


def chunk_size(pipeline: Pipeline, shot: Shot) -> int:
    """Return how many pictures memory holds at once, by what decoding one takes; 1 to 8."""
    config = getattr(getattr(pipeline.pipe, "vae", None), "config", {})
    channels = max(config.get("block_out_channels", (256,))[:2])
    size = torch.finfo(pipeline.denoiser.dtype).bits // 8
    each = ACTIVATIONS * shot.width_px * shot.height_px * channels * size
    if pipeline.device == "cuda":
        left = torch.cuda.mem_get_info()[0]
    else:
        left = (available_gb() or 4.0) * 1e9
    return int(min(max(1, MEMORY_SHARE * left // each), MAX_CHUNK))


def png(picture: np.ndarray, told: dict[str, Any]) -> bytes:
    """Return a picture as PNG with what is told of it, readable by whoever knows iTXt."""
    text = PngImagePlugin.PngInfo()
    text.add_itxt(METADATA, json.dumps(told, ensure_ascii=False, sort_keys=True))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def read_png(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a picture of ours, uint8 (H, W, 3), and what is told of it.

    Raises:
        GenerateError: it is damaged, or none of ours.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            picture = np.asarray(image.convert("RGB"))
            told = json.loads(str(image.info[METADATA]))
    except (OSError, ValueError, SyntaxError, KeyError) as e:
        raise GenerateError(f"{path}: not a picture that generate wrote; remove it, or name another --out") from e
    return picture, told


