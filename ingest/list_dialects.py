r"""The lists of AudioSet and VGGSound: text without quoted line breaks, one row a line, mostly without a header.

A dialect reads a row in two ways that agree: `pattern` with `columns` takes many well-formed lines at once, `clip`
takes any line and says what is wrong with it. What the first does not take, the second gets.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ..shards.arrays import array_of, numpy_of, text_scalar
from ..shards.schema import EVENTS_TYPE, MEDIA_ID_PATTERN
from .clips import CLIP_SCHEMA, Clip, Event
from .list_rows import MAX_SECONDS, columns, labels_in, number, span_ms, split_fields

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers

CLIP_MS = 10_000
"""Length of a clip where the list gives its start only: AudioSet's strong labels, VGGSound."""
AUDIOSET_COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")
STRONG_COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")

# Printable ASCII without quotes and commas: what needs no care. \d, \w and \s are spelled out, since Arrow's engine
# (RE2) and Python's differ in what they take for a digit or a blank.
ID = "(?P<id>[A-Za-z0-9_-]{11})"
SECONDS = r"[0-9]{1,6}(?:\.[0-9]{1,6})?"
WORD = r"[!#-+\--~]+"
WORDS = f"{WORD}(?: {WORD})*"
LABEL = f'(?:"(?P<quoted>{WORDS}(?:, ?{WORDS})*)"|(?P<plain>{WORDS}))'

Groups = Mapping[str, pa.Array]


@dataclass(frozen=True, slots=True)
class Columns:
    """The well-formed rows of a part of a list, as columns of `CLIP_SCHEMA`; those not here are empty."""

    values: dict[str, pa.Array]
    is_good: np.ndarray
    """bool (rows,): False where the careful way must say what is wrong."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to write a list."""

    name: str
    clip: Callable[[str, str], Clip]
    """From a line and the split to a clip; ValueError says what is wrong with the line."""
    pattern: str = ""
    """Matches a whole well-formed line with its end; empty: every line is read with care."""
    columns: Callable[[Groups], Columns] | None = None
    """From the pattern's groups, one array each."""
    has_comments: bool = True
    is_merged: bool = False
    """Rows of one clip become one clip; otherwise the second is a bad row."""
    ends_in_label: bool = False
    """The last field of a line is one label, so that a cut file may end in the beginning of one."""
    split: str = "train"
    split_by_file: Mapping[str, str] = field(default_factory=dict)


def read_quickly(dialect: Dialect, lines: pa.StringArray, split: str) -> tuple[pa.Table, np.ndarray]:
    """Read the well-formed lines.

    Returns:
        Their clips in `CLIP_SCHEMA`, and which lines these are, bool (lines,).
    """
    if dialect.columns is None:
        return pa.Table.from_batches([], CLIP_SCHEMA), np.zeros(len(lines), bool)
    found = pc.extract_regex(lines, dialect.pattern)
    is_read = numpy_of(pc.cast(found.is_valid(), pa.uint8())).astype(bool)
    found = found.drop_null()
    read = dialect.columns({kind.name: found.field(kind.name) for kind in found.type})
    values = {"split": pa.repeat(text_scalar(split), len(found))} | read.values
    empty_list = array_of(np.zeros(len(found) + 1, np.int32))
    arrays = []
    for kind in CLIP_SCHEMA:
        if kind.name in values:
            arrays.append(values[kind.name].cast(kind.type))
        elif pa.types.is_list(kind.type):
            arrays.append(pa.ListArray.from_arrays(empty_list, pa.nulls(0, kind.type.value_type), type=kind.type))
        else:
            arrays.append(pa.repeat(text_scalar(""), len(found)))
    table = pa.Table.from_arrays(arrays, schema=CLIP_SCHEMA)
    if not read.is_good.all():
        table = table.filter(array_of(read.is_good))
        is_read[np.flatnonzero(is_read)[~read.is_good]] = False
    return table, is_read


