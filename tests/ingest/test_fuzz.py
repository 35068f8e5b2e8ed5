"""Decodes 500 mutated files of several containers: each gives a clip or a documented code, and none hangs."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from select import select

import av
import numpy as np
import pytest
from av.codec.codec import codecs_available

FILES, FILES_FFMPEG = 500, 40
DEADLINE_S = 20.0
CODES = {
    "local.empty_file", "local.unreadable", "media.decode_errors", "media.no_audio", "media.no_frame", "media.no_video",
    "media.not_media", "media.out_of_range", "media.truncated", "media.unknown_codec", "system.oom", "system.timeout",
    "system.worker_killed",
}  # fmt: skip
CHILD = """
import json, sys
from pathlib import Path
import av
from unibrivl.ingest.errors import ClipError
from unibrivl.ingest.children import limit_memory
from unibrivl.ingest.decode import decode_clip
from unibrivl.ingest.decoded import DecodeConfig
av.logging.set_level(None)
limit_memory(4 << 30)
config = DecodeConfig(decoder=sys.argv[1], frame_sizes=(16,), max_pad_ms=200)
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    try:
        clip = decode_clip(Path(json.loads(line)), 200, 1200, config)
        assert clip.audio.shape == (16_000,) and clip.frames[0].shape == (16, 16, 3) and clip.pad_ms <= 200
        answer = ["ok", ""]
    except ClipError as e:
        answer = [e.code, str(e)]
    print(json.dumps(answer), flush=True)
