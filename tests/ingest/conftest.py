"""Settings and tasks of ingestion over the tiny corpus, and workers that misbehave on purpose."""

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from unibrivl.ingest.clips import Clip

if TYPE_CHECKING:
    from unibrivl.ingest.run import IngestConfig
    from unibrivl.ingest.worker import WorkerConfig

HOSTILE = '''
"""A worker whose clips hang, kill it or meet a fault of the program, by the name of their file."""

import os
import signal
import time
from pathlib import Path

from unibrivl.ingest import worker

decode_clip = worker.decode_clip


def decode(path, *args, **kwargs):
    with Path(__file__).with_name("tries").open("a") as f:
        f.write(path.name + "\\n")
    name = path.stem.split("-")[0]
    if name == "hangs":
        time.sleep(1000)
    marker = path.with_suffix(".met")
    if name == "kills" or (name == "kills_once" and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "meets_a_bug":
        raise RuntimeError("a fault of the program")
    if name == "slow":
        time.sleep(1.1)
    return decode_clip(path, *args, **kwargs)


def serve(config, number, gate, connection):
    worker.decode_clip = decode
    worker.serve(config, number, gate, connection)


def die(config, number, gate, connection):
    os._exit(3)
'''


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let workers misbehave on media named so; return a file to which each try adds the name of its medium."""
    from unibrivl.ingest import pool

    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "hostile_worker.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(folder)
    module = importlib.import_module("hostile_worker")
    monkeypatch.setattr(pool, "serve", module.serve)
    yield folder / "tries"
    del sys.modules["hostile_worker"]


@pytest.fixture
def media(tmp_path: Path, corpus: Path) -> Callable[..., Path]:
    """Return a function that makes a folder of one-second videos with the given stems."""

    def make(*stems: str) -> Path:
        folder = tmp_path / "media"
        folder.mkdir(exist_ok=True)
        for number, stem in enumerate(stems):
            shutil.copyfile(corpus / "media" / f"clip-_{number:02d}.mp4", folder / f"{stem}.mp4")
        return folder

    return make


@pytest.fixture
def write_list(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a general list of one clip from 0 to 1 s a stem."""

    def write(*stems: str) -> Path:
        path = tmp_path / "list.csv"
        path.write_text("id,start,end\n" + "".join(f"{stem},0,1\n" for stem in stems))
        return path

    return write


@pytest.fixture(scope="session")
def clips_of() -> Callable[..., list[Clip]]:
    """Return a function from stems to their clips."""

    def make(*stems: str) -> list[Clip]:
        return [Clip(corpus="gen", media_id=stem, start_ms=0, end_ms=1000) for stem in stems]

    return make


@pytest.fixture
def config_for(tmp_path: Path) -> Callable[..., "IngestConfig"]:
    """Return a function from list, media folder and options to a configuration."""
    from unibrivl.ingest.decoded import DecodeConfig
    from unibrivl.ingest.engine import EngineConfig
    from unibrivl.ingest.recipe import Recipe
    from unibrivl.ingest.run import IngestConfig
    from unibrivl.ingest.sources import FolderConfig

    def make(
        list_path: Path, media_dir: Path, *, decode: dict[str, Any] | None = None, engine: dict[str, Any] | None = None,
        recipe: dict[str, Any] | None = None, **options: Any,
    ) -> IngestConfig:  # fmt: skip
        return IngestConfig(
            list_path=list_path,
            engine=EngineConfig(source=FolderConfig(root=media_dir), **{"workers": 1} | (engine or {})),
            recipe=Recipe(decode=DecodeConfig(**(decode or {})), **(recipe or {})),
            **{"out": tmp_path / "out", "shard_clips": 2} | options,
        )

    return make


@pytest.fixture
def worker_config(tmp_path: Path) -> Callable[..., "WorkerConfig"]:
    """Return a function from a media folder to a worker's configuration, with the folders that a run makes."""
    from unibrivl.ingest.decoded import DecodeConfig
    from unibrivl.ingest.recipe import Recipe
    from unibrivl.ingest.sources import FolderConfig
    from unibrivl.ingest.worker import WorkerConfig

    def make(media_dir: Path, **options: Any) -> WorkerConfig:
        out = tmp_path / "out"
        (out / "shards" / "train").mkdir(parents=True)
        (out / "ledger" / "r").mkdir(parents=True)
        recipe = Recipe(decode=DecodeConfig(frame_sizes=(16,), max_pad_ms=100))
        settings = {"memory_bytes": 4 << 30, "clip_timeout_s": 60.0, "fetch_timeout_s": 60.0} | options
        return WorkerConfig(
            out=out, source=FolderConfig(root=media_dir), recipe=recipe, plan_sha256="0" * 64, run="r", **settings
        )

    return make
