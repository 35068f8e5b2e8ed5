"""`unibrivl model import`: a published checkpoint becomes a folder that our towers load.

Every tensor of the network must be in the checkpoint and every one of the checkpoint's must be the network's, apart
from those of other networks, which a layout names. HuBERT alone is a declared partial start.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .brivl import B5, BrivlConfig
from .errors import CheckpointError
from .foreign import Foreign, read_foreign
from .hubert import read_hubert
from .imported import NETWORKS, Imported, config_as_dict, fingerprint_of, refuse_foreign, write_imported
from .layouts import Released, likely_kind, read_brivl, read_speechlm, read_wav2clip, some

READERS = {"brivl": read_brivl, "speechlm": read_speechlm, "wav2clip": read_wav2clip}
KINDS = (*READERS, "hubert")
MAX_BYTES = 16 << 30
"""Of a network's weights: a damaged or hostile file can claim any number, since tensors may repeat one value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportConfig:
    """What `unibrivl model import` was asked to do."""

    kind: str
    """`brivl`, `speechlm`, `hubert` or `wav2clip`."""
    file: Path
    """Checkpoint file; for HuBERT also a folder of transformers."""
    out: Path | None
    """Folder to make; None: only tell what would fit."""
    image_px: int | None = None
    """Side of BriVL's input, which no tensor shows; None: that of the form (380 for B5, 384 for B7)."""

    def __post_init__(self) -> None:
        """Refuse an unknown kind, and a side that no input has."""
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, want {', '.join(KINDS)}")
        if self.image_px is not None and self.kind != "brivl":
            raise ValueError(f"image_px is of brivl, not of {self.kind}")
        BrivlConfig(image_px=B5.image_px if self.image_px is None else self.image_px)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What an import found."""

    kind: str
    """Of the network."""
    layout: str
    matched: int
    """Tensors of the network that the checkpoint holds."""
    missing: tuple[str, ...]
    """Tensors of the network that it does not hold; only those of a declared partial start."""
    unexpected: tuple[str, ...]
    """Always empty: an import with such is refused."""
    ignored: dict[str, int]
    """Tensors of other networks in the file, counted by the beginning of their names."""
    parameters: int
    fingerprint: str | None
    """None: nothing was written."""
    config: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "missing": list(self.missing), "unexpected": list(self.unexpected),
        }  # fmt: skip


def import_weights(config: ImportConfig) -> Report:
    """Read a checkpoint, fit it to its network by name, and write the folder.

    Raises:
        CheckpointError: the checkpoint is damaged, hostile, of another kind, or does not fit; the folder is taken.
    """
    if config.out is not None:
        refuse_foreign(config.out)
    foreign, released = _read(config)
    kind = "speechlm" if config.kind == "hubert" else config.kind
    wanted = _network_state(kind, released.config, foreign.path)
    missing = _fit(config, released, wanted)
    fingerprint = None
    if config.out is not None:
        weights = {name: _final(name, released, wanted[name], foreign.path) for name in wanted}
        fingerprint = fingerprint_of(kind, released.config, weights, foreign.path)
        imported = Imported(
            kind=kind, config=config_as_dict(released.config), fingerprint=fingerprint, fresh=missing,
            source={
                "file": foreign.path.name, "sha256": _sha256(foreign.path), "layout": released.layout,
                "keys_ignored": len(released.ignored),
            },
        )  # fmt: skip
        write_imported(config.out, imported, weights)
    groups = Counter(_group(name) for name in released.ignored)
    return Report(
        kind=kind, layout=released.layout, matched=len(wanted) - len(missing), missing=missing, unexpected=(),
        ignored=dict(sorted(groups.items())), parameters=_parameters(kind, released.config), fingerprint=fingerprint,
        config=config_as_dict(released.config),
    )  # fmt: skip


def _read(config: ImportConfig) -> tuple[Foreign, Released]:
    if config.kind == "hubert":
        return read_hubert(config.file)
    foreign = read_foreign(config.file)
    try:
        released = READERS[config.kind](foreign)
    except CheckpointError as e:
        other = likely_kind(foreign)
        if other in (None, config.kind):
            raise
        raise CheckpointError(f"{e}; it may be of {other}: unibrivl model import {other} {config.file}") from e
    if config.image_px is not None:
        released = replace(released, config=replace(released.config, image_px=config.image_px))
    return foreign, released


def _network_state(kind: str, config: Any, path: Path) -> dict[str, Tensor]:
    """Return the network's tensors without memory for them, to compare names and shapes with."""
    try:
        with torch.device("meta"):
            return NETWORKS[kind][1](config).state_dict()
    except (ValueError, RuntimeError) as e:
        raise CheckpointError(f"{path}: its sizes make no network of {kind} ({e})") from e


def _parameters(kind: str, config: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in NETWORKS[kind][1](config).parameters())


def _fit(config: ImportConfig, released: Released, wanted: dict[str, Tensor]) -> tuple[str, ...]:
    """Return the network's tensors that a declared partial start lacks; refuse anything else that does not fit."""
    missing = [name for name in wanted if name not in released.weights and name not in released.fresh]
    unexpected = [name for name in released.weights if name not in wanted or name in released.fresh]
    reshaped = [
        f"{name} ({tuple(tensor.shape)}, want {tuple(wanted[name].shape)})"
        for name, tensor in released.weights.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(faults.values()):
        told = "; ".join(f"{len(names)} {what}: {some(names)}" for what, names in faults.items() if names)
        raise CheckpointError(f"{config.file}: does not fit {config.kind} as {released.layout}: {told}")
    if sum(tensor.nbytes for tensor in wanted.values()) > MAX_BYTES:
        raise CheckpointError(f"{config.file}: claims more than {MAX_BYTES >> 30} GiB of weights; damaged or hostile")
    return tuple(name for name in wanted if name in released.fresh)


def _final(name: str, released: Released, wanted: Tensor, path: Path) -> Tensor:
    """Return a tensor of its own, in the network's type."""
    if name in released.fresh:
        one = name.endswith("norm.weight") or name.endswith(("norm_k.weight", "layernorm_embedding.weight"))
        return torch.full(wanted.shape, float(one or 3 * name.endswith(".version")), dtype=wanted.dtype)
    found = released.weights[name]
    if found.is_floating_point() != wanted.is_floating_point():
        raise CheckpointError(f"{path}: {name} is of type {found.dtype}, want {wanted.dtype}")
    final = torch.empty(wanted.shape, dtype=wanted.dtype).copy_(found)
    if final.is_floating_point() and not final.isfinite().all():
        raise CheckpointError(f"{path}: {name} holds values that are no finite numbers; the file is damaged")
    return final


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _group(name: str) -> str:
    """Return the first words of a name: which network it belongs to."""
    words = name.split(".")
    return ".".join(words[: 2 if words[0] == "learnable" else 1])
