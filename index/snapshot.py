"""Snapshots: what an index is at one moment, published by replacing the file `CURRENT`.

`snapshots/{id}/manifest.json` names the segments with the hashes of their files, and the encoder that made them;
`eval.json` beside it has the recall that was measured, `tombstones.npy` the rows that were deleted. A reader sees the
old snapshot or the new one, never a mixture, and what it has open is not cleaned away: it holds a lock on the manifest.
"""

import fcntl
import hashlib
import json
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..shards.atomic import (
    canonical_json,
    hold_directory,
    is_foreign,
    sync_directory,
    temporary_path,
    write_bytes,
    write_file,
    write_json,
)
from ..shards.commit import describe_file
from .errors import IndexStoreError
from .segment import Segment, discard, open_segment, remove_leftovers, segment_faults

INDEX_FORMAT = 2
MANIFEST, EVALUATION, TOMBSTONES = "manifest.json", "eval.json", "tombstones.npy"
ID_DIGITS = 16
Tombstones = dict[str, np.ndarray]
"""Segment id to the rows that were deleted, int64, ascending."""


@dataclass(frozen=True, slots=True)
class Items:
    """The items of one modality that are not deleted."""

    rows: pa.Table
    vectors_ND: np.ndarray
    """float16, unit norm."""


@dataclass(frozen=True)
class Snapshot:
    """An opened snapshot; while it is open, nobody cleans it away."""

    root: Path
    id: str
    manifest: dict[str, Any]
    segments: tuple[Segment, ...]
    evaluation: dict[str, Any] = field(default_factory=dict)
    """What the recall gate measured: `eval.json`."""
    tombstones: Tombstones = field(default_factory=dict)

    def of(self, modality: str) -> tuple[Segment, ...]:
        """Return the segments of a modality."""
        return tuple(segment for segment in self.segments if segment.modality == modality)

    def live(self, segment: Segment) -> np.ndarray | None:
        """Return which rows of a segment are not deleted, bool (N,); None: all."""
        gone = self.tombstones.get(segment.id)
        if gone is None:
            return None
        live_N = np.ones(len(segment.rows), dtype=bool)
        live_N[gone] = False
        return live_N

    def count(self, modality: str) -> int:
        """Return the number of items of a modality that are not deleted."""
        return sum(len(s.rows) - len(self.tombstones.get(s.id, ())) for s in self.of(modality))

    def counts(self) -> dict[str, int]:
        """Return the number of items of each modality that are not deleted."""
        return {name: self.count(name) for name in dict.fromkeys(segment.modality for segment in self.segments)}

    def items(self, modality: str) -> Items:
        """Return all items of a modality; vectors are copied only where they lie in several segments or are deleted.

        Raises:
            IndexStoreError: the index has none.
        """
        segments = self.of(modality)
        if not segments:
            raise IndexStoreError(f"{self.root} holds no {modality} embeddings")
        if len(segments) == 1 and self.live(segments[0]) is None:
            return Items(segments[0].rows, segments[0].vectors_ND)
        masks = [np.ones(len(s.rows), bool) if (live := self.live(s)) is None else live for s in segments]
        rows = [s.rows.filter(pa.array(mask)) for s, mask in zip(segments, masks, strict=True)]
        vectors = [s.vectors_ND[mask] for s, mask in zip(segments, masks, strict=True)]
        return Items(pa.concat_tables(rows), np.concatenate(vectors))

    def find(self, item_id: str) -> tuple[Segment, int]:
        """Return segment and row of an item.

        Raises:
            IndexStoreError: there is no such item, or it was deleted.
        """
        if item_id not in self._places:
            raise IndexStoreError(f"{self.root} holds no item {item_id[:80]!r}")
        number, row = self._places[item_id]
        return self.segments[number], row

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        places: dict[str, tuple[int, int]] = {}
        for number, segment in enumerate(self.segments):
            gone = set(self.tombstones.get(segment.id, np.zeros(0, np.int64)).tolist())
            for row, item_id in enumerate(segment.rows["item_id"].to_pylist()):
                if row not in gone:
                    places[item_id] = (number, row)
        return places


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Create `root` if need be, keep other writers away and clear what dead ones left.

    Raises:
        IndexStoreError: `root` cannot be written, is something else, or has another writer.
    """
    try:
        if is_foreign(root, "snapshots"):
            raise IndexStoreError(f"{root} is not empty and no index; choose another folder")
        for name in ("snapshots", "segments"):
            (root / name).mkdir(parents=True, exist_ok=True)
        with hold_directory(root, wait=False) as is_ours:
            if not is_ours:
                raise IndexStoreError(f"{root}: another process is writing there; wait for it")
            try:
                _clear(root)
                yield
            finally:
                _clear(root)
    except OSError as e:
        raise IndexStoreError(f"{e.filename or root}: cannot be written ({e.strerror or e})") from e


@contextmanager
def changing(root: Path) -> Iterator[None]:
    """As `writing`, in an index that must be there; its `CURRENT` may be lost.

    Raises:
        IndexStoreError: there is none, or as `writing`.
    """
    if not (root / "snapshots").is_dir():
        raise _no_index(root)
    with writing(root):
        yield


def _no_index(root: Path) -> IndexStoreError:
    return IndexStoreError(f"{root} is no index; make one with `unibrivl index RUN SHARDS --out {root}`")


def _clear(root: Path) -> None:
    remove_leftovers(root)
    for name in ("snapshots", "segments"):
        remove_leftovers(root / name)


def publish(
    root: Path, manifest: dict[str, Any], evaluation: dict[str, Any] | None = None, tombstones: Tombstones | None = None
) -> str:
    """Write a new snapshot, read it back, and make it the current one; return its id.

    Call it within `writing`; the segments are sealed before.

    Raises:
        IndexStoreError: what was read back is not what was written.
    """
    folder = temporary_path(root / "snapshots" / "snapshot")
    folder.mkdir()
    write_json(folder / EVALUATION, evaluation or {})
    files = [EVALUATION]
    gone = {name: rows for name, rows in (tombstones or {}).items() if len(rows)}
    if gone:
        numbers = {entry["id"]: number for number, entry in enumerate(manifest["segments"])}
        pairs = np.concatenate([np.stack([np.full(len(r), numbers[n]), r], axis=1) for n, r in gone.items()])
        write_file(folder / TOMBSTONES, lambda f: np.save(f, pairs.astype(np.int64), allow_pickle=False))
        files.append(TOMBSTONES)
    content = manifest | {"format": INDEX_FORMAT, "files": {name: describe_file(folder / name) for name in files}}
    name = hashlib.sha256(canonical_json(content)).hexdigest()[:ID_DIGITS]
    write_json(folder / MANIFEST, content)
    place = root / "snapshots" / name
    if place.exists() and next(snapshot_faults(root, name), None) is None:  # the same; it may be in use
        discard(folder)
    else:
        if place.exists():  # what damage has left of it
            discard(place)
        folder.rename(place)
        sync_directory(root / "snapshots")
    open_snapshot(root, name)
    set_current(root, name)
    return name


def set_current(root: Path, snapshot_id: str) -> None:
    """Make a published snapshot the current one; the folder of the former one keeps the moment in its own time."""
    before = _named(root)
    if before and before != snapshot_id:
        os.utime(root / "snapshots" / before)
    write_bytes(root / "CURRENT", f"{snapshot_id}\n".encode())


def current_id(root: Path) -> str:
    """Return the id of the current snapshot.

    Raises:
        IndexStoreError: there is none.
    """
    name = _named(root)
    if name is None:
        raise _no_index(root)
    return name


def _named(root: Path) -> str | None:
    """Return the id in `CURRENT`; None: there is none, or no such snapshot."""
    try:
        name, *rest = (root / "CURRENT").read_bytes().decode("ascii").split("\n")
    except (OSError, ValueError):
        return None
    return name if len(name) == ID_DIGITS and rest == [""] and (root / "snapshots" / name).is_dir() else None


def read_manifest(root: Path, snapshot_id: str | None = None) -> tuple[str, dict[str, Any]]:
    """Return id and manifest of a snapshot, by default the current one.

    Raises:
        IndexStoreError: there is none, or it is damaged or of another format.
    """
    name = snapshot_id or current_id(root)
    try:
        content = (root / "snapshots" / name / MANIFEST).read_bytes()
    except OSError:
        raise IndexStoreError(
            f"{root} has no snapshot {name[:40]}; `unibrivl snapshots list` tells what it has"
        ) from None
    if hashlib.sha256(content).hexdigest()[:ID_DIGITS] != name:
        raise IndexStoreError(f"{root}: the manifest of snapshot {name[:40]} is damaged; build the index again")
    manifest = json.loads(content)
    if manifest["format"] != INDEX_FORMAT:
        raise IndexStoreError(f"{root}: index format {manifest['format']}, this program reads {INDEX_FORMAT}")
    return name, manifest


def asked_before(root: Path) -> dict[str, Any]:
    """Return what kind of search the current snapshot was asked for; empty if there is none.

    Raises:
        IndexStoreError: it is damaged or of another format.
    """
    return read_manifest(root)[1]["asked"] if (root / "CURRENT").exists() else {}


def open_snapshot(root: Path, snapshot_id: str | None = None) -> Snapshot:
    """Open a snapshot, by default the current one, every file checked.

    Raises:
        IndexStoreError: as `read_manifest` and `open_segment`.
    """
    while True:
        name = snapshot_id or current_id(root)
        lease = _hold(root / "snapshots" / name / MANIFEST)
        if lease is not None or snapshot_id or name == current_id(root):
            break  # else it was cleaned away between two looks: another one is current now
    try:
        snapshot = _read(root, *read_manifest(root, name))
    except BaseException:
        if lease is not None:
            os.close(lease)
        raise
    if lease is not None:
        weakref.finalize(snapshot, os.close, lease)
    return snapshot


def snapshot_faults(root: Path, snapshot_id: str) -> Iterator[str]:
    """Yield what is wrong with a snapshot and its segments, a line each."""
    try:
        _, manifest = read_manifest(root, snapshot_id)
    except IndexStoreError as e:
        yield str(e)
        return
    yield from _own_faults(root / "snapshots" / snapshot_id, manifest)
    for entry in manifest["segments"]:
        yield from segment_faults(root / "segments", entry)


def _own_faults(folder: Path, manifest: dict[str, Any]) -> Iterator[str]:
    for name, about in manifest["files"].items():
        if not (folder / name).is_file():
            yield f"{folder / name} is missing"
        elif describe_file(folder / name) != about:
            yield f"{folder / name} is damaged: its SHA-256 is not the manifest's"


def _read(root: Path, name: str, manifest: dict[str, Any]) -> Snapshot:
    folder = root / "snapshots" / name
    if fault := next(_own_faults(folder, manifest), None):
        raise IndexStoreError(f"{fault}; build the index again")
    segments = tuple(open_segment(root / "segments", entry) for entry in manifest["segments"])
    evaluation = json.loads((folder / EVALUATION).read_bytes())
    tombstones = {}
    if TOMBSTONES in manifest["files"]:
        pairs = np.load(folder / TOMBSTONES, allow_pickle=False)
        tombstones = {segments[n].id: np.sort(pairs[pairs[:, 0] == n, 1]) for n in np.unique(pairs[:, 0])}
    return Snapshot(root, name, manifest, segments, evaluation, tombstones)


def _hold(path: Path) -> int | None:
    """Return a descriptor that keeps a snapshot from being cleaned away; None if it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    fcntl.flock(fd, fcntl.LOCK_SH)
    try:
        if os.path.samestat(os.fstat(fd), path.stat()):
            return fd
    except OSError:
        pass
    os.close(fd)
    return None
