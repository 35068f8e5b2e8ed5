"""Questions in words for the recall gate: captions of the rows themselves, or their labels where they have none."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..model.errors import TextError
from .asked import NUM_QUERIES
from .plan import SearchConfig
from .segment import Draft

if TYPE_CHECKING:
    from ..model.embed import Encoder  # torch

BATCH = 32
MIN_TEXTS = 20
"""Fewer different texts say nothing of a recall."""
LOOKED_AT = 4
"""Rows looked at for each text: many have the same."""
CAPTIONS = "captions or labels of the rows"

Progress = Callable[[int, int, str], None]


def embed_captions(
    encoder: "Encoder", drafts: Sequence[Draft], search: SearchConfig, progress: Progress
) -> dict[str, np.ndarray]:
    """Return `{"text": float32 (Q, D)}`, unit norm: embeddings of a seeded sample of captions.

    Args:
        encoder: reads text, or nothing is returned.
        drafts: whose rows have the captions; without one that gets an ANN index nothing is to be measured.
        search: what is asked for.
        progress: called with texts embedded and texts in all.

    Returns:
        An empty dictionary where there are fewer than `MIN_TEXTS` different texts that can be read.
    """
    is_needed = any(search.is_approximate(*draft.vectors_ND.shape) for draft in drafts)
    if not (encoder.has_text and is_needed):
        return {}
    texts = sample_texts(drafts, search.seed)
    found = []
    for start in range(0, len(texts), BATCH):
        found += _embedded(encoder, texts[start : start + BATCH])
        progress(min(start + BATCH, len(texts)), len(texts), "captions embedded, to measure questions in words")
    return {"text": np.concatenate(found)} if sum(map(len, found)) >= MIN_TEXTS else {}


def sample_texts(drafts: Sequence[Draft], seed: int) -> list[str]:
    """Return different captions, or labels in a row, of rows drawn at random."""
    texts: dict[str, None] = {}
    for draft in drafts:
        rng = np.random.default_rng([seed, len(draft.rows)])
        drawn = np.sort(rng.permutation(len(draft.rows))[: LOOKED_AT * NUM_QUERIES])
        texts |= dict.fromkeys(_texts(draft.rows.select(["caption", "labels"]).take(pa.array(drawn))))
    known = list(texts)
    chosen = np.random.default_rng(seed).permutation(len(known))[:NUM_QUERIES]
    return [known[number] for number in chosen]


def _texts(rows: pa.Table) -> Iterator[str]:
    for row in rows.to_pylist():
        text = (row["caption"] or "").strip() or ", ".join(row["labels"] or []).strip()
        if text:
            yield text


def _embedded(encoder: "Encoder", texts: list[str]) -> list[np.ndarray]:
    """Embed texts together, or each alone where one of them cannot be read; that one is left out."""
    try:
        return [encoder.text(texts)]
    except TextError:
        if len(texts) == 1:
            return []
        return [embedded for text in texts for embedded in _embedded(encoder, [text])]
