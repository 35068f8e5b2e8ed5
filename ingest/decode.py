"""Turns a stretch of a media file into 16 kHz mono sound and one picture, cut to squares.

The usual decoder is PyAV, in-process: one open, the keyframe's packet and a flush, then the sound from just before the
clip's start, trimmed by time stamps to the exact number of samples (`frames.py`, `sound.py`). The other one is
a program of its own (`ffmpeg.py`), for hostile files and for codecs that PyAV lacks.

Times count from the file's beginning, the first instant of any of its streams, as in players.
Run this only where a hang or a crash may happen: `worker.py`.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError, InvalidDataError
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from ..shards import SAMPLE_RATE
from .errors import ClipError
from .frames import Picture, Span, exact_frame, key_frame, squares
from .sound import PREROLL_S, place_sound

DECODERS = ("pyav", "ffmpeg")
FRAME_PATTERN = re.compile(r"middle|random|exact(?::(\d{1,9}(?:\.\d{1,9})?))?")
MIN_SIZE, MAX_SIZE = 16, 1024
FORMATS = "mov,mp4,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg,rm,mxf,nut,dv,ivf,gxf,wtv,dhav,swf,nsv,m4v,mpegvideo,\
h264,hevc,obu,wav,mp3,aac,flac,w64,aiff,au,caf,amr"
"""What is taken for a medium. Not playlists (`hls`, `concat`, `dash`), which name other files."""
OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
"""A file may be a playlist in disguise: it must not make the decoder open anything else."""
NOT_MEDIA = "media.not_media", "not a readable media file (damaged, cut before its index, or of another kind)"
HEAD_BYTES = 512
QUICK_OPTIONS = {b"ftyp": {"skip_frame": "all", "analyzeduration": "1"}, b"\x1a\x45\xdf\xa3": {"skip_frame": "all"}}
"""Containers that say all that is needed (MP4, Matroska), by their first bytes: opening them need not decode pictures
(measured at 720p: 1 ms instead of 8). Not for decoding pictures in sequence: a decoder must learn their order first."""
COARSE_S = 1e-4
"""A unit of time stamps in which samples cannot be told apart."""
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
        if not 0 <= self.max_pad_ms <= 3_600_000:
            raise ValueError(f"max_pad_ms is {self.max_pad_ms}, want 0 to 3600000")
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
            clip, missing = _decode_with_pyav(path, head, start_ms, end_ms, instant_ms, config)
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


def _decode_with_pyav(
    path: Path, head: bytes, start_ms: int, end_ms: int, instant_ms: Fraction, config: DecodeConfig
) -> tuple[DecodedClip, int]:
    """Return the clip and how many of its samples no sound covers."""
    quick = QUICK_OPTIONS.get(head[4:8]) or QUICK_OPTIONS.get(head[:4]) or {}
    bad = BadPackets(path)
    picture = None
    with _open(path, quick) as container:
        video, audio = _streams(path, container)
        zero = Fraction(max(0, container.start_time or 0), av.time_base)
        length_ms = None if container.duration is None else container.duration * 1000 // av.time_base
        check_range(path, length_ms, start_ms, end_ms, config.max_pad_ms)
        span = Span(*(zero + Fraction(ms) / 1000 for ms in (start_ms, end_ms, instant_ms)))
        if config.wants_keyframe:
            audio.discard = Discard.all
            picture = key_frame(container, video, span, bad.add)
        if picture is None:
            picture = _exact_frame(path, quick, span, config, bad)
        if picture is None:
            raise no_picture(path, instant_ms)
        samples, missing = _decode_audio(container, video, audio, float(zero), start_ms, end_ms, bad)
        frame, aspect = picture.frame, float(video.sample_aspect_ratio or 1)
        clip = DecodedClip(
            audio=samples,
            frames=squares(frame, config.frame_sizes, rotation=frame.rotation, pixel_aspect=aspect),
            pad_ms=round(missing * 1000 / SAMPLE_RATE),
            frame_pts_ms=round((picture.time - zero) * 1000),
            frame_is_key=picture.is_key,
            decode_errors=bad.count,
            video_codec=video.codec_context.name,
            audio_codec=audio.codec_context.name,
            width=frame.width,
            height=frame.height,
            fps=float(video.average_rate or 0),
        )
    return clip, missing


def _open(path: Path, quick: dict[str, str]) -> InputContainer:
    try:
        return av.open(f"file:{path}", metadata_errors="replace", options=OPEN_OPTIONS | quick)
    except ArgumentError as e:  # a format that is not among those allowed
        code, what = NOT_MEDIA
        raise ClipError(code, f"{path}: {what}") from e


def _streams(path: Path, container: InputContainer) -> tuple[VideoStream, AudioStream]:
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    audios = container.streams.audio
    if not audios:
        raise ClipError("media.no_audio", f"{path}: has no audio track")
    if not videos:
        raise ClipError("media.no_video", f"{path}: has no video track")
    video, audio = videos[0], audios[0]
    for stream in container.streams:
        if stream not in (video, audio):
            stream.discard = Discard.all
    for stream in (video, audio):
        if stream.codec_context is None:
            raise ClipError("media.unknown_codec", f"{path}: its {stream.type} is in a codec that is not known here")
        # one decoder thread: the workers are the parallelism, and the output must not depend on timing
        stream.codec_context.thread_count = 1
    return video, audio


def _exact_frame(
    path: Path, quick: dict[str, str], span: Span, config: DecodeConfig, bad: BadPackets
) -> Picture | None:
    with _open(path, {}) as container:
        video, audio = _streams(path, container)
        audio.discard = Discard.all
        return exact_frame(container, video, span.instant, span.start - Fraction(config.max_pad_ms, 1000), bad.add)


def _decode_audio(
    container: InputContainer,
    video: VideoStream,
    audio: AudioStream,
    zero_s: float,
    start_ms: int,
    end_ms: int,
    bad: BadPackets,
) -> tuple[np.ndarray, int]:
    """Return int16 (samples,) of exactly the clip's length and how many of them are padding."""
    assert audio.time_base is not None
    base = float(audio.time_base)
    first_s = zero_s + start_ms / 1000 - PREROLL_S
    audio.discard = Discard.default
    found: tuple[np.ndarray, int] | None = None
    # Where time stamps are rounded to milliseconds, start at a picture: the more of them, the closer (`sound.py`).
    for by in (video, audio) if base > COARSE_S and first_s > zero_s else (audio,):
        video.discard = Discard.all if by is audio else Discard.default
        try:
            # before zero on purpose: a lossy decoder's first block lies there, and the second needs it
            container.seek(int(first_s / float(by.time_base or base)), stream=by, backward=True)
        except FFmpegError:
            container.seek(0, stream=audio, backward=True)
        decoded = _decode_all(container, audio, bad)
        placed = place_sound(decoded, time_base=base, zero_s=zero_s, start_ms=start_ms, end_ms=end_ms)
        if found is None or placed[1] < found[1]:
            found = placed
        if not found[1]:
            break
    assert found is not None
    return found


def _decode_all(container: InputContainer, audio: AudioStream, bad: BadPackets) -> Iterator[AudioFrame]:
    """Yield frames of sound from where the container stands, counting packets that do not decode."""
    context = audio.codec_context
    context.flush_buffers()
    for packet in container.demux(audio):
        try:
            yield from context.decode(packet)
        except InvalidDataError as e:
            bad.add(e)
