"""`bench speed ingest`: ingestion beside ffmpeg scripts and beside the least that the work can cost.

All contenders do the same clips, pinned to the same core, in turns. Figures are clips per CPU-second (user and system
time of a contender's process and all its children), which is clips per second per core and does not suffer when other
programs use the machine; wall time is kept beside it. Ours is the command `unibrivl ingest` with one worker writing
committed shards. Its start is not a cost of clips and is taken out: of each turn, a run over one shard is subtracted
from a run over several, so what remains is decoding, writing and committing the others, the parent's work included.

How much faster two workers are is told by wall time, and stands beside the same of the floor in two processes, which
share nothing: what the machine's cores allow.
"""

import csv
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import imageio_ffmpeg

from ..shards.checks import check_ranges
from .environment import environment
from .errors import BenchError
from .speed import (
    ContenderError,
    Finished,
    Progress,
    figure,
    fill_in,
    last_core,
    no_progress,
    ratio,
    run_process,
    spread,
    spread_text,
    versions,
    working_folder,
)
from .speed_media import QUIET, SECONDS, Medium, bit_rate, make_clips, make_long
from .speed_memory import MemoryWatch

OURS, OURS_TWICE = "unibrivl", "unibrivl_2_workers"
FLOOR, FLOOR_TWICE = "floor", "floor_2_processes"
FRAME_PX = 64
SQUARE = f"scale=-2:{FRAME_PX},crop={FRAME_PX}:{FRAME_PX}"
SOUND = ("-ac", "1", "-ar", "16000", "-c:a", "flac")
PACKAGES = ("unibrivl", "av", "soundfile", "numpy", "pillow", "pyarrow", "imageio-ffmpeg")
MEANING = {
    OURS: "unibrivl ingest, one worker, committed shards, steady state",
    "ffmpeg_two_outputs": "one process a clip: every frame decoded and scaled, the middle one kept; FLAC beside it",
    "ffmpeg_two_outputs_early_stop": "the same, but selected before it is scaled, and the video ends at the middle",
    "ffmpeg_keyframes": "two processes a clip: seek and keyframes only for the picture, another for the FLAC",
    FLOOR: "in-process PyAV: open, one keyframe, sound decoded, resampled, FLAC; nothing else",
    OURS_TWICE: "the same ingestion with two workers on two cores",
    FLOOR_TWICE: "the floor in two processes at once",
}
"""Contenders, in the order of their turns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestSpeedConfig:
    """What `unibrivl bench speed ingest` was asked to do; what is None depends on `quick`."""

    quick: bool = False
    """Under a minute instead of about half an hour."""
    work: Path | None = None
    """Where the folder for media and shards is made, and removed again; None: where temporary files go."""
    seed: int = 0
    """Of the media and of the order of the clips."""
    media: int | None = None
    """Different clip files."""
    repeats: int | None = None
    """Turns of each contender."""
    shard_clips: int | None = None
    """Clips of a shard, and of the run that is subtracted."""
    shards: int | None = None
    """Shards of the steady state."""
    memory_clips: int | None = None
    """Clips over which the worker's memory is watched; 0: only while two workers are measured."""
    long_files: bool | None = None
    """Measure also stretches of a file of two minutes."""

    def __post_init__(self) -> None:
        """Fill in what was left open; refuse what cannot be measured."""
        fill_in(self, QUICK if self.quick else FULL)
        check_ranges(
            self, media=(1, None), repeats=(1, None), shard_clips=(1, None), shards=(1, None), memory_clips=(0, None)
        )


QUICK = {"media": 3, "repeats": 2, "shard_clips": 32, "shards": 2, "memory_clips": 0, "long_files": False}
FULL = {"media": 12, "repeats": 5, "shard_clips": 128, "shards": 4, "memory_clips": 5000, "long_files": True}


@dataclass(frozen=True, slots=True)
class Turn:
    """One contender's turn."""

    clips: int
    cpu_s: float
    wall_s: float
    parts: dict[str, float] = field(default_factory=dict)
    """CPU seconds by part, where the contender tells them."""


def measure_ingest(config: IngestSpeedConfig, progress: Progress = no_progress) -> dict[str, Any]:
    """Measure all contenders; return figures, ratios and all that is needed to read them, as plain JSON values.

    A contender that fails is null, and `errors` says why.

    Raises:
        BenchError: the media cannot be made, or our own ingestion fails.
    """
    with working_folder(config.work) as folder:
        return _Bench(config, folder, progress).measure()


