"""Query files: what people have on their disks is read; what is no sound or picture is refused in one line."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from unibrivl.index.errors import QueryError
from unibrivl.index.media import read_picture, read_sound
from unibrivl.ingest.mux import write_video


def tone(seconds: float, rate: int, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def pitch(sound: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(sound)).argmax() * 16_000 / len(sound))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_sound_files_come_at_16_khz(tmp_path: Path, suffix: str, rate: int) -> None:
    path = tmp_path / f"question.{suffix}"
    soundfile.write(path, tone(1.5, rate), rate)
    found = read_sound(path)
    assert found.dtype == np.float32 and found.ndim == 1
    # a lossy codec adds up to a few frames of silence at the ends
    assert len(found) == pytest.approx(24_000, abs=20 if suffix in ("wav", "flac") else 2500)
    assert pitch(found) == pytest.approx(440, abs=3)
    assert np.abs(found).max() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_every_depth_of_a_wav_is_read(tmp_path: Path, subtype: str) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.5, 16_000), 16_000, subtype=subtype)
    assert read_sound(tmp_path / "a.wav") == pytest.approx(tone(0.5, 16_000), abs=0.01)


def test_channels_are_mixed(tmp_path: Path) -> None:
    both = np.stack([tone(1, 16_000), np.zeros(16_000, np.float32)], axis=1)
    soundfile.write(tmp_path / "a.wav", both, 16_000)
    found = read_sound(tmp_path / "a.wav")
    assert found.shape == (16_000,) and pitch(found) == pytest.approx(440, abs=3)
    assert 0.2 < np.abs(found).max() < 0.4


def test_the_sound_of_a_video_is_read(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames=[np.zeros((32, 32, 3), np.uint8)] * 5, audio=tone(1, 44_100))
    found = read_sound(tmp_path / "a.mp4")
    assert len(found) == pytest.approx(16_000, abs=1200) and pitch(found) == pytest.approx(440, abs=3)


def test_a_sound_stays_in_its_range(tmp_path: Path) -> None:
    """Resampling a full-scale square wave overshoots, and a float file may hold anything."""
    square = np.sign(tone(1, 44_100))
    soundfile.write(tmp_path / "square.wav", square, 44_100)
    soundfile.write(tmp_path / "loud.wav", 5 * tone(1, 16_000), 16_000, subtype="FLOAT")
    for name in ("square.wav", "loud.wav"):
        assert np.abs(read_sound(tmp_path / name)).max() <= 1, name


@pytest.mark.parametrize("name", ["12:30.wav", "-.wav", "a b.wav", "?.wav", "Größe.wav", "%d.wav"])
def test_any_file_name_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """FFmpeg takes what stands before a colon for a protocol."""
    monkeypatch.chdir(tmp_path)
    soundfile.write(name, tone(0.5, 16_000), 16_000)
    assert len(read_sound(Path(name))) == 8000


def test_a_long_sound_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(8_000 * 601, np.int16), 8_000)
    with pytest.raises(QueryError, match=r"long\.wav: longer than 600 s; cut the part that you mean"):
        read_sound(tmp_path / "long.wav")


def refused(read, path: Path) -> str:
    with pytest.raises(QueryError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def read_small(path: Path) -> np.ndarray:
    return read_picture(path, 32)


@pytest.mark.parametrize("read", [read_sound, read_small])
def test_what_is_no_such_file_is_refused(tmp_path: Path, read) -> None:
    assert "no such file" in refused(read, tmp_path / "missing")
    refused(read, tmp_path)
    (tmp_path / "empty").touch()
    assert "0 bytes" in refused(read, tmp_path / "empty")
    (tmp_path / "text").write_text("The quick brown fox jumps over the lazy dog.\n" * 20)
    assert "not a readable" in refused(read, tmp_path / "text")


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "mute.mp4", frames=[np.zeros((32, 32, 3), np.uint8)] * 5, audio=None)
    assert "has no sound" in refused(read_sound, tmp_path / "mute.mp4")


def test_a_picture_is_no_sound_and_a_sound_no_picture(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", tone(0.5, 16_000), 16_000)
    refused(read_sound, tmp_path / "a.png")
    refused(read_small, tmp_path / "a.wav")


def test_a_sound_file_without_a_sample_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), 16_000)
    refused(read_sound, tmp_path / "a.wav")


RED, BLUE = (220, 30, 40), (20, 40, 210)


def halves(size: tuple[int, int] = (80, 60)) -> Image.Image:
    """Return a picture whose left half is red and whose right half is blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def assert_halves(found: np.ndarray, tolerance: int = 8) -> None:
    assert found.dtype == np.uint8 and found.shape == (32, 32, 3)
    assert np.abs(found[16, 4].astype(int) - RED).max() <= tolerance
    assert np.abs(found[16, 27].astype(int) - BLUE).max() <= tolerance


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_pictures_of_every_format_are_read(tmp_path: Path, file_format: str) -> None:
    halves().save(tmp_path / "a", file_format)
    assert_halves(read_picture(tmp_path / "a", 32), 30)


