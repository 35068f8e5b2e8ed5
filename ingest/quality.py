"""Measures of a clip's sound and picture, stored as columns; nothing is dropped for them here.

Sums run over whole numbers: sums of floats differ in their last digit with the alignment of memory, and shards must
not.
The sound's hash needs a Fourier transform, whose last digits may differ between processors; what is made of them is
rounded a million million times as coarsely before anything is decided, so that a difference in the hash would take
a sound whose band level lies on the edge between two steps to twelve digits.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..shards import SAMPLE_RATE

FULL_SCALE = 32768
SILENT_DBFS = -60.0
"""A window of 100 ms whose RMS lies below this counts as silent."""
FLOOR_DBFS = -120.0
"""What digital silence is written as, since a logarithm has no value for it."""

FLAGS = ("silent", "clipped", "black_frame", "flat_frame")
"""Names that `flags` gives, in its order."""
SILENT_RATIO = 0.95
"""Above it a clip is silent: a click or half a second at an end is not what a clip is about."""
CLIPPED_RATIO = 0.005
"""Above it a clip is clipped: loud masters touch full scale now and then, 80 samples a second are distortion."""
BLACK_LUMA = 12.0
"""Mean and deviation of a black picture lie below: the noise of a decoder, and a dark scene's lights do not."""
FLAT_LUMA_STD = 3.0
"""Deviation of a picture of one colour, with the noise of its codec."""

FP_WINDOW = 1024
"""Samples a Fourier transform, 64 ms: about the length over which speech keeps its spectrum."""
FP_STRIDE = 2048
"""Samples from one transform to the next: every second stretch is looked at, which halves the cost and, of sounds of
a second and more, leaves the levels of parts and bands what they are."""
FP_PARTS, FP_BANDS = 4, 17
FP_LOW_HZ, FP_HIGH_HZ = 150.0, 6000.0
"""Where most sounds and all codecs have something to say."""
FP_FLOOR = 1e-5
"""Power below the whole's that no band's level goes under (-50 dB), so that a codec's noise decides nothing."""
FP_STEPS = 8
"""Steps of a doubling of power, 0.4 dB: less is no difference."""
DHASH_ROWS, DHASH_COLUMNS = 8, 9


def measure_audio(samples: np.ndarray) -> dict[str, Any]:
    """Return level, peak, the shares that are silent and clipped, and the hash, of int16 (samples,)."""
    window = SAMPLE_RATE // 10
    whole = len(samples) // window * window
    sums, rest = _energy(samples[:whole].reshape(-1, window)), _energy(samples[None, whole:])
    total = int(sums.sum() + rest[0])
    if not whole:
        sums, window = rest, len(samples)
    silent = sums < window * (FULL_SCALE * 10 ** (SILENT_DBFS / 20)) ** 2
    peak = max(int(samples.max(initial=0)), -int(samples.min(initial=0)))
    clipped = 0
    if peak >= FULL_SCALE - 1:
        clipped = np.count_nonzero(samples >= FULL_SCALE - 1) + np.count_nonzero(samples <= 1 - FULL_SCALE)
    return {
        "rms_dbfs": _dbfs(math.sqrt(total / len(samples))),
        "peak_dbfs": _dbfs(peak),
        "silent_ratio": int(np.count_nonzero(silent)) / len(sums),
        "clip_ratio": clipped / len(samples),
        "audio_fp": audio_fp(samples),
    }


def measure_frame(frame: np.ndarray) -> dict[str, Any]:
    """Return mean and deviation of the luma (Rec. 601, 0 to 255), and the hash, of uint8 (height, width, 3)."""
    luma = _luma(frame)
    mean = int(luma.sum()) / luma.size
    variance = max(0.0, int((luma**2).sum()) / luma.size - mean**2)
    return {
        "frame_luma_mean": mean / 1000,
        "frame_luma_std": math.sqrt(variance) / 1000,
        "frame_dhash": frame_dhash(frame),
    }


def flags(measures: Mapping[str, Any]) -> list[str]:
    """Return what is conspicuous about a clip, out of `FLAGS`, by the measures of its sound and its picture."""
    found = {
        "silent": measures["silent_ratio"] > SILENT_RATIO,
        "clipped": measures["clip_ratio"] > CLIPPED_RATIO,
        "black_frame": max(measures["frame_luma_mean"], measures["frame_luma_std"]) < BLACK_LUMA,
        "flat_frame": measures["frame_luma_std"] < FLAT_LUMA_STD,
    }
    return [name for name in FLAGS if found[name]]


