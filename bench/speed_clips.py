"""A shard set for `bench speed reader`: samples as ingestion makes them, about 120 kB of FLAC each, in seconds.

The sound is noise under a tune with an envelope, as loud as makes the size of real clips. Every sample is another.
"""

import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from ..shards import FORMAT_VERSION, SAMPLE_RATE, ShardWriter, make_key
from ..shards.atomic import write_json
from ..shards.schema import shard_name

SECONDS = 10
FRAME_PX = 64
NOISE = 14.0
"""Its deviation in steps of 16 bits; FLAC spends about six bits a sample on it."""
SPLIT = "train"
PLAN = "0" * 64


def make_set(root: Path, *, count: int, shard_clips: int, seed: int, workers: int) -> int:
    """Write a shard set of `count` clips; return the bytes of its tars."""
    directory = root / "shards" / SPLIT
    directory.mkdir(parents=True)
    write_json(root / "dataset.json", {"format": FORMAT_VERSION, "plan_sha256": PLAN, "clips": count})
    stretch = _sounds(seed)
    with ThreadPoolExecutor(workers) as pool:
        for number, first in enumerate(range(0, count, shard_clips)):
            with ShardWriter(directory, shard_name("gen", SPLIT, number)) as writer:
                clips, rows = range(first, min(first + shard_clips, count)), []
                for key, members in pool.map(lambda clip: _sample(clip, seed, stretch), clips):
                    rows.append(_row(key, members) | writer.add(key, members))
                writer.commit(split=SPLIT, plan_sha256=PLAN, rows=rows)
    return sum(path.stat().st_size for path in directory.glob("*.tar"))


def _sample(number: int, seed: int, stretch: np.ndarray) -> tuple[str, dict[str, bytes]]:
    rng = np.random.default_rng((seed, number))
    key = make_key("gen", f"clip{number:07d}", 0)
    info = {"key": key, "labels": ["tone", "noise"], "caption": f"Clip {number}", "duration_ms": 1000 * SECONDS}
    return key, {"flac": _flac(stretch, rng), "jpg": _jpeg(rng), "json": json.dumps(info, sort_keys=True).encode()}


def _sounds(seed: int) -> np.ndarray:
    """Return one stretch of sound, float32, long enough to cut many clips from."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(8 * SECONDS * SAMPLE_RATE, dtype=np.float32) / SAMPLE_RATE
    tune = sum(700 * np.sin(2 * np.pi * frequency * time_s) for frequency in (97.3, 311.1, 1234.5))
    return (0.6 + 0.4 * np.sin(time_s)) * (tune + NOISE * rng.standard_normal(len(time_s), dtype=np.float32))


def _flac(stretch: np.ndarray, rng: np.random.Generator) -> bytes:
    first = rng.integers(len(stretch) - SECONDS * SAMPLE_RATE)
    sound = stretch[first : first + SECONDS * SAMPLE_RATE] * rng.uniform(0.8, 1.2)
    buffer = io.BytesIO()
    soundfile.write(buffer, sound.astype(np.int16), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _jpeg(rng: np.random.Generator) -> bytes:
    small = Image.fromarray(rng.integers(0, 256, (10, 10, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize((FRAME_PX, FRAME_PX), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _row(key: str, members: dict[str, bytes]) -> dict[str, Any]:
    return {
        "key": key, "corpus": "gen", "media_id": key.split("_")[1], "start_ms": 0, "end_ms": 1000 * SECONDS,
        "split": SPLIT, "group": key, "labels": ["tone", "noise"], "events": [], "flags": [], "status": "ok",
        "num_samples": SECONDS * SAMPLE_RATE, "duration_ms": 1000 * SECONDS,
        "frame_sha256": hashlib.sha256(members["jpg"]).hexdigest(),
    }  # fmt: skip
