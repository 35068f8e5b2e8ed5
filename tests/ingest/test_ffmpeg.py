"""Holds the second decoder to the first: the same sound within a sample, the same picture, the same errors."""

import os
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.codec import codecs_available

from unibrivl.ingest import ffmpeg
from unibrivl.ingest.decode import decode_clip
from unibrivl.ingest.decoded import DecodeConfig, DecodedClip
from unibrivl.ingest.errors import ClipError, IngestError
from unibrivl.ingest.mux import write_video

FPS, SECONDS = 10, 4


def sound(rate: int, channels: int) -> np.ndarray:
    """Return a rising tone with a little noise, float32 (samples, channels)."""
    time_s = np.arange(SECONDS * rate) / rate
    noise = 0.005 * np.random.default_rng(0).standard_normal(len(time_s))
    tone = 0.4 * np.sin(2 * np.pi * (200 + 200 * time_s) * time_s) + noise
    return np.stack([tone] * channels, 1).astype(np.float32)


def pictures(height: int = 72, width: int = 128) -> list[np.ndarray]:
    """Return a smooth coloured pattern that drifts and lightens."""
    y, x = np.mgrid[:height, :width]
    return [
        np.stack([127 + 60 * np.sin((x + 4 * i) / 11), 2 * y + i, 200 - x - y / 2 + i], 2).clip(0, 255).astype(np.uint8)
        for i in range(SECONDS * FPS)
    ]


