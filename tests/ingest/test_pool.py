"""Checks that worker processes may hang, die or fail without harm to the other clips."""

import io
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from unibrivl.ingest import pool
from unibrivl.ingest.clips import Clip
from unibrivl.ingest.errors import IngestError
from unibrivl.ingest.patience import PatienceConfig
from unibrivl.ingest.pool import Pool
from unibrivl.ingest.worker import ShardTask, WorkerConfig
from unibrivl.shards import read_commit

Media = Callable[..., Path]
Configure = Callable[..., WorkerConfig]


class Heard:
    """Runs a pool over shards of one clip a stem and remembers what it heard."""

    def __init__(self, config: WorkerConfig, *shards: list[Clip], workers: int = 1, **options: int) -> None:
        self.codes: dict[str, list[str]] = {}
        self.config = config
        self.pool = Pool(config, workers=workers, patience=PatienceConfig(), on_clip=self.hear, **options)
        self.tasks = [ShardTask(f"gen-train-{n:06d}", "train", tuple(clips)) for n, clips in enumerate(shards)]

    def hear(self, shard: str, key: str, code: str, detail: str, is_new: bool) -> None:
        self.codes.setdefault(key.split("_", 1)[1].rsplit("_", 1)[0], []).append(code)

    def run(self) -> float:
        started = time.monotonic()
        self.pool.run(self.tasks)
        return time.monotonic() - started

    def errors(self) -> list[dict[str, int]]:
        """Return the errors by shard."""
        paths = sorted((self.config.out / "shards" / "train").glob("*.commit.json"))
        return [read_commit(path).errors for path in paths]

    def leftovers(self) -> list[Path]:
        return list(self.config.out.rglob(".*"))


def test_every_clip_of_every_shard_is_heard_of_once(
    media: Media, worker_config: Configure, clips_of: Callable[..., list[Clip]]
) -> None:
    heard = Heard(worker_config(media("a", "b", "c")), clips_of("a", "gone"), clips_of("b"), clips_of("c"), workers=2)
    heard.run()
    assert heard.codes == {"a": [""], "gone": ["local.missing_file"], "b": [""], "c": [""]}
    assert heard.errors() == [{"local.missing_file": 1}, {}, {}]
    assert multiprocessing.active_children() == []
    lines = [line for path in heard.config.out.rglob("*.jsonl") for line in path.read_text().splitlines()]
    found = {entry["key"]: (entry["shard"], entry["error"]) for entry in map(json.loads, lines)}
    assert found["gen_gone_000000000"] == ("gen-train-000000", "local.missing_file")
    assert len(lines) == len(found) == 4


def test_no_task_needs_no_process(media: Media, worker_config: Configure) -> None:
    heard = Heard(worker_config(media()))
    assert heard.run() < 0.5
    assert heard.pool.workers == []


def test_a_clip_that_hangs_costs_one_clip(
    media: Media, worker_config: Configure, clips_of: Callable[..., list[Clip]], hostile: Path
) -> None:
    heard = Heard(worker_config(media("a", "hangs", "b"), clip_timeout_s=1.5), clips_of("a", "hangs", "b"))
    seconds = heard.run()
    assert heard.errors() == [{"system.timeout": 1}]
    assert heard.codes["hangs"] == ["system.timeout"]
    assert set(heard.codes["a"] + heard.codes["b"]) == {""}
    assert hostile.read_text().split().count("hangs.mp4") == 1  # a second try would cost another deadline
    assert 1.5 <= seconds < 30
    assert multiprocessing.active_children() == []


def test_the_deadline_is_that_of_one_clip_not_of_a_shard(
    media: Media, worker_config: Configure, clips_of: Callable[..., list[Clip]], hostile: Path
) -> None:
    config = worker_config(media("slow-a", "slow-b"), clip_timeout_s=2.0)
    heard = Heard(config, clips_of("slow-a", "slow-b"))
    heard.run()
    assert heard.errors() == [{}]
    assert hostile.read_text().split() == ["slow-a.mp4", "slow-b.mp4"]


def test_a_clip_that_kills_its_worker_twice_is_left_out(
    media: Media, worker_config: Configure, clips_of: Callable[..., list[Clip]], hostile: Path
) -> None:
    heard = Heard(worker_config(media("a", "kills", "b")), clips_of("a", "kills"), clips_of("b"))
    heard.run()
    assert heard.errors() == [{"system.worker_killed": 1}, {}]
    assert heard.codes["kills"] == ["system.worker_killed"]
    assert hostile.read_text().split().count("kills.mp4") == 2
    assert multiprocessing.active_children() == []


