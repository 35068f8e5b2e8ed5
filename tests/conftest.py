"""Shared fixtures: folders given by option, tiny media and a tiny corpus made in code."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from unibrivl.ingest.mux import write_video

# Continuous integration tries the same examples each time, so that a red run is the fault of the change.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

FOLDERS = ("reference", "data")


def pytest_addoption(parser: pytest.Parser) -> None:
    for name in FOLDERS:
        parser.addoption(f"--{name}-dir", type=Path, default=None, help=f"folder of {name} files; tests skip without")


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """Return a function from `reference` or `data` to the folder given for it; skips the test where none was."""

    def find(name: str) -> Path:
        path = request.config.getoption(f"--{name}-dir")
        if path is None:
            pytest.skip(f"needs --{name}-dir")
        return path.resolve(strict=True)

    return find


def picture(seed: int, side: int = 96) -> np.ndarray:
    """Return a picture of coloured blocks, uint8 (side, side, 3)."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return blocks.repeat(side // 4, 0).repeat(side // 4, 1)


def tone(seconds: float, frequency: float, sample_rate: int = 44_100) -> np.ndarray:
    """Return a sine at half scale, float32 (samples,)."""
    time_s = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * frequency * time_s)).astype(np.float32)


def make_clip(path: Path, *, seed: int, seconds: float = 1.0) -> None:
    """Write a small video: one picture and one tone, both set by `seed`."""
    frames = [picture(seed)] * round(seconds * 5)
    write_video(path, frames=frames, audio=tone(seconds, 200 + 37 * seed))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `media/` of 24 one-second videos and their general list, `list.csv`, in two splits."""
    root = tmp_path_factory.mktemp("corpus")
    (root / "media").mkdir()
    with (root / "list.csv").open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["id", "path", "start", "end", "labels", "caption", "split", "group"])
        for number in range(24):
            name = f"clip-_{number:02d}"
            make_clip(root / "media" / f"{name}.mp4", seed=number)
            split = "test" if number % 8 < 2 else "train"
            group = f"group{number // 2}"
            writer.writerow([name, f"{name}.mp4", 0, 1, "tone;block", f"Tone {number}", split, group])
    return root
