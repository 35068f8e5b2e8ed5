"""Finds a clip's picture in an open container, and cuts squares from it.

A keyframe costs least: its packet is sent to the decoder, which is then flushed, because a decoder with B-frames
would otherwise hold the picture back until the next keyframe (measured: 23 to 27 ms instead of 39 to 49). Any other
picture needs all pictures since the keyframe before it.

Times are of the container's own clock, in seconds.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from math import floor
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from PIL import Image

OVERSAMPLING = 3
"""The decoder's scaler leaves this many times the wanted side, and Pillow's filter does the rest."""
LOOK_BACK_S = (0, 2, 10)
"""How much earlier to start when a seek came out behind the wanted instant."""

OnError = Callable[[Exception], None]
"""Hears of each packet that cannot be decoded."""


class Picture(NamedTuple):
    """A decoded picture, when it is shown, and whether it is a keyframe."""

    frame: VideoFrame
    time: Fraction
    is_key: bool


class Span(NamedTuple):
    """A clip on the container's clock, and the instant whose picture is wanted."""

    start: Fraction
    end: Fraction
    instant: Fraction


def key_frame(container: InputContainer, video: VideoStream, span: Span, on_error: OnError) -> Picture | None:
    """Return the keyframe of the clip that is nearest to the instant; None if none lies inside or decodes."""
    for time, packet in _nearest_keys(container, video, span):
        if span.start <= time < span.end and (frames := _decode_key(video, packet, on_error)):
            return Picture(frames[0], time, True)
    return None


def exact_frame(
    container: InputContainer, video: VideoStream, instant: Fraction, not_before: Fraction, on_error: OnError
) -> Picture | None:
    """Return the picture that is shown at the instant: the last that begins by then, else the first of all.

    None if there is none, or if the very last one ends before `not_before`: it is not a picture of the clip.
    """
    base = _base(video)
    shown: VideoFrame | None = None
    later: VideoFrame | None = None
    for look_back in LOOK_BACK_S:
        container.seek(floor((instant - look_back) / base), stream=video, backward=True)
        shown = later = None
        for frame in _frames(container, video, on_error):
            if frame.pts is None:
                continue
            if frame.pts * base > instant:
                later = frame
                break
            shown = frame
        if shown is not None:
            break
    frame = shown or later
    if frame is None or frame.pts is None:
        return None
    if later is None and (frame.pts + (frame.duration or 0)) * base < not_before:
        return None
    return Picture(frame, frame.pts * base, bool(frame.key_frame))


def squares(
    frame: VideoFrame, sizes: tuple[int, ...], *, rotation: float, pixel_aspect: float
) -> tuple[np.ndarray, ...]:
    """Cut out the centre square of the shorter side, upright, once a size.

    Args:
        frame: the picture as it was stored.
        sizes: sides, in pixels. Each is made from the full picture, so that a size does not depend on the others.
        rotation: how to turn the picture for showing it, in degrees counter-clockwise; whole quarters are turned.
        pixel_aspect: a pixel's width over its height; the square is one of what is shown.

    Returns:
        For each size uint8 (size, size, 3).
    """
    quarters = round(rotation / 90) % 4
    return tuple(np.ascontiguousarray(np.rot90(_square(frame, size, pixel_aspect), quarters)) for size in sizes)


def shrunk_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Return the width and height to which the decoder's scaler brings a picture for a square of side `size`.

    Both are even where it shrinks: the scaler's fast code needs that (measured at 720p: 0.65 ms instead of 1.0).
    """
    factor = OVERSAMPLING * size / min(width, height)
    if factor >= 1:
        return width, height
    return max(2, 2 * round(width * factor / 2)), max(2, 2 * round(height * factor / 2))


def _square(frame: VideoFrame, size: int, pixel_aspect: float) -> np.ndarray:
    width, height = shrunk_size(frame.width, frame.height, size)
    small = frame.reformat(width=width, height=height, format="rgb24", interpolation=Interpolation.AREA, threads=1)
    shown_width, shown_height = frame.width * pixel_aspect, float(frame.height)
    side = min(shown_width, shown_height)
    across, down = width * side / shown_width, height * side / shown_height
    box = ((width - across) / 2, (height - down) / 2, (width + across) / 2, (height + down) / 2)
    image = Image.fromarray(small.to_ndarray())
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def _base(video: VideoStream) -> Fraction:
    assert video.time_base is not None
    return video.time_base


def _nearest_keys(container: InputContainer, video: VideoStream, span: Span) -> list[tuple[Fraction, Packet]]:
    """Return the key packets before and after the instant with their times, the nearer one first."""
    base = _base(video)
    instant, end = span.instant / base, span.end / base
    found: list[Packet] = []
    for look_back in LOOK_BACK_S:
        found = []
        try:
            container.seek(floor((span.instant - look_back) / base), stream=video, backward=True)
        except FFmpegError:
            continue
        for packet in container.demux(video):
            pts = packet.pts
            if pts is None:
                continue
            if packet.is_keyframe:
                found = [packet] if pts <= instant else [*found, packet]
            if pts > instant and (packet.is_keyframe or pts >= end or _is_farther(pts, instant, found)):
                break
        if found and (found[0].pts or 0) <= instant:
            break
    timed = [(packet.pts * base, packet) for packet in found if packet.pts is not None]
    return sorted(timed, key=lambda pair: abs(pair[0] - span.instant))


def _is_farther(pts: int, instant: Fraction, found: list[Packet]) -> bool:
    """Return whether what comes from here on is farther from the instant than what was found before it."""
    return bool(found) and pts - instant > instant - (found[0].pts or 0)


def _decode_key(video: VideoStream, packet: Packet, on_error: OnError) -> list[VideoFrame]:
    """Decode one key packet at once, by flushing the decoder behind it."""
    context = video.codec_context
    context.flush_buffers()
    try:
        frames = [*context.decode(packet), *context.decode(None)]
    except InvalidDataError as e:
        on_error(e)
        frames = []
    context.flush_buffers()
    return frames


def _frames(container: InputContainer, video: VideoStream, on_error: OnError) -> Iterator[VideoFrame]:
    """Yield pictures in the order they are shown, from where the container stands."""
    context = video.codec_context
    context.flush_buffers()
    for packet in container.demux(video):
        try:
            yield from context.decode(packet)
        except InvalidDataError as e:
            on_error(e)
