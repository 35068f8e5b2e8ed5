"""Makes one shard: each planned clip is found, decoded, measured, encoded and written, or its failure is recorded.

`serve` runs in a child process that the pool may kill at any time; it says over a pipe what it is doing.
"""

import errno
import hashlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

from .. import UnibrivlError
from ..shards import ShardError, ShardWriter
from ..shards.salvage import Salvage, salvage
from ..shards.tarindex import sample_bytes
from ..shards.upload import Upload
from .children import follow_parent, keep_memory, limit_memory
from .clips import Clip
from .decode import decode_clip
from .errors import ClipError
from .ledger import Failure, write_attempt
from .members import describe_sample, encode_clip, planned_row
from .patience import Gate, patiently
from .quality import flags, measure_audio, measure_frame
from .recipe import Recipe
from .sources import Medium, Source, SourceConfig, make_source


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """What every shard of a run has in common."""

    out: Path
    source: SourceConfig | None
    recipe: Recipe
    plan_sha256: str
    memory_bytes: int
    clip_timeout_s: float
    """How long decoding a clip may take."""
    fetch_timeout_s: float
    """How long getting its medium may take."""
    run: str
    """Names the ledger of this run."""
    machine: str = ""
    """Begins the names of its files in that ledger, where several machines write them."""
    upload: Upload | None = None
    """Where shards are sent; the worker that made one does it, so that no more wait than there are workers."""


@dataclass(slots=True)
class ShardTask:
    """One shard to make, and the clips that already cost a worker its life."""

    name: str
    split: str
    clips: tuple[Clip, ...]
    repair: bool = False
    """The shard is there but damaged: what is whole in it is kept."""
    poison: dict[str, ClipError] = field(default_factory=dict)
    """Clip key to the error that stands for it instead of another try."""
    noted: dict[str, Failure] = field(default_factory=dict)
    """Of a repair whose sidecar is lost: clip key to the failure that the ledger has last."""
    failed_before: Counter[str] | None = None
    """Of a repair: the failures that the shard had, by reason; with any more it is left as it is. None: no limit."""
    told: int = 0
    """Clips that the pool has heard of."""


_CHANGED = "another file than the one that the clip was made of (SHA-256 {:.12}..., was {:.12}...)"


class ShardMaker:
    """Makes shards one after the other from one source."""

    def __init__(self, config: WorkerConfig, source: Source, gate: Gate, tell: Callable[..., None]) -> None:
        """Remember what all shards share.

        Args:
            config: of the run.
            source: where media come from.
            gate: closed while the source wants a pause.
            tell: called with ("clip", key, seconds that its next step may take) before a step, ("try", key, code,
                detail) after a try that is not the last, ("done", key, error code or "", detail) after a clip, and
                ("kept", ...) for one that an earlier worker had done.
        """
        self.config, self.source, self.gate, self.tell = config, source, gate, tell
        self._hashes: dict[Path, tuple[tuple[int, int], str]] = {}

    def make(self, task: ShardTask) -> None:
        """Write, commit and send the shard of `task`, going on with what an earlier worker has left of it."""
        directory = self.config.out / "shards" / task.split
        kept = salvage(directory, task.name) if task.repair else Salvage()
        token = self.config.recipe.token(self.config.plan_sha256)
        with ShardWriter(directory, task.name, token=token) as writer:
            for row in writer.rows:
                self.tell("kept", row["key"], row.get("error_code") or "", row.get("error_detail") or "")
            noted = _believed(task.noted, kept)
            for clip in task.clips[len(writer.rows) :]:
                poison = task.poison.get(clip.key)
                row = _keep(writer, kept, clip.key) or self._describe(writer, clip, kept, poison)
                if row is None and clip.key in noted:
                    row = _failed_row(clip, *noted[clip.key])
                if row is None:
                    row = self._try_clip(writer, clip, poison, kept.media.get(clip.key))
                writer.note(row)
                self.tell("done", clip.key, row.get("error_code") or "", row.get("error_detail") or "")
            if _loses_clips(task, writer.rows):
                writer.abandon()
                return
            commit = writer.commit(split=task.split, plan_sha256=self.config.plan_sha256)
        if self.config.upload is not None:
            self.config.upload.push(commit)

    def _try_clip(
        self, writer: ShardWriter, clip: Clip, poison: ClipError | None, src_sha256: str | None
    ) -> dict[str, Any]:
        """Return the clip's sidecar row, whatever came of it."""
        try:
            if poison is not None:
                raise poison
            made, members = self._make_clip(clip, src_sha256)
            return planned_row(clip) | made | writer.add(clip.key, members)
        except ClipError as e:
            error = e
        except MemoryError:
            error = ClipError("system.oom", f"{clip.key}: takes more memory than a worker may have")
        return _failed_row(clip, error.code, str(error))

    def _describe(
        self, writer: ShardWriter, clip: Clip, kept: Salvage, poison: ClipError | None
    ) -> dict[str, Any] | None:
        """Keep a sample that is whole while its row is lost; None if there is none.

        Its medium has the whole row, if it is here and still gives the same sample; else the sample has most of it.
        """
        if clip.key not in kept.bare:
            return None
        try:
            span = kept.bare[clip.key]()
            row = planned_row(clip) | describe_sample(span, clip.key, self.config.recipe)
        except ShardError:  # it has got worse since it was looked at
            return None
        if self.config.source is not None and poison is None:
            with suppress(ClipError, MemoryError):
                made, members = self._make_clip(clip, None)
                row |= made if sample_bytes(clip.key, members) == span else {}
        return row | writer.add_span(span)

    def _make_clip(self, clip: Clip, src_sha256: str | None) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return the sidecar columns beside the planned ones, and the sample's members.

        Args:
            clip: to be made.
            src_sha256: of the medium that it was made of before, if that is known; another one is refused.

        Raises:
            ClipError: with the reason why there is none.
        """

        def beat() -> None:
            self.tell("clip", clip.key, self.config.fetch_timeout_s)

        def on_try(error: ClipError) -> None:
            self.tell("try", clip.key, error.code, str(error))

        with patiently(self.source, clip, self.gate, beat, on_try) as medium:
            self.tell("clip", clip.key, self.config.clip_timeout_s)
            begin, found = medium.start_ms, self._sha256(medium.path)
            if src_sha256 not in (None, found):
                raise ClipError("local.changed_file", f"{medium.path}: {_CHANGED.format(found, src_sha256)}")
            decoded = decode_clip(
                medium.path, clip.start_ms - begin, clip.end_ms - begin, self.config.recipe.decode, key=clip.key
            )
        made = {
            "src_sha256": found,
            "num_samples": len(decoded.audio),
            "duration_ms": clip.end_ms - clip.start_ms,
            "pad_ms": decoded.pad_ms,
            "frame_pts_ms": decoded.frame_pts_ms + begin,
            "frame_is_key": decoded.frame_is_key,
        }
        measures = measure_audio(decoded.audio) | measure_frame(decoded.frames[0])
        noted = flags(measures)
        if dropped := [flag for flag in noted if flag in self.config.recipe.drop]:
            raise ClipError(f"quality.{dropped[0]}", f"{clip.key}: {dropped[0].replace('_', ' ')}, left out by --drop")
        return encode_clip(clip, decoded, made | measures | {"flags": noted}, self.config.recipe)

    def _sha256(self, path: Path) -> str:
        """Hash a medium; one that holds many clips once."""
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        if self._hashes.get(path, (None, ""))[0] != stamp:
            with path.open("rb") as f:
                self._hashes = {path: (stamp, hashlib.file_digest(f, "sha256").hexdigest())}
        return self._hashes[path][1]


def _keep(writer: ShardWriter, kept: Salvage, key: str) -> dict[str, Any] | None:
    """Take over what is whole of a damaged shard: the clip's sample or its failure; None if it must be made again."""
    if key in kept:
        span, row = kept[key]
        try:
            return row | writer.add_span(span())
        except ShardError:  # it has got worse since it was looked at
            return None
    return kept.failed.get(key)


