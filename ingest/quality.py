"""Measures of a clip's sound and picture, stored as columns; nothing is dropped for them here.

Sums run over integers: sums of floats differ in their last digit with the alignment of memory, and shards must not.
"""

import math

import numpy as np

from ..shards import SAMPLE_RATE

FULL_SCALE = 32768
SILENT_DBFS = -60.0
"""A window of 100 ms whose RMS lies below this counts as silent."""
FLOOR_DBFS = -120.0
"""What digital silence is written as, since a logarithm has no value for it."""


def measure_audio(samples: np.ndarray) -> dict[str, float]:
    """Return level, peak, and the shares that are silent and clipped, of int16 (samples,)."""
    x = samples.astype(np.int64)
    window = SAMPLE_RATE // 10
    whole = len(x) // window * window
    windows = x[:whole].reshape(-1, window) if whole else x[None]
    silent = (windows**2).sum(axis=1) < windows.shape[1] * (FULL_SCALE * 10 ** (SILENT_DBFS / 20)) ** 2
    peak = int(np.abs(x).max(initial=0))
    return {
        "rms_dbfs": _dbfs(math.sqrt(int((x**2).sum()) / len(x))),
        "peak_dbfs": _dbfs(peak),
        "silent_ratio": int(silent.sum()) / len(silent),
        "clip_ratio": int((np.abs(x) >= FULL_SCALE - 1).sum()) / len(x),
    }


def measure_frame(frame: np.ndarray) -> dict[str, float]:
    """Return mean and deviation of the luma (Rec. 601, 0 to 255) of uint8 (height, width, 3)."""
    red, green, blue = frame.astype(np.int64).reshape(-1, 3).T
    luma = 299 * red + 587 * green + 114 * blue  # in thousandths
    mean = int(luma.sum()) / luma.size
    variance = max(0.0, int((luma**2).sum()) / luma.size - mean**2)
    return {"frame_luma_mean": mean / 1000, "frame_luma_std": math.sqrt(variance) / 1000}


def _dbfs(level: float) -> float:
    return max(FLOOR_DBFS, 20 * math.log10(level / FULL_SCALE)) if level > 0 else FLOOR_DBFS
