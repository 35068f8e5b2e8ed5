"""Segments made into one: what compaction does, and an append that has become too large to be searched row by row."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from .plan import SearchConfig
from .segment import ANN, GIVEN_SCHEMA, Draft, draft_segment
from .snapshot import Snapshot, Tombstones

BLOCK_ROWS = 65_536


def needs_merging(before: Snapshot, drafts: Sequence[Draft], search: SearchConfig) -> bool:
    """Tell whether the rows without an ANN index would be too many once the drafts are there."""
    for draft in drafts:
        loose = [s for s in before.of(draft.modality) if not (s.folder / ANN).exists()]
        rows = len(draft.rows) + sum(len(segment.rows) for segment in loose)
        if search.is_approximate(rows, draft.vectors_ND.shape[1]):
            return True
    return False


def merged_drafts(directory: Path, before: Snapshot, gone: Tombstones, drafts: Sequence[Draft] = ()) -> list[Draft]:
    """Return one draft a modality: what a snapshot holds, without the rows that are gone, and the drafts after it.

    A modality of which nothing is left gets none.
    """
    left = [s.modality for s in before.segments if len(s.rows) > len(gone.get(s.id, ()))]
    modalities = dict.fromkeys(left + [draft.modality for draft in drafts])
    return [_merge(directory, before, gone, drafts, modality) for modality in modalities]


def _merge(directory: Path, before: Snapshot, gone: Tombstones, drafts: Sequence[Draft], modality: str) -> Draft:
    parts: list[tuple[np.ndarray, pa.Table]] = []
    for segment in before.of(modality):
        kept = np.setdiff1d(np.arange(len(segment.rows)), gone.get(segment.id, np.zeros(0, np.int64)))
        parts.append((kept, segment.rows))
    new = [draft for draft in drafts if draft.modality == modality]
    parts += [(np.arange(len(draft.rows)), draft.rows) for draft in new]
    vectors = [segment.vectors_ND for segment in before.of(modality)] + [draft.vectors_ND for draft in new]
    given = pa.concat_tables([rows.select(GIVEN_SCHEMA.names).take(pa.array(kept)) for kept, rows in parts])

    def blocks() -> Iterator[np.ndarray]:
        for (kept, _), vectors_ND in zip(parts, vectors, strict=True):
            for start in range(0, len(kept), BLOCK_ROWS):
                yield vectors_ND[kept[start : start + BLOCK_ROWS]]

    return draft_segment(directory, modality, blocks(), given)
