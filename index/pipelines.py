"""Text-to-image pipelines of diffusers, from a local folder or the hub, loaded without running anybody's code.

What a folder says of itself is read before anything is loaded: a pipeline class or a component that is not of diffusers
or transformers is refused, and weights come from safetensors only.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from .errors import PipelineError
from .families import Family, family_of

INDEX_FILE = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
HASHED = ("*.json", "*.txt", "*.model", "*.safetensors")
"""What decides the pictures: configurations, vocabularies, weights."""
Offload = Literal["none", "model", "sequential"]
OFFLOADS = ("none", "model", "sequential")
DENOISERS = ("unet", "transformer")
FALLBACK_PX = 1024
"""Side of pictures where a configuration says nothing."""
CHUNK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineConfig:
    """Which pipeline, and where it computes."""

    name: str
    """Folder of the pipeline, or its id on the hub, `owner/name`."""
    offload: str = "none"
    """With a GPU: keeps whole parts (`model`) or single layers (`sequential`) in main memory until they are needed."""

    def __post_init__(self) -> None:
        """Refuse an unknown way of offloading."""
        if self.offload not in OFFLOADS:
            raise ValueError(f"offload is {self.offload!r}, want {', '.join(OFFLOADS)}")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A loaded pipeline and what is to be kept of it."""

    name: str
    pipe: Any
    """Of diffusers."""
    family: Family
    hashes: dict[str, str]
    """SHA-256 over the files of each component."""
    device: str

    @property
    def fingerprint(self) -> str:
        """Return a SHA-256 over all components."""
        return hashlib.sha256(json.dumps(self.hashes, sort_keys=True).encode()).hexdigest()

    @property
    def denoiser(self) -> Any:
        """Return the network that each step asks."""
        return next(part for name in DENOISERS if (part := getattr(self.pipe, name, None)) is not None)

    @property
    def side_px(self) -> int:
        """Return the side of the pictures that it was trained for, as its own configuration has it."""
        latent = getattr(self.pipe, "default_sample_size", None) or self.denoiser.config.get("sample_size")
        latent = latent[0] if isinstance(latent, list | tuple) else latent
        return int(latent) * int(getattr(self.pipe, "vae_scale_factor", 8)) if latent else FALLBACK_PX

    def describe(self) -> dict[str, Any]:
        """Return what is recorded."""
        return {
            "name": self.name, "class": type(self.pipe).__name__, "scheduler": type(self.pipe.scheduler).__name__,
            "family": self.family.name, "fingerprint": self.fingerprint, "components": self.hashes,
            "device": self.device,
            "safety_checker": getattr(self.pipe, "safety_checker", None) is not None,
        }  # fmt: skip


def load_diffusers() -> Any:
    """Return the module `diffusers`, without its bars and warnings.

    Raises:
        PipelineError: it is not installed.
    """
    try:
        import diffusers
    except ImportError as e:
        raise PipelineError(
            "diffusers is not installed; pictures are made with it: pip install 'unibrivl[generate]'"
        ) from e
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    return diffusers


def open_pipeline(config: PipelineConfig) -> Pipeline:
    """Load a pipeline, on a GPU where there is one.

    Raises:
        PipelineError: diffusers is missing, the folder is missing, damaged, no text-to-image pipeline or one with code
            of its own, it cannot be had offline, or memory does not suffice.
    """
    diffusers = load_diffusers()
    folder = local_folder(config.name)
    described = check_folder(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.offload != "none" and device == "cpu":
        raise PipelineError(f"--offload {config.offload} needs a GPU, and this machine has none; leave it out")
    with refused(f"{folder}: not loaded by diffusers"), quiet_transformers():
        pipe: Any = diffusers.AutoPipelineForText2Image.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=_dtype(device)
        )
    pipe.set_progress_bar_config(disable=True)
    if not any(getattr(pipe, name, None) is not None for name in DENOISERS) or not hasattr(pipe, "scheduler"):
        want = "one with a unet or a transformer, and one scheduler"
        raise PipelineError(f"{folder} holds a {type(pipe).__name__}; want {want}")
    _place(pipe, device, config.offload)
    return Pipeline(config.name, pipe, family_of(folder, described), component_hashes(folder, described), device)


