"""Defaults of steps and guidance by the kind of a pipeline, told from its own configuration files.

Few-step models give noise or glare with the guidance of others, so nobody should have to know which one they have.

Source: the model cards and documents that diffusers links for each family (docs/generate.md).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What a kind of pipeline is called with, where nothing else is asked for."""

    name: str
    steps: int
    guidance: float
    call: tuple[tuple[str, Any], ...] = ()
    """Further arguments that this kind wants."""


SD = Family(name="sd", steps=30, guidance=7.5)
SD_TURBO = Family(name="sd-turbo", steps=2, guidance=0.0)
SDXL = Family(name="sdxl", steps=30, guidance=5.0)
SDXL_TURBO = Family(name="sdxl-turbo", steps=4, guidance=0.0)
SD3 = Family(name="sd3", steps=28, guidance=7.0)
LCM = Family(name="lcm", steps=4, guidance=8.0)
LCM_ADAPTED = Family(name="lcm-adapted", steps=4, guidance=1.0)
FLUX_SCHNELL = Family(name="flux-schnell", steps=4, guidance=0.0, call=(("max_sequence_length", 256),))
FLUX_DEV = Family(name="flux-dev", steps=50, guidance=3.5)
PIXART = Family(name="pixart", steps=20, guidance=4.5)
SANA = Family(name="sana", steps=20, guidance=4.5)
OTHER = Family(name="other", steps=30, guidance=5.0)
FAMILIES = (
    SD, SD_TURBO, SDXL, SDXL_TURBO, SD3, LCM, LCM_ADAPTED, FLUX_SCHNELL, FLUX_DEV, PIXART, SANA, OTHER,
)  # fmt: skip


def family_of(folder: Path, described: dict[str, Any]) -> Family:
    """Return the family of a pipeline.

    Args:
        folder: of the pipeline.
        described: its `model_index.json`.
    """
    kind = str(described.get("_class_name"))
    scheduler = _read(folder / "scheduler" / "scheduler_config.json")
    if kind.startswith("LatentConsistency"):
        return LCM
    if "LCM" in str(scheduler.get("_class_name")):
        distilled = _read(folder / "unet" / "config.json").get("time_cond_proj_dim") is not None
        return LCM if distilled else LCM_ADAPTED
    # the cards of both Turbo models: trained for the last timestep of each stretch, and without guidance
    turbo = scheduler.get("timestep_spacing") == "trailing"
    if kind.startswith("StableDiffusionXL"):
        return SDXL_TURBO if turbo else SDXL
    if kind.startswith("StableDiffusion3"):
        return SD3
    if kind.startswith("StableDiffusion"):
        return SD_TURBO if turbo else SD
    if kind == "FluxPipeline":
        guided = _read(folder / "transformer" / "config.json").get("guidance_embeds", False)
        return FLUX_DEV if guided else FLUX_SCHNELL
    starts = (("PixArt", PIXART), ("Sana", SANA))
    return next((family for start, family in starts if kind.startswith(start)), OTHER)


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
