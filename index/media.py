"""Reads what a person asks with: a sound file or a picture file."""

import warnings
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image, ImageOps

from ..shards import SAMPLE_RATE
from ..shards.checks import check_file
from .errors import QueryError

MAX_SECONDS = 600.0
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


def read_sound(path: Path) -> np.ndarray:
    """Return float32 (samples,) at 16 kHz mono, in -1 to 1, of any file with a sound track.

    Raises:
        QueryError: the file is missing, has no sound, or is longer than 600 s.
    """
    _check(path)
    parts: list[np.ndarray] = []
    num_samples = 0
    try:
        with av.open(f"file:{path}", metadata_errors="replace", options={"protocol_whitelist": "file"}) as container:
            if not container.streams.audio:
                raise QueryError(f"{path}: has no sound; give a sound file (WAV, FLAC, OGG, MP3, M4A) or a video")
            resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
            for frame in chain(container.decode(container.streams.audio[0]), [None]):
                for part in resampler.resample(frame):
                    parts.append(part.to_ndarray().reshape(-1))
                    num_samples += len(parts[-1])
                if num_samples > MAX_SECONDS * SAMPLE_RATE:
                    raise QueryError(f"{path}: longer than {MAX_SECONDS:g} s; cut the part that you mean")
    except (FFmpegError, ValueError) as e:
        raise QueryError(f"{path}: not a readable sound file ({e}); want WAV, FLAC, OGG, MP3, M4A or a video") from e
    if not num_samples:
        raise QueryError(f"{path}: holds no sound at all")
    return np.concatenate(parts).clip(-1, 1)  # resampling overshoots at steps


def read_picture(path: Path, size: int) -> np.ndarray:
    """Return uint8 (size, size, 3): the centre square, shrunk as the frames in shards are.

    Raises:
        QueryError: the file is missing or no picture.
    """
    _check(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=PICTURE_FORMATS) as image:
                picture = _on_white(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as e:
        raise QueryError(f"{path}: has too many pixels to be decoded safely; shrink it first") from e
    except (OSError, ValueError, SyntaxError) as e:  # SyntaxError is Pillow's for a broken PNG
        raise QueryError(f"{path}: not a readable picture; want {', '.join(PICTURE_FORMATS)}") from e
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))


def _on_white(image: Image.Image) -> Image.Image:
    """Bring any mode to RGB: 16 bits to 8, transparency on white."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")


def _check(path: Path) -> None:
    check_file(path, QueryError)
    if not path.is_file():
        raise QueryError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise QueryError(f"{path}: the file has 0 bytes")
