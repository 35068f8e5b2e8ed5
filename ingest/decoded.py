"""What every decoder takes and gives: `pyav.py` and `ffmpeg.py` share it, `decode.py` chooses between them."""

import hashlib
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..shards.checks import check_ranges
from .errors import ClipError

DECODERS = ("pyav", "ffmpeg")
FRAME_PATTERN = re.compile(r"middle|random|exact(?::(\d{1,9}(?:\.\d{1,9})?))?")
MIN_SIZE, MAX_SIZE = 16, 1024
FORMATS = "mov,mp4,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg,rm,mxf,nut,dv,ivf,gxf,wtv,dhav,swf,nsv,m4v,mpegvideo,\
h264,hevc,obu,wav,mp3,aac,flac,w64,aiff,au,caf,amr"
"""What is taken for a medium. Not playlists (`hls`, `concat`, `dash`), which name other files."""
OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
"""A file may be a playlist in disguise: it must not make the decoder open anything else."""
NOT_MEDIA = "media.not_media", "not a readable media file (damaged, cut before its index, or of another kind)"
MAX_BAD_PACKETS = 50
"""Packets that do not decode before the clip is given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeConfig:
    """How clips become sound and pictures."""

    frame: str = "middle"
    """`middle`: the keyframe nearest to the clip's middle, or the exact picture if no keyframe lies inside; `random`:
    the same about an instant drawn from seed and key; `exact`: the picture shown at the middle; `exact:SECONDS`: at
    that time from the clip's start."""
    frame_sizes: tuple[int, ...] = (64,)
    """Sides of the stored squares in pixels; the first is the main one."""
    max_pad_ms: int = 1000
    """How much sound may be missing, at either end or inside, before the clip fails."""
    decoder: str = "pyav"
    ffmpeg: Path | None = None
    """The ffmpeg program; else the one on the PATH, else the one that comes with imageio-ffmpeg."""
    seed: int = 0
    """Of `random`."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        if not FRAME_PATTERN.fullmatch(self.frame):
            raise ValueError(f"frame is {self.frame!r}, want middle, random, exact or exact:SECONDS")
        if not self.frame_sizes or len(set(self.frame_sizes)) < len(self.frame_sizes):
            raise ValueError(f"frame_sizes is {self.frame_sizes}, want one or more different sides")
        if bad := [size for size in self.frame_sizes if not MIN_SIZE <= size <= MAX_SIZE]:
            raise ValueError(f"frame_sizes has {bad[0]}, want {MIN_SIZE} to {MAX_SIZE}")
        check_ranges(self, max_pad_ms=(0, 3_600_000))
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder is {self.decoder!r}, want {' or '.join(DECODERS)}")

    @property
    def wants_keyframe(self) -> bool:
        """Return whether a keyframe near the instant will do."""
        return not self.frame.startswith("exact")

    def instant_ms(self, start_ms: int, end_ms: int, key: str) -> Fraction:
        """Return the instant whose picture is wanted of a clip, in ms from the file's beginning.

        Raises:
            ClipError: `media.out_of_range`, the clip is too short to have it.
        """
        if self.frame == "random":
            digest = hashlib.blake2b(f"{self.seed}:{key}".encode(), digest_size=8).digest()
            return start_ms + Fraction(int.from_bytes(digest, "big"), 1 << 64) * (end_ms - start_ms)
        if ":" not in self.frame:
            return Fraction(start_ms + end_ms, 2)
        instant = start_ms + 1000 * Fraction(self.frame.partition(":")[2])
        if instant >= end_ms:
            wanted = f"the frame is wanted at {float(instant - start_ms):g} ms of a clip of {end_ms - start_ms} ms"
            raise ClipError("media.out_of_range", f"{key or 'the clip'}: {wanted}; ask for an earlier one with --frame")
        return instant


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedClip:
    """What came out of one clip."""

    audio: np.ndarray
    """int16 (samples,) at 16 kHz mono, exactly the clip's length."""
    frames: tuple[np.ndarray, ...]
    """For each size uint8 (size, size, 3), the shorter side's centre square."""
    pad_ms: int
    """Silence added where the medium had no sound."""
    frame_pts_ms: int
    frame_is_key: bool
    decode_errors: int
    video_codec: str
    audio_codec: str
    width: int
    height: int
    fps: float


class BadPackets:
    """Counts packets that do not decode and gives up past a limit."""

    def __init__(self, path: Path) -> None:
        """Start at none."""
        self.path = path
        self.count = 0

    def add(self, error: Exception | None = None, count: int = 1) -> None:
        """Count one more.

        Raises:
            ClipError: `media.decode_errors`, there are too many.
        """
        self.count += count
        if self.count > MAX_BAD_PACKETS:
            raise ClipError("media.decode_errors", f"{self.path}: more than {MAX_BAD_PACKETS} packets are damaged")


def check_range(path: Path, length_ms: float | None, start_ms: int, end_ms: int, max_pad_ms: int) -> None:
    """Refuse a clip that a medium of this length cannot hold; None is a length that is not known.

    Raises:
        ClipError: `media.out_of_range`.
    """
    if length_ms is not None and (end_ms > length_ms + max_pad_ms or start_ms >= length_ms):
        where = f"reaches past the end of the medium at {length_ms:.0f} ms"
        raise ClipError("media.out_of_range", f"{path}: the clip from {start_ms} to {end_ms} ms {where}")


def no_picture(path: Path, instant_ms: Fraction) -> ClipError:
    """Return the error of a clip without a picture."""
    return ClipError("media.no_frame", f"{path}: no picture can be decoded near {round(instant_ms)} ms")
