"""What tests of decoding share: pictures that tell their second, and one clip of a file with short defaults."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av.codec.codec import codecs_available

from unibrivl.ingest.decode import decode_clip
from unibrivl.ingest.decoded import DecodeConfig, DecodedClip

SECONDS = 5
FPS = 5
needs_x264 = pytest.mark.skipif("libx264" not in codecs_available, reason="the libraries lack x264")


def pictures(seconds: int = SECONDS, side: int = 64) -> list[np.ndarray]:
    """Return grey pictures, one level a second."""
    return [np.full((side, side, 3), 20 + 40 * (i // FPS), np.uint8) for i in range(seconds * FPS)]


def level(clip: DecodedClip) -> int:
    """Return which second's picture the clip has."""
    return round((float(clip.frames[0].mean()) - 20) / 40)


def decode(
    path: Path,
    start_ms: int = 0,
    end_ms: int = 1000,
    *,
    key: str = "",
    frame_size: int = 16,
    max_pad_ms: int = 0,
    **options: Any,
) -> DecodedClip:
    config = DecodeConfig(**{"frame_sizes": (frame_size,), "max_pad_ms": max_pad_ms} | options)
    return decode_clip(path, start_ms, end_ms, config, key=key)
