"""Counts and measures of a whole shard set: what was planned, what came, why the rest did not, and how it is.

Everything is computed over columns, so that two million clips take seconds. A clip counts once, whether it came at
first, in a retry, failed, or belongs to a shard that is not made yet.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from .catalog import all_rows, label_counts, read_dataset
from .commit import Commit, committed_shards
from .errors import ShardError
from .histogram import Histogram, measure_histograms
from .schema import ROUND_PATTERN, SIDECAR_SCHEMA

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers

NOT_YET = "not yet"
"""Status of a clip whose shard is planned and not committed."""
COLUMNS = tuple(name for name in SIDECAR_SCHEMA.names if name not in {"tar_offset", "tar_len", "sample_xxh3"})
"""What of the sidecar says something about a clip, beyond its place."""
TOP_LABELS = 100
_TEXTS = ("key", "source", "caption", "error_code", "error_detail", "src_sha256", "audio_sha256", "frame_sha256")
"""Long columns that nothing is counted by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What was planned and what came, of one part of the set."""

    planned: int
    ok: int
    failed: int
    not_yet: int
    seconds: float
    """Sound of the clips that came."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCount:
    """How many clips carry a label."""

    label: str
    planned: int
    ok: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """A shard set in figures; counts are clips unless a name says otherwise."""

    total: Tally
    errors: dict[str, int]
    """Failed clips by reason, the most frequent first."""
    parts: dict[str, dict[str, Tally]]
    """`split`, `corpus`, `license`, `language` to value to tally; an empty value is one that the list left open."""
    shards: int
    """Committed shards, patches included."""
    retries: dict[str, dict[str, int]]
    """Round of a retry (`r01`) to clips `tried` again and `ok` in it."""
    tar_bytes: int
    total_bytes: int
    """Tars, indexes and sidecars."""
    histograms: dict[str, Histogram]
    """Measure to histogram; a measure that no clip has is left out."""
    flags: dict[str, int]
    """Clips that came, by flag of quality."""
    padded: int
    """Clips whose sound was filled up with silence."""
    key_frames: int
    """Clips whose picture is a keyframe."""
    decode_errors: int
    """Clips that came with a fault or more in their streams."""
    sources: dict[str, dict[str, int]]
    """`video_codec`, `audio_codec`, `size` (1280x720), `fps` to value to clips, the most frequent first."""
    num_labels: int
    """Different labels of planned clips."""
    labels: tuple[LabelCount, ...]
    """The most frequent, by clips that came."""
    unlabelled: int
    """Clips that came and have no label."""
    events: int
    """Strong labels of the clips that came."""
    with_events: int
    """Clips that came and have strong labels."""
    media: int
    """Different media of planned clips."""
    media_ok: int
    """Media of which at least one clip came."""
    groups: int
    """Different groups of planned clips."""

    @property
    def hours(self) -> float:
        """Return the hours of sound that came."""
        return self.total.seconds / 3600

    @property
    def bytes_per_clip(self) -> float:
        """Return the mean size of a clip in the tars; 0 where nothing came."""
        return self.tar_bytes / self.total.ok if self.total.ok else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return asdict(self) | {"hours": self.hours, "bytes_per_clip": self.bytes_per_clip}


def stats(root: Path, split: str | None = None) -> Stats:
    """Measure the shard set at `root`; `split` None takes every split.

    Raises:
        ShardError: `root` is no shard set, has no such split, or a file of it is damaged.
    """
    read_dataset(root)
    rows = planned_rows(root, split=split)
    if split is not None and not len(rows):
        raise ShardError(f"{root} holds no clip of split {split!r}; `unibrivl shards stats` without it lists them")
    return summarize(rows, committed_shards(root, split=split, tars=False))


def planned_rows(root: Path, *, split: str | None = None) -> pa.Table:
    """Return `COLUMNS` with one row a planned clip; what is in no committed shard has the status `NOT_YET`.

    Raises:
        ShardError: a commit, sidecar or plan file is damaged.
    """
    rows = all_rows(root, split=split, tars=False).select(COLUMNS)
    waiting = [_waiting_rows(path, rows["key"], split) for path in sorted((root / "plan").glob("plan-*.parquet"))]
    return pa.concat_tables([rows, *waiting])


