"""Sounds at any rate and single pictures of files that a protocol names."""

from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from ..index.errors import QueryError
from ..index.media import read_sound, read_whole_picture
from .errors import BenchError

FILE_ONLY = {"protocol_whitelist": "file"}


def read_sound_at(path: Path, sample_rate: int) -> np.ndarray:
    """Return float32 (samples,), mono, of any file with a sound track.

    Raises:
        BenchError: it is not readable, or holds no sound.
    """
    try:
        return read_sound(path, sample_rate)
    except QueryError as e:
        raise BenchError(f"{path}: not readable as sound; fetch it again, or take it out of the list ({e})") from e


def tiled(sound: np.ndarray, num_samples: int) -> np.ndarray:
    """Return a sound repeated or cut to a length, clipped to -1 to 1; VGGSound's own front end does the same."""
    return np.tile(sound, -(-num_samples // len(sound)))[:num_samples].clip(-1, 1)


def read_frame(path: Path, share: float) -> np.ndarray:
    """Return uint8 (H, W, 3): a picture file, or the frame of a video at a share, 0 to 1, of its length.

    Raises:
        BenchError: it is not readable.
    """
    try:
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
            return np.asarray(read_whole_picture(path))
        return _video_frame(path, share)
    except (QueryError, FFmpegError, OSError, ValueError) as e:
        raise BenchError(f"{path}: not readable as a picture ({e}); fetch it again, or take it out of the list") from e


def _video_frame(path: Path, share: float) -> np.ndarray:
    with av.open(f"file:{path}", "r", metadata_errors="replace", options=FILE_ONLY) as container:
        if not container.streams.video:
            raise ValueError("no pictures in it")
        stream = container.streams.video[0]
        wanted_s = share * (container.duration or 0) / av.time_base
        if wanted_s:
            container.seek(int(wanted_s * av.time_base))
        last = None
        for last in container.decode(stream):
            if last.time is None or last.time >= wanted_s:
                break
        if last is None:
            raise ValueError("no pictures in it")
        return last.to_ndarray(format="rgb24")