def local_folder(name: str) -> Path:
    """Return the folder of a pipeline: the one that is named, or where the hub's files lie after they were fetched.

    Raises:
        PipelineError: there is no such folder, and nothing of that name can be had from the hub.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise PipelineError(f"{name}: there is no such folder; want one that diffusers wrote, or a hub id (owner/name)")
    try:
        return Path(
            load_diffusers().DiffusionPipeline.download(name, use_safetensors=True, local_files_only=_is_offline())
        )
    except Exception as e:  # the hub's client raises many kinds
        raise PipelineError(
            f"{name}: no such folder here, and not to be had from the hub ({first_line(e)}); give a local folder, "
            "or go online once"
        ) from e


def check_folder(folder: Path) -> dict[str, Any]:
    """Return what a folder says of its pipeline.

    Raises:
        PipelineError: it says nothing, needs code of its own, is no text-to-image pipeline, or has pickles for weights.
    """
    path = folder / INDEX_FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise PipelineError(f"{folder}: has no readable {INDEX_FILE}; want a folder that diffusers wrote") from e
    name = told.get("_class_name") if isinstance(told, dict) else None
    if not isinstance(name, str):
        raise PipelineError(f"{folder}: its pipeline has code of its own ({str(name)[:60]}), which is never run")
    _check_class(folder, name)
    for component, (library, kind) in components(told).items():
        if not _is_known(library):
            raise PipelineError(f"{folder}: {component} is {library}.{kind}, code of its own, which is never run")
        _check_component(folder / component)
    return told


def components(described: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the components that a pipeline has: library and class by name."""
    found = {}
    for name, value in described.items():
        if not name.startswith("_") and isinstance(value, list) and len(value) == 2 and all(value):
            found[name] = (str(value[0]), str(value[1]))
    return found


def component_hashes(folder: Path, described: dict[str, Any]) -> dict[str, str]:
    """Return a SHA-256 over the files of each component, and one over what binds them."""
    found = {INDEX_FILE: _digest([folder / INDEX_FILE])}
    for name in sorted(components(described)):
        files = {path for pattern in HASHED for path in (folder / name).glob(pattern)}
        found[name] = _digest(sorted(files))
    return found


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn what diffusers and torch raise into one line; no memory is said as such."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as e:  # diffusers, transformers and safetensors raise many kinds for a faulty folder
        if is_out_of_memory(e):
            raise PipelineError(f"{what}: memory does not suffice; close other programs, or pass --offload") from e
        raise PipelineError(f"{what} ({first_line(e)})") from e


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing bars and telling of unused weights."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory, of the machine or of its GPU, did not suffice."""
    told = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in told or "can't allocate memory" in told)
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error, short enough for one of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def library_versions() -> dict[str, str]:
    """Return the versions of what makes the pictures."""
    return {name: version(name) for name in ("unibrivl", "torch", "diffusers", "transformers", "numpy", "pillow")}


def _check_class(folder: Path, name: str) -> None:
    """Refuse what diffusers does not list as a text-to-image pipeline."""
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

    if name not in {known.__name__ for known in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}:
        raise PipelineError(
            f"{folder} holds a {name[:60]}, which makes no pictures from text; want StableDiffusionPipeline, "
            "FluxPipeline or another text-to-image pipeline"
        )


def _is_known(library: str) -> bool:
    from diffusers import pipelines

    return library in LIBRARIES or (library.isidentifier() and hasattr(pipelines, library))


def _check_component(folder: Path) -> None:
    if not folder.is_dir():
        raise PipelineError(f"{folder}: there is no such folder; a part of the pipeline is missing, get it again")
    pickles = [path.name for pattern in PICKLES for path in folder.glob(pattern)]
    if pickles and not list(folder.glob("*.safetensors")):
        raise PipelineError(f"{folder} has its weights as a pickle only ({pickles[0]}); want safetensors")


def _place(pipe: Any, device: str, offload: str) -> None:
    """Move the pipeline to its device; its autoencoder decodes picture by picture and, if large, tile by tile."""
    with refused("the pipeline does not fit"):
        if offload == "model":
            pipe.enable_model_cpu_offload()
        elif offload == "sequential":
            pipe.enable_sequential_cpu_offload()
        else:
            pipe.to(device)
    for name in ("enable_slicing", "enable_tiling"):
        enable: Callable[[], None] | None = getattr(getattr(pipe, "vae", None), name, None)
        if enable is not None:
            with refused("the autoencoder"):
                _try(enable)


def _try(enable: Callable[[], None]) -> None:
    """Call what some autoencoders have by name only."""
    try:
        enable()
    except NotImplementedError:
        return


def _dtype(device: str) -> torch.dtype:
    """Return what weights compute in: bfloat16, which no known model overflows in, or on a processor float32."""
    return torch.bfloat16 if device == "cuda" else torch.float32


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as f:
            while chunk := f.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