def _waiting_rows(path: Path, made: pa.ChunkedArray, split: str | None) -> pa.Table:
    schema = _schema()
    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in schema.names if name in file.schema_arrow.names]
            plan = file.read(columns=names)
        if split is not None:
            plan = plan.filter(pc.field("split") == split)
        plan = plan.filter(pc.invert(pc.is_in(plan["key"], value_set=made)))
        columns = {
            field.name: plan[field.name].cast(field.type) if field.name in names else pa.nulls(len(plan), field.type)
            for field in schema
        }
    except (pa.ArrowException, KeyError, ValueError, OSError) as e:
        raise ShardError(f"{path}: not a readable plan ({e}); ingest into a new folder") from e
    columns["status"] = pa.repeat(pa.scalar(NOT_YET), len(plan))
    return pa.table(columns, schema=schema)


def _schema() -> pa.Schema:
    return pa.schema([SIDECAR_SCHEMA.field(name) for name in COLUMNS])


def summarize(rows: pa.Table, commits: list[Commit]) -> Stats:
    """Return the figures of `planned_rows` and of the commits that they come from."""
    came = rows.drop_columns([*_TEXTS]).filter(pc.field("status") == "ok")
    planned, ok = label_counts(rows), label_counts(came)
    lengths = pc.list_value_length(came["events"]).fill_null(0)
    return Stats(
        total=_total(rows),
        errors=_frequent(rows.select(["status", "error_code"]).filter(pc.field("status") == "failed")["error_code"]),
        parts={name: _tallies(rows, name) for name in ("split", "corpus", "license", "language")},
        shards=len(commits),
        retries=_retries(commits),
        tar_bytes=sum(commit.files[".tar"]["bytes"] for commit in commits),
        total_bytes=sum(file["bytes"] for commit in commits for file in commit.files.values()),
        histograms=measure_histograms(came),
        flags=_frequent(pc.list_flatten(came["flags"])),
        padded=_count(pc.greater(came["pad_ms"], 0)),
        key_frames=_count(came["frame_is_key"]),
        decode_errors=_count(pc.greater(came["decode_errors"], 0)),
        sources=_sources(came),
        num_labels=len(planned),
        labels=_top_labels(planned, ok),
        unlabelled=_count(pc.equal(pc.list_value_length(came["labels"]).fill_null(0), 0)),
        events=_whole(pc.sum(lengths)),
        with_events=_count(pc.greater(lengths, 0)),
        media=_distinct(rows["media_id"]),
        media_ok=_distinct(came["media_id"]),
        groups=_distinct(rows["group"]),
    )


def _whole(scalar: Any) -> int:
    return int(scalar.as_py() or 0)


def _count(mask: Any) -> int:
    return _whole(pc.sum(mask))


def _distinct(values: pa.ChunkedArray) -> int:
    return _whole(pc.count_distinct(values))


def _frequent(values: Any) -> dict[str, int]:
    """Count values, the most frequent first and equals in the order of their names; nothing for null."""
    counted = pc.value_counts(values.drop_null())
    pairs = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    return {str(value): count for value, count in sorted(pairs, key=lambda pair: (-pair[1], str(pair[0])))}


def _total(rows: pa.Table) -> Tally:
    (total,) = _tallies(rows.append_column("all", pa.repeat(pa.scalar(""), len(rows))), "all").values() or [_tally([])]
    return total


def _tallies(rows: pa.Table, column: str) -> dict[str, Tally]:
    """Tally the clips by the value of `column`, the largest part first."""
    ones = rows.select([column, "status", "duration_ms"])
    found: dict[str, list[dict[str, Any]]] = {}
    for row in ones.group_by([column, "status"]).aggregate([([], "count_all"), ("duration_ms", "sum")]).to_pylist():
        found.setdefault(row[column] or "", []).append(row)
    tallies = {value: _tally(parts) for value, parts in found.items()}
    return dict(sorted(tallies.items(), key=lambda item: (-item[1].planned, item[0])))