def _seconds(texts: pa.Array) -> np.ndarray:
    return numpy_of(pc.cast(texts, pa.float64()))


def _ms(seconds: np.ndarray) -> np.ndarray:
    return np.rint(seconds * 1000).astype(np.int64)  # half to even, as Python's round


def _spans(start: pa.Array, end: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return start and end in ms, and which are what `span_ms` takes too."""
    start_s, end_s = _seconds(start), _seconds(end)
    start_ms, end_ms = _ms(start_s), _ms(end_s)
    return start_ms, end_ms, (start_s < end_s) & (end_s <= MAX_SECONDS) & (start_ms < end_ms)


def _lists_of_one(values: pa.Array, kind: pa.ListType) -> pa.ListArray:
    return pa.ListArray.from_arrays(array_of(np.arange(len(values) + 1, dtype=np.int32)), values, type=kind)


def _label(groups: Groups) -> pa.Array:
    """Return what stands in quotes or without: one of the two groups matched, the other is empty."""
    return pc.binary_join_element_wise(groups["quoted"], groups["plain"], text_scalar(""))


def _youtube_id(text: str) -> str:
    text = text.strip()
    if len(text) != 11 or not MEDIA_ID_PATTERN.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no YouTube id of 11 letters, digits, - and _")
    return text


def _audioset_columns(groups: Groups) -> Columns:
    start_ms, end_ms, is_good = _spans(groups["start"], groups["end"])
    labels = pc.split_pattern(_label(groups), ",")
    values = {"start_ms": array_of(start_ms), "end_ms": array_of(end_ms), "labels": labels}
    return Columns({"corpus": pa.repeat(text_scalar("as"), len(start_ms)), "media_id": groups["id"]} | values, is_good)


def _audioset_clip(line: str, split: str) -> Clip:
    media_id, start, end, labels = columns(line, ("id", "start", "end", "labels"))
    media_id = _youtube_id(media_id)
    start_ms, end_ms = span_ms(start, end)
    return Clip(
        corpus="as", media_id=media_id, start_ms=start_ms, end_ms=end_ms, split=split, labels=labels_in(labels, ",")
    )


def _strong_columns(groups: Groups) -> Columns:
    clip_ms = numpy_of(pc.cast(groups["clip"], pa.int64()))
    start_ms, end_ms, is_good = _spans(groups["start"], groups["end"])
    event = pa.StructArray.from_arrays(
        [array_of(start_ms), array_of(end_ms), groups["label"]], type=EVENTS_TYPE.value_type
    )
    return Columns(
        {
            "corpus": pa.repeat(text_scalar("as"), len(clip_ms)), "media_id": groups["id"],
            "start_ms": array_of(clip_ms), "end_ms": array_of(clip_ms + CLIP_MS),
            "events": _lists_of_one(event, EVENTS_TYPE),
            "labels": _lists_of_one(groups["label"], pa.list_(pa.string())),
        },
        is_good & (end_ms <= CLIP_MS) & (clip_ms + CLIP_MS <= MAX_SECONDS * 1000),
    )  # fmt: skip


def _strong_clip(line: str, split: str) -> Clip:
    segment, start, end, label = (text.strip() for text in columns(line, STRONG_COLUMNS, "\t"))
    media_id, _, clip = segment.rpartition("_")  # from the right: an id may hold _
    if not re.fullmatch("[0-9]{1,9}", clip):
        raise ValueError(f"{segment[:40]!r} does not end in _ and a start in ms")
    media_id = _youtube_id(media_id)
    clip_ms, _ = span_ms(int(clip) / 1000, (int(clip) + CLIP_MS) / 1000)
    start_ms, end_ms = span_ms(start, end)
    if end_ms > CLIP_MS:
        raise ValueError(f"end {end[:40]} is behind the segment's end, {CLIP_MS // 1000} s")
    if not label:
        raise ValueError("no label")
    return Clip(
        corpus="as", media_id=media_id, start_ms=clip_ms, end_ms=clip_ms + CLIP_MS, split=split, labels=(label,),
        events=(Event(start_ms, end_ms, label),),
    )  # fmt: skip


def _vggsound_columns(groups: Groups) -> Columns:
    start_ms = _ms(_seconds(groups["start"]))
    values = {
        "corpus": pa.repeat(text_scalar("vgg"), len(start_ms)), "media_id": groups["id"],
        "start_ms": array_of(start_ms), "end_ms": array_of(start_ms + CLIP_MS),
        "labels": _lists_of_one(_label(groups), pa.list_(pa.string())),
    }  # fmt: skip
    values |= {"split": groups["split"]} if "split" in groups else {}
    return Columns(values, start_ms + CLIP_MS <= MAX_SECONDS * 1000)


def _vggsound_clip(line: str, split: str) -> Clip:
    media_id, start, label, own_split = columns(line, ("id", "start", "label", "train or test"))
    if own_split not in ("train", "test"):
        raise ValueError(f"split {own_split[:40]!r} is neither train nor test")
    return _vggsound(media_id, start, label, own_split)


def _vggsound_file_clip(line: str, split: str) -> Clip:
    name, label = columns(line, ("ID_START.mp4", "label"))
    stem, suffix, rest = name.partition(".mp4")
    media_id, _, start = stem.rpartition("_")  # from the right: an id may hold _
    if not suffix or rest or not re.fullmatch("[0-9]{6}", start):
        raise ValueError(f"{name[:40]!r} is no ID_START.mp4 with a start of six digits, in seconds")
    return _vggsound(media_id, start, label, split)


def _vggsound(media_id: str, start: str, label: str, split: str) -> Clip:
    media_id, label = _youtube_id(media_id), label.strip()
    start_s = number(start)
    start_ms, _ = span_ms(start, None if start_s is None else start_s + CLIP_MS / 1000)
    if not label:
        raise ValueError("no label")
    return Clip(
        corpus="vgg", media_id=media_id, start_ms=start_ms, end_ms=start_ms + CLIP_MS, split=split, labels=(label,)
    )


AUDIOSET = Dialect(
    name="audioset",
    clip=_audioset_clip,
    pattern=(
        f"^{ID}, ?(?P<start>{SECONDS}), ?(?P<end>{SECONDS}), ?"
        f'(?:"(?P<quoted>{WORD}(?:,{WORD})*)"|(?P<plain>{WORD}))\n?$'
    ),
    columns=_audioset_columns,
    split_by_file={"eval_segments.csv": "eval"},
)
STRONG = Dialect(
    name="audioset strong",
    clip=_strong_clip,
    pattern=f"^{ID}_(?P<clip>[0-9]{{1,9}})\t(?P<start>{SECONDS})\t(?P<end>{SECONDS})\t(?P<label>{WORDS})\n?$",
    columns=_strong_columns,
    is_merged=True,
    ends_in_label=True,
    split_by_file={"audioset_eval_strong.tsv": "eval"},
)
VGGSOUND = Dialect(
    name="vggsound",
    clip=_vggsound_clip,
    pattern=f"^{ID},(?P<start>[0-9]{{1,6}}),{LABEL},(?P<split>train|test)\n?$",
    columns=_vggsound_columns,
)
VGGSOUND_FILES = Dialect(
    name="vggsound files",
    clip=_vggsound_file_clip,
    pattern=f"^{ID}_(?P<start>[0-9]{{6}})\\.mp4,{LABEL}\n?$",
    columns=_vggsound_columns,
    ends_in_label=True,
    split="test",
    split_by_file={"train.csv": "train"},
)
DIALECTS = (AUDIOSET, STRONG, VGGSOUND, VGGSOUND_FILES)


def is_audioset_row(line: str) -> bool:
    """Tell whether a line is an id, two numbers and labels, whatever the id."""
    fields = split_fields(line) or []
    return len(fields) >= 3 and number(fields[1]) is not None and number(fields[2]) is not None
