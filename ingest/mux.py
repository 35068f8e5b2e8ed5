"""Read short recordings, and write small MP4 files from arrays, in this process.

It makes the samples' clips and the media of tests; it is no general encoder: H.264 (MPEG-4 where the
libraries lack x264) at constant quantiser and AAC, one thread, the same bytes every time.
"""

import io
import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.codec.codec import codecs_available
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.stream import VideoStream

from ..shards.atomic import write_file

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
AAC_OPTIONS = {"aac_coder": "fast"}
AAC_BITS_PER_SAMPLE = 5
"""Measured on tones, noise and bursts: at its defaults (the slow coder, about 1.6 bits) the encoder loses the
first 10 to 70 ms of a sound that starts at once, which is most of a short word's onset."""
MP4_OPTIONS = {"fflags": "+bitexact"}

Frames = Iterable[npt.NDArray[np.uint8]]


def write_video(
    path: Path,
    *,
    frames: Frames | None,
    audio: npt.NDArray[np.float32] | None,
    fps: int = 5,
    sample_rate: int = 44_100,
    keyframe_every: int = 5,
) -> None:
    """Write an MP4 file, whole or not at all.

    Args:
        path: the file to write.
        frames: pictures, each (height, width, 3), all of one even height and width; None: no video track.
        audio: (samples,) or (samples, channels) in [-1, 1], at least a millisecond, MP4's unit of time;
            None: no audio track.
        fps: frames per second.
        sample_rate: of the audio, in Hz, one that AAC has.
        keyframe_every: distance of keyframes, in frames.

    Raises:
        ValueError: there is neither a frame nor a sample to write.
    """
    if frames is None and audio is None:
        raise ValueError("`frames` and `audio` are both None: there is nothing to write")
    write_file(path, lambda f: _mux(f, frames, audio, fps, sample_rate, keyframe_every))


def read_recording(content: bytes, *, sample_rate: int, max_s: float) -> npt.NDArray[np.float32]:
    """Decode the first `max_s` seconds of an audio file as mono at `sample_rate`; return (samples,)."""
    max_samples = round(max_s * sample_rate)
    resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
    blocks: list[npt.NDArray[Any]] = [np.zeros(0, np.float32)]
    num_samples = 0
    with av.open(io.BytesIO(content), "r") as container:
        for frame in itertools.chain(container.decode(audio=0), [None]):
            new = [resampled.to_ndarray()[0] for resampled in resampler.resample(frame)]
            blocks += new
            num_samples += sum(map(len, new))
            if num_samples >= max_samples:
                break
    return np.concatenate(blocks)[:max_samples]


def _mux(
    file: BinaryIO,
    frames: Frames | None,
    audio: npt.NDArray[np.float32] | None,
    fps: int,
    sample_rate: int,
    keyframe_every: int,
) -> None:
    with av.open(file, "w", format="mp4", options=MP4_OPTIONS) as container:
        pictures = iter(()) if frames is None else iter(frames)
        video = None
        if frames is not None:
            first, pictures = _peek(pictures)
            video = _add_video(container, first.shape, fps, keyframe_every)
        sound = None if audio is None else _add_audio(container, audio, sample_rate)
        blocks = iter(()) if audio is None else _audio_frames(audio, sample_rate, fps)
        shown, frame = np.zeros(0, np.uint8), None
        # A picture and the sound that lasts as long take turns, so that the file reads in one pass.
        for i, (picture, block) in enumerate(itertools.zip_longest(pictures, blocks)):
            if video is not None and picture is not None:
                if frame is None or not np.array_equal(picture, shown):
                    # A picture shown for seconds is converted once: that is most of the work.
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
                    frame.time_base, shown = Fraction(1, fps), picture.copy()
                frame.pts = i
                container.mux(video.encode(frame))
            if sound is not None and block is not None:
                container.mux(sound.encode(block))
        for stream in (video, sound):
            if stream is not None:
                container.mux(stream.encode(None))


def _peek(frames: Iterator[npt.NDArray[np.uint8]]) -> tuple[npt.NDArray[np.uint8], Frames]:
    first = next(frames, None)
    if first is None:
        raise ValueError("`frames` is empty: give at least one frame, or None for no video track")
    return first, itertools.chain([first], frames)


def _add_video(container: OutputContainer, shape: tuple[int, ...], fps: int, keyframe_every: int) -> VideoStream:
    codec, options = "mpeg4", {"qmin": "3", "qmax": "3"}
    if "libx264" in codecs_available:
        # A constant quantiser: the same picture gives the same keyframe whatever the length of its clip.
        codec, options = "libx264", {"qp": "18", "preset": "ultrafast"}
    stream = container.add_stream(codec, rate=fps, options=options)
    assert isinstance(stream, VideoStream)
    stream.height, stream.width = shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.gop_size = keyframe_every
    stream.codec_context.thread_count = 1
    stream.codec_context.flags |= Flags.bitexact
    return stream


def _add_audio(container: OutputContainer, audio: npt.NDArray[np.float32], sample_rate: int) -> AudioStream:
    num_channels = 1 if audio.ndim == 1 else audio.shape[1]
    stream = container.add_stream("aac", rate=sample_rate, layout=LAYOUTS[num_channels], options=AAC_OPTIONS)
    assert isinstance(stream, AudioStream)
    stream.bit_rate = AAC_BITS_PER_SAMPLE * sample_rate * num_channels
    stream.codec_context.flags |= Flags.bitexact
    return stream


def _audio_frames(audio: npt.NDArray[np.float32], sample_rate: int, per_second: int) -> Iterator[av.AudioFrame]:
    """Cut the audio into blocks of a frame's length."""
    planes = np.ascontiguousarray(np.atleast_2d(audio.T), dtype=np.float32)
    num_samples = planes.shape[1]
    num_blocks = -(-num_samples * per_second // sample_rate)
    edges = [min(i * sample_rate // per_second, num_samples) for i in range(num_blocks)] + [num_samples]
    for start, end in itertools.pairwise(edges):
        if start == end:
            continue
        block: Any = np.ascontiguousarray(planes[:, start:end])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=LAYOUTS[len(planes)])
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
        yield frame
