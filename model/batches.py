"""Sound for the language tower: cut or filled to its length, and augmented for training.

Augmentation draws from a generator keyed by (seed, epoch, clip), so that a resumed run sees what an undisturbed one
would have seen, whatever the batch or the process.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..shards import ClipLoader
from ..shards.batch import Batch

GAIN_DB = 6.0
"""Training changes the level by up to this, either way."""
MAX_BAND_SHARE = 1 / 5
MAX_TIME_SHARE = 1 / 6
"""Widest band of frequencies and stretch of time that SpecAugment (arXiv 1904.08779) masks, once each."""


def fit(audio_T: np.ndarray, num_samples: int) -> np.ndarray:
    """Return float32 (num_samples,): the middle of a longer sound, a shorter one followed by silence."""
    start = max(0, (len(audio_T) - num_samples) // 2)
    return _window(audio_T, start, num_samples)


def augment(audio_T: np.ndarray, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return float32 (num_samples,) at a random level: a random stretch of a longer sound, a shorter one anywhere.

    What fits is never cut: a spoken name without its first syllable is another name (docs/log.md).
    """
    spare = len(audio_T) - num_samples
    start = int(rng.integers(min(0, spare), max(0, spare) + 1))
    gain_db = rng.uniform(-GAIN_DB, GAIN_DB)
    return _window(audio_T, start, num_samples) * np.float32(10 ** (gain_db / 20))


def _window(audio_T: np.ndarray, start: int, num_samples: int) -> np.ndarray:
    window = np.zeros(num_samples, dtype=np.float32)
    first, last = max(0, start), min(len(audio_T), start + num_samples)
    if last > first:
        window[first - start : last - start] = audio_T[first:last]
    return window


def mask(features_B1FN: Tensor, rngs: list[np.random.Generator]) -> Tensor:
    """Set one random band and one random stretch of each log spectrogram to its mean (SpecAugment).

    Waveforms (B, T) stay as they are: a tower that takes them masks what it makes of them.
    """
    if features_B1FN.ndim == 2:
        return features_B1FN
    masked = features_B1FN.clone()
    _, _, bands, columns = masked.shape
    for item, rng in zip(masked, rngs, strict=True):
        mean = item.mean()
        for length, share, axis in ((bands, MAX_BAND_SHARE, 1), (columns, MAX_TIME_SHARE, 2)):
            width = int(rng.integers(0, int(length * share) + 1))
            start = int(rng.integers(0, length - width + 1))
            item.narrow(axis, start, width).fill_(mean)
    return masked


def clip_rng(seed: int, epoch: int, clip: int) -> np.random.Generator:
    """Return the generator that belongs to a clip in an epoch."""
    return np.random.Generator(np.random.Philox(key=[seed, (epoch << 40) + clip]))


def training_audio(
    sounds: list[np.ndarray], positions: np.ndarray, num_samples: int, *, seed: int, epoch: int
) -> tuple[Tensor, list[np.random.Generator]]:
    """Return sounds augmented (B, num_samples), and the generators of their clips in the catalog, for `mask`."""
    rngs = [clip_rng(seed, epoch, int(p)) for p in positions]
    audio = [augment(sound, num_samples, rng) for sound, rng in zip(sounds, rngs, strict=True)]
    return torch.from_numpy(np.stack(audio)), rngs


def decoded(loader: ClipLoader) -> Iterator[Batch]:
    """Yield what is left of an epoch from a loader that decodes."""
    for batch in loader:
        assert isinstance(batch, dict)
        yield batch


def sounds_of(batch: Batch) -> list[np.ndarray]:
    """Return the sounds of a reader's batch, each without the silence that follows it."""
    return [sound[:length] for sound, length in zip(batch["audio"], batch["num_samples"], strict=True)]
