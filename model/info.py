"""`unibrivl model info`: what a folder of imported weights or a run of training is."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from .checkpoint import CHECKPOINT_FILE, load_model, read_state
from .errors import CheckpointError
from .imported import CONFIG_FILE, WEIGHTS_FILE, read_imported, tensor_sizes
from .unibrivl import TRAINING_ONLY


@dataclass(frozen=True, kw_only=True, slots=True)
class Info:
    """A folder with weights."""

    kind: str
    """`brivl`, `speechlm`, `wav2clip` or `run`."""
    sizes: dict[str, Any]
    """The configuration: of the network, or of the run's towers."""
    tensors: int
    parameters: int
    """Numbers in all tensors, buffers included."""
    fingerprint: str
    source: dict[str, Any]
    """Where the weights came from: a file with its SHA-256, or the steps of a run."""
    fresh: tuple[str, ...] = ()
    """Tensors that the release did not hold."""

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__} | {"fresh": list(self.fresh)}


def describe_folder(folder: Path) -> Info:
    """Tell what a folder of imported weights or a run is.

    Raises:
        CheckpointError: it is neither, or damaged.
    """
    if (folder / CHECKPOINT_FILE).is_file():
        return _describe_run(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"{folder}: neither imported weights ({CONFIG_FILE}) nor a run ({CHECKPOINT_FILE}); make one with "
            "`unibrivl model import` or `unibrivl train`"
        )
    imported = read_imported(folder)
    sizes = tensor_sizes(folder / WEIGHTS_FILE)
    return Info(
        kind=imported.kind, sizes=imported.config, tensors=len(sizes), parameters=_numbers(sizes),
        fingerprint=imported.fingerprint, source=imported.source, fresh=imported.fresh,
    )  # fmt: skip


def _describe_run(run: Path) -> Info:
    state = read_state(run)
    unwanted = tuple(f"model.{part}." for part in TRAINING_ONLY)
    sizes = tensor_sizes(run / CHECKPOINT_FILE, "model.")
    sizes = {name: shape for name, shape in sizes.items() if not name.startswith(unwanted)}
    names = ("language_tower", "image_tower")
    return Info(
        kind="run",
        sizes={name: state.config[name] for name in names if name in state.config} | {
            "image_dim": state.facts["image_dim"]
        },
        tensors=len(sizes), parameters=_numbers(sizes), fingerprint=load_model(run)[0].fingerprint(),
        source={"steps": state.step, "steps_planned": state.steps},
    )  # fmt: skip


def _numbers(sizes: dict[str, tuple[int, ...]]) -> int:
    return sum(prod(shape) for shape in sizes.values())