class _Bench:
    """Media in a folder, and what is measured on them."""

    def __init__(self, config: IngestSpeedConfig, folder: Path, progress: Progress) -> None:
        assert config.media and config.repeats and config.shard_clips and config.shards
        self.config = config
        self.media, self.repeats, self.shard_clips, self.shards = (
            config.media, config.repeats, config.shard_clips, config.shards,
        )  # fmt: skip
        self.folder = folder
        self.core = last_core()
        self.cores = len(os.sched_getaffinity(0))
        self.memory = MemoryWatch()
        self.ffmpeg = Path(imageio_ffmpeg.get_ffmpeg_exe())
        self.errors: dict[str, str] = {}
        self._progress = progress
        self._done = 0
        self._total = (
            self.repeats * (len(self.runs(twice=self.cores >= 2)) + len(self.runs()) * bool(config.long_files)) + 2
        )

    def step(self, what: str) -> None:
        self._progress(self._done, self._total, what)
        self._done += 1

    def measure(self) -> dict[str, Any]:
        self.step("making media")
        try:
            clips = make_clips(
                self.folder / "media", count=self.media, seed=self.config.seed, ffmpeg=self.ffmpeg, workers=self.cores
            )
            # what only a first start costs (compiled files, cold caches) would be taken out of the turns' figures
            self.ingest(clips, 1, workers=1)
            turns = self.take_turns(clips, self.runs(twice=self.cores >= 2))
            self.watch_memory(clips)
            long = self.long_turns(clips) if self.config.long_files else None
        except ContenderError as e:
            raise BenchError(f"ingestion or its media failed: {e}") from e
        self._progress(self._total, self._total, "done")
        per_core = _per_core(turns)
        wall = {name: _median(found, wall=True) for name, found in turns.items()}
        return {
            "clips_per_s_per_core": per_core,
            **_ratios(per_core),
            "scaling_2_workers": ratio(wall.get(OURS_TWICE), wall[OURS]),
            "scaling_2_floors": ratio(wall.get(FLOOR_TWICE), wall[FLOOR]),
            "rss_growth_mb": self.memory.growth_mb(),
            "clips_per_s_wall": wall,
            "spread": {name: _spread(found) for name, found in turns.items()},
            "floor_ms": _parts(turns[FLOOR]),
            "memory": self.memory.as_dict(),
            "long_files": None
            if long is None
            else {"clips_per_s_per_core": _per_core(long), **_ratios(_per_core(long))},
            "errors": self.errors,
            "contenders": MEANING,
            "media": self.describe(clips),
            "config": asdict(self.config) | {"work": None},
            "seed": self.config.seed,
            "versions": versions(PACKAGES) | {"ffmpeg": imageio_ffmpeg.get_ffmpeg_version()},
            "environment": environment(),
        }

    def describe(self, clips: Sequence[Medium]) -> dict[str, Any]:
        return {
            "files": len(clips), "seconds": SECONDS, "mean_kbit_s": round(bit_rate(clips)),
            "video": "H.264 1280x720, 30 frames/s, B-frames, keyframe every 5 s", "audio": "AAC stereo 44.1 kHz",
        }  # fmt: skip

    def runs(self, *, twice: bool = False) -> dict[str, Callable[[Sequence[Medium]], Turn]]:
        """Return contenders and how they take a turn, those on two cores too if `twice`."""
        runs: dict[str, Callable[[Sequence[Medium]], Turn]] = {
            OURS: self.ours,
            "ffmpeg_two_outputs": self.two_outputs,
            "ffmpeg_two_outputs_early_stop": self.two_outputs_early_stop,
            "ffmpeg_keyframes": self.keyframes,
            FLOOR: self.floor,
        }
        return runs | {OURS_TWICE: self.ours_twice, FLOOR_TWICE: self.floor_twice} if twice else runs

    def take_turns(
        self, clips: Sequence[Medium], runs: dict[str, Callable[[Sequence[Medium]], Turn]], where: str = ""
    ) -> dict[str, list[Turn]]:
        """Let every contender have its turns, one after the other; who fails leaves."""
        turns: dict[str, list[Turn]] = {name: [] for name in runs}
        for _ in range(self.repeats):
            for name, run in runs.items():
                self.step(f"{name}{where}")
                if name in self.errors:
                    continue
                try:
                    turns[name].append(run(clips))
                except ContenderError as e:
                    if name in (OURS, OURS_TWICE):
                        raise
                    self.errors[name] = str(e)
        return turns

    def long_turns(self, clips: Sequence[Medium]) -> dict[str, list[Turn]]:
        path = self.folder / "media" / "long.mp4"
        return self.take_turns(make_long(clips, path, count=12, ffmpeg=self.ffmpeg), self.runs(), ", 2-minute file")

    def ours(self, clips: Sequence[Medium]) -> Turn:
        return self.steady(clips, workers=1, core=self.core)

    def ours_twice(self, clips: Sequence[Medium]) -> Turn:
        return self.steady(clips, workers=2, core=None)

    def steady(self, clips: Sequence[Medium], *, workers: int, core: int | None) -> Turn:
        """Ingest one shard a worker, and several; the difference is a turn."""
        small, large = workers * self.shard_clips, workers * self.shard_clips * (1 + self.shards)
        less = self.ingest(clips, small, workers=workers, core=core)
        watch = self.memory if workers > 1 and not self.config.memory_clips else None
        more = self.ingest(clips, large, workers=workers, core=core, watch=watch)
        return Turn(large - small, more.cpu_s - less.cpu_s, more.wall_s - less.wall_s)

    def watch_memory(self, clips: Sequence[Medium]) -> None:
        """Watch one worker over many clips; without, what was seen of two workers must do."""
        self.step("memory")
        if self.config.memory_clips:
            self.ingest(clips, self.config.memory_clips, workers=1, watch=self.memory)

    def ingest(
        self, clips: Sequence[Medium], count: int, *, workers: int, core: int | None = None,
        watch: MemoryWatch | None = None,
    ) -> Finished:  # fmt: skip
        """Ingest `count` clips, the media over and over under other ids, and remove the shards."""
        listing, out = self.folder / "list.csv", self.folder / "shards"
        _write_list(listing, clips, count)
        words = [
            sys.executable, "-m", "unibrivl", "ingest", listing, out, "--media-dir", self.folder / "media", "--json",
            "--workers", str(workers), "--shard-clips", str(self.shard_clips), "--seed", str(self.config.seed),
        ]  # fmt: skip
        finished = run_process(words, core=core, watch=watch, env={"PYTHONDONTWRITEBYTECODE": ""})
        if watch is not None:
            watch.clips += count
        result = json.loads(finished.stdout)
        commits = len(list(out.glob("shards/*/*.commit.json")))
        shutil.rmtree(out)
        if result["ok"] != count or not commits:
            raise ContenderError(f"{result['ok']} of {count} clips came through in {commits} shards")
        return finished

    def two_outputs(self, clips: Sequence[Medium]) -> Turn:
        picture = ("-vf", f"{SQUARE},select=eq(n\\,{SECONDS * 15})", "-fps_mode", "vfr", "-update", "1")
        return self.script(clips, lambda clip, out: [[*_input(clip), *_both(picture, out)]])

    def two_outputs_early_stop(self, clips: Sequence[Medium]) -> Turn:
        picture = ("-vf", f"select=eq(n\\,{SECONDS * 15}),{SQUARE}", "-frames:v", "1", "-update", "1")
        return self.script(clips, lambda clip, out: [[*_input(clip), *_both(picture, out)]])

    def keyframes(self, clips: Sequence[Medium]) -> Turn:
        def commands(clip: Medium, out: Path) -> list[list[str]]:
            middle = str(clip.start_s + SECONDS / 2)
            picture = ["-an", "-vf", SQUARE, "-frames:v", "1", "-update", "1", f"{out}.jpg"]
            return [
                ["-skip_frame", "nokey", "-ss", middle, "-i", str(clip.path), *picture],
                [*_input(clip), "-vn", *SOUND, f"{out}.flac"],
            ]

        return self.script(clips, commands)

    def script(self, clips: Sequence[Medium], commands: Callable[[Medium, Path], list[list[str]]]) -> Turn:
        """Run ffmpeg for every clip, one process after the other; both files must come out."""
        costs = []
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            for number, clip in enumerate(clips):
                out = Path(folder) / str(number)
                for words in commands(clip, out):
                    words = [self.ffmpeg, *QUIET, "-threads", "1", "-filter_threads", "1", *words]
                    costs.append(run_process(words, core=self.core))
                files = [Path(f"{out}.flac"), Path(f"{out}.jpg")]
                if any(not path.is_file() or not path.stat().st_size for path in files):
                    raise ContenderError(
                        f"ffmpeg left no sound or no picture of {clip.path.name} at {clip.start_s:g} s"
                    )
        return Turn(len(clips), sum(c.cpu_s for c in costs), sum(c.wall_s for c in costs))

    def floor(self, clips: Sequence[Medium]) -> Turn:
        return self._floor(clips, self.core)

    def floor_twice(self, clips: Sequence[Medium]) -> Turn:
        with ThreadPoolExecutor(2) as pool:
            one, two = pool.map(lambda core: self._floor(clips, core), sorted(os.sched_getaffinity(0))[-2:])
        return Turn(one.clips + two.clips, one.cpu_s + two.cpu_s, max(one.wall_s, two.wall_s))

    def _floor(self, clips: Sequence[Medium], core: int) -> Turn:
        rounds = -(-self.shard_clips // len(clips))
        job = {"clips": [(str(c.path), c.start_s) for c in clips], "rounds": rounds, "seconds": SECONDS}
        words = [sys.executable, "-m", "unibrivl.bench.speed_floor", json.dumps(job)]
        found = json.loads(run_process(words, core=core).stdout)
        return Turn(found["clips"], found["cpu_s"], found["wall_s"], found["parts"])


def _input(clip: Medium) -> list[str]:
    return ["-ss", str(clip.start_s), "-t", str(SECONDS), "-i", str(clip.path)]


def _both(picture: Sequence[str], out: Path) -> list[str]:
    return ["-map", "0:a", *SOUND, f"{out}.flac", "-map", "0:v", *picture, f"{out}.jpg"]


def _write_list(path: Path, clips: Sequence[Medium], count: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(("id", "path", "start", "end"))
        for number in range(count):
            # the stretches of one file are one medium, as they are in a real list
            turn, place = divmod(number, len(clips))
            clip = clips[place]
            writer.writerow((f"{clip.path.stem}-{turn:05d}", clip.path.name, clip.start_s, clip.start_s + SECONDS))


def _rate(clips: int, seconds: float) -> float:
    if seconds <= 0:
        raise BenchError("too few clips to measure against the start of a run; take more shards")
    return clips / seconds


def _median(turns: Sequence[Turn], *, wall: bool = False) -> float | None:
    values = [_rate(turn.clips, turn.wall_s if wall else turn.cpu_s) for turn in turns]
    return figure(median(values)) if values else None


def _spread(turns: Sequence[Turn]) -> dict[str, float] | None:
    return spread([_rate(turn.clips, turn.cpu_s) for turn in turns]) if turns else None


def _per_core(turns: dict[str, list[Turn]]) -> dict[str, float | None]:
    return {name: _median(found) for name, found in turns.items()}


def _ratios(per_core: dict[str, float | None]) -> dict[str, float | None]:
    ours = per_core[OURS]
    return {f"ratio_vs_{name}": ratio(ours, per_core[name]) for name in per_core if name.startswith("ffmpeg")} | {
        "ratio_to_floor": ratio(per_core[FLOOR], ours)
    }


def _parts(turns: Sequence[Turn]) -> dict[str, float] | None:
    """Return CPU milliseconds a clip of each part of the floor, medians over the turns."""
    if not turns:
        return None
    return {name: figure(median(1000 * turn.parts[name] / turn.clips for turn in turns)) for name in turns[0].parts}


COLUMNS = ("contender", "clips/s/core", "min-max", "ours is faster by", "what it does")


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of a table of `COLUMNS`; a contender that failed shows its error."""
    found = []
    for name, rate in result["clips_per_s_per_core"].items():
        if rate is None:
            found.append((name, "-", "", "", result["errors"][name]))
            continue
        times = "" if name in (OURS, OURS_TWICE) else f"{result['clips_per_s_per_core'][OURS] / rate:.2f}"
        found.append((name, f"{rate:.2f}", spread_text(result["spread"][name]), times, result["contenders"][name]))
    return found
