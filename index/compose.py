"""Parts of questions become embeddings, and the parts of one question one vector to search with.

Every part has length one before it is weighed, so that weights mean the same for sounds, pictures and texts; the
weighted sum gets length one again. Shapes: P parts, D dimensions.

Source: weighted averaging of unit embeddings for composed retrieval, arXiv 2409.04918.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.errors import TextError
from .errors import QueryError
from .question import Part, Question, name_of

if TYPE_CHECKING:
    from ..model.embed import Encoder  # torch, which nobody needs to delete or compact

CANCELLED = 1e-3
"""A weighted sum shorter than this share of its weights has no direction left to trust."""
PASS_PARTS = 8
"""Parts that pass the encoder at a time. On a CPU 32 were no faster, and under load a server grew to 3.2 GB in place of
1.3: memory of batches of every size is kept."""


@dataclass(frozen=True, slots=True)
class Composed:
    """A question as vectors."""

    parts_PD: np.ndarray
    """float32, unit norm."""
    weights_P: np.ndarray
    """float64, negative for `minus`."""
    query_D: np.ndarray
    """float32, unit norm: the weighted sum."""
    scored_D: np.ndarray
    """float32: an answer's score is its product with this; `query_D`, or with `rrf` the weighted mean of the parts."""
    direction: str | None
    """The modality of all parts; None where they differ."""


def embed_parts(encoder: "Encoder", parts: Sequence[Part]) -> np.ndarray:
    """Return the embeddings (P, D) float32 of parts, unit norm; all of one modality pass the encoder together.

    Raises:
        QueryError: an embedding is not finite, or a text cannot be read.
    """
    rows_PD = np.empty((len(parts), encoder.dim), np.float32)
    raw: dict[str, list[int]] = {"audio": [], "image": [], "text": []}
    for number, part in enumerate(parts):
        if part.is_embedding(encoder.dim):
            rows_PD[number] = part.value
        else:
            raw[part.modality].append(number)
    embedders: dict[str, Callable[[list[Any]], np.ndarray]] = {
        "audio": encoder.audio, "image": encoder.image, "text": encoder.text,
    }  # fmt: skip
    for modality, numbers in raw.items():
        for start in range(0, len(numbers), PASS_PARTS):
            taken = numbers[start : start + PASS_PARTS]
            rows_PD[taken] = _embedded(embedders[modality], [parts[number] for number in taken])
    norms = np.linalg.norm(rows_PD, axis=1)
    for number, norm in enumerate(norms):
        if not (np.isfinite(norm) and norm > 0):
            raise QueryError(f"{name_of(parts[number], number + 1)}: its embedding is not finite")
    return rows_PD / norms[:, None]


def _embedded(embed: Callable[[list[Any]], np.ndarray], parts: list[Part]) -> np.ndarray:
    try:
        return embed([part.value for part in parts])
    except TextError as e:
        raise QueryError(str(e)) from e


def compose(question: Question, parts_PD: np.ndarray) -> Composed:
    """Return a question's parts as one vector.

    Raises:
        QueryError: the parts cancel each other.
    """
    weights_P = np.array([part.signed_weight for part in question.parts], np.float64)
    shares_P = weights_P / np.abs(weights_P).max()  # first, since a sum of the largest weights is no number
    shares_P = (shares_P / np.abs(shares_P).sum()).astype(np.float32)
    total_D = shares_P @ parts_PD
    length = float(np.linalg.norm(total_D))
    modalities = {part.modality for part in question.parts if part.weight}
    if question.fuse == "sum" and length < CANCELLED:
        raise QueryError("the parts cancel each other: nothing is left to search with; change a weight or a part")
    direction = modalities.pop() if len(modalities) == 1 else None
    query_D = total_D / np.float32(max(length, CANCELLED))
    scored_D = total_D if question.fuse == "rrf" else query_D
    return Composed(parts_PD, weights_P, query_D, scored_D, direction)
