"""The text side of a run: words in the one space of the image tower, where the run has what reads them.

A CLIP-like image tower brings its own text side. A SpeechLM language tower reads text as phoneme units, for which it
needs its vocabulary, `dict.txt`, and a lexicon, `lexicon.txt`, in the folder of the run or of the imported network.
Shapes: B texts, D dimensions.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.nn.functional import normalize

from .clip import VOCABULARIES, ClipTower
from .errors import TextError
from .images import ImageTower
from .speechlm_tower import SpeechlmTower
from .unibrivl import UniBriVL
from .units import Lexicon, Vocabulary, text_to_units

VOCABULARY_FILE = "dict.txt"
LEXICON_FILE = "lexicon.txt"


class TextSide(Protocol):
    """What embeds texts."""

    @property
    def fingerprint(self) -> str:
        """Decides the embeddings."""
        ...

    def embed(self, texts: list[str]) -> np.ndarray:
        """Return float32 (B, D), unit norm.

        Raises:
            TextError: a text cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class ClipText:
    """The text side of a CLIP-like image tower."""

    tower: ClipTower

    @property
    def fingerprint(self) -> str:
        """Return the tower's, which covers its tokenizer."""
        return self.tower.fingerprint

    def embed(self, texts: list[str]) -> np.ndarray:
        """Return float32 (B, D), unit norm; longer texts than the tower takes are cut."""
        if empty := [text for text in texts if not text.strip()]:
            raise TextError(f"the text {empty[0]!r} holds no word")
        embeddings = self.tower.embed_text(texts)
        return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


@dataclass(frozen=True, slots=True)
class SpeechlmText:
    """Text as phoneme units through SpeechLM's shared layers, its head and the projection g."""

    model: UniBriVL
    tower: SpeechlmTower
    lexicon: Lexicon
    vocabulary: Vocabulary
    fingerprint: str

    @torch.inference_mode()
    def embed(self, texts: list[str]) -> np.ndarray:
        """Return float32 (B, D), unit norm; words that the lexicon lacks sound like noise, as in pre-training."""
        units = [text_to_units(text, self.lexicon, self.vocabulary).units for text in texts]
        device = self.model.log_scale.device
        rows = []
        for text_units in units:  # one at a time: padding would have to be masked, and questions are few
            audio_BA = self.tower.encode_text(torch.tensor([text_units], device=device))
            rows.append(normalize(self.model.g(audio_BA).float(), dim=1)[0].cpu().numpy())
        return np.stack(rows)


def text_side(run: Path, model: UniBriVL, images: ImageTower) -> TextSide | None:
    """Return the text side of a run; None: it has none.

    Raises:
        TextError: the vocabulary or the lexicon is not readable, or not the network's.
    """
    if isinstance(images, ClipTower):
        return ClipText(images) if any((images.folder / name).is_file() for name in VOCABULARIES) else None
    tower = model.language
    if not isinstance(tower, SpeechlmTower) or not tower.network.config.vocabulary:
        return None
    for folder in (run, Path(tower.config.weights) if tower.config.weights else run):
        if (folder / VOCABULARY_FILE).is_file() and (folder / LEXICON_FILE).is_file():
            return _speechlm_text(folder, model, tower)
    return None


def _speechlm_text(folder: Path, model: UniBriVL, tower: SpeechlmTower) -> SpeechlmText:
    paths = [folder / VOCABULARY_FILE, folder / LEXICON_FILE]
    vocabulary, lexicon = Vocabulary.read(paths[0]), Lexicon.read(paths[1])
    if len(vocabulary) != (wanted := tower.network.config.vocabulary):
        raise TextError(f"{paths[0]}: {len(vocabulary)} units with the special ones, the network has {wanted}")
    content = hashlib.sha256(model.fingerprint().encode())
    for path in paths:
        content.update(hashlib.sha256(path.read_bytes()).digest())
    return SpeechlmText(model, tower, lexicon, vocabulary, content.hexdigest())


def no_text(run: Path) -> str:
    """Return in one line why a run cannot read text, and what would."""
    return (
        f"{run} reads no text: want an image tower with a text side (clip:DIR with its tokenizer), or a SpeechLM "
        f"language tower that has units, with {VOCABULARY_FILE} and {LEXICON_FILE} in the run's folder"
    )