def test_the_centre_square_is_taken(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 100), "white")
    image.paste(halves((100, 100)), (100, 0))
    image.save(tmp_path / "wide.png")
    assert_halves(read_picture(tmp_path / "wide.png", 32))
    tall = Image.new("RGB", (100, 300), "white")
    tall.paste(halves((100, 100)), (0, 100))
    tall.save(tmp_path / "tall.png")
    assert_halves(read_picture(tmp_path / "tall.png", 32))


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    image = halves().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    image.save(tmp_path / "clear.png")
    assert (read_picture(tmp_path / "clear.png", 32) == 255).all()
    image.putalpha(Image.new("L", image.size, 128))
    image.save(tmp_path / "half.png")
    assert read_picture(tmp_path / "half.png", 32)[16, 4] == pytest.approx((np.array(RED) + 255) / 2, abs=3)


def test_palettes_grey_and_one_bit_are_read(tmp_path: Path) -> None:
    halves().convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.gif")
    assert_halves(read_picture(tmp_path / "a.gif", 32))
    halves().convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    assert_halves(read_picture(tmp_path / "a.png", 32))
    for mode in ("L", "LA", "1"):
        halves().convert(mode).save(tmp_path / "grey.png")
        assert read_picture(tmp_path / "grey.png", 32).shape == (32, 32, 3)
    halves().convert("CMYK").save(tmp_path / "print.jpg")
    assert_halves(read_picture(tmp_path / "print.jpg", 32), 30)


def test_a_palette_with_a_transparent_entry_is_white_there(tmp_path: Path) -> None:
    image = halves().quantize(4)
    image.save(tmp_path / "a.gif", transparency=image.getpixel((0, 0)))
    found = read_picture(tmp_path / "a.gif", 32)
    assert (found[16, 4] >= 250).all() and np.abs(found[16, 27].astype(int) - BLUE).max() < 10


def test_sixteen_bits_are_brought_to_eight(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65_535, 64).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "depth.png")
    found = read_picture(tmp_path / "depth.png", 32)
    assert found[:, 0].mean() < 20 and found[:, 31].mean() > 235
    assert found.mean() == pytest.approx(127, abs=6)


def test_a_turned_photograph_is_shown_upright(tmp_path: Path) -> None:
    """Phones store what the sensor saw and, in EXIF, how it was held; every viewer turns the picture."""
    stored = halves((60, 60)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise, to show
    stored.save(tmp_path / "phone.jpg", exif=exif, quality=95, subsampling=0)
    assert_halves(read_picture(tmp_path / "phone.jpg", 32), 30)


def test_an_animation_is_its_first_picture(tmp_path: Path) -> None:
    halves().save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (80, 60), "green")])
    assert_halves(read_picture(tmp_path / "a.gif", 32))


@pytest.mark.parametrize("side", [1, 3, 31, 33])
def test_small_pictures_are_enlarged(tmp_path: Path, side: int) -> None:
    Image.new("RGB", (side, side), RED).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png", 32)
    assert found.shape == (32, 32, 3) and (np.abs(found.astype(int) - RED) <= 1).all()


def huge_png(width: int, height: int) -> bytes:
    """Return a PNG file that claims its size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (15_000, 15_000), (100_000, 100_000)])
def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "huge.png").write_bytes(huge_png(width, height))
    message = refused(read_small, tmp_path / "huge.png")
    assert "too many" in message


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind in ("WAV", "FLAC", "OGG"):
        soundfile.write(buffer, tone(0.2, 16_000), 16_000, format=kind)
    else:
        halves((24, 24)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "WAV", "FLAC", "OGG"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(kind))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    path = tmp_path / "damaged"
    path.write_bytes(content)
    read = read_sound if kind in ("WAV", "FLAC", "OGG") else read_small
    try:
        found = read(path)
    except QueryError as e:
        assert "\n" not in str(e)
    else:
        assert found.dtype in (np.float32, np.uint8) and found.size


def test_a_png_whose_data_chunk_is_empty_and_cut_is_refused(tmp_path: Path) -> None:
    """Pillow calls this a SyntaxError, and only when the pixels are asked for."""
    content = bytearray(encoded("PNG"))
    assert content[37:41] == b"IDAT"
    content[33:37] = bytes(4)
    (tmp_path / "cut.png").write_bytes(content[:49])
    assert "not a readable picture" in refused(read_small, tmp_path / "cut.png")
