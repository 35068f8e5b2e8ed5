"""A close look into one shard: does every sample lie where three files say, and does it decode to what its row says?

Hashes find what changed after writing; this finds what was written wrong.
"""

import io
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import soundfile
import xxhash
from PIL import Image

from .commit import Commit, Damage
from .errors import ShardError
from .schema import SAMPLE_RATE
from .tarindex import END_OF_TAR, find_members, read_index

SOUNDS = ("flac", "wav")
PICTURE = re.compile(r"(?:([1-9][0-9]*)\.)?jpg")
"""The first picture is `jpg`; further ones carry their size, as in `384.jpg`."""
COLUMNS = ("key", "tar_offset", "tar_len", "sample_xxh3", "num_samples")


def inspect_index(commit: Commit, table: pa.Table) -> list[Damage]:
    """Compare a shard's index, which is there, with its sidecar `table`."""
    return _damages(commit, ".tar.idx", _index_faults(commit, _good_rows(table)))


def inspect_tar(commit: Commit, table: pa.Table, dataset: dict[str, Any]) -> list[Damage]:
    """Compare a shard's tar, which is there, with its sidecar, and decode every sample.

    Args:
        commit: of the shard.
        table: its sidecar.
        dataset: `dataset.json` of the set, for the sizes of pictures.
    """
    return _damages(commit, ".tar", _tar_faults(commit, _good_rows(table), dataset))


def _good_rows(table: pa.Table) -> list[dict[str, Any]]:
    return [row for row in table.select([*COLUMNS, "status"]).to_pylist() if row["status"] == "ok"]


def _damages(commit: Commit, suffix: str, reasons: Iterator[str]) -> list[Damage]:
    """Return the first fault of a file and how many there are."""
    if not (faults := list(reasons)):
        return []
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return [Damage(path=commit.path(suffix), reason=f"{faults[0]}{more}", shard=commit.name)]


def _index_faults(commit: Commit, rows: list[dict[str, Any]]) -> Iterator[str]:
    path = commit.path(".tar.idx")
    try:
        offsets = read_index(path).tolist()
    except ShardError as e:
        yield f"is no index: {str(e).removeprefix(f'{path}: ')}"
        return
    if offsets != [*(row["tar_offset"] for row in rows), commit.files[".tar"]["bytes"]]:
        yield "has other offsets than the sidecar"


def _tar_faults(commit: Commit, rows: list[dict[str, Any]], dataset: dict[str, Any]) -> Iterator[str]:
    path = commit.path(".tar")
    frame = dataset.get("frame")
    sizes = (frame.get("sizes_px") if isinstance(frame, dict) else None) or [None]
    position, fields = 0, None
    with path.open("rb", buffering=0) as tar:
        for row in rows:
            if row["tar_offset"] != position:
                yield f"holds something between two samples, before {row['key']}"
            position = row["tar_offset"] + row["tar_len"]
            try:
                span = os.pread(tar.fileno(), row["tar_len"], row["tar_offset"])
            except OSError as e:
                yield f"cannot be read in {row['key']} ({e.strerror})"
                continue
            if xxhash.xxh3_64_intdigest(span) != row["sample_xxh3"]:
                yield f"is damaged in {row['key']}"
                continue
            try:
                found, members = find_members(span, row["key"])
                fields = fields or tuple(members)
                yield from (f"has {row['key']}, {fault}" for fault in _sample_faults(span, found, members, row, sizes))
                if tuple(members) != fields:
                    yield f"has {row['key']} with other members than the first sample"
            except ShardError as e:
                yield f"has {e}"
        if os.pread(tar.fileno(), len(END_OF_TAR) + 1, position) != END_OF_TAR:
            yield "does not end behind its last sample"


def _sample_faults(
    span: bytes, key: str, members: dict[str, slice], row: dict[str, Any], sizes: list[Any]
) -> Iterator[str]:
    """Yield what is wrong with one sample: names and order of members, then what they decode to."""
    if key != row["key"]:
        yield f"whose members are named {key}"
    names = list(members)
    sound, pictures, text = names[0], names[1:-1], names[-1]
    if sound not in SOUNDS or text != "json" or pictures[:1] != ["jpg"] or not all(map(PICTURE.fullmatch, pictures)):
        yield f"whose members are {', '.join(names)}; want sound, pictures and text"
        return
    yield from _sound_faults(span[members[sound]], row)
    for name in pictures:
        match = PICTURE.fullmatch(name)
        assert match
        yield from _picture_faults(span[members[name]], name, int(match[1]) if match[1] else sizes[0])
    try:
        info = json.loads(span[members["json"]])
        found = info["key"] if isinstance(info, dict) else None
    except (ValueError, KeyError, RecursionError):
        found = None
    if found != row["key"]:
        yield f"whose text is of {found!r}"


def _sound_faults(data: bytes, row: dict[str, Any]) -> Iterator[str]:
    try:
        samples, sample_rate = soundfile.read(io.BytesIO(data), dtype="int16")
    except soundfile.SoundFileError as e:
        yield f"whose sound does not decode ({e})"
        return
    if sample_rate != SAMPLE_RATE or samples.ndim != 1:
        yield f"whose sound is not mono at {SAMPLE_RATE} Hz"
    elif row["num_samples"] not in (None, len(samples)):
        yield f"whose sound has {len(samples)} samples, its row says {row['num_samples']}"


def _picture_faults(data: bytes, name: str, size: int | None) -> Iterator[str]:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            image.load()
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        yield f"whose picture {name} does not decode ({e})"
        return
    if size is not None and (width, height) != (size, size):
        yield f"whose picture {name} has {width} x {height} pixels, want {size} x {size}"
