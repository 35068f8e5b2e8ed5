"""Media for `bench speed ingest`: clips such as a video site hands out, made by ffmpeg's own generators.

Each is 10 s of 1280 x 720 at 30 frames/s, H.264 with B-frames and a keyframe every 5 s, about 1.8 Mb/s, and AAC in
stereo at 44.1 kHz. The pictures move and the sounds differ from clip to clip.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .speed import run_process

SECONDS = 10
FRAME_RATE = 30
PICTURES = (
    # made small and enlarged where the generator is slow; the noise takes what the bit rate leaves
    "mandelbrot=size=320x180:rate=30:end_pts=4{seed:02d},format=yuv420p,hue=h={seed}*17",
    "life=size=320x180:rate=30:mold=10:ratio=0.3:seed={seed}:death_color=#C83232:life_color=#00ff00",
    "testsrc2=size=1280x720:rate=30:alpha={seed},format=yuv420p",
    "gradients=size=320x180:rate=30:n=6:speed=0.05:seed={seed},format=yuv420p,noise=alls=20:allf=t:all_seed={seed}",
)
ENLARGE = "format=yuv420p,scale=1280:720:flags=fast_bilinear"
SOUNDS = "anoisesrc=r=44100:c={colour}:a=0.25:seed={seed},tremolo=f={beat}:d=0.6,aformat=channel_layouts=stereo"
COLOURS = ("pink", "brown", "white", "velvet")
VIDEO = (
    "-c:v", "libx264", "-preset", "superfast", "-threads", "1", "-bf", "3", "-b_strategy", "0",
    "-g", "150", "-keyint_min", "150", "-sc_threshold", "0", "-pix_fmt", "yuv420p",
    "-b:v", "1800k", "-maxrate", "2600k", "-bufsize", "3600k",
)  # fmt: skip
AUDIO = ("-c:a", "aac", "-b:a", "128k", "-ac", "2", "-ar", "44100")
QUIET = ("-nostdin", "-hide_banner", "-loglevel", "error", "-y")


@dataclass(frozen=True, slots=True)
class Medium:
    """A stretch of a file."""

    path: Path
    start_s: float = 0.0


def make_clips(folder: Path, *, count: int, seed: int, ffmpeg: Path, workers: int) -> list[Medium]:
    """Make `count` clips of different contents.

    Raises:
        ContenderError: ffmpeg failed.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def make(number: int) -> Medium:
        content = seed * 1000 + number
        picture = PICTURES[number % len(PICTURES)].format(seed=content % 90 + 1)
        sound = SOUNDS.format(colour=COLOURS[number % len(COLOURS)], seed=content, beat=2 + content % 7)
        path = folder / f"clip-{number:02d}.mp4"
        run_process([
            ffmpeg, *QUIET, "-filter_threads", "1", "-f", "lavfi", "-i", f"{picture},{ENLARGE}", "-f", "lavfi",
            "-i", sound, "-t", str(SECONDS), *VIDEO, *AUDIO, "-movflags", "+faststart", path,
        ])  # fmt: skip
        return Medium(path)

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(make, range(count)))


def make_long(clips: Sequence[Medium], path: Path, *, count: int, ffmpeg: Path) -> list[Medium]:
    """Join clips, without encoding again, to one file of `count` stretches of 10 s.

    Raises:
        ContenderError: ffmpeg failed.
    """
    names = [clips[number % len(clips)].path for number in range(count)]
    listing = path.with_suffix(".txt")
    listing.write_text("".join(f"file '{name}'\n" for name in names), encoding="utf-8")
    run_process([
        ffmpeg, *QUIET, "-f", "concat", "-safe", "0", "-i", listing, "-c", "copy", "-movflags", "+faststart", path,
    ])  # fmt: skip
    listing.unlink()
    return [Medium(path, float(SECONDS * number)) for number in range(count)]


def bit_rate(clips: Sequence[Medium]) -> float:
    """Return the mean of the clip files in kb/s."""
    return sum(clip.path.stat().st_size for clip in clips) * 8 / len(clips) / SECONDS / 1000
