"""Segments of made-up embeddings, written the way a build writes them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from unibrivl.index.segment import ANN, GIVEN_SCHEMA, draft_segment, seal_segment


def write_segment(
    directory: Path, modality: str, vectors_ND: np.ndarray, rows: list[dict[str, Any]], ann: bytes = b""
) -> dict[str, Any]:
    """Write vectors as two blocks, with rows as `make_rows` makes them, and `ann.faiss` of the bytes given for it."""
    given = pa.Table.from_pylist([{"source": 0} | row for row in rows], schema=GIVEN_SCHEMA)
    half = len(vectors_ND) // 2
    blocks = [vectors_ND[:half], vectors_ND[half:]] if half else [vectors_ND]
    draft = draft_segment(directory, modality, blocks, given)
    if ann:
        (draft.folder / ANN).write_bytes(ann)
    return seal_segment(draft, directory)
