"""What `bench drills` disturbs: small media, what the commands make of them undisturbed, and commands to disturb.

Every folder lies beside the others in one, since an index remembers where its run and its shards lie.
"""

import csv
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from ..ingest.mux import write_video
from .errors import BenchError

MEDIA, CLIPS, CLIP_S = 12, 2, 1.2
"""Media files, clips of each, seconds of a clip."""
SHARD_CLIPS = 6
FRAME_PX = 64
TRAIN = "--batch-size 6 --checkpoint-every 1 --val-share 0.2 --set clip_s=1.0 --set num_mels=32"
CLOCK = "unibrivl.bench.drill_clock"
LEFT_OUT = ("ledger", "frozen")
"""Folders of a shard set that tell of attempts and of towers, not of clips."""
RUN_FILES = ("checkpoint.safetensors", "best.safetensors")
"""Of a run; the others tell how long it took."""
MOST_S = 300.0
"""A command that takes longer hangs."""
MODIFIED = ("shards", "run", "index")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    told: str
    """The last line of what it said."""


@dataclass(slots=True)
class Stage:
    """A folder with media, a list, and what is made of them when nothing disturbs."""

    folder: Path
    seed: int
    epochs: int = 3
    """Of training: a step takes longer than a kill needs."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By what was made, how long that took."""
    _number: int = 0

    @property
    def media(self) -> Path:
        """Return the folder of the media."""
        return self.folder / "media"

    def make(self, say: Callable[[str], None]) -> None:
        """Make media, shards, run and index.

        Raises:
            BenchError: a command fails although nothing disturbs it.
        """
        say("media")
        self._write_media()
        for name in MODIFIED:
            say(f"{name} without a fault")
            began = time.monotonic()
            ended = self.run(self.words(name, self.folder / name))
            if ended.code:
                raise BenchError(f"a drill cannot begin: making the {name} ended with {ended.code}: {ended.told}")
            self.seconds[name] = time.monotonic() - began

    def words(self, name: str, out: Path, media: Iterable[str] | None = None) -> list[str]:
        """Return the command that makes shards, run or index in `out`."""
        if name == "shards":
            source = list(media or ("--media-dir", str(self.media)))
            return [
                "ingest", str(self.folder / "list.csv"), str(out), *source, "--shard-clips", str(SHARD_CLIPS),
                "--frame-size", str(FRAME_PX), "--seed", str(self.seed), "--workers", "2",
            ]  # fmt: skip
        if name == "run":
            return [
                "train",
                str(self.folder / "shards"),
                "--out",
                str(out),
                "--seed",
                str(self.seed),
                "--epochs",
                str(self.epochs),
                *TRAIN.split(),
            ]
        return ["index", str(self.folder / "run"), str(self.folder / "shards"), "--out", str(out)]

    def place(self, name: str) -> Path:
        """Return a folder that is not there yet, beside the others."""
        self._number += 1
        return self.folder / f"{name}-{self._number}"

    def copy(self, name: str) -> Path:
        """Return a copy of what was made."""
        place = self.place(name)
        shutil.copytree(self.folder / name, place)
        return place

    def launch(self, words: list[str], clock_seed: int | None = None) -> "Running":
        """Start a command of ours in a session of its own, if asked with a clock that jumps."""
        module = ["unibrivl"] if clock_seed is None else [CLOCK]
        env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        if clock_seed is not None:
            env["UNIBRIVL_DRILL_CLOCK"] = str(clock_seed)
        log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the command)
        process = subprocess.Popen(
            [sys.executable, "-m", *module, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, env=env,
        )  # fmt: skip
        return Running(process, log)

    def run(self, words: list[str], clock_seed: int | None = None) -> Ended:
        """Run a command of ours to its end."""
        running = self.launch(words, clock_seed)
        ended = running.wait(MOST_S)
        return ended or running.kill(f"it hung for {MOST_S:g} s")

    def _write_media(self) -> None:
        self.media.mkdir(parents=True, exist_ok=True)
        with (self.folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("id", "path", "start", "end", "split", "group", "labels"))
            for number in range(MEDIA):
                name = f"medium-{number:02d}"
                self._write_medium(self.media / f"{name}.mp4", number)
                for clip in range(CLIPS):
                    times = f"{clip * CLIP_S:.3f}", f"{(clip + 1) * CLIP_S:.3f}"
                    split = "test" if number % 6 == 5 else "train"
                    writer.writerow((name, f"{name}.mp4", *times, split, name, f"class-{number % 3}"))

    def _write_medium(self, path: Path, number: int) -> None:
        rng = np.random.default_rng([self.seed, number])
        samples = int(CLIPS * CLIP_S * 16_000)
        tone = np.sin(2 * np.pi * (200 + 60 * number) * np.arange(samples) / 16_000)
        sound = (0.3 * tone + 0.05 * rng.standard_normal(samples)).astype(np.float32)
        colour = rng.integers(40, 216, 3)
        frames = [
            np.clip(colour + rng.integers(-40, 40, (FRAME_PX, FRAME_PX, 3)), 0, 255).astype(np.uint8)
            for _ in range(int(CLIPS * CLIP_S * 5) + 1)
        ]
        write_video(path, frames=frames, audio=sound, sample_rate=16_000)


@dataclass(frozen=True, slots=True)
class Running:
    """A command at work."""

    process: "subprocess.Popen[bytes]"
    log: IO[bytes]

    def wait(self, seconds: float) -> Ended | None:
        """Return how it ended; None: it is still at work after so long."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").split("\n")
        self.log.close()
        return Ended(code, next((line.strip() for line in reversed(lines) if line.strip()), ""))

    def kill(self, told: str = "killed", *, alone: bool = False) -> Ended:
        """Kill it with its workers, or it alone, and wait until it is gone; what it leaves alone ends by itself."""
        if alone:
            self.process.kill()
        else:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        return Ended(-signal.SIGKILL, told)


def contents(root: Path) -> dict[str, str]:
    """Return the hash of every file that counts, by its path in `root`."""
    found = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(root)
        is_hidden = any(part.startswith(".") for part in name.parts)
        is_of_run = (root / RUN_FILES[0]).exists() and name.as_posix() not in RUN_FILES
        if not (is_hidden or is_of_run or name.parts[0] in LEFT_OUT):
            found[name.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
