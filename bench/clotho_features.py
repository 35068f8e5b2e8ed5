"""What a captioner is given of a clip: a tower's frozen embeddings of the whole clip and of its seconds, kept.

Shapes: N clips, F features of a clip, D their width.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .captions import Vocabulary, words_of
from .clip_media import read_sound_at
from .clotho_files import CaptionedClips
from .embedding_cache import EmbeddingCache
from .encoders import Embedder, KnownEncoder, embed
from .protocol import Progress

WINDOW_S = 1.0
"""Length of a window and its hop."""
MAX_S = 30.0
"""Of a clip that is heard; Clotho's are 15 to 30 s long."""


def features_of(
    encoder: Embedder,
    splits: Sequence[CaptionedClips],
    cache: Path | None,
    progress: Progress = lambda done, total, text: None,
) -> list[list[np.ndarray]]:
    """Return float32 (F, D) of each clip of each split: the whole clip's first, then those of its seconds.

    Raises:
        BenchError: the encoder takes no sound, or a sound is not readable.
    """
    if isinstance(encoder, KnownEncoder):
        return _known(encoder, splits)
    if not callable(getattr(encoder, "embed_audio", None)):
        embed(encoder, "audio", [])  # says so
    rate, total, done = encoder.sample_rate, sum(len(clips.names) for clips in splits), 0
    told = f"the clip's first {MAX_S:g} s, then its windows of {WINDOW_S:g} s, mono, {rate} Hz"
    stored, found = EmbeddingCache(cache, encoder.fingerprint, "audio", told), []
    for clips in splits:
        found.append([])
        for number in range(len(clips.names)):
            found[-1].append(_features(encoder, stored, clips.path(number)))
            done += 1
            progress(done, total, "embedding")
    return found


def _features(encoder: Embedder, stored: EmbeddingCache, path: Path) -> np.ndarray:
    def compute() -> np.ndarray:
        sound = read_sound_at(path, encoder.sample_rate)[: round(MAX_S * encoder.sample_rate)]
        return embed(encoder, "audio", [sound, *windows_of(sound, encoder.sample_rate)])

    return stored.block([hashlib.sha256(path.read_bytes()).hexdigest()], compute)


def windows_of(sound: np.ndarray, sample_rate: int) -> list[np.ndarray]:
    """Return a sound's seconds; a rest of half a second or more is filled with silence, a shorter one dropped."""
    length = round(WINDOW_S * sample_rate)
    count = max(1, (len(sound) + length // 2) // length)
    filled = np.pad(sound[: count * length], (0, max(0, count * length - len(sound))))
    return list(filled.reshape(count, length))


def _known(encoder: KnownEncoder, splits: Sequence[CaptionedClips]) -> list[list[np.ndarray]]:
    """Return what chance or ceiling embeds, one feature a clip: which words its five captions have, or nothing."""
    words = Vocabulary.of(caption for clips in splits for own in clips.captions for caption in own).words
    number_of = {word: number for number, word in enumerate(words)}
    names = [f"{clips.split}/{name}" for clips in splits for name in clips.names]
    weights_NV = np.zeros((len(names), len(words)), dtype=np.float32)
    for row, own in zip(weights_NV, (own for clips in splits for own in clips.captions), strict=True):
        row[[number_of[word] for caption in own for word in words_of(caption)]] = 1.0
    vectors = encoder.embed_known("audio", weights_NV, np.arange(len(names)), "\n".join(names))
    each = iter(vectors[:, None, :])
    return [[next(each) for _ in clips.names] for clips in splits]
