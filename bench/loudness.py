"""How loud a sound is and what saving, clipping and noise do to it; pure functions.

Sounds are float32 (samples,) at 16 kHz, full scale 1.
"""

from dataclasses import asdict, dataclass

import numpy as np

from ..shards import SAMPLE_RATE
from .errors import BenchError

BLOCK_S = 0.4
"""Of loudness after ITU-R BS.1770; a shorter sound has none."""
FULL_SCALE = 1.0
INT16 = 32767


@dataclass(frozen=True, kw_only=True, slots=True)
class Loudness:
    """How loud a sound is."""

    peak: float
    clipped: float
    """Share of samples at full scale or beyond."""
    lufs: float | None
    """Integrated, after BS.1770 with the filters for 16 kHz; None for a sound too short or too soft to have one."""

    def as_dict(self) -> dict[str, float | None]:
        """Return plain values."""
        return asdict(self)


def measure_loudness(sound: np.ndarray) -> Loudness:
    """Measure a sound.

    Raises:
        BenchError: pyloudnorm is not installed.
    """
    magnitudes = np.abs(sound)
    return Loudness(
        peak=float(magnitudes.max()), clipped=float((magnitudes >= FULL_SCALE).mean()), lufs=_lufs(sound)
    )  # fmt: skip


def _lufs(sound: np.ndarray) -> float | None:
    try:
        import pyloudnorm
    except ImportError:
        raise BenchError("loudness needs pyloudnorm; pip install 'unibrivl[bench]'") from None
    if len(sound) <= BLOCK_S * SAMPLE_RATE:
        return None
    found = float(pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(sound.astype(np.float64)))
    return found if np.isfinite(found) else None


def amplify(sound: np.ndarray, gain_db: float) -> np.ndarray:
    """Return a sound louder by so many dB, not clipped."""
    return (sound * 10 ** (gain_db / 20)).astype(np.float32)


def clip(sound: np.ndarray) -> np.ndarray:
    """Return what full scale leaves of a sound."""
    return sound.clip(-FULL_SCALE, FULL_SCALE)


def as_int16(sound: np.ndarray) -> np.ndarray:
    """Return what 16 bits keep of a sound."""
    return (np.round(clip(sound) * INT16) / INT16).astype(np.float32)


def with_noise(sound: np.ndarray, snr_db: float, seed: int) -> np.ndarray:
    """Return a sound with white noise, as many dB below its mean power; not clipped."""
    noise = np.random.default_rng(seed).standard_normal(len(sound))
    power = float((sound.astype(np.float64) ** 2).mean())
    return (sound + noise * np.sqrt(power / 10 ** (snr_db / 10))).astype(np.float32)


def spearman(xs: np.ndarray, ys: np.ndarray) -> float:
    """Return the rank correlation, ties with their mean rank; 0 where one of them does not vary."""
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (xs, ys)]
    centred = [rank - rank.mean() for rank in ranks]
    scale = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float((centred[0] * centred[1]).sum() / scale) if scale > 0 else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    _, number, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[number]
