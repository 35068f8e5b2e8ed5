"""A small shard set with real sound and pictures, written without ingestion."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from unibrivl.shards import FORMAT_VERSION, SAMPLE_RATE, ShardWriter, make_key
from unibrivl.shards.atomic import write_json
from unibrivl.shards.commit import Commit
from unibrivl.shards.schema import shard_name

Members = dict[str, bytes]
PLAN = "0" * 64


def clip(number: int) -> tuple[str, Members]:
    """Return key and members of a clip; every third id starts with `-` and holds `_`."""
    key = make_key("as", f"{'-' if number % 3 == 0 else 'x'}a_b{number:07d}", 1000 * number)
    rng = np.random.default_rng(number)
    sound, picture = io.BytesIO(), io.BytesIO()
    samples = rng.integers(-9000, 9000, SAMPLE_RATE // 10, np.int16)
    soundfile.write(sound, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(picture, "JPEG", quality=95)
    info = json.dumps({"key": key, "labels": [f"label {number}"]}).encode()
    return key, {"flac": sound.getvalue(), "jpg": picture.getvalue(), "json": info}


def failed_row(key: str, split: str) -> dict[str, Any]:
    return {"key": key, "split": split, "status": "failed", "error_code": "media.no_audio", "error_detail": "no sound"}


def fill(writer: ShardWriter, clips: list[tuple[str, Members]], *, split: str) -> list[dict[str, Any]]:
    rows = []
    for key, members in clips:
        rows.append({"key": key, "split": split, "status": "ok"} | writer.add(key, members))
    return rows


@pytest.fixture(scope="session")
def make_clip() -> Callable[[int], tuple[str, Members]]:
    """Return a function from a number to key and members of a clip."""
    return clip


@pytest.fixture(scope="session")
def write_shard() -> Callable[..., Commit]:
    """Return a function that writes a shard with one clip a number, and one failed clip before the last."""

    def write(
        directory: Path, numbers: list[int], *, split: str = "train", number: int = 0, plan: str = PLAN
    ) -> Commit:
        with ShardWriter(directory, shard_name("as", split, number)) as writer:
            rows = fill(writer, [clip(n) for n in numbers], split=split)
            rows.insert(len(rows) - 1, failed_row(make_key("as", "gone", number), split))
            return writer.commit(split=split, plan_sha256=plan, rows=rows)

    return write


@pytest.fixture
def shard_set(tmp_path: Path, write_shard: Callable[..., Commit]) -> Path:
    """Return a set of two shards of split `train` (clips 0 to 6) and one of split `test` (clips 7 and 8)."""
    root = tmp_path / "set"
    for split in ("train", "test"):
        (root / "shards" / split).mkdir(parents=True)
    write_json(root / "dataset.json", {"format": FORMAT_VERSION})
    write_shard(root / "shards" / "train", [0, 1, 2, 3])
    write_shard(root / "shards" / "train", [4, 5, 6], number=1)
    write_shard(root / "shards" / "test", [7, 8], split="test")
    return root