"""
SEEDS = [("mp4", "libx264", "aac"), ("mp4", "mpeg4", "aac"), ("webm", "libvpx", "libopus"), ("mkv", "mpeg4", "flac"),
         ("avi", "mpeg4", "libmp3lame"), ("ts", "mpeg2video", "mp2"), ("flv", "flv", "libmp3lame"),
         ("mov", "mjpeg", "pcm_s16le")]  # fmt: skip


def seed_file(path: Path, video: str, audio: str) -> bytes:
    """Return a small medium of a second and a half."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(video, rate=10)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if video == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.thread_count = 5, 1
        voice = container.add_stream(audio, rate=48_000 if audio == "libopus" else 44_100, layout="mono")
        rate = voice.codec_context.sample_rate
        for i in range(15):
            picture = np.random.default_rng(i // 5).integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            frame = av.VideoFrame.from_ndarray(np.roll(picture, i, 1), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode(None))
        tone = (0.4 * np.sin(np.arange(rate * 3 // 2) / 20)).astype(np.float32)
        resampler = av.AudioResampler(format=voice.codec_context.format.name)
        for start in range(0, len(tone), rate // 10):
            block = av.AudioFrame.from_ndarray(tone[None, start : start + rate // 10], format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = rate, start, Fraction(1, rate)
            for frame in resampler.resample(block):
                container.mux(voice.encode(frame))
        container.mux(voice.encode(None))
    return path.read_bytes()


def cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(0, len(data)))]


def flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(0, len(data), int(2 ** rng.uniform(0, 9))):
        data[place] ^= 1 << int(rng.integers(8))
    return data


def damage_head(data: bytearray, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(0, min(600, len(data)), int(rng.integers(1, 20))):
        data[place] = int(rng.integers(256))
    return data


def splice(data: bytearray, rng: np.random.Generator) -> bytearray:
    a, b = rng.integers(0, len(data), 2).tolist()
    length = int(2 ** rng.uniform(2, 12))
    data[a : a + length] = data[b : b + length]
    return data


def insert(data: bytearray, rng: np.random.Generator) -> bytearray:
    place = int(rng.integers(0, len(data)))
    return data[:place] + bytearray(rng.bytes(int(2 ** rng.uniform(0, 10)))) + data[place:]


def zero(data: bytearray, rng: np.random.Generator) -> bytearray:
    place, length = int(rng.integers(0, len(data))), int(2 ** rng.uniform(2, 12))
    data[place : place + length] = bytes(len(data[place : place + length]))
    return data


def swap(data: bytearray, rng: np.random.Generator) -> bytearray:
    a, b, c = sorted(rng.integers(0, len(data), 3).tolist())
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def swap_boxes(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Swap two of the top boxes of an MP4, or double one; other containers are cut at the same places."""
    edges = [0]
    while edges[-1] + 8 <= len(data) and (size := int.from_bytes(data[edges[-1] : edges[-1] + 4], "big")) >= 8:
        edges.append(edges[-1] + size)
    boxes = [data[a:b] for a, b in zip(edges, [*edges[1:], len(data)], strict=True)]
    return bytearray().join(boxes[i] for i in rng.integers(0, len(boxes), len(boxes)))


def numbers(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Put extreme numbers where lengths and times may stand."""
    for place in rng.integers(0, max(1, len(data) - 8), int(rng.integers(1, 8))):
        data[place : place + 4] = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\x80\0\0\0"][rng.integers(4)]
    return data


MUTATIONS: list[Callable[[bytearray, np.random.Generator], bytearray]] = [
    cut, flip, damage_head, splice, insert, zero, swap, swap_boxes, numbers,
]  # fmt: skip


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    folder = tmp_path_factory.mktemp("seeds")
    usable = [s for s in SEEDS if all(codec in codecs_available for codec in s[1:])]
    assert len({suffix for suffix, *_ in usable}) >= 5
    return [
        (suffix, seed_file(folder / f"{number}.{suffix}", video, audio))
        for number, (suffix, video, audio) in enumerate(usable)
    ]


class Child:
    """A process that decodes the files it is told of, and may be killed."""

    def __init__(self, decoder: str) -> None:
        self.decoder = decoder
        self.process: subprocess.Popen[bytes] | None = None

    def decode(self, path: Path) -> tuple[str, str]:
        if self.process is None:
            command = [sys.executable, "-W", "ignore", "-c", CHILD, self.decoder]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
            )
            assert self._answer(120) == "ready"
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(str(path)).encode() + b"\n")
        answer = self._answer(DEADLINE_S)
        if isinstance(answer, list):
            return answer[0], answer[1]
        late = self.process.poll() is None
        self.stop()
        return ("system.timeout", "late") if late else ("system.worker_killed", "died")

    def _answer(self, within_s: float) -> object:
        assert self.process is not None and self.process.stdout is not None
        if not select([self.process.stdout], [], [], within_s)[0]:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line else self.process.wait() and None

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    child = Child(request.param)
    yield child
    child.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("child", "num_files"), [("pyav", FILES), ("ffmpeg", FILES_FFMPEG)], indirect=["child"], ids=["pyav", "ffmpeg"]
)
def test_mutated_files_give_a_clip_or_a_documented_code(
    seeds: list[tuple[str, bytes]], tmp_path: Path, child: Child, num_files: int
) -> None:
    for suffix, content in seeds:  # what is mutated is whole
        (tmp_path / f"whole.{suffix}").write_bytes(content)
        assert child.decode(tmp_path / f"whole.{suffix}") == ("ok", ""), suffix
    found: Counter[str] = Counter()
    for number in range(num_files):
        rng = np.random.default_rng(number)
        suffix, content = seeds[number % len(seeds)]
        mutate = MUTATIONS[number // len(seeds) % len(MUTATIONS)]
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(mutate(bytearray(content), rng))
        code, detail = child.decode(path)
        assert code == "ok" or code in CODES, f"{path.name}, {mutate.__name__}: {code} {detail}"
        if code.partition(".")[0] in ("media", "local"):
            assert detail.startswith(f"{path}: ") and "\n" not in detail
        found[code] += 1
        os.remove(path)  # noqa: PTH107
    assert found.total() == num_files
    assert found["system.timeout"] == 0, found
    assert found["system.worker_killed"] <= num_files // 50, found
    assert len(found) >= 4 and found["ok"] >= num_files // 10, found  # neither all spoiled nor hardly touched
