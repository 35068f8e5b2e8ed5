"""Keeps a zoo of broken and odd media: each gives the right clip, or fails with its own code, in both decoders."""

import os
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from unibrivl.ingest.decode import decode_clip
from unibrivl.ingest.decoded import DecodeConfig, DecodedClip
from unibrivl.ingest.errors import ClipError
from unibrivl.ingest.mux import write_video

from .decoding import FPS, SECONDS, level, needs_x264

RATE = 44_100
DECODERS = ("pyav", "ffmpeg")
both = pytest.mark.parametrize("decoder", DECODERS)


def chirp(seconds: float = SECONDS, channels: int = 1, rate: int = RATE) -> np.ndarray:
    """Return a rising tone whose every instant is its own, float32."""
    time_s = np.arange(round(seconds * rate)) / rate
    tone = (0.4 * np.sin(2 * np.pi * (200 + 150 * time_s) * time_s)).astype(np.float32)
    return tone if channels == 1 else np.stack([tone] * channels, 1)


def greys(seconds: int = SECONDS, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Return grey pictures, one level a second."""
    return [np.full((height, width, 3), 20 + 40 * (i // FPS), np.uint8) for i in range(seconds * FPS)]


def decode(path: Path, decoder: str, start_ms: int = 1000, end_ms: int = 2000, **options: Any) -> DecodedClip:
    config = DecodeConfig(**{"decoder": decoder, "frame_sizes": (16,), "max_pad_ms": 50} | options)
    return decode_clip(path, start_ms, end_ms, config)


def code_of(path: Path, decoder: str, start_ms: int = 1000, end_ms: int = 2000, **options: Any) -> str:
    with pytest.raises(ClipError) as caught:
        decode(path, decoder, start_ms, end_ms, **options)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{path}: ")
    return caught.value.code


def assert_sound(clip: DecodedClip, start_ms: int, most: int = 0) -> None:
    """Check that a clip has the chirp from `start_ms` on, at most so many samples late or early."""
    whole, first, num = chirp(rate=16_000), start_ms * 16, len(clip.audio)
    lags = range(-most, most + 1)
    assert max(np.corrcoef(clip.audio, whole[first + lag : first + lag + num])[0, 1] for lag in lags) > 0.98


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zoo") / "a.mp4"
    write_video(path, frames=greys(), audio=chirp())
    return path


@pytest.fixture(scope="module")
def faststart(video: Path) -> bytes:
    """Return the same file with its index in front, as for the web."""
    target = video.with_name("faststart.mp4")
    with (
        av.open(str(video)) as container,
        av.open(str(target), "w", format="mp4", options={"movflags": "faststart"}) as out,
    ):
        streams = {s.index: out.add_stream_from_template(s) for s in container.streams}
        for packet in container.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return target.read_bytes()


def encode(
    path: Path, *, video: str = "mpeg4", audio: str = "aac", pix_fmt: str = "yuv420p", size: tuple[int, int] = (64, 48),
    times: list[int] | None = None, delay: Fraction = Fraction(0), options: dict[str, str] | None = None,
) -> Path:  # fmt: skip
    """Write a file with codecs, times of pictures in fifths of a second, and a delay of everything."""
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"} if delay else {}) as container:
        stream = container.add_stream(video, rate=FPS, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt, stream.codec_context.gop_size, stream.codec_context.thread_count = pix_fmt, FPS, 1
        voice = container.add_stream(audio, rate=48_000, layout="mono")
        pictures = greys(SECONDS, *size[::-1])
        for i in times or range(len(pictures)):
            frame = av.VideoFrame.from_ndarray(pictures[i], format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = i + int(delay * FPS), Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        samples = chirp(rate=48_000)
        for start in range(0, len(samples), 960):
            block = av.AudioFrame.from_ndarray(samples[None, start : start + 960], format="fltp", layout="mono")
            block.sample_rate, block.time_base = 48_000, Fraction(1, 48_000)
            block.pts = start + int(delay * 48_000)
            for part in av.AudioResampler(format=voice.codec_context.format.name).resample(block):
                container.mux(voice.encode(part))
        container.mux(voice.encode(None))
    return path


# --- no media at all


@both
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "local.empty_file"),
        (b"<!DOCTYPE html><html>Sorry, too many requests</html>" * 99, "media.not_media"),
        (bytes(50_000), "media.not_media"),
        (b"this is a text about nothing\n" * 99, "media.not_media"),
        (bytes(range(256)) * 50, "media.not_media"),
    ],
    ids=["zero bytes", "HTML", "zeros", "text", "bytes"],
)
def test_what_is_no_medium(tmp_path: Path, decoder: str, content: bytes, code: str) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    assert code_of(tmp_path / "a.mp4", decoder) == code


@both
def test_a_folder(tmp_path: Path, decoder: str) -> None:
    (tmp_path / "a.mp4").mkdir()
    assert code_of(tmp_path / "a.mp4", decoder) == "local.unreadable"


@both
def test_a_missing_file_and_a_name_that_no_file_can_have(tmp_path: Path, decoder: str) -> None:
    assert code_of(tmp_path / "a.mp4", decoder) == "local.unreadable"
    assert code_of(tmp_path / "a\0.mp4", decoder) == "local.unreadable"


@both
def test_a_pipe_that_nobody_writes(tmp_path: Path, decoder: str) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    assert code_of(tmp_path / "a.mp4", decoder) == "local.unreadable"


@contextmanager
def as_nobody() -> Iterator[None]:
    """Lay down the rights of root, which may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"secret")
    (tmp_path / "a.mp4").chmod(0)
    with as_nobody():
        assert code_of(tmp_path / "a.mp4", "pyav") == "local.unreadable"


