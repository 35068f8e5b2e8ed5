"""Questions: what is searched with, what is searched for, and among what."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..shards.checks import check_ranges
from .errors import QueryError
from .where import parse_where

Modality = Literal["audio", "image", "text"]
Target = Literal["image", "audio", "both"]
Fuse = Literal["sum", "rrf"]
MODALITIES = ("audio", "image", "text")
TARGETS: dict[str, tuple[str, ...]] = {"image": ("image",), "audio": ("audio",), "both": ("image", "audio")}
MAX_PARTS = 16
MAX_K = 10_000
UNIT_NORM = 0.01
"""How far from 1 the length of an embedding may be, rounded to float16 or not."""


@dataclass(frozen=True, slots=True)
class Part:
    """One sound, picture, text or embedding to search with."""

    modality: str
    value: Any
    """Sound: float32 (samples,) at 16 kHz; picture: uint8 (H, W, 3); text: str; any of them: an embedding (D,)."""
    weight: float = 1.0
    """How much it counts beside other parts, from 0."""
    minus: bool = False
    """Is taken away from the question instead of added."""
    name: str = ""
    """What it is called in messages and in the answer: a file, an item, the text."""

    @property
    def signed_weight(self) -> float:
        """Return the weight, negative with `minus`."""
        return -self.weight if self.minus else self.weight

    def is_embedding(self, dim: int) -> bool:
        """Tell whether the value is an embedding: as many numbers as there are dimensions, of length one."""
        value = self.value
        if not isinstance(value, np.ndarray) or value.shape != (dim,) or value.dtype.kind != "f":
            return False
        return abs(float(np.linalg.norm(value.astype(np.float32))) - 1) < UNIT_NORM


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question; `ask` answers it."""

    parts: tuple[Part, ...]
    to: str = "both"
    """Which modality is searched: `image`, `audio` or `both`."""
    k: int = 10
    """Answers a list."""
    where: Any = None
    """A filter, parsed or as `parse_where` takes it."""
    exact: bool = False
    """Scans every row although there is an ANN index."""
    fuse: str = "sum"
    """Combines parts by the weighted `sum` of their embeddings, or by their reciprocal ranks, `rrf`."""
    distinct: bool = True
    """Lists equal contents once."""
    near: float | None = None
    """With `distinct`: also lists once what lies at this cosine or nearer to a better answer."""

    def __post_init__(self) -> None:
        """Refuse what cannot be asked.

        Raises:
            QueryError: the filter cannot be read, or the parts only take away.
        """
        check_ranges(self, k=(1, MAX_K), near=(0.5, 1))
        for name, known in (("to", tuple(TARGETS)), ("fuse", ("sum", "rrf"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, want {' or '.join(known)}")
        if not 1 <= len(self.parts) <= MAX_PARTS:
            raise ValueError(f"parts are {len(self.parts)}, want 1 to {MAX_PARTS} things to search with")
        for number, part in enumerate(self.parts, 1):
            if part.modality not in MODALITIES:
                raise ValueError(f"part {number} is of modality {part.modality!r}, want {', '.join(MODALITIES)}")
            if not (math.isfinite(part.weight) and part.weight >= 0):
                raise ValueError(f"weight of part {number} is {part.weight}, want 0 or more; minus takes it away")
        if not any(part.signed_weight > 0 for part in self.parts):
            raise QueryError("the parts only take away; give at least one with a weight above 0 and without minus")
        object.__setattr__(self, "where", parse_where(self.where))

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the modalities that are searched."""
        return TARGETS[self.to]


def name_of(part: Part, number: int) -> str:
    """Return what to call a part in a message."""
    if part.modality == "text" and isinstance(part.value, str):
        return f"the text {part.value[:40]!r}"
    return part.name or f"part {number}"
