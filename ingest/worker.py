"""Makes one shard: each planned clip is found, decoded, measured, encoded and written, or its failure is recorded.

`serve` runs in a child process that the pool may kill at any time; it says over a pipe what it is doing.
"""

import errno
import hashlib
import io
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from ..shards import SAMPLE_RATE, ShardWriter
from .children import follow_parent, limit_memory
from .clips import Clip
from .decode import DecodedClip, decode_clip
from .errors import ClipError
from .plan import PlannedShard
from .quality import measure_audio, measure_frame
from .sources import MediaFolder

JPEG_QUALITY = 95
"""At 64 px a JPEG is 3 kB; a lower quality would save little and show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """What every shard of a run has in common."""

    out: Path
    media_dir: Path
    plan_sha256: str
    frame_size: int
    max_pad_ms: int
    memory_bytes: int
    run: str
    """Names the ledger of this run."""


@dataclass(slots=True)
class ShardTask:
    """One shard to make, and the clips that already cost a worker its life."""

    shard: PlannedShard
    poison: dict[str, ClipError] = field(default_factory=dict)
    """Clip key to the error that stands for it instead of another try."""


def make_shard(config: WorkerConfig, media: MediaFolder, task: ShardTask, tell: Callable[..., None]) -> None:
    """Write and commit the shard of `task`; without a single good clip nothing is committed.

    Args:
        config: of the run.
        media: where the clips' media lie.
        task: the shard.
        tell: called with ("clip", key) before a clip and ("done", key, error code or "", detail) after it.
    """
    directory = config.out / "shards" / task.shard.split
    hashes: dict[Path, str] = {}
    rows: list[dict[str, Any]] = []
    with ShardWriter(directory, task.shard.name) as writer:
        for clip in task.shard.clips:
            tell("clip", clip.key)
            row = _planned_row(clip)
            try:
                if clip.key in task.poison:
                    raise task.poison[clip.key]
                path = media.find(clip)
                decoded = decode_clip(
                    path, clip.start_ms, clip.end_ms, frame_size=config.frame_size, max_pad_ms=config.max_pad_ms
                )
                if path not in hashes:
                    hashes = {path: _file_sha256(path)}
                row |= _add_clip(writer, clip, decoded) | {"src_sha256": hashes[path]}
                tell("done", clip.key, "", "")
            except ClipError as e:
                row |= {"status": "failed", "error_code": e.code, "error_detail": str(e)}
                tell("done", clip.key, e.code, str(e))
            rows.append(row)
        if any(row["status"] == "ok" for row in rows):
            writer.commit(split=task.shard.split, plan_sha256=config.plan_sha256, rows=rows)


def _planned_row(clip: Clip) -> dict[str, Any]:
    names = ("key", "corpus", "media_id", "source", "start_ms", "end_ms", "split")
    names += ("labels", "caption", "language", "license")
    return {name: getattr(clip, name) for name in names} | {"group": clip.group or clip.media_id}


def _add_clip(writer: ShardWriter, clip: Clip, decoded: DecodedClip) -> dict[str, Any]:
    """Encode and write one sample; return the sidecar columns that it fills."""
    audio, frame = _flac(decoded.audio), _jpeg(decoded.frame)
    measured = {
        "num_samples": len(decoded.audio),
        "duration_ms": clip.end_ms - clip.start_ms,
        "pad_ms": decoded.pad_ms,
        "frame_pts_ms": decoded.frame_pts_ms,
        "frame_is_key": decoded.frame_is_key,
    }
    info = _planned_row(clip) | measured
    members = {"flac": audio, "jpg": frame, "json": json.dumps(info, sort_keys=True, ensure_ascii=False).encode()}
    return (
        measured
        | writer.add(clip.key, members)
        | measure_audio(decoded.audio)
        | measure_frame(decoded.frame)
        | {
            "status": "ok",
            "src_video_codec": decoded.video_codec,
            "src_audio_codec": decoded.audio_codec,
            "src_width": decoded.width,
            "src_height": decoded.height,
            "src_fps": decoded.fps,
            "decode_errors": decoded.decode_errors,
            "audio_sha256": hashlib.sha256(audio).hexdigest(),
            "frame_sha256": hashlib.sha256(frame).hexdigest(),
        }
    )


def _flac(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _jpeg(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def serve(config: WorkerConfig, number: int, connection: Connection) -> None:
    """Make the shards that come over `connection` until None comes or the parent is gone."""
    follow_parent()
    limit_memory(config.memory_bytes)
    ledger_path = config.out / "ledger" / config.run / f"{number:03d}.jsonl"
    try:
        media = MediaFolder(config.media_dir)
        with ledger_path.open("a", encoding="utf-8") as ledger:
            while (task := connection.recv()) is not None:
                name = task.shard.name

                def tell(event: str, key: str, *rest: str, name: str = name) -> None:
                    if event == "done":
                        entry = {"time_s": round(time.time(), 3), "shard": name, "key": key}
                        ledger.write(json.dumps(entry | dict(zip(("error", "detail"), rest, strict=True))) + "\n")
                        ledger.flush()
                    connection.send((event, key, *rest))

                make_shard(config, media, task, tell)
                connection.send(("shard", name))
    except (EOFError, BrokenPipeError):
        return
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full; make room and run the same command again" if full else e.strerror or str(e)
        connection.send(("fatal", f"{config.out}: {what}", ""))
    except Exception:
        connection.send(("fatal", "an error of the program itself while making a shard", traceback.format_exc()))