def audio_fp(samples: np.ndarray) -> int:
    """Return a perceptual hash of int16 (samples,): 64 bits, of which alike sounds share most.

    The sound is cut into four parts and 17 bands of equal ratio. 16 bits tell whether the level falls from a band to
    the next over the whole sound; 48 tell, for each part but the first, whether it falls by more than in the part
    before (J. Haitsma and T. Kalker, "A Highly Robust Audio Fingerprinting System", 2002, equation 1, here on
    logarithms and over a clip instead of 12 ms). Neither the level nor small noise matters. Digital silence is 0.
    """
    levels = _band_levels(samples)  # (1 + parts, bands): the whole, then its parts
    falls = levels[:, :-1] - levels[:, 1:]
    bits = np.concatenate([falls[0] > 0, (falls[2:] > falls[1:-1]).ravel()])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def frame_dhash(frame: np.ndarray) -> int:
    """Return the difference hash of uint8 (height, width, 3), at least 8 by 9: 64 bits, row by row.

    The picture is brought to 9 by 8 means of luma; a bit tells whether a mean is larger than the one to its left
    (N. Krawetz, "Kind of Like That", 2013).
    """
    luma = _luma(frame)
    rows = np.arange(DHASH_ROWS) * luma.shape[0] // DHASH_ROWS
    columns = np.arange(DHASH_COLUMNS) * luma.shape[1] // DHASH_COLUMNS
    sums = np.add.reduceat(np.add.reduceat(luma, rows, axis=0), columns, axis=1)
    heights, widths = np.diff(rows, append=luma.shape[0]), np.diff(columns, append=luma.shape[1])
    means = sums // (heights[:, None] * widths)
    return int.from_bytes(np.packbits(means[:, 1:] > means[:, :-1]).tobytes(), "big")


def _band_levels(samples: np.ndarray) -> np.ndarray:
    """Return the levels of the whole sound and of its parts, in steps, int64 (1 + parts, bands)."""
    num_windows = max(FP_PARTS, len(samples) // FP_STRIDE)
    if len(samples) < num_windows * FP_STRIDE:
        samples = np.pad(samples, (0, num_windows * FP_STRIDE - len(samples)))
    windows = samples[: num_windows * FP_STRIDE].reshape(-1, FP_STRIDE)[:, :FP_WINDOW]
    spectrum = np.fft.rfft(windows * _HANN, axis=1)[:, _BAND_EDGES[0] : _BAND_EDGES[-1]]
    power = spectrum.real**2 + spectrum.imag**2
    edges = np.arange(FP_PARTS) * num_windows // FP_PARTS
    sums = np.add.reduceat(np.add.reduceat(power, _BAND_EDGES[:-1] - _BAND_EDGES[0], axis=1), edges, axis=0)
    parts = sums / np.diff(edges, append=num_windows)[:, None] / np.diff(_BAND_EDGES)
    levels = np.concatenate([parts.mean(axis=0)[None], parts])
    return np.rint(FP_STEPS * np.log2(levels + max(FP_FLOOR * levels[0].max(), 1.0))).astype(np.int64)


_HANN = np.hanning(FP_WINDOW)
_BAND_EDGES = np.rint(np.geomspace(FP_LOW_HZ, FP_HIGH_HZ, FP_BANDS + 1) * FP_WINDOW / SAMPLE_RATE).astype(np.int64)
"""Of the bands, in lines of the spectrum, 15.6 Hz each."""


def _energy(samples: np.ndarray) -> np.ndarray:
    """Return the sum of squares of each row of int16 (rows, samples): whole numbers that float64 holds exactly."""
    wide = samples.astype(np.float64)
    return np.einsum("ij,ij->i", wide, wide)


def _luma(frame: np.ndarray) -> np.ndarray:
    """Return the luma in thousandths, int64 (height, width), of uint8 (height, width, 3)."""
    red, green, blue = np.moveaxis(frame.astype(np.int64), 2, 0)
    return 299 * red + 587 * green + 114 * blue


def _dbfs(level: float) -> float:
    return max(FLOOR_DBFS, 20 * math.log10(level / FULL_SCALE)) if level > 0 else FLOOR_DBFS
