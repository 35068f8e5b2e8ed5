"""What scores pictures for a sound: an index, which has a background to compare with, or a run alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..model.checkpoint import CHECKPOINT_FILE
from ..model.embed import Encoder, load_encoder
from .compose import embed_parts
from .engine import Engine, open_engine
from .errors import IndexStoreError
from .media import square_of
from .question import Part

FRAME_PX = 64
"""Side that pictures are shrunk to for a run alone, as the frames in shards are by default; an index knows its own."""


@dataclass(frozen=True, slots=True)
class BareRun:
    """A run without an index, in place of an engine where nothing is searched."""

    encoder: Encoder
    snapshot: None = None
    other_encoder: None = None

    @property
    def fingerprints(self) -> dict[str, str]:
        """Return what decides the embeddings, by modality."""
        return self.encoder.fingerprints()

    @property
    def has_text(self) -> bool:
        """Tell whether texts can be embedded."""
        return self.encoder.has_text

    def embed(self, parts: Sequence[Part]) -> np.ndarray:
        """Return the embeddings (P, D) float32 of parts, unit norm.

        Raises:
            QueryError: an embedding is not finite, or a text cannot be read.
        """
        return embed_parts(self.encoder, parts)


Verifier = Engine | BareRun


def open_verifier(place: Path, run: Path | None = None, image_tower: str | None = None) -> Verifier:
    """Open an index with the encoder that built it, or a run.

    Args:
        place: folder of either.
        run: where the run of an index lies, if it was moved.
        image_tower: the image tower's name where its weights lie now, if they were moved.

    Raises:
        IndexStoreError: the folder holds neither, or the index is damaged.
        IndexMismatchError: the encoder is not the one that built the index.
        CheckpointError: the run is damaged.
    """
    if (place / "CURRENT").exists():
        return open_engine(place, run, image_tower)
    if (place / CHECKPOINT_FILE).exists():
        return BareRun(load_encoder(place, image_tower))
    what = "holds neither an index nor a run" if place.is_dir() else "there is no such folder"
    raise IndexStoreError(f"{place}: {what}; want a folder of `unibrivl index` or `unibrivl train`")


def frame_px(verifier: Verifier) -> int:
    """Return the side that pictures are shrunk to before they are embedded."""
    return FRAME_PX if verifier.snapshot is None else verifier.snapshot.manifest["encoder"]["frame_px"]


def picture_part(verifier: Verifier, picture: np.ndarray, name: str = "") -> Part:
    """Return a picture, uint8 (H, W, 3), as a candidate: its centre square, shrunk as the frames in shards are."""
    return Part("image", square_of(Image.fromarray(picture), frame_px(verifier)), name=name)
