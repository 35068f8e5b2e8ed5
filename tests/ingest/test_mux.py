"""Checks files written from arrays by decoding them again."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.ingest import mux
from unibrivl.ingest.mux import read_recording, write_video

RATE = 44_100


def noise_picture(seed: int, side: int = 64) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return blocks.repeat(side // 8, 0).repeat(side // 8, 1)


def tone(num_samples: int, frequency: float = 440.0, sample_rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(num_samples) / sample_rate)).astype(np.float32)


def decode_audio(path: Path) -> np.ndarray:
    with av.open(path) as container:
        return np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)


def first_packet(path: Path) -> bytes:
    with av.open(path) as container:
        return bytes(next(container.demux(video=0)))


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_pictures_come_back_in_time_and_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    if codec == "mpeg4":
        monkeypatch.setattr(mux, "codecs_available", frozenset())
    pictures = [noise_picture(i) for i in range(12)]
    write_video(tmp_path / "a.mp4", frames=iter(pictures), audio=None, fps=4, keyframe_every=4)
    with av.open(tmp_path / "a.mp4") as container:
        assert [s.codec_context.name for s in container.streams] == [codec]
        frames = list(container.decode(video=0))
    assert [f.time for f in frames] == [i / 4 for i in range(12)]
    assert [f.key_frame for f in frames] == [i % 4 == 0 for i in range(12)]
    for frame, picture in zip(frames, pictures, strict=True):
        # Chroma is halved in the file, so compare the middles of the 8-pixel blocks.
        shown = frame.to_ndarray(format="rgb24")[4::8, 4::8].astype(int)
        assert np.abs(shown - picture[4::8, 4::8]).mean() < 12


def test_a_buffer_that_is_written_over_gives_new_frames(tmp_path: Path) -> None:
    def frames():
        buffer = np.zeros((32, 32, 3), np.uint8)
        for value in (0, 0, 250):
            buffer[:] = value
            yield buffer

    write_video(tmp_path / "a.mp4", frames=frames(), audio=None)
    with av.open(tmp_path / "a.mp4") as container:
        means = [f.to_ndarray(format="rgb24").mean() for f in container.decode(video=0)]
    assert means[0] < 5 and means[1] < 5 and means[2] > 240


def test_sound_comes_back_from_its_first_sample(tmp_path: Path) -> None:
    """Regression: at the encoder's default settings the first hundredths of a second were zeros."""
    for sound in (tone(RATE), 0.2 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)):
        write_video(tmp_path / "a.mp4", frames=[noise_picture(0)] * 5, audio=sound)
        heard = decode_audio(tmp_path / "a.mp4")[0, :RATE]
        onset = slice(0, 1024)
        error = np.square(heard - sound)[onset].mean() / np.square(sound)[onset].mean()
        assert error < 0.1  # -10 dB; the fault gave -1 dB


def test_channels_stay_apart(tmp_path: Path) -> None:
    stereo = np.stack([tone(8000, sample_rate=16_000), np.zeros(8000, np.float32)], axis=1)
    write_video(tmp_path / "a.mp4", frames=None, audio=stereo, sample_rate=16_000)
    with av.open(tmp_path / "a.mp4") as container:
        assert [(s.type, s.rate) for s in container.streams] == [("audio", 16_000)]
    left, right = decode_audio(tmp_path / "a.mp4")[:, :8000]
    assert np.abs(left).max() > 0.4 and np.abs(right).max() < 0.01


@settings(max_examples=12, deadline=None)
@given(num_samples=st.integers(100, 3 * RATE))
def test_no_sample_is_lost_and_the_picture_lasts_as_long(
    tmp_path_factory: pytest.TempPathFactory, num_samples: int
) -> None:
    path = tmp_path_factory.mktemp("length") / "a.mp4"
    num_frames = -(-num_samples * 5 // RATE)
    write_video(path, frames=[noise_picture(0)] * num_frames, audio=tone(num_samples))
    # MP4 says where a track ends in whole milliseconds, so up to one of them may go
    assert num_samples - RATE // 1000 <= decode_audio(path).shape[1] < num_samples + 1024
    with av.open(path) as container:
        assert len(list(container.decode(video=0))) == num_frames


def test_the_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames=[noise_picture(3)] * 7, audio=tone(50_000))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_the_first_keyframe_does_not_depend_on_the_length(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames=[noise_picture(3)] * 2, audio=tone(9_000))
    write_video(tmp_path / "b.mp4", frames=[noise_picture(3)] * 30, audio=tone(260_000))
    assert first_packet(tmp_path / "a.mp4") == first_packet(tmp_path / "b.mp4")


@pytest.mark.parametrize(("frames", "match"), [(None, "nothing to write"), ([], "empty")])
def test_nothing_to_write_is_refused_and_leaves_nothing(
    tmp_path: Path, frames: list[np.ndarray] | None, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        write_video(tmp_path / "a.mp4", frames=frames, audio=None)
    assert list(tmp_path.iterdir()) == []


def test_a_recording_is_read_as_mono_at_another_rate() -> None:
    file = io.BytesIO()
    both = np.stack([tone(22_050, sample_rate=22_050)] * 2, axis=1)
    soundfile.write(file, both, 22_050, format="OGG", subtype="VORBIS")
    audio = read_recording(file.getvalue(), sample_rate=RATE, max_s=10.0)
    # FFmpeg does not trim the last block of a Vorbis file of one page.
    assert audio.dtype == np.float32 and abs(len(audio) - RATE) <= 1024
    assert np.corrcoef(audio[: RATE - 1024], tone(RATE - 1024))[0, 1] > 0.99
    assert len(read_recording(file.getvalue(), sample_rate=RATE, max_s=0.25)) == RATE // 4