def _believed(noted: dict[str, Failure], kept: Salvage) -> dict[str, Failure]:
    """Return what the ledger has of the clips that are not in the tar, if the commit file counts the same failures."""
    failures = {key: failure for key, failure in noted.items() if key not in kept.bare}
    counts = Counter(code for code, _ in failures.values())
    return failures if kept.commit is not None and counts == Counter(kept.commit.errors) else {}


def _failed_row(clip: Clip, code: str, detail: str) -> dict[str, Any]:
    return planned_row(clip) | {"status": "failed", "error_code": code, "error_detail": detail}


def _loses_clips(task: ShardTask, rows: list[dict[str, Any]]) -> bool:
    """Tell whether a repair would commit fewer clips than had come: damaged bytes are better than none."""
    failed = Counter(row["error_code"] for row in rows if row["status"] != "ok")
    return task.failed_before is not None and bool(failed - task.failed_before)


class _Nowhere:
    """The source of a repair that has no media."""

    @contextmanager
    def open(self, clip: Clip) -> Iterator[Medium]:
        raise ClipError("local.missing_file", f"{clip.key}: needs its medium; name the folder with --media-dir")
        yield


def serve(config: WorkerConfig, number: int, gate: Gate, connection: Connection) -> None:
    """Make the shards that come over `connection` until None comes or the parent is gone."""
    follow_parent()
    limit_memory(config.memory_bytes)
    keep_memory()
    try:
        connection.send(("ready", ""))
        source = make_source(config.source) if config.source else _Nowhere()
        path = config.out / "ledger" / config.run / f"{config.machine}{number:03d}.jsonl"
        with path.open("a", encoding="utf-8") as ledger:
            while (task := connection.recv()) is not None:
                ShardMaker(config, source, gate, _teller(task.name, ledger, connection)).make(task)
                connection.send(("shard", task.name))
    except (EOFError, BrokenPipeError):
        return
    except UnibrivlError as e:
        connection.send(("fatal", str(e), ""))
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full; make room and run the same command again" if full else e.strerror or str(e)
        connection.send(("fatal", f"{config.out}: {what}", ""))
    except Exception:
        connection.send(("fatal", "an error of the program itself while making a shard", traceback.format_exc()))


def _teller(shard: str, ledger: TextIO, connection: Connection) -> Callable[..., None]:
    """Return what tells the parent, and writes every attempt into the ledger."""

    def tell(event: str, key: str, *rest: Any) -> None:
        if event in ("try", "done"):
            write_attempt(ledger, shard, key, *rest)
        connection.send((event, key, *rest))

    return tell
