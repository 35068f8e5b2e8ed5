"""What tests of made pictures share: tiny pipelines, a sound, a configuration."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from unibrivl.index.generation import GenerateConfig
from unibrivl.index.noise_search import SearchConfig
from unibrivl.index.pictures import Candidate, Shot
from unibrivl.index.pipelines import Pipeline, PipelineConfig
from unibrivl.index.prompts import PromptConfig
from unibrivl.index.studio import Studio
from unibrivl.model.checkpoint import CHECKPOINT_FILE
from unibrivl.model.sealed import SEAL, write_sealed

SHOT = Shot(steps=4, guidance=7.5, width_px=32, height_px=32, mix=0.5)
COST = 2 * SHOT.steps
"""Evaluations of the network for a picture: guidance asks it twice a step."""


def make_config(index: Path, sound: Path, tiny: Path, out: Path, **changes: Any) -> GenerateConfig:
    """Return a configuration of six candidates of one prompt; `n`, `seed` and the like go to the search."""
    search = SearchConfig(n=6)
    for name in [name for name in changes if name in SearchConfig.__dataclass_fields__]:
        search = replace(search, **{name: changes.pop(name)})
    values: dict[str, Any] = {
        "place": index, "audio": sound, "out": out, "keep": 2, "steps": SHOT.steps, "search": search,
        "pipeline": PipelineConfig(name=str(tiny)), "prompts": PromptConfig(given=("a red square",)),
    }  # fmt: skip
    return GenerateConfig(**(values | changes))


def make_studio(pipeline: Pipeline, folder: Path, **changes: Any) -> Studio:
    """Return a studio whose folders are new ones in `folder`."""
    for name in ("made", "estimates"):
        (folder / name).mkdir(parents=True)
    return Studio(pipeline, ("a red square", "a blue dog"), SHOT, folder / "made", folder / "estimates", **changes)


def seeds(*numbers: int, prompt: int = 0) -> list[Candidate]:
    return [Candidate(prompt=prompt, seeds=(number,)) for number in numbers]


def pictures_of(studio: Studio, candidates: list[Candidate]) -> np.ndarray:
    return np.stack([one.picture for one in studio.make(candidates)])


def another_run(run: Path, folder: Path) -> Path:
    """Write a run with one tensor of the sound model changed, as another training would have it; return `folder`."""
    with safe_open(run / CHECKPOINT_FILE, framework="pt") as file:
        # embedding reads no optimiser state
        tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith("model.")}  # noqa: SIM118
        metadata = {name: value for name, value in file.metadata().items() if name != SEAL}
    name = next(name for name in sorted(tensors) if name.startswith("model.language") and tensors[name].ndim == 4)
    tensors[name] = tensors[name] + 0.1
    write_sealed(folder / CHECKPOINT_FILE, tensors, metadata)
    return folder
