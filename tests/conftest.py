"""Shared fixtures: folders given by option, tiny media and a tiny corpus made in code."""

import csv
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings

from unibrivl.ingest.mux import write_video

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from unibrivl.model.train_config import TrainConfig

# Continuous integration tries the same examples each time, so that a red run is the fault of the change.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Two threads a process cost more than they give where the models are tiny and other processes are busy.
os.environ["OMP_NUM_THREADS"] = "1"

FOLDERS = ("reference", "data")
BROWSER_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--autoplay-policy=no-user-gesture-required", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)  # fmt: skip


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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Set one thread again: a command run in this process, `serve` for one, may have set another number.

    A run is the same to the bit only on the same number of threads, and session fixtures are made at any time.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


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


@pytest.fixture(scope="session")
def shards(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shard set of the tiny corpus; do not write there."""
    from unibrivl.ingest.engine import EngineConfig
    from unibrivl.ingest.run import IngestConfig, ingest, read_and_plan
    from unibrivl.ingest.sources import FolderConfig

    engine = EngineConfig(source=FolderConfig(root=corpus / "media"), workers=2)
    out = tmp_path_factory.mktemp("tiny") / "shards"
    config = IngestConfig(list_path=corpus / "list.csv", engine=engine, out=out, shard_clips=8)
    ingest(config, read_and_plan(config)[1])
    return out


@pytest.fixture(scope="session")
def run_config(shards: Path) -> "TrainConfig":
    """Return the configuration of the run: a few steps of the real towers."""
    from unibrivl.model.train_config import TrainConfig

    return TrainConfig(
        shards=shards, out=shards.with_name("run"), epochs=3, batch_size=4, val_share=0.2, checkpoint_every=2,
        tower_options={"clip_s": 1.0, "num_mels": 32, "hop": 706},
    )  # fmt: skip


@pytest.fixture(scope="session")
def run(run_config: "TrainConfig") -> Path:
    """Return the folder of a finished run; do not write there."""
    from unibrivl.model.train import train

    train(run_config)
    return run_config.out


@pytest.fixture(scope="session")
def index(run: Path, shards: Path) -> Path:
    """Return the folder of an index of all 24 clips; do not write there."""
    from unibrivl.index.build import IndexConfig, build_index

    out = shards.with_name("index")
    build_index(IndexConfig(run=run, shards=shards, out=out))
    return out


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., list[dict[str, Any]]]:
    """Return a function that makes up index rows: a group, a medium and contents of its own for each, split `test`."""

    def make(count: int, **changes: Any) -> list[dict[str, Any]]:
        return [
            {
                "key": f"gen_clip{n}_000000000", "labels": ["tone"], "caption": f"Clip {n}", "language": "",
                "split": "test", "group": f"g{n}", "media_id": f"m{n}", "start_ms": 0, "end_ms": 1000,
                "shard": "test/gen-test-000000", "tar_offset": 0, "tar_len": 512, "content_sha256": f"{n:064x}",
            } | changes
            for n in range(count)
        ]  # fmt: skip

    return make


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Chrome]":
    """Start a browser without a window, and without requests of its own; skips the test where there is none."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and chromedriver):
        pytest.skip("chromium and chromedriver are not both installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*BROWSER_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=chromedriver))
    yield driver
    driver.quit()