def encode(
    path: Path, video: str, audio: str, *, rate: int, layout: str = "mono", delay: int = 0, **options: str
) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(video, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 72, "yuvj420p" if video == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.thread_count = FPS, 1
        stream.codec_context.bit_rate = 2_000_000
        voice = container.add_stream(audio, rate=rate, layout=layout)
        voice.bit_rate = 128_000
        for i, picture in enumerate(pictures()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = i + delay * FPS, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        samples = sound(rate, {"mono": 1, "stereo": 2, "5.1": 6}[layout])
        resampler = av.AudioResampler(format=voice.codec_context.format.name)
        for start in range(0, len(samples), rate // FPS):
            part = np.ascontiguousarray(samples[start : start + rate // FPS].T)
            block = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
            block.sample_rate, block.pts, block.time_base = rate, start + delay * rate, Fraction(1, rate)
            for frame in resampler.resample(block):
                container.mux(voice.encode(frame))
        container.mux(voice.encode(None))


MEDIA: dict[str, tuple[str, Callable[[Path], None]]] = {
    "AAC stereo": ("mp4", lambda p: write_video(p, frames=pictures(), audio=sound(44_100, 2), fps=FPS)),
    "AAC mono 48 kHz": ("mp4", lambda p: write_video(p, frames=pictures(), audio=sound(48_000, 1), sample_rate=48_000)),
    "5.1": ("mp4", lambda p: encode(p, "mpeg4", "aac", rate=48_000, layout="5.1")),
    "B-frames": ("mp4", lambda p: encode(p, "libx264", "aac", rate=44_100, bf="3", preset="medium", sc_threshold="0")),
    "VP8 and Opus": ("webm", lambda p: encode(p, "libvpx", "libopus", rate=48_000, deadline="realtime")),
    "MPEG-2 from 7 s on": ("ts", lambda p: encode(p, "mpeg2video", "mp2", rate=44_100, delay=7)),
    "MPEG-4 and MP3": ("flv", lambda p: encode(p, "flv", "libmp3lame", rate=44_100)),
    "FLAC": ("mkv", lambda p: encode(p, "mpeg4", "flac", rate=44_100, layout="stereo")),
    "PCM": ("mov", lambda p: encode(p, "mjpeg", "pcm_s16le", rate=22_050)),
}
NEEDS = {"B-frames": ("libx264",), "VP8 and Opus": ("libvpx", "libopus"), "MPEG-4 and MP3": ("libmp3lame",)}


@pytest.fixture(scope="module", params=MEDIA, ids=str)
def medium(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = request.param
    if missing := [codec for codec in NEEDS.get(name, ()) if codec not in codecs_available]:
        pytest.skip(f"the libraries lack {missing[0]}")
    suffix, make = MEDIA[name]
    path = tmp_path_factory.mktemp("parity") / f"a.{suffix}"
    make(path)
    return path


def lag_of(a: np.ndarray, b: np.ndarray, most: int = 20) -> tuple[float, float]:
    """Return by how many samples, in eighths, `a` comes late against `b`, and the correlation when that is undone."""
    spectrum, steps = np.fft.rfft(a), np.fft.rfftfreq(len(a))
    best = (-1.0, 0.0)
    for lag in np.arange(-8 * most, 8 * most + 1) / 8:
        earlier = np.fft.irfft(spectrum * np.exp(2j * np.pi * steps * lag), len(a))
        best = max(best, (float(np.corrcoef(earlier[400:-400], b[400:-400])[0, 1]), float(lag)))
    return best[1], best[0]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(((a.astype(float) - b.astype(float)) ** 2).mean())
    return 10 * np.log10(255**2 / max(error, 1e-6))


def both(path: Path, start_ms: int, end_ms: int, **options: object) -> tuple[DecodedClip, DecodedClip]:
    first, second = (
        decode_clip(path, start_ms, end_ms, DecodeConfig(**{"decoder": d, "frame_sizes": (64, 24)} | options))  # type: ignore[arg-type]
        for d in ("pyav", "ffmpeg")
    )
    return first, second


@pytest.mark.parametrize(
    ("start_ms", "end_ms"), [(0, 1000), (1333, 3033), (3000, 3900)], ids=["start", "middle", "end"]
)
def test_both_decoders_give_the_same(medium: Path, start_ms: int, end_ms: int) -> None:
    ours, theirs = both(medium, start_ms, end_ms)
    assert ours.audio.shape == theirs.audio.shape == ((end_ms - start_ms) * 16,)
    lag, correlation = lag_of(ours.audio, theirs.audio)
    assert abs(lag) <= 1 and correlation > 0.999
    assert abs(ours.pad_ms - theirs.pad_ms) <= 1
    assert (ours.frame_pts_ms, ours.frame_is_key) == (theirs.frame_pts_ms, theirs.frame_is_key)
    for a, b in zip(ours.frames, theirs.frames, strict=True):
        assert a.shape == b.shape and psnr(a, b) > 35
    assert (ours.width, ours.height, ours.fps) == (theirs.width, theirs.height, theirs.fps)
    assert ours.decode_errors == theirs.decode_errors == 0


@pytest.mark.parametrize("frame", ["random", "exact", "exact:0.25"])
def test_both_decoders_follow_the_same_choice_of_picture(tmp_path: Path, frame: str) -> None:
    write_video(tmp_path / "a.mp4", frames=pictures(), audio=sound(44_100, 1), fps=FPS, keyframe_every=7)
    ours, theirs = both(tmp_path / "a.mp4", 700, 2900, frame=frame)
    assert (ours.frame_pts_ms, ours.frame_is_key) == (theirs.frame_pts_ms, theirs.frame_is_key)
    assert psnr(ours.frames[0], theirs.frames[0]) > 35


def test_a_clip_is_decoded_to_the_same_bytes(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames=pictures(), audio=sound(44_100, 2), fps=FPS)
    config = DecodeConfig(decoder="ffmpeg")
    first, second = (decode_clip(tmp_path / "a.mp4", 1234, 2345, config) for _ in range(2))
    assert first.audio.tobytes() == second.audio.tobytes()
    assert first.frames[0].tobytes() == second.frames[0].tobytes()


def test_a_name_is_no_option_and_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-y.mp4", "http:a.mp4", "%d.mp4", "a b'c\"d.mp4"):
        write_video(Path(name), frames=pictures(), audio=sound(44_100, 1), fps=FPS)
        assert decode_clip(Path(name), 0, 1000, DecodeConfig(decoder="ffmpeg")).pad_ms == 0


# --- the program


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a program which knows its version and then does as told."""

    def write(body: str) -> Path:
        path = tmp_path / "ffmpeg"
        path.write_text(f'#!/bin/sh\nif [ "$1" = -version ]; then exit 0; fi\n{body}\n')
        path.chmod(0o755)
        return path

    return write


def test_the_program_that_was_named_comes_first(script: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = script("exit 1")
    assert ffmpeg.find_ffmpeg(path) == str(path)
    ffmpeg.find_ffmpeg.cache_clear()
    monkeypatch.setenv("PATH", str(path.parent))
    assert ffmpeg.find_ffmpeg(None) == str(path)
    ffmpeg.find_ffmpeg.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert "imageio_ffmpeg" in ffmpeg.find_ffmpeg(None)
    ffmpeg.find_ffmpeg.cache_clear()


@pytest.mark.parametrize("content", [None, "", "#!/bin/sh\nexit 3\n"], ids=["missing", "empty", "failing"])
def test_a_program_that_does_not_run_ends_the_run(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ffmpeg"
    if content is not None:
        path.write_text(content)
        path.chmod(0o755)
    (tmp_path / "a.mp4").write_bytes(b"x" * 99)
    with pytest.raises(IngestError, match=r"does not run .*name an ffmpeg with --ffmpeg") as caught:
        decode_clip(tmp_path / "a.mp4", 0, 1000, DecodeConfig(decoder="ffmpeg", ffmpeg=path))
    assert "\n" not in str(caught.value)


def test_a_program_that_hangs_is_killed_with_its_children(
    tmp_path: Path, script: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffmpeg, "TIMEOUT_S", 0.5)
    path = script(f"sleep 1000 & echo $! > {tmp_path}/pid; wait")
    (tmp_path / "a.mp4").write_bytes(b"x" * 99)
    with pytest.raises(ClipError, match=r"did not end within 0\.5 s") as caught:
        decode_clip(tmp_path / "a.mp4", 0, 1000, DecodeConfig(decoder="ffmpeg", ffmpeg=path))
    assert caught.value.code == "system.timeout"
    child = int((tmp_path / "pid").read_text())
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    os.kill(child, 9)
    pytest.fail("the child of the program goes on")


@pytest.mark.parametrize(
    ("says", "code"),
    [
        ("Cannot allocate memory", "system.oom"), ("Invalid data found when processing input", "media.not_media"),
        ("Error: something else", "media.decode_errors"), ("", "media.decode_errors"),
    ],
)  # fmt: skip
def test_what_the_program_says_becomes_a_code(
    tmp_path: Path, script: Callable[[str], Path], says: str, code: str
) -> None:
    path = script(f'echo "{says}" >&2; exit 1')
    (tmp_path / "a.mp4").write_bytes(b"x" * 99)
    with pytest.raises(ClipError) as caught:
        decode_clip(tmp_path / "a.mp4", 0, 1000, DecodeConfig(decoder="ffmpeg", ffmpeg=path))
    assert caught.value.code == code and "\n" not in str(caught.value)
