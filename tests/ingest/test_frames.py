"""Checks which picture of a clip is taken, and that its squares show what was put into the file."""

import os
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from unibrivl.ingest.decoded import DecodeConfig
from unibrivl.ingest.errors import ClipError
from unibrivl.ingest.mux import write_video

from .decoding import FPS, SECONDS, decode, level, needs_x264, pictures


def sound(sample_rate: int, seconds: float = SECONDS) -> np.ndarray:
    """Return a rising tone, float32 (samples,)."""
    time_s = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.4 * np.sin(2 * np.pi * (200 + 200 * time_s) * time_s)).astype(np.float32)


def encode(path: Path, frames: list[np.ndarray], options: dict[str, str]) -> None:
    """Write H.264 with options of its own."""
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        video = container.add_stream("libx264", rate=FPS, options={"qp": "12"} | options)
        video.pix_fmt, video.codec_context.thread_count = "yuv420p", 1
        voice = container.add_stream("aac", rate=16_000, layout="mono")
        video.height, video.width = frames[0].shape[:2]
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
        block = av.AudioFrame.from_ndarray(sound(16_000, len(frames) / FPS)[None], format="fltp", layout="mono")
        block.sample_rate, block.pts = 16_000, 0
        container.mux([*voice.encode(block), *voice.encode(None)])


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return five seconds with a keyframe and another picture every second."""
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    write_video(path, frames=pictures(), audio=sound(44_100))
    return path


# --- the keyframe


@pytest.mark.parametrize(
    ("start_ms", "end_ms", "second"),
    [
        (0, 5000, 2), (0, 1000, 0), (100, 2200, 1), (600, 4200, 2), (1000, 1001, 1), (1800, 2300, 2), (2600, 4200, 3),
        (3700, 4100, 4), (0, 600, 0), (100, 2999, 2), (3100, 5000, 4),
    ],
)  # fmt: skip
def test_the_picture_is_the_keyframe_nearest_to_the_middle(
    video: Path, start_ms: int, end_ms: int, second: int
) -> None:
    middle = (start_ms + end_ms) / 2
    inside = [s for s in range(SECONDS) if start_ms <= 1000 * s < end_ms]
    assert min(abs(1000 * s - middle) for s in inside) == abs(1000 * second - middle)  # the table itself is right
    clip = decode(video, start_ms, end_ms)
    assert (clip.frame_pts_ms, clip.frame_is_key, level(clip)) == (1000 * second, True, second)


@pytest.mark.parametrize(("start_ms", "end_ms"), [(2100, 2900), (3200, 3400), (4500, 4900)])
def test_without_a_keyframe_inside_it_is_the_frame_at_the_middle(video: Path, start_ms: int, end_ms: int) -> None:
    clip = decode(video, start_ms, end_ms)
    assert not clip.frame_is_key
    assert abs(clip.frame_pts_ms - (start_ms + end_ms) / 2) <= 1000 / FPS
    assert level(clip) == start_ms // 1000


@needs_x264
@pytest.mark.parametrize(
    ("start_ms", "end_ms", "second"), [(0, 5000, 2), (0, 1000, 0), (1700, 2300, 2), (3900, 4999, 4)]
)
def test_frames_that_are_stored_out_of_order(tmp_path: Path, start_ms: int, end_ms: int, second: int) -> None:
    """With B-frames the decoder holds pictures back: the one that comes out must be that of the key packet."""
    options = {"g": str(FPS), "keyint_min": str(FPS), "bf": "3", "sc_threshold": "0", "preset": "medium"}
    moving = [np.roll(p, i, axis=1) for i, p in enumerate(pictures())]
    encode(tmp_path / "a.mp4", moving, options)
    clip = decode(tmp_path / "a.mp4", start_ms, end_ms, max_pad_ms=100)
    assert (clip.frame_pts_ms, clip.frame_is_key, level(clip)) == (1000 * second, True, second)


def gradient(height: int, width: int, axis: int) -> np.ndarray:
    """Return a picture that goes from black to white along `axis`."""
    values = np.linspace(0, 255, width if axis else height)
    grid = np.broadcast_to(values if axis else values[:, None], (height, width))
    return np.repeat(grid[..., None], 3, 2).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(96, 160), (160, 96), (96, 96), (48, 320)])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_centre_square_is_cut_out(tmp_path: Path, height: int, width: int, axis: int) -> None:
    picture = gradient(height, width, axis)
    write_video(tmp_path / "a.mp4", frames=[picture] * FPS, audio=sound(16_000, 1.0), sample_rate=16_000)
    clip = decode(tmp_path / "a.mp4", frame_size=24)
    assert clip.frames[0].shape == (24, 24, 3) and clip.frames[0].dtype == np.uint8
    assert (clip.height, clip.width) == (height, width)
    side = min(height, width)
    along = width if axis else height
    edges = (along - side) / 2 + (np.arange(24) + 0.5) * side / 24 - 0.5
    expected = edges * 255 / (along - 1)
    found = clip.frames[0].astype(float).mean(axis=(1 - axis, 2))
    assert np.abs(found - expected).max() < 5  # of 255: the codec and the ends of the resampling filter


@pytest.mark.parametrize("size", [16, 64, 100])
def test_a_small_picture_is_enlarged(tmp_path: Path, size: int) -> None:
    write_video(tmp_path / "a.mp4", frames=pictures(1, side=32), audio=sound(16_000, 1.0), sample_rate=16_000)
    assert decode(tmp_path / "a.mp4", frame_size=size).frames[0].shape == (size, size, 3)


@needs_x264
def test_an_odd_size_is_decoded(tmp_path: Path) -> None:
    picture = gradient(64, 98, 1)
    with av.open(str(tmp_path / "a.mp4"), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"qp": "12"})
        stream.width, stream.height, stream.pix_fmt = 97, 63, "yuv444p"
        voice = container.add_stream("aac", rate=16_000, layout="mono")
        for _ in range(FPS):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:63, :97]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        block = av.AudioFrame.from_ndarray(sound(16_000, 1.0)[None], format="fltp", layout="mono")
        block.sample_rate, block.pts = 16_000, 0
        container.mux([*voice.encode(block), *voice.encode(None)])
    clip = decode(tmp_path / "a.mp4", frame_size=21)
    assert (clip.width, clip.height, clip.frames[0].shape) == (97, 63, (21, 21, 3))
    assert clip.frames[0][:, -1].mean() - clip.frames[0][:, 0].mean() > 140


def test_a_rotated_video_is_shown_upright(tmp_path: Path) -> None:
    """Phones store how to turn the picture; a quarter turn clockwise brings the left edge to the top."""
    write_video(tmp_path / "a.mp4", frames=[gradient(64, 96, 1)] * FPS, audio=sound(16_000, 1.0), sample_rate=16_000)
    assert (upright := decode(tmp_path / "a.mp4")).frames[0][:, -1].mean() - upright.frames[0][:, 0].mean() > 140
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    place = data.index(matrix, data.index(b"tkhd"))
    data[place : place + len(matrix)] = turned
    (tmp_path / "turned.mp4").write_bytes(data)
    clip = decode(tmp_path / "turned.mp4")
    assert clip.frames[0][-1].mean() - clip.frames[0][0].mean() > 140
    assert abs(clip.frames[0][:, -1].mean() - clip.frames[0][:, 0].mean()) < 20


def test_the_source_is_described(video: Path) -> None:
    clip = decode(video)
    assert (clip.audio_codec, clip.width, clip.height, clip.fps) == ("aac", 64, 64, 5.0)
    assert clip.video_codec in ("h264", "mpeg4")


# --- which picture, and how large


def test_a_drawn_picture_is_a_keyframe_and_settled_by_seed_and_key(video: Path) -> None:
    def drawn(key: str, seed: int = 0) -> int:
        clip = decode(video, 500, 4500, frame="random", key=key, seed=seed)
        assert clip.frame_is_key and level(clip) == clip.frame_pts_ms // 1000
        return clip.frame_pts_ms

    keys = [f"gen_{i}_000000500" for i in range(24)]
    first = [drawn(key) for key in keys]
    assert first == [drawn(key) for key in keys]
    assert set(first) == {1000, 2000, 3000, 4000}
    assert first != [drawn(key, seed=1) for key in keys]


def test_a_drawn_instant_is_anywhere_in_the_clip() -> None:
    config = DecodeConfig(frame="random")
    instants = [float(config.instant_ms(1000, 11_000, f"gen_{i}_000001000")) for i in range(500)]
    assert all(1000 <= instant < 11_000 for instant in instants)
    counts = np.histogram(instants, bins=5, range=(1000, 11_000))[0]
    assert counts.min() > 60  # of 100


@pytest.mark.parametrize(
    ("frame", "expected"),
    [("exact", 2400), ("exact:0", 400), ("exact:1.5", 1800), ("exact:1.6", 2000), ("exact:1.799", 2000),
     ("exact:1.8", 2200), ("exact:4.099", 4400)],
)  # fmt: skip
def test_an_exact_picture_is_the_one_shown_then(video: Path, frame: str, expected: int) -> None:
    """Pictures last 200 ms; the clip starts at 400 ms."""
    clip = decode(video, 400, 4500, frame=frame, max_pad_ms=100)
    assert (clip.frame_pts_ms, level(clip)) == (expected, expected // 1000)
    assert clip.frame_is_key == (expected % 1000 == 0)


@needs_x264
@pytest.mark.parametrize("frame", ["exact", "exact:0.05", "exact:1.2"])
def test_an_exact_picture_among_pictures_out_of_order(tmp_path: Path, frame: str) -> None:
    options = {"g": "20", "bf": "3", "sc_threshold": "0", "preset": "medium", "qp": "5"}
    steps = [np.full((64, 64, 3), 10 + 9 * i, np.uint8) for i in range(25)]
    encode(tmp_path / "a.mp4", steps, options)
    clip = decode(tmp_path / "a.mp4", 1000, 4000, frame=frame, max_pad_ms=100)
    instant = 1000 + {"exact": 1500, "exact:0.05": 50, "exact:1.2": 1200}[frame]
    assert clip.frame_pts_ms == instant // 200 * 200
    assert round((clip.frames[0].mean() - 10) / 9) == clip.frame_pts_ms // 200


@pytest.mark.parametrize("frame", ["exact:1", "exact:1.0", "exact:9999"])
def test_a_clip_too_short_for_the_wanted_picture_fails(video: Path, frame: str) -> None:
    with pytest.raises(ClipError, match=r"is wanted at .* ms of a clip of 1000 ms; ask for an earlier one") as caught:
        decode(video, 1000, 2000, frame=frame, key="gen_a_000001000")
    assert caught.value.code == "media.out_of_range"


def test_several_sizes_are_each_made_from_the_full_picture(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    write_video(tmp_path / "a.mp4", frames=[noise] * FPS, audio=sound(16_000, 1.0), sample_rate=16_000)
    several = decode(tmp_path / "a.mp4", frame_sizes=(64, 16, 384))
    assert [frame.shape for frame in several.frames] == [(64, 64, 3), (16, 16, 3), (384, 384, 3)]
    for size, frame in zip((64, 16, 384), several.frames, strict=True):
        assert np.array_equal(decode(tmp_path / "a.mp4", frame_size=size).frames[0], frame)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"frame": "last"}, "frame is 'last', want middle, random, exact or exact:SECONDS"),
        ({"frame": "exact:-1"}, "frame is"), ({"frame": "exact:"}, "frame is"), ({"frame": "exact:1e3"}, "frame is"),
        ({"frame_sizes": ()}, "want one or more different sides"), ({"frame_sizes": (64, 64)}, "different sides"),
        ({"frame_sizes": (64, 15)}, "frame_sizes has 15, want 16 to 1024"), ({"frame_sizes": (1025,)}, "has 1025"),
        ({"max_pad_ms": -1}, "max_pad_ms is -1"), ({"decoder": "gstreamer"}, "decoder is 'gstreamer', want pyav or"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        DecodeConfig(**options)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    """Opening it would wait for someone to write."""
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(ClipError, match="not a file") as caught:
        decode(tmp_path / "a.mp4")
    assert caught.value.code == "local.unreadable"
