"""Checks one clip's sound and picture against what was put into the file, and what becomes of files that are broken."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from unibrivl.ingest.errors import ClipError
from unibrivl.ingest.mux import write_video
from unibrivl.ingest.sound import start_of_run
from unibrivl.shards import SAMPLE_RATE

from .decoding import FPS, SECONDS, decode, level, needs_x264, pictures


def sound(sample_rate: int, seconds: float = SECONDS, channels: int = 1) -> np.ndarray:
    """Return noise over a rising tone, so that only one lag fits."""
    time_s = np.arange(round(seconds * sample_rate)) / sample_rate
    noise = np.random.default_rng(0).standard_normal(len(time_s))
    chirp = 0.4 * np.sin(2 * np.pi * (200 + 200 * time_s) * time_s) + 0.05 * noise
    return (chirp if channels == 1 else np.stack([chirp] * channels, 1)).astype(np.float32)


def whole_sound(path: Path) -> np.ndarray:
    """Decode and resample a file's sound from its beginning, without any seeking."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    with av.open(path) as container:
        blocks = [f.to_ndarray()[0] for frame in container.decode(audio=0) for f in resampler.resample(frame)]
    blocks += [f.to_ndarray()[0] for f in resampler.resample(None)]
    return np.concatenate(blocks)


def lag_of(found: np.ndarray, expected: np.ndarray, most: int = 40) -> int:
    """Return by how many samples `found` comes late."""
    a, b = found[most : most + 4000].astype(float), expected[: 4000 + 2 * most].astype(float)
    scores = np.correlate(b, a, "valid")
    return most - int(np.argmax(scores))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return five seconds with a keyframe and another picture every second."""
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    write_video(path, frames=pictures(), audio=sound(44_100))
    return path


# --- sound


@pytest.fixture(scope="module", params=[44_100, 48_000, 22_050, 16_000], ids=str)
def rated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Return a file and its whole sound at 16 kHz."""
    path = tmp_path_factory.mktemp("rated") / "a.mp4"
    write_video(path, frames=pictures(), audio=sound(request.param), sample_rate=request.param)
    return path, whole_sound(path)


@pytest.mark.parametrize("start_ms", [0, 1, 333, 1000, 2357])
@pytest.mark.parametrize("length_ms", [1, 777, 2000])
def test_a_clip_is_the_same_stretch_of_the_whole_sound(
    rated: tuple[Path, np.ndarray], start_ms: int, length_ms: int
) -> None:
    path, whole = rated
    end_ms = start_ms + length_ms
    clip = decode(path, start_ms, end_ms)
    assert clip.audio.dtype == np.int16 and clip.audio.shape == (length_ms * 16,)
    assert clip.pad_ms == clip.decode_errors == 0
    if length_ms == 1:
        return
    expected = whole[start_ms * 16 : end_ms * 16]
    assert np.corrcoef(clip.audio, expected)[0, 1] > 0.999
    assert lag_of(clip.audio, expected) == 0


@pytest.mark.parametrize("start_ms", [0, 30, 500])
def test_a_clip_is_right_from_its_first_sample(rated: tuple[Path, np.ndarray], start_ms: int) -> None:
    """Regression: a clip at the start of its medium lacked the block that the decoder needs before the first."""
    path, whole = rated
    found = decode(path, start_ms, start_ms + 1000).audio[:640].astype(int)  # 40 ms
    expected = whole[start_ms * 16 : start_ms * 16 + 640].astype(int)
    assert np.abs(found - expected).max() < 400  # of 32768


def test_a_clip_is_the_sound_that_was_put_in(video: Path) -> None:
    """Against the array itself: a delay that every decode of the file shares would not be seen otherwise."""
    truth = sound(16_000)  # noise differs by rate; the tone does not
    clip = decode(video, 1250, 3250)
    expected = truth[1250 * 16 : 3250 * 16] * 32767
    assert lag_of(clip.audio, expected) == 0
    assert np.corrcoef(clip.audio, expected)[0, 1] > 0.95


