"""Uploads: what people send is decoded as from a file; what is hostile costs a child at most, and never the server."""

import asyncio
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
from PIL import Image

from unibrivl.index.decode_child import decode
from unibrivl.index.decoder import RECYCLE_FILES, DecodeConfig, Decoder
from unibrivl.index.errors import QueryError
from unibrivl.index.media import SOUND_FORMATS, read_picture, read_sound


def sound_file(seconds: float, file_format: str = "WAV", rate: int = 44_100) -> bytes:
    buffer = io.BytesIO()
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    soundfile.write(buffer, tone, rate, format=file_format)
    return buffer.getvalue()


def picture_file(width: int, height: int, file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(buffer, file_format)
    return buffer.getvalue()


def png_bomb(side: int) -> bytes:
    """Return a small PNG that says it has side x side pixels, and has, all black."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels = zlib.compress(bytes((side + 1) * side), 9)
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def run(work: Callable[[Decoder], Awaitable[Any]], **config: Any) -> Any:
    """Run `work` with a decoder of one child."""

    async def main() -> Any:
        decoder = Decoder(DecodeConfig(**({"children": 1, "timeout_s": 30.0} | config)))
        await decoder.start()
        try:
            return await work(decoder)
        finally:
            await decoder.close()

    return asyncio.run(main())


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_sound_is_what_the_file_would_be(tmp_path: Path, file_format: str) -> None:
    data = sound_file(1.5, file_format)
    (tmp_path / "a").write_bytes(data)
    found = run(lambda decoder: decoder.sound(data, "part 1"))
    assert np.array_equal(found, read_sound(tmp_path / "a")) and len(found) > 20_000


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_picture_is_what_the_file_would_be(tmp_path: Path, file_format: str) -> None:
    data = picture_file(90, 70, file_format)
    (tmp_path / "a").write_bytes(data)
    found = run(lambda decoder: decoder.picture(data, "part 1", 64))
    assert np.array_equal(found, read_picture(tmp_path / "a", 64))


def refusal(work: Callable[[Decoder], Awaitable[Any]], **config: Any) -> str:
    with pytest.raises(QueryError) as caught:
        run(work, **config)
    assert "part 1" in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_limits_of_length_and_pixels_are_told() -> None:
    assert "longer than 2 s" in refusal(lambda d: d.sound(sound_file(3), "part 1"), max_seconds=2.0)
    assert "90 x 70 pixels, want 5,000" in refusal(
        lambda d: d.picture(picture_file(90, 70), "part 1", 64), max_pixels=5000
    )


def test_a_decompression_bomb_is_refused_before_it_bursts() -> None:
    bomb = png_bomb(6_000)
    assert len(bomb) < 40_000
    assert "pixels" in refusal(lambda decoder: decoder.picture(bomb, "part 1", 64), max_pixels=20_000_000)


def test_memory_is_bounded_where_the_pixels_would_be_allowed() -> None:
    """36 megapixels want 144 MB as RGBA alone, several times over: more than the child may have."""
    bomb = png_bomb(6_000)
    message = refusal(lambda d: d.picture(bomb, "part 1", 64), memory_bytes=400 << 20, max_pixels=100_000_000)
    assert "memory" in message or "broke its decoder" in message or "not a readable picture" in message


@pytest.mark.parametrize(
    "hostile",
    [
        b"#EXTM3U\n#EXTINF:10,\nfile://{secret}\n",
        b"ffconcat version 1.0\nfile {secret}\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
        b"RIFF\xff\xff\xff\xffWAVEfmt \xff\xff\xff\x7f",
        b"fLaC" + bytes(200),
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"",
        b"\x00" * 100_000,
    ],
    ids=["m3u8", "concat", "sdp", "wav", "flac", "png", "svg", "empty", "zeros"],
)
def test_forged_media_are_refused_and_the_child_lives(hostile: bytes, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(sound_file(1))
    data = hostile.replace(b"{secret}", str(secret).encode())

    async def work(decoder: Decoder) -> None:
        for decode_it in (decoder.sound(data, "part 1"), decoder.picture(data, "part 1", 64)):
            with pytest.raises(QueryError, match="part 1"):
                await decode_it
        assert decoder.kills == 0
        assert len(await decoder.sound(sound_file(1), "part 1")) > 15_000

    run(work)


def test_only_formats_that_name_no_other_file_are_heard(tmp_path: Path) -> None:
    """The playlist that a person may name on the command line is no upload."""
    secret, playlist = tmp_path / "secret.wav", tmp_path / "list.ffconcat"
    secret.write_bytes(sound_file(1))
    playlist.write_text("ffconcat version 1.0\nfile secret.wav\n")
    assert not {"concat", "hls", "sdp", "image2", "lavfi"} & set(SOUND_FORMATS)
    head = {"kind": "sound", "name": "part 1", "max_seconds": 10}
    with pytest.raises(QueryError, match="not a readable sound"):
        decode(head, playlist.read_bytes())


def children_of_this_process() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "decode_child" in " ".join(p.cmdline())]


def test_a_file_that_takes_too_long_costs_its_child() -> None:
    async def work(decoder: Decoder) -> None:
        await decoder.sound(sound_file(0.1), "part 1")
        (child,) = children_of_this_process()
        child.suspend()  # it hangs, as over a hostile file
        decoder.config = replace(decoder.config, timeout_s=0.2)
        with pytest.raises(QueryError, match=r"not decoded within 0\.2 s"):
            await decoder.sound(sound_file(0.1), "part 1")
        assert decoder.kills == 1
        decoder.config = replace(decoder.config, timeout_s=30.0)
        assert len(await decoder.sound(sound_file(1), "part 1")) > 15_000

    run(work)


def test_a_child_that_dies_is_replaced() -> None:
    async def work(decoder: Decoder) -> None:
        await decoder.sound(sound_file(0.1), "part 1")
        (child,) = children_of_this_process()
        child.suspend()  # it hangs, as over a hostile file
        asking = asyncio.create_task(decoder.sound(sound_file(0.1), "part 1"))
        await asyncio.sleep(0.1)
        child.kill()
        with pytest.raises(QueryError, match="broke its decoder"):
            await asking
        assert decoder.kills == 1
        assert len(await decoder.sound(sound_file(1), "part 1")) > 15_000
        (other,) = children_of_this_process()
        assert other.pid != child.pid

    run(work)


def test_a_request_that_is_given_up_leaves_no_answer_for_the_next() -> None:
    async def work(decoder: Decoder) -> None:
        await decoder.sound(sound_file(0.1), "part 1")
        (child,) = children_of_this_process()
        child.suspend()
        asking = asyncio.create_task(decoder.sound(sound_file(0.5), "part 1"))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert len(await decoder.sound(sound_file(1), "part 1")) == pytest.approx(16_000, abs=50)
        assert decoder.kills == 1

    run(work)


def test_children_are_renewed_and_none_is_left() -> None:
    async def work(decoder: Decoder) -> set[int]:
        pids = set()
        for _ in range(RECYCLE_FILES + 1):
            await decoder.picture(picture_file(8, 8), "part 1", 8)
            pids |= {child.pid for child in children_of_this_process()}
        return pids

    assert len(run(work)) == 2
    assert children_of_this_process() == []


def test_a_child_cannot_fill_the_disk(tmp_path: Path) -> None:
    code = (
        "import signal, sys\n"
        "from unibrivl.index.decode_child import bound\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "bound(2 << 30)\n"
        "open(sys.argv[1], 'wb', buffering=0).write(b'x')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "File too large" in done.stderr
    assert (tmp_path / "x").stat().st_size == 0


def test_many_at_once_each_get_their_own() -> None:
    async def work(decoder: Decoder) -> None:
        lengths = [0.1 + 0.05 * n for n in range(24)]
        found = await asyncio.gather(*(decoder.sound(sound_file(s), "part 1") for s in lengths))
        assert [len(sound) / 16_000 for sound in found] == pytest.approx(lengths, abs=0.005)

    run(work, children=3)


def test_limits_that_decode_nothing_are_refused() -> None:
    for wrong in ({"children": 0}, {"timeout_s": 0}, {"memory_bytes": 1}, {"max_seconds": 0}, {"max_pixels": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DecodeConfig(**wrong)
