"""Turns a stretch of a media file into 16 kHz mono sound and one picture, cut to squares.

The usual decoder is PyAV, in-process (`pyav.py`); the other one is a program of its own (`ffmpeg.py`), for hostile
files and for codecs that PyAV lacks. Both give the same sound within one sample and the same picture.

Times count from the file's beginning, the first instant of any of its streams, as in players.
Run this only where a hang or a crash may happen: `worker.py`.
"""

import os
import stat
from pathlib import Path

from av.error import FFmpegError, InvalidDataError

from .decoded import NOT_MEDIA, DecodeConfig, DecodedClip
from .errors import ClipError
from .pyav import HEAD_BYTES, decode_with_pyav


def decode_clip(path: Path, start_ms: int, end_ms: int, config: DecodeConfig, *, key: str = "") -> DecodedClip:
    """Decode one clip.

    Args:
        path: a media file.
        start_ms: where the clip starts, from the file's beginning.
        end_ms: where it ends.
        config: what is wanted of it, and which decoder.
        key: the clip's, which together with the seed settles what is drawn for it.

    Raises:
        ClipError: with the reason as its code.
    """
    instant_ms = config.instant_ms(start_ms, end_ms, key)
    head = _read_head(path)
    try:
        if config.decoder == "ffmpeg":
            from .ffmpeg import decode_with_ffmpeg  # loads packages that the usual decoder does without

            clip, missing = decode_with_ffmpeg(path, start_ms, end_ms, instant_ms, config)
        else:
            clip, missing = decode_with_pyav(path, head, start_ms, end_ms, instant_ms, config)
    except MemoryError as e:
        raise ClipError("system.oom", f"{path}: decoding takes more memory than a worker may have") from e
    except FFmpegError as e:
        code, what = _classify(e)
        raise ClipError(code, f"{path}: {what}") from e
    except (ValueError, ArithmeticError, LookupError) as e:  # what PyAV makes of impossible headers
        raise ClipError("media.decode_errors", f"{path}: cannot be decoded ({e})") from e
    if clip.pad_ms > config.max_pad_ms or missing == len(clip.audio):
        missing_ms = f"{clip.pad_ms} ms of sound are missing between {start_ms} and {end_ms} ms"
        raise ClipError("media.truncated", f"{path}: {missing_ms}, at most {config.max_pad_ms} may")
    return clip


def _read_head(path: Path) -> bytes:
    """Return the file's first bytes, without waiting for anything.

    Raises:
        ClipError: it is no regular file, or nobody's idea of a medium.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that nobody writes would block
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ClipError("local.unreadable", f"{path}: not a file (a folder, a pipe or a device); want a medium")
            head = os.read(descriptor, HEAD_BYTES)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as e:  # ValueError: a name with a null byte
        reason = getattr(e, "strerror", None) or e
        raise ClipError("local.unreadable", f"{path}: cannot be read ({reason})") from e
    text = head.lstrip().lower()
    if not text:
        raise ClipError("local.empty_file", f"{path}: the file has 0 bytes; fetch it again")
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise ClipError("media.not_media", f"{path}: a web page, not a media file; fetch it again")
    return head


def _classify(error: FFmpegError) -> tuple[str, str]:
    if isinstance(error, InvalidDataError):
        return NOT_MEDIA
    return "media.decode_errors", f"cannot be decoded ({error.strerror})"