def test_neighbours_join_without_a_seam(video: Path) -> None:
    parts = [decode(video, start, start + 500).audio for start in range(0, 4000, 500)]
    joined = np.concatenate(parts).astype(int)
    expected = whole_sound(video)[: len(joined)].astype(int)
    assert np.abs(joined - expected).max() < 400  # of 32768: a lossy decoder that starts elsewhere differs a little


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_become_one(tmp_path: Path, channels: int) -> None:
    write_video(tmp_path / "a.mp4", frames=pictures(), audio=sound(44_100, channels=channels))
    clip = decode(tmp_path / "a.mp4", 1000, 2000)
    assert clip.audio.shape == (SAMPLE_RATE,)
    expected = sound(16_000)[SAMPLE_RATE : 2 * SAMPLE_RATE]
    assert np.corrcoef(clip.audio, expected)[0, 1] > 0.95
    assert lag_of(clip.audio, expected) == 0


@pytest.mark.parametrize("sample_format", ["pcm_u8", "pcm_s16le", "pcm_s32le", "pcm_f32le"])
def test_packed_samples_of_any_width(tmp_path: Path, sample_format: str) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=FPS)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        voice = container.add_stream(sample_format, rate=44_100, layout="stereo")
        for picture in pictures():
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        stereo = sound(44_100, channels=2).reshape(1, -1)
        block = av.AudioFrame.from_ndarray(stereo, format="flt", layout="stereo")
        block.sample_rate, block.pts = 44_100, 0
        resampler = av.AudioResampler(format=voice.codec_context.format.name, layout="stereo", rate=44_100)
        for part in [*resampler.resample(block), *resampler.resample(None)]:
            container.mux(voice.encode(part))
        container.mux(voice.encode(None))
    clip = decode(path, 1333, 3333)
    assert clip.audio_codec == sample_format
    expected = whole_sound(path)[1333 * 16 : 3333 * 16]
    assert np.corrcoef(clip.audio, expected)[0, 1] > 0.999
    assert lag_of(clip.audio, expected) == 0


def test_the_same_clip_is_decoded_to_the_same_bytes(video: Path) -> None:
    first, second = decode(video, 1234, 3456), decode(video, 1234, 3456)
    assert first.audio.tobytes() == second.audio.tobytes()
    assert first.frames[0].tobytes() == second.frames[0].tobytes()


# --- time stamps in milliseconds


def test_the_start_of_a_run_from_rounded_time_stamps() -> None:
    """Of sound that starts at 0.2004 s, in packets of 1024 samples at 44.1 kHz."""
    exact = [0.2004 + i * 1024 / 44_100 for i in range(60)]
    offsets = [round(time, 3) - i * 1024 / 44_100 for i, time in enumerate(exact)]
    assert abs(offsets[0] - 0.2004) > 3e-4  # six samples of 16 kHz, were the first believed
    assert abs(start_of_run(offsets, 1e-3) - 0.2004) < 4e-5
    assert abs(start_of_run([0.2, *[0.2004] * 9, 0.25], 1e-3) - 0.2004) < 1e-6  # some are plainly wrong
    assert start_of_run([0.5], 1e-3) == 0.5