def test_a_clip_that_kills_its_worker_once_is_tried_again(
    media: Media, worker_config: Configure, clips_of: Callable[..., list[Clip]], hostile: Path
) -> None:
    heard = Heard(worker_config(media("a", "kills_once")), clips_of("a", "kills_once"))
    heard.run()
    assert heard.errors() == [{}]
    assert heard.codes["kills_once"] == [""]
    assert hostile.read_text().split() == ["a.mp4", "kills_once.mp4", "kills_once.mp4"]  # nothing done is done twice
    assert heard.leftovers() == []


def test_a_fault_of_the_program_stops_the_run_with_its_traceback(
    media: Media, worker_config: Configure, clips_of: Callable[..., list[Clip]], hostile: Path
) -> None:
    heard = Heard(worker_config(media("meets_a_bug")), clips_of("meets_a_bug"))
    with pytest.raises(IngestError, match=r"(?s)an error of the program itself.*RuntimeError: a fault of the program"):
        heard.run()
    assert multiprocessing.active_children() == []


def test_workers_that_die_at_once_stop_the_run(
    media: Media,
    worker_config: Configure,
    clips_of: Callable[..., list[Clip]],
    hostile: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import hostile_worker  # type: ignore[import-not-found]

    monkeypatch.setattr(pool, "serve", hostile_worker.die)
    heard = Heard(worker_config(media("a")), clips_of("a"))
    with pytest.raises(IngestError, match=r"workers keep dying \(exit code 3\)"):
        heard.run()
    assert multiprocessing.active_children() == []


def test_a_worker_is_replaced_after_a_number_of_clips(
    media: Media, worker_config: Configure, clips_of: Callable[..., list[Clip]]
) -> None:
    stems = ["a", "b", "c", "d"]
    heard = Heard(worker_config(media(*stems)), *(clips_of(stem) for stem in stems), recycle_clips=2)
    heard.run()
    ledgers = sorted(path.name for path in heard.config.out.rglob("*.jsonl"))
    assert ledgers == ["000.jsonl", "001.jsonl"]
    assert heard.codes == {stem: [""] for stem in stems}


def test_tasks_are_read_as_workers_get_free(
    media: Media, worker_config: Configure, clips_of: Callable[..., list[Clip]]
) -> None:
    """A plan of two million clips must not be turned into tasks at once."""
    stems = ["a", "b", "c", "d"]
    heard = Heard(worker_config(media(*stems)), *(clips_of(stem) for stem in stems))
    done_before: list[int] = []

    def tasks() -> Iterator[ShardTask]:
        for task in heard.tasks:
            done_before.append(len(heard.codes))
            yield task

    heard.pool.run(tasks())
    assert done_before == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def worker_bytes() -> int:
    """Return the address space of a worker that has done nothing yet; it grows with the number of cores."""
    code = "import unibrivl.ingest.worker; print(open('/proc/self/statm').read().split()[0])"
    pages = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("more_mib", [220, 280])
def test_a_file_that_takes_more_memory_than_allowed_is_one_failed_clip(
    media: Media, worker_config: Configure, clips_of: Callable[..., list[Clip]], worker_bytes: int, more_mib: int
) -> None:
    """A picture of 16,000 x 16,000 points is 4 MB in its file and 256 and more in memory, taken in several steps."""
    folder = media("a")
    picture = io.BytesIO()
    Image.new("L", (16_000, 16_000), 99).save(picture, "JPEG")
    with av.open(str(folder / "large.mkv"), "w") as container:
        video = container.add_stream("mjpeg", rate=1)
        video.width = video.height = 16_000
        video.pix_fmt = "yuvj420p"
        voice = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        packet = av.Packet(picture.getvalue())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = video, 0, 0, True
        packet.time_base = Fraction(1, 1)
        container.mux(packet)
        block = av.AudioFrame.from_ndarray(np.ones((1, 16_000), np.int16), format="s16", layout="mono")
        block.sample_rate, block.pts = 16_000, 0
        container.mux([*voice.encode(block), *voice.encode(None)])
    config = worker_config(folder)
    heard = Heard(replace(config, memory_bytes=worker_bytes + (more_mib << 20)), clips_of("large", "a"))
    heard.run()
    assert heard.codes["a"][-1] == ""
    assert heard.codes["large"] == ["system.oom"]
