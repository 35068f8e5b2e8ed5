"""Whether an encoder is the one that built an index."""

from pathlib import Path

import numpy as np

from ..model.embed import Encoder, load_encoder
from .errors import IndexMismatchError
from .snapshot import Snapshot

CANARY_COSINE = 0.999
"""Least cosine between a canary embedded at build time and now, on any device and precision."""


def open_encoder(snapshot: Snapshot, run: Path | None = None, image_tower: str | None = None) -> Encoder:
    """Load the encoder of an index and make sure that it is the one that built it.

    Raises:
        IndexMismatchError: another model, or the same that computes something else here.
        CheckpointError: the run is missing or damaged.
    """
    encoder = load_encoder(place_of_run(snapshot, run), image_tower)
    if fault := mismatch(snapshot, encoder):
        raise IndexMismatchError(fault)
    return encoder


def place_of_run(snapshot: Snapshot, run: Path | None) -> Path:
    """Return the folder of an index's run: the one that is named, or where it lay at the build."""
    return run or (snapshot.root / snapshot.manifest["run"]).resolve()


def mismatch(snapshot: Snapshot, encoder: Encoder) -> str | None:
    """Return in one line why an encoder does not fit an index, both named; None: it fits.

    Weights, preprocessing and pooling are in the fingerprints; libraries that compute otherwise show in the canaries.
    """
    built, place = snapshot.manifest["encoder"], encoder.run
    for modality, fingerprint in encoder.fingerprints().items():
        wanted = built["fingerprints"].get(modality)
        if wanted is not None and fingerprint != wanted:
            return (
                f"{snapshot.root} was built by the {modality} model {wanted[:12]}, {place} holds {fingerprint[:12]}; "
                "name the right run with --run, or build the index again"
            )
    for modality, embedding in encoder.canaries().items():
        if modality not in built["canaries"]:
            continue
        cosine = float(embedding @ np.asarray(built["canaries"][modality], dtype=np.float32))
        if not cosine >= CANARY_COSINE:
            return (
                f"{place} embeds the {modality} canary of {snapshot.root} at cosine {cosine:.4f}, "
                f"want {CANARY_COSINE}; library versions differ from those of the build: build the index again"
            )
    return None