@pytest.mark.parametrize("start_ms", [0, 777, 1500, 2999])
def test_sound_in_a_container_of_milliseconds_is_in_its_place(tmp_path: Path, start_ms: int) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=FPS)
        video.width, video.height, video.pix_fmt, video.codec_context.gop_size = 64, 64, "yuv420p", FPS
        voice = container.add_stream("flac", rate=44_100, layout="mono")
        samples = np.round(sound(44_100) * 20_000).astype(np.int16)
        for i, picture in enumerate(pictures()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(video.encode(frame))
            block = av.AudioFrame.from_ndarray(samples[None, i * 8820 : (i + 1) * 8820], format="s16", layout="mono")
            block.sample_rate, block.pts, block.time_base = 44_100, i * 8820, Fraction(1, 44_100)
            container.mux(voice.encode(block))
        container.mux([*video.encode(None), *voice.encode(None)])
    clip = decode(path, start_ms, start_ms + 2000)
    expected = whole_sound(path)[start_ms * 16 : start_ms * 16 + 32_000]
    assert clip.pad_ms == 0 and abs(lag_of(clip.audio, expected)) <= 4  # a quarter of the rounding


# --- what is missing


def test_padding_within_the_limit_is_flagged(video: Path) -> None:
    """The last block of AAC reaches up to 24 ms beyond the five seconds."""
    clip = decode(video, 4000, 5500, max_pad_ms=500)
    assert clip.audio.shape == (1500 * 16,)
    assert 470 <= clip.pad_ms <= 500
    padding = clip.audio[-clip.pad_ms * 16 :]
    assert not padding.any()
    assert clip.audio[: -clip.pad_ms * 16].any()


def test_padding_beyond_the_limit_is_refused(video: Path) -> None:
    with pytest.raises(ClipError, match=r"the clip from 4000 to 5500 ms reaches past the end .* at 50\d\d ms") as e:
        decode(video, 4000, 5500, max_pad_ms=400)
    assert e.value.code == "media.out_of_range"


@pytest.mark.parametrize(
    ("start_ms", "end_ms"), [(5100, 5900), (5200, 5201), (60_000, 61_000), (999_998_000, 999_999_000)]
)
def test_a_clip_that_starts_behind_the_end_is_refused(video: Path, start_ms: int, end_ms: int) -> None:
    """Whatever padding is allowed: there is neither sound nor picture of it."""
    with pytest.raises(ClipError, match="reaches past the end") as caught:
        decode(video, start_ms, end_ms, max_pad_ms=1000)
    assert caught.value.code == "media.out_of_range"


@needs_x264
def test_sound_that_ends_before_the_picture(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames=pictures(), audio=sound(44_100, 2.0))
    assert 950 <= decode(tmp_path / "a.mp4", 1000, 3000, max_pad_ms=1000).pad_ms <= 1000
    with pytest.raises(ClipError, match=r"9\d\d ms of sound are missing between 1000 and 3000 ms, at most 900") as e:
        decode(tmp_path / "a.mp4", 1000, 3000, max_pad_ms=900)
    assert e.value.code == "media.truncated"
    with pytest.raises(ClipError, match="ms of sound are missing"):
        decode(tmp_path / "a.mp4", 3000, 5000, max_pad_ms=1000)


def test_a_clip_without_any_sound_of_its_own_is_refused(tmp_path: Path) -> None:
    """Padding may complete a clip; it may not be the whole of it."""
    write_video(tmp_path / "a.mp4", frames=pictures(), audio=sound(44_100, 2.0))
    with pytest.raises(ClipError, match="sound"):
        decode(tmp_path / "a.mp4", 3000, 3900, max_pad_ms=1000)


def test_a_picture_that_ends_before_the_sound(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames=pictures(2), audio=sound(44_100))
    clip = decode(tmp_path / "a.mp4", 1500, 4500)
    assert clip.frame_pts_ms < 2000 and level(clip) == 1


# --- the zoo


def faststart(source: Path, target: Path) -> bytes:
    """Copy a file with its index in front, as for the web."""
    with (
        av.open(str(source)) as container,
        av.open(str(target), "w", format="mp4", options={"movflags": "faststart"}) as out,
    ):
        streams = {s.index: out.add_stream_from_template(s) for s in container.streams}
        for packet in container.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return target.read_bytes()


@pytest.mark.parametrize(
    ("content", "code", "match"),
    [
        (b"", "local.empty_file", "0 bytes; fetch it again"),
        (b"   \n\n", "local.empty_file", "a.mp4"),
        (b"<!DOCTYPE html><html>Sorry</html>", "media.not_media", "a web page, not a media file; fetch it again"),
        (b"\n\n  <HTML><body>429</body>", "media.not_media", "a web page"),
        (b'<?xml version="1.0"?><Error/>', "media.not_media", "a web page"),
        (b"this is a text about nothing\n" * 99, "media.not_media", "not a readable media file"),
        (bytes(20_000), "media.not_media", "not a readable media file"),
        (bytes(range(256)) * 50, "media.not_media", "not a readable media file"),
        (b"RIFF\xff\xff\xff\xffAVI LIST", None, "a.mp4"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), None, "a.mp4"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "media.not_media", "cut before its index"),
    ],
    ids=["empty", "blank", "html", "late html", "xml", "text", "zeros", "bytes", "avi", "png", "mp4 head"],
)
def test_what_is_no_medium_is_refused(tmp_path: Path, content: bytes, code: str | None, match: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(ClipError, match=match) as caught:
        decode(path)
    assert code is None or caught.value.code == code
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"cannot be read \(No such file or directory\)") as caught:
        decode(tmp_path / "a.mp4")
    assert caught.value.code == "local.unreadable"


@pytest.mark.parametrize(("missing", "code"), [("audio", "media.no_audio"), ("video", "media.no_video")])
def test_a_missing_track_is_named(tmp_path: Path, missing: str, code: str) -> None:
    write_video(
        tmp_path / "a.mp4",
        frames=None if missing == "video" else pictures(1),
        audio=None if missing == "audio" else sound(44_100, 1.0),
    )
    with pytest.raises(ClipError, match=f"a.mp4: has no {missing} track") as caught:
        decode(tmp_path / "a.mp4")
    assert caught.value.code == code