@both
def test_a_playlist_in_disguise_opens_nothing(tmp_path: Path, video: Path, decoder: str) -> None:
    (tmp_path / "other.mp4").write_bytes(video.read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        calls: list[object] = []
        threading.Thread(target=lambda: calls.append(server.accept()), daemon=True).start()
        for text in (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}\n#EXT-X-ENDLIST\n",
            "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.mp4\n#EXT-X-ENDLIST\n",
            "ffconcat version 1.0\nfile other.mp4\n",
            f"ffconcat version 1.0\nfile '{address}'\n",
        ):
            (tmp_path / "a.mp4").write_text(text)
            assert code_of(tmp_path / "a.mp4", decoder) == "media.not_media"
        assert not calls


# --- cut and damaged


@both
def test_half_a_file_for_the_web(tmp_path: Path, faststart: bytes, decoder: str) -> None:
    (tmp_path / "a.mp4").write_bytes(faststart[: len(faststart) // 2])
    assert_sound(decode(tmp_path / "a.mp4", decoder, 0, 1000), 0)
    codes = {code_of(tmp_path / "a.mp4", decoder, start, start + 1000) for start in (3000, 4000)}
    assert codes <= {"media.truncated", "media.no_frame", "media.decode_errors"}


@both
def test_a_file_without_its_index(tmp_path: Path, video: Path, decoder: str) -> None:
    content = video.read_bytes()
    (tmp_path / "a.mp4").write_bytes(content[: content.rindex(b"moov") - 4])
    assert code_of(tmp_path / "a.mp4", decoder) == "media.not_media"


@both
def test_flipped_bytes_are_counted_or_refused(tmp_path: Path, faststart: bytes, decoder: str) -> None:
    """ffmpeg itself ends well on these."""
    content = np.frombuffer(faststart, np.uint8).copy()
    first = faststart.index(b"mdat") + 8
    places = np.random.default_rng(0).integers(first, len(content), len(content) // 20)
    content[places] ^= 255
    (tmp_path / "a.mp4").write_bytes(content.tobytes())
    try:
        assert decode(tmp_path / "a.mp4", decoder, 0, 5000).decode_errors > 0
    except ClipError as e:
        assert e.code in ("media.decode_errors", "media.truncated", "media.no_frame")


@both
def test_packets_that_do_not_decode_are_counted(tmp_path: Path, video: Path, decoder: str) -> None:
    with av.open(str(video)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(audio=0) if packet.size]
    content, rng = np.frombuffer(video.read_bytes(), np.uint8).copy(), np.random.default_rng(0)

    def damage(count: int) -> None:
        for i in rng.choice(np.arange(20, 200), count, replace=False):
            place, size = packets[i]
            content[place : place + size] = rng.integers(0, 256, size)
        (tmp_path / "a.mp4").write_bytes(content.tobytes())

    damage(10)
    clip = decode(tmp_path / "a.mp4", decoder, 0, 5000, max_pad_ms=1000)
    assert clip.decode_errors == 10
    assert 200 <= clip.pad_ms <= 250  # a packet is 23 ms
    assert code_of(tmp_path / "a.mp4", decoder, 0, 5000, max_pad_ms=100) == "media.truncated"
    damage(70)
    assert code_of(tmp_path / "a.mp4", decoder, 0, 5000, max_pad_ms=5000) == "media.decode_errors"


@both
@pytest.mark.parametrize(("missing", "code"), [("audio", "media.no_audio"), ("video", "media.no_video")])
def test_one_track_only(tmp_path: Path, decoder: str, missing: str, code: str) -> None:
    frames = None if missing == "video" else greys()
    write_video(tmp_path / "a.mp4", frames=frames, audio=None if missing == "audio" else chirp())
    assert code_of(tmp_path / "a.mp4", decoder) == code


@both
@pytest.mark.parametrize(
    ("start_ms", "end_ms"), [(4500, 5500), (5000, 5900), (60_000, 61_000), (999_998_000, 999_999_000)]
)
def test_a_clip_past_the_end(video: Path, decoder: str, start_ms: int, end_ms: int) -> None:
    assert code_of(video, decoder, start_ms, end_ms) == "media.out_of_range"


@both
@pytest.mark.parametrize("seconds", [1, 1000])
def test_a_header_that_lies_about_the_duration(tmp_path: Path, video: Path, decoder: str, seconds: int) -> None:
    content = bytearray(video.read_bytes())
    for name, place in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        for found in re.finditer(name, bytes(content)):
            unit = 1000 if name == b"tkhd" else struct.unpack_from(">I", content, found.start() + 16)[0]
            struct.pack_into(">I", content, found.start() + place, seconds * unit)
    (tmp_path / "a.mp4").write_bytes(content)
    assert_sound(decode(tmp_path / "a.mp4", decoder, 0, 1000), 0)
    codes = {code_of(tmp_path / "a.mp4", decoder, start, start + 1000) for start in (50_000, 500_000)}
    assert codes <= {"media.out_of_range", "media.truncated", "media.no_frame"}


@both
def test_a_picture_of_impossible_size(tmp_path: Path, decoder: str) -> None:
    path = encode(tmp_path / "a.mkv", video="mjpeg", pix_fmt="yuvj420p", audio="flac")
    content, head = path.read_bytes(), b"\xff\xc0\x00\x11\x08"
    assert content.count(head + struct.pack(">HH", 48, 64)) == SECONDS * FPS
    path.write_bytes(content.replace(head + struct.pack(">HH", 48, 64), head + struct.pack(">HH", 65_500, 65_500)))
    assert code_of(path, decoder) in ("media.no_frame", "media.decode_errors", "system.oom")


# --- odd but sound


@both
@pytest.mark.parametrize(("start_ms", "end_ms"), [(0, 1000), (2500, 3500), (4000, 5000), (1000, 1200)])
def test_clips_of_a_second_and_less(video: Path, decoder: str, start_ms: int, end_ms: int) -> None:
    clip = decode(video, decoder, start_ms, end_ms)
    assert_sound(clip, start_ms)
    assert start_ms <= clip.frame_pts_ms < end_ms
    assert level(clip) == clip.frame_pts_ms // 1000


@both
def test_surround_sound(tmp_path: Path, decoder: str) -> None:
    write_video(tmp_path / "a.mp4", frames=greys(), audio=chirp(channels=6))
    clip = decode(tmp_path / "a.mp4", decoder)
    assert_sound(clip, 1000)
    assert np.abs(clip.audio.astype(int)).max() < 32_767


@both
def test_pictures_at_irregular_times(tmp_path: Path, decoder: str) -> None:
    times = [0, 1, 2, 7, 8, 9, 16, 17, 24]
    path = encode(tmp_path / "a.mkv", times=times, audio="flac")
    clip = decode(path, decoder, 2000, 3000, frame="exact")  # 2.5 s: the picture of 1.8 s is still shown
    assert_sound(clip, 2000)
    assert (clip.frame_pts_ms, level(clip)) == (1800, 1)


@both
@needs_x264
def test_ten_bits_a_colour(tmp_path: Path, decoder: str) -> None:
    if "yuv420p10le" not in {f.name for f in av.Codec("libx264", "w").video_formats or ()}:
        pytest.skip("this x264 makes 8 bits only")
    clip = decode(encode(tmp_path / "a.mp4", video="libx264", pix_fmt="yuv420p10le"), decoder)
    assert (level(clip), clip.video_codec) == (1, "h264")


@both
def test_an_odd_size(tmp_path: Path, decoder: str) -> None:
    clip = decode(encode(tmp_path / "a.mkv", video="ffv1", size=(67, 49), audio="flac"), decoder)
    assert (clip.width, clip.height, level(clip)) == (67, 49, 1)


@both
@pytest.mark.parametrize("name", ["a.ts", "a.mkv"])
def test_a_file_whose_clock_does_not_start_at_zero(tmp_path: Path, decoder: str, name: str) -> None:
    """Its times count from its own beginning, as players show them."""
    path = encode(tmp_path / name, delay=Fraction(7), video="mpeg2video" if name == "a.ts" else "mpeg4", audio="mp2")
    with av.open(str(path)) as container:
        assert container.start_time and container.start_time > 6_500_000
        late_ms = 0 if container.streams.audio[0].start_time is None else container.start_time / 1000 - 7000
    clip = decode(path, decoder, 2000, 3000, max_pad_ms=0)
    lag = round(16 * late_ms)  # what the encoder put before the sound
    expected = chirp(rate=16_000)[32_000 + lag : 48_000 + lag]
    assert np.corrcoef(clip.audio, expected)[0, 1] > 0.98
    assert level(clip) == 2 and 2000 - late_ms - 1 <= clip.frame_pts_ms < 3000


@both
def test_an_edit_list_that_delays_the_sound(tmp_path: Path, video: Path, decoder: str) -> None:
    """The sound's track begins a second later than its samples do."""
    path = tmp_path / "a.mp4"
    with av.open(str(video)) as container, av.open(str(path), "w", format="mp4") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in container.streams}
        for packet in container.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "audio" and packet.pts is not None:
                packet.pts, packet.dts = packet.pts + RATE, packet.dts + RATE
            packet.stream = streams[packet.stream.index]
            out.mux(packet)
    assert b"elst" in path.read_bytes()
    assert_sound(decode(path, decoder, 2500, 3500), 1500, most=20)  # the delay is stored in whole milliseconds
    assert code_of(path, decoder, 0, 900, max_pad_ms=800) in ("media.truncated",)
    assert abs(decode(path, decoder, 500, 1500, max_pad_ms=600).pad_ms - 500) <= 30


@both
def test_a_turned_picture(tmp_path: Path, decoder: str) -> None:
    ramp = np.repeat(np.broadcast_to(np.linspace(0, 255, 96), (64, 96))[..., None], 3, 2).astype(np.uint8)
    write_video(tmp_path / "a.mp4", frames=[ramp] * FPS * 2, audio=chirp(2.0))
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    place = content.index(plain, content.index(b"tkhd"))
    content[place : place + len(plain)] = turned
    (tmp_path / "a.mp4").write_bytes(content)
    frame = decode(tmp_path / "a.mp4", decoder).frames[0].astype(float)
    assert frame[-1].mean() - frame[0].mean() > 140
    assert abs(frame[:, -1].mean() - frame[:, 0].mean()) < 20


@both
def test_pixels_that_are_not_square(tmp_path: Path, decoder: str) -> None:
    """The square is one of what is shown: of 64 x 48 pixels twice as wide as high, the middle 24 columns."""
    ramp = np.repeat(np.broadcast_to(np.linspace(0, 255, 64), (48, 64))[..., None], 3, 2).astype(np.uint8)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS, options={"qmin": "2", "qmax": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        voice = container.add_stream("aac", rate=16_000, layout="mono")
        for _ in range(FPS):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(ramp, format="rgb24")))
        container.mux(stream.encode(None))
        block = av.AudioFrame.from_ndarray(chirp(1.0, rate=16_000)[None], format="fltp", layout="mono")
        block.sample_rate, block.pts = 16_000, 0
        container.mux([*voice.encode(block), *voice.encode(None)])
    frame = decode(path, decoder, 0, 1000).frames[0].astype(float)
    assert abs(frame[:, -1].mean() - frame[:, 0].mean() - 255 * 24 / 64 * 15 / 16) < 8


def test_the_zoo_has_a_clean_animal(video: Path) -> None:
    """Else every refusal above would prove nothing."""
    for decoder in DECODERS:
        clip = decode(video, decoder, 1000, 4000)
        assert (clip.decode_errors, clip.pad_ms, clip.fps) == (0, 0, 5.0)
        assert_sound(clip, 1000)
