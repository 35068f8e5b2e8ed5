"""Decodes a clip in this process through PyAV.

One open, the keyframe's packet and a flush, then the sound from just before the clip's start, trimmed by time stamps to
the exact number of samples (`frames.py`, `sound.py`).
"""

from collections.abc import Iterator
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
from .decoded import NOT_MEDIA, OPEN_OPTIONS, BadPackets, DecodeConfig, DecodedClip, check_range, no_picture
from .errors import ClipError
from .frames import Picture, Span, exact_frame, key_frame, squares
from .sound import COARSE_S, PREROLL_S, place_sound

HEAD_BYTES = 512
QUICK_OPTIONS = {b"ftyp": {"skip_frame": "all", "analyzeduration": "1"}, b"\x1a\x45\xdf\xa3": {"skip_frame": "all"}}
"""Containers that say all that is needed (MP4, Matroska), by their first bytes: opening them need not decode pictures
(measured at 720p: 1 ms instead of 8). Not for decoding pictures in sequence: a decoder must learn their order first."""


def decode_with_pyav(
    path: Path, head: bytes, start_ms: int, end_ms: int, instant_ms: Fraction, config: DecodeConfig
) -> tuple[DecodedClip, int]:
    """Decode one clip.

    Args:
        path: a media file.
        head: its first `HEAD_BYTES` bytes.
        start_ms: where the clip starts, from the file's beginning.
        end_ms: where it ends.
        instant_ms: whose picture is wanted.
        config: what is wanted of the clip.

    Returns:
        The clip, and how many of its samples no sound covers.

    Raises:
        ClipError: with the reason as its code.
    """
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