def test_a_file_without_its_index_is_refused(video: Path, tmp_path: Path) -> None:
    data = video.read_bytes()
    for share in (0.3, 0.7, 0.9):
        (tmp_path / "a.mp4").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ClipError, match="cut before its index") as caught:
            decode(tmp_path / "a.mp4")
        assert caught.value.code == "media.not_media"


def test_a_file_cut_behind_its_index_has_its_first_part_only(video: Path, tmp_path: Path) -> None:
    """FFmpeg's own programs end well on such a file."""
    data = faststart(video, tmp_path / "whole.mp4")
    (tmp_path / "half.mp4").write_bytes(data[: len(data) // 2])
    assert np.array_equal(decode(tmp_path / "half.mp4", 0, 1000).audio, decode(tmp_path / "whole.mp4", 0, 1000).audio)
    for start_ms, end_ms in ((1000, 4000), (3000, 4000), (4000, 5000)):
        decode(tmp_path / "whole.mp4", start_ms, end_ms)
        with pytest.raises(ClipError, match=r"half\.mp4: ") as caught:
            decode(tmp_path / "half.mp4", start_ms, end_ms)
        assert caught.value.code in ("media.truncated", "media.no_frame", "media.decode_errors")


def test_a_hole_in_the_sound_is_silence_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=FPS)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        voice = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for picture in pictures():
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        samples = np.round(sound(16_000) * 20_000).astype(np.int16)
        for start in range(0, len(samples), 1600):
            if 32_000 <= start < 40_000:  # half a second from 2 s on
                continue
            block = av.AudioFrame.from_ndarray(samples[None, start : start + 1600], format="s16", layout="mono")
            block.sample_rate, block.pts, block.time_base = 16_000, start, Fraction(1, 16_000)
            container.mux(voice.encode(block))
        container.mux(voice.encode(None))
    clip = decode(path, 1000, 4000, max_pad_ms=600)
    assert abs(clip.pad_ms - 500) <= 1
    expected = samples[16_000:64_000].copy()
    expected[16_000:24_000] = 0
    assert np.abs(clip.audio.astype(int) - expected).max() <= 1
    with pytest.raises(ClipError, match="500 ms of sound are missing"):
        decode(path, 1000, 4000, max_pad_ms=400)


def rename(old: bytes) -> Callable[[bytearray, np.random.Generator], None]:
    def change(data: bytearray, _: np.random.Generator) -> None:
        place = data.rindex(old)
        data[place : place + 4] = b"zzzz"

    return change


def flip(count: int, *, only_index: bool) -> Callable[[bytearray, np.random.Generator], None]:
    def change(data: bytearray, rng: np.random.Generator) -> None:
        first = data.rindex(b"moov") if only_index else 0
        for place in rng.integers(first, len(data), count):
            data[place] = rng.integers(0, 256)

    return change


VARIANTS = [
    *[(f"{'index' if only else 'anywhere'}-{count}-{seed}", flip(count, only_index=only), seed)
      for count in (1, 5, 40, 400) for only in (True, False) for seed in range(5)],
    *[(f"no-{name.decode()}", rename(name), 0)
      for name in (b"avc1", b"mp4a", b"avcC", b"esds", b"stts", b"stsc", b"stco", b"stsz", b"mdhd", b"hdlr", b"vide",
                    b"soun")],
]  # fmt: skip


@needs_x264
@pytest.mark.parametrize(("change", "seed"), [v[1:] for v in VARIANTS], ids=[v[0] for v in VARIANTS])
def test_damaged_bytes_give_a_clip_or_a_reason(
    video: Path, tmp_path: Path, change: Callable[[bytearray, np.random.Generator], None], seed: int
) -> None:
    data = bytearray(video.read_bytes())
    change(data, np.random.default_rng(seed))
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    try:
        clip = decode(path, 1500, 2500, max_pad_ms=200)
    except ClipError as e:
        assert e.code.split(".")[0] in ("media", "local")
        assert "\n" not in str(e) and str(e).startswith(f"{path}: ")
        return
    assert clip.audio.shape == (SAMPLE_RATE,) and clip.frames[0].shape == (16, 16, 3)
    assert clip.pad_ms <= 200