def _tally(parts: list[dict[str, Any]]) -> Tally:
    counts = {"ok": 0, "failed": 0, NOT_YET: 0}
    duration_ms = 0
    for part in parts:
        counts[part["status"]] += part["count_all"]
        duration_ms += (part["duration_ms_sum"] or 0) if part["status"] == "ok" else 0
    return Tally(
        planned=sum(counts.values()), ok=counts["ok"], failed=counts["failed"], not_yet=counts[NOT_YET],
        seconds=duration_ms / 1000,
    )  # fmt: skip


def _retries(commits: list[Commit]) -> dict[str, dict[str, int]]:
    rounds: dict[str, dict[str, int]] = {}
    for commit in commits:
        if match := ROUND_PATTERN.search(commit.name):
            counts = rounds.setdefault(f"r{match[1]}", {"tried": 0, "ok": 0})
            counts["tried"] += commit.planned
            counts["ok"] += commit.ok
    return dict(sorted(rounds.items()))


def _sources(came: pa.Table) -> dict[str, dict[str, int]]:
    width, height = (came[f"src_{side}"].cast(pa.string()) for side in ("width", "height"))
    sizes = pc.binary_join_element_wise(width, height, "x")
    fps = pc.round(came["src_fps"].cast(pa.float64()), 2)
    whole = pc.if_else(pc.equal(fps, pc.floor(fps)), fps.cast(pa.int64(), safe=False).cast(pa.string()), None)
    return {
        "video_codec": _frequent(came["src_video_codec"]),
        "audio_codec": _frequent(came["src_audio_codec"]),
        "size": _frequent(sizes),
        "fps": _frequent(pc.coalesce(whole, fps.cast(pa.string()))),
    }


def _top_labels(planned: Mapping[str, int], ok: Mapping[str, int]) -> tuple[LabelCount, ...]:
    names = sorted(planned, key=lambda label: (-ok.get(label, 0), -planned[label], label))[:TOP_LABELS]
    return tuple(LabelCount(label=name, planned=planned[name], ok=ok.get(name, 0)) for name in names)


def rows(found: Stats) -> list[tuple[str, str]]:
    """Return the figures that a terminal has room for: name and value, in reading order."""
    total, histograms = found.total, found.histograms
    lines = [
        ("planned", f"{total.planned:,} clips of {found.media:,} media"),
        ("came", f"{total.ok:,} ({clock(total.seconds)} of sound)"),
        ("failed", f"{total.failed:,}"),
        *((f"  {code}", f"{count:,}") for code, count in found.errors.items()),
        (NOT_YET, f"{total.not_yet:,}"),
        *((f"retry {name}", f"{c['ok']:,} of {c['tried']:,} recovered") for name, c in found.retries.items()),
        ("shards", f"{found.shards:,}, {found.total_bytes / 1e6:,.1f} MB, {found.bytes_per_clip / 1e3:,.1f} kB a clip"),
        *((f"split {name or 'without name'}", _part(tally)) for name, tally in found.parts["split"].items()),
        ("labels", f"{found.num_labels:,}; {found.unlabelled:,} clips have none"),
    ]
    lines += [(f"flag {name}", f"{count:,}") for name, count in found.flags.items()]
    for name, what in (("duration_s", "length"), ("rms_dbfs", "loudness"), ("frame_luma_mean", "brightness")):
        if (h := histograms.get(name)) is not None:
            unit = "" if h.unit == "luma" else f" {h.unit}"
            lines.append((what, f"median {h.median:.3g}{unit}, nine clips in ten {h.p05:.3g} to {h.p95:.3g}"))
    return lines


def _part(tally: Tally) -> str:
    return f"{tally.ok:,} of {tally.planned:,} came ({clock(tally.seconds)})"


def clock(seconds: float) -> str:
    """Return a length of time in hours, or in minutes where that is less than one hour."""
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
