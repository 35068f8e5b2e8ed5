"""The control that knows no words: a linear map from a sound's mean log-mel spectrum to its picture's embedding.

What a trained tower finds beyond it, it found in more than the colour of a voice. Ridge regression in closed form, on
the same training clips, with the strength that leaves the least error when each clip is left out in turn.

Shapes: N clips, F mel bands, V image dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from ..shards import SAMPLE_RATE

NUM_MELS = 64
N_FFT, HOP = 512, 160
FLOOR = 1e-7
"""Added to the power before the logarithm, as in the `wav2clip` tower."""
STRENGTHS = tuple(10.0**e for e in np.arange(-2, 6.5, 0.5))
"""Tried, on features of unit deviation."""


@dataclass(frozen=True, slots=True)
class RidgeMap:
    """A linear map with what it standardises by."""

    mean_F: np.ndarray
    deviation_F: np.ndarray
    weights_FV: np.ndarray
    offset_V: np.ndarray
    strength: float

    def __call__(self, features_NF: np.ndarray) -> np.ndarray:
        """Return float32 (N, V), unit norm: where the pictures of these sounds should lie."""
        mapped = (features_NF - self.mean_F) / self.deviation_F @ self.weights_FV + self.offset_V
        return (mapped / np.linalg.norm(mapped, axis=1, keepdims=True)).astype(np.float32)


def mean_log_mel(sounds: Sequence[np.ndarray]) -> np.ndarray:
    """Return float64 (N, F): the log-mel spectrum of each float32 sound at 16 kHz, averaged over its time."""
    spectra = [log_mel(sound).mean(axis=1) for sound in sounds]
    return np.stack(spectra).astype(np.float64)


def log_mel(sound: np.ndarray) -> np.ndarray:
    """Return float32 (F, columns): the log-mel spectrogram of a float32 sound at 16 kHz, filled to one window."""
    filled = np.pad(sound, (0, max(0, N_FFT - len(sound))))
    return torch.log(_spectrogram()(torch.from_numpy(filled)) + FLOOR).numpy()


def fit_ridge(features_NF: np.ndarray, images_NV: np.ndarray) -> RidgeMap:
    """Fit the map on clips; of `STRENGTHS`, the one with the least leave-one-out error (exact, from the hat matrix)."""
    mean, deviation = features_NF.mean(axis=0), features_NF.std(axis=0) + 1e-9
    x = (features_NF - mean) / deviation
    offset = images_NV.mean(axis=0)
    y = images_NV - offset
    left, singular, right = np.linalg.svd(x, full_matrices=False)
    projected = left.T @ y
    errors = {}
    for strength in STRENGTHS:
        shrink = singular**2 / (singular**2 + strength)
        hat = 1 / len(x) + (left**2 * shrink).sum(axis=1)  # the mean is fitted, too
        residual = (y - left @ (shrink[:, None] * projected)) / np.maximum(1 - hat, 1e-9)[:, None]
        errors[strength] = float((residual**2).sum())
    best = min(errors, key=errors.__getitem__)
    weights = right.T @ ((singular / (singular**2 + best))[:, None] * projected)
    return RidgeMap(mean, deviation, weights, offset, best)


@cache
def _spectrogram() -> torch.nn.Module:
    from torchaudio.transforms import MelSpectrogram

    return MelSpectrogram(SAMPLE_RATE, n_fft=N_FFT, hop_length=HOP, n_mels=NUM_MELS)
