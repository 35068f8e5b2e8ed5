"""A second opinion on pictures that a verifier chose: a model of its own, since a search also finds a model's mistakes.

A run hears the sound itself; a CLIP-like model reads the prompt that a picture was made of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..model.checkpoint import CHECKPOINT_FILE
from ..model.clip import ClipTower, clip_tower
from ..model.embed import BATCH, Encoder, load_encoder
from .errors import GenerateError
from .question import Part
from .verifier import BareRun, Verifier, picture_part


@dataclass(frozen=True, slots=True)
class Judge:
    """A model other than the verifier."""

    place: Path
    model: Encoder | ClipTower
    fingerprints: dict[str, str]
    shared: tuple[str, ...]
    """Modalities whose model is the verifier's: of such a judge not even half is independent."""

    @property
    def kind(self) -> str:
        """Return what it compares a picture with: the `sound`, or the `prompt`."""
        return "prompt" if isinstance(self.model, ClipTower) else "sound"

    def scores(self, sound: Part, prompts: Sequence[str], pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return cosines (C,) of pictures, uint8 (H, W, 3), with the sound, or each with its prompt."""
        if not pictures:
            return np.zeros(0, np.float32)
        if isinstance(self.model, ClipTower):
            return _prompt_cosines(self.model, prompts, pictures)
        bare = BareRun(self.model)
        return bare.embed([picture_part(bare, picture) for picture in pictures]) @ bare.embed([sound])[0]

    def describe(self) -> dict[str, object]:
        """Return what is recorded."""
        return {
            "folder": str(self.place), "compares_with": self.kind, "fingerprints": self.fingerprints,
            "shared_with_verifier": list(self.shared),
        }  # fmt: skip


def open_judge(place: Path, verifier: Verifier) -> Judge:
    """Open a run, or the folder of a CLIP-like model, as a judge of what `verifier` chooses.

    Raises:
        GenerateError: it is the verifier itself, or the model that sees for it.
        CheckpointError: the folder is missing, damaged or of another kind.
    """
    if (place / CHECKPOINT_FILE).exists():
        model: Encoder | ClipTower = load_encoder(place)
        fingerprints = model.fingerprints()
    else:
        model = clip_tower(str(place))
        fingerprints = {"image": model.fingerprint}
    ours = verifier.fingerprints
    shared = tuple(name for name, told in sorted(fingerprints.items()) if ours.get(name) == told)
    if len(shared) == len(fingerprints) or "audio" in shared:
        raise GenerateError(
            f"{place}: the judge is the verifier itself ({fingerprints[shared[0]][:12]}); name another model, or leave "
            "--judge out"
        )
    return Judge(place, model, fingerprints, shared)


def _prompt_cosines(tower: ClipTower, prompts: Sequence[str], pictures: Sequence[np.ndarray]) -> np.ndarray:
    words_CD = tower.embed_text(list(prompts))
    seen_CD = np.concatenate(
        [tower.embed([*pictures[start : start + BATCH]]) for start in range(0, len(pictures), BATCH)]
    )
    product_C = (words_CD * seen_CD).sum(axis=1)
    return product_C / (np.linalg.norm(words_CD, axis=1) * np.linalg.norm(seen_CD, axis=1))
