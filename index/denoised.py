"""What a diffusion pipeline expects the finished picture to be, while it is still at work, and the noise it began with.

A step of the scheduler gets the network's output and the noisy sample; both together give the denoised estimate x0.
Schedulers that `ESTIMATES` does not cover are refused by name. Shapes: B pictures, C channels, h, w of the latents.

Source: eq. 12 of arXiv 2010.02502 (noise), eq. 9 of arXiv 2202.00512 (velocity), eq. 3 of arXiv 2206.00364 (samples
scaled by the noise), arXiv 2210.02747 (flow matching).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import PipelineError

KEPT_VARIANCE = (
    "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LCMScheduler", "TCDScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler",
)  # fmt: skip
"""Samples of unit variance at every step."""
GROWING_VARIANCE = (
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler",
    "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
)  # fmt: skip
"""Samples with noise of deviation sigma added."""
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
"""Samples on a line from the picture to noise."""
ESTIMATES = (*KEPT_VARIANCE, *GROWING_VARIANCE, *FLOWS)


@dataclass(slots=True)
class Watched:
    """What went through the scheduler of the chunk at work."""

    noise: Tensor | None = None
    """The first sample, (B, C, h, w) or as the pipeline packs it, of unit variance."""
    estimate: Tensor | None = None
    """x0 of the last step."""


@contextmanager
def watch(scheduler: Any, *, estimates: bool) -> Iterator[Watched]:
    """Yield what goes through `scheduler.step` meanwhile.

    Args:
        scheduler: of a pipeline; as it was, afterwards.
        estimates: compute x0 at each step, too.

    Raises:
        PipelineError: the denoised estimate of such a scheduler is not known.
    """
    name = type(scheduler).__name__
    if estimates and name not in ESTIMATES:
        raise PipelineError(
            f"the denoised estimate of {name} is not known, so there are no previews; leave --previews out and search "
            "by best-of-n or zero-order"
        )
    watched, step = Watched(), scheduler.step

    @wraps(step)  # pipelines look at its signature: whether it takes generators
    def watching(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        if watched.noise is None:
            watched.noise = (sample.float() / float(getattr(scheduler, "init_noise_sigma", 1.0))).cpu()
        sigma = None if name in KEPT_VARIANCE else _sigma(scheduler, timestep)
        if estimates:
            watched.estimate = denoised(scheduler, model_output.float(), timestep, sample.float(), sigma)
        return step(model_output, timestep, sample, *args, **kwargs)

    scheduler.step = watching
    try:
        yield watched
    finally:
        del scheduler.step  # the instance's own; that of its class is there again


def denoised(scheduler: Any, output: Tensor, timestep: Any, sample: Tensor, sigma: Tensor | None) -> Tensor:
    """Return x0 of a step, shaped as the sample.

    Args:
        scheduler: one of `ESTIMATES`.
        output: of the network, guidance included.
        timestep: of the step.
        sample: before the step.
        sigma: the noise's deviation; None for schedulers of unit variance.
    """
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind == "sample":
        return output
    if type(scheduler).__name__ in FLOWS or scheduler.config.get("use_flow_sigmas"):
        return sample - (_sigma(scheduler, timestep) if sigma is None else sigma) * output
    if sigma is not None:
        return sample - sigma * output if kind == "epsilon" else (sample - sigma * (1 + sigma**2) ** 0.5 * output) / (
            1 + sigma**2
        )  # fmt: skip
    number = min(round(float(timestep)), len(scheduler.alphas_cumprod) - 1)
    alpha = scheduler.alphas_cumprod[number].to(sample.device, torch.float32)
    if kind == "epsilon":
        return (sample - (1 - alpha) ** 0.5 * output) / alpha**0.5
    return alpha**0.5 * sample - (1 - alpha) ** 0.5 * output


def _sigma(scheduler: Any, timestep: Any) -> Tensor:
    """Return the noise's deviation at a step that is about to be made."""
    number = scheduler.step_index
    if number is None:
        number = int(torch.argmin((scheduler.timesteps.float().cpu() - float(timestep)).abs()))
    return scheduler.sigmas[number].float()


def decode(pipe: Any, latents: Tensor, size_px: tuple[int, int]) -> list[np.ndarray]:
    """Return pictures uint8 (H, W, 3) of latents, by the pipeline's own autoencoder.

    Args:
        pipe: of diffusers.
        latents: (B, C, h, w), or as the pipeline packs them.
        size_px: height and width.

    Raises:
        PipelineError: the pipeline keeps its latents otherwise.
    """
    if latents.ndim == 3 and hasattr(pipe, "_unpack_latents"):
        latents = pipe._unpack_latents(latents, *size_px, pipe.vae_scale_factor)
    if latents.ndim != 4 or not hasattr(pipe, "image_processor") or getattr(pipe, "vae", None) is None:
        raise PipelineError(f"{type(pipe).__name__} keeps its pictures in a form of its own, so there are no previews")
    vae = pipe.vae
    scaled = _unscale(vae.config, latents)
    with torch.no_grad(), _upcast(vae):
        x_BCHW = vae.decode(scaled.to(vae.dtype), return_dict=False)[0]
    pictures = pipe.image_processor.postprocess(x_BCHW.float(), output_type="np")
    return [(255 * picture).round().astype(np.uint8) for picture in pictures]


def _unscale(config: Any, latents: Tensor) -> Tensor:
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        shape = (1, -1, 1, 1)
        mean, std = (latents.new_tensor(values).view(shape) for values in (mean, std))
        return latents * std / config.get("scaling_factor", 1.0) + mean
    return latents / config.get("scaling_factor", 1.0) + (config.get("shift_factor") or 0.0)


@contextmanager
def _upcast(vae: Any) -> Iterator[None]:
    """Let an autoencoder that overflows in float16 compute in float32."""
    kept = vae.dtype
    raised = kept == torch.float16 and bool(vae.config.get("force_upcast"))
    if raised:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if raised:
            vae.to(kept)


@contextmanager
def count_evaluations(network: Any) -> Iterator[Callable[[], int]]:
    """Yield what tells how many pictures passed the network since; with guidance a step counts twice."""
    passed = 0

    def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal passed
        first = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        passed += len(first)

    handle = network.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield lambda: passed
    finally:
        handle.remove()
