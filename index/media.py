"""Reads what a person asks with: a sound or a picture, from a file or from bytes that came in."""

import warnings
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image, ImageOps

from ..shards import SAMPLE_RATE
from ..shards.checks import check_file
from .errors import QueryError

MAX_SECONDS = 600.0
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
SILENT = 1e-4
"""A sound whose every sample lies below this, of full scale 1, says nothing about a picture."""
SOUND_FORMATS = ("wav", "flac", "ogg", "mp3", "mov", "mp4", "m4a", "matroska", "webm", "aac", "aiff")
"""FFmpeg's names of what may come in from outside: formats that name no further files."""


def read_sound(path: Path, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Return float32 (samples,), mono, in -1 to 1, of any file with a sound track.

    Raises:
        QueryError: the file is missing, has no sound, or is longer than 600 s.
    """
    _check(path)
    return _decode_sound(f"file:{path}", str(path), MAX_SECONDS, {"protocol_whitelist": "file"}, sample_rate)


def read_audible(path: Path) -> np.ndarray:
    """Return what `read_sound` returns.

    Raises:
        QueryError: as `read_sound`; or the sound is silent.
    """
    sound = read_sound(path)
    if float(np.abs(sound).max()) < SILENT:
        raise QueryError(f"{path}: is silent, so no picture fits it better than another; give a sound")
    return sound


def sound_of(data: BinaryIO, name: str, max_seconds: float) -> np.ndarray:
    """Return what `read_sound` returns, of an open file in one of `SOUND_FORMATS`; `name` stands in messages.

    Raises:
        QueryError: as `read_sound`.
    """
    options = {"protocol_whitelist": "", "format_whitelist": ",".join(SOUND_FORMATS)}
    return _decode_sound(data, name, max_seconds, options)


def _decode_sound(
    source: str | BinaryIO, name: str, max_seconds: float, options: dict[str, str], sample_rate: int = SAMPLE_RATE
) -> np.ndarray:
    parts: list[np.ndarray] = []
    num_samples = 0
    try:
        with av.open(source, "r", metadata_errors="replace", options=options) as container:
            if not container.streams.audio:
                raise QueryError(f"{name}: has no sound; give a sound file (WAV, FLAC, OGG, MP3, M4A) or a video")
            resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
            for frame in chain(container.decode(container.streams.audio[0]), [None]):
                for part in resampler.resample(frame):
                    parts.append(part.to_ndarray().reshape(-1))
                    num_samples += len(parts[-1])
                if num_samples > max_seconds * sample_rate:
                    raise QueryError(f"{name}: longer than {max_seconds:g} s; cut the part that you mean")
    except (FFmpegError, ValueError) as e:
        why = getattr(e, "strerror", None) or e
        raise QueryError(f"{name}: not a readable sound file ({why}); want WAV, FLAC, OGG, MP3, M4A or a video") from e
    if not num_samples:
        raise QueryError(f"{name}: holds no sound at all")
    return np.concatenate(parts).clip(-1, 1)  # resampling overshoots at steps


def read_picture(path: Path, size: int) -> np.ndarray:
    """Return uint8 (size, size, 3): the centre square, shrunk as the frames in shards are.

    Raises:
        QueryError: the file is missing or no picture.
    """
    return square_of(read_whole_picture(path), size)


def read_whole_picture(path: Path) -> Image.Image:
    """Return a picture as it is, in RGB and upright.

    Raises:
        QueryError: the file is missing or no picture.
    """
    _check(path)
    return _decode_picture(path, str(path), None)


def picture_of(data: BinaryIO, name: str, size: int, max_pixels: int) -> np.ndarray:
    """Return what `read_picture` returns, of an open file; `name` stands in messages.

    Raises:
        QueryError: no picture, or one with more pixels than `max_pixels`.
    """
    return square_of(_decode_picture(data, name, max_pixels), size)


def _decode_picture(source: Path | BinaryIO, name: str, max_pixels: int | None) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=PICTURE_FORMATS) as image:
                if max_pixels is not None and image.width * image.height > max_pixels:
                    raise QueryError(f"{name}: {image.width} x {image.height} pixels, want {max_pixels:,} at most")
                return _on_white(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as e:
        raise QueryError(f"{name}: has too many pixels to be decoded safely; shrink it first") from e
    except (OSError, ValueError, SyntaxError) as e:  # SyntaxError is Pillow's for a broken PNG
        raise QueryError(f"{name}: not a readable picture; want {', '.join(PICTURE_FORMATS)}") from e


def square_of(picture: Image.Image, size: int) -> np.ndarray:
    """Return uint8 (size, size, 3): the centre square of an RGB picture, shrunk as the frames in shards are."""
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
