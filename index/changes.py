"""What may happen to an index after its build: items deleted, segments merged, an earlier snapshot back, space freed.

Each is a new snapshot or a new `CURRENT`; segments never change.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from .errors import IndexStoreError
from .gate import equip
from .memory import check_memory
from .merge import merged_drafts
from .plan import SearchConfig
from .recorded import not_measured
from .retrieve import Retriever
from .segment import discard, seal_segment
from .snapshot import (
    MANIFEST,
    Snapshot,
    Tombstones,
    changing,
    current_id,
    open_snapshot,
    publish,
    read_manifest,
    set_current,
    snapshot_faults,
)
from .where import Where

GRACE_S = 3600.0
"""Snapshots that were current so lately are not cleaned away: somebody may be about to open one."""
COMPACT_SHARE, COMPACT_SEGMENTS = 0.2, 8
"""Compacting is advised from this share of deleted rows, or more segments of one modality."""
NONE = np.zeros(0, np.int64)
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Changed:
    """The snapshot after a change."""

    snapshot: str
    items: dict[str, int]
    deleted: int = 0
    """Items that the change took away."""
    advice: str = ""
    """What might be done next."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was removed."""

    snapshots: tuple[str, ...]
    segments: int
    bytes: int
    held: tuple[str, ...]
    """Snapshots that stay because somebody has them open."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A snapshot that an index has."""

    id: str
    is_current: bool
    parent: str | None
    items: dict[str, int]
    """By modality, deleted ones included."""
    segments: int
    written: float
    """Unix time."""
    fault: str = ""
    """Why it cannot be opened."""


def delete_items(
    root: Path, *, item_ids: Iterable[str] = (), keys: Iterable[str] = (), where: Where | None = None
) -> Changed:
    """Take items away: they are never found again, though their vectors stay until the index is compacted.

    Args:
        root: folder of the index.
        item_ids: of single items, such as `clip/audio`.
        keys: of clips, whose items of every modality go.
        where: a filter; all that it keeps goes.

    Raises:
        IndexStoreError: an item is not there, nothing was chosen, or nothing would be left.
        QueryError: the filter names what no item has.
    """
    with changing(root):
        snapshot = open_snapshot(root)
        chosen = _chosen(snapshot, set(item_ids), set(keys), where)
        count = sum(len(rows) for rows in chosen.values())
        if not count:
            raise IndexStoreError(f"{root}: no item was chosen; name some with --item, --key or --where")
        gone = {
            s.id: np.union1d(snapshot.tombstones.get(s.id, NONE), chosen.get(s.id, NONE)) for s in snapshot.segments
        }
        if all(len(gone[s.id]) == len(s.rows) for s in snapshot.segments):
            raise IndexStoreError(f"{root}: nothing would be left; remove the folder instead")
        name = _republish(snapshot, gone)
        after = open_snapshot(root, name)
    return Changed(name, after.counts(), count, advice(after))


def compact(root: Path, search: SearchConfig, progress: Progress = lambda done, total, text: None) -> Changed:
    """Merge all segments of a modality into one without the deleted rows, and pass the recall gate again.

    Raises:
        IndexStoreError: the index is damaged, or memory does not suffice.
        GateError: the recall is not reached.
    """
    with changing(root):
        snapshot = open_snapshot(root)
        most = max((snapshot.count(s.modality) for s in snapshot.segments), default=0)
        check_memory(most, snapshot.manifest["dim"], search)
        drafts = merged_drafts(root / "segments", snapshot, snapshot.tombstones)
        evaluation = equip(drafts, {}, search, progress)
        evaluation |= not_measured(evaluation, snapshot.manifest["encoder"]["fingerprints"])
        found = evaluation.pop("search")
        entries = [seal_segment(draft, root / "segments") for draft in drafts]
        changed = {"segments": entries, "search": found, "asked": search.asked(), "parent": snapshot.id}
        manifest = snapshot.manifest | changed
        name = publish(root, manifest, evaluation)
        return Changed(name, open_snapshot(root, name).counts())


def rollback(root: Path, snapshot_id: str | None = None) -> Changed:
    """Make an earlier snapshot the current one, by default the parent of the current one, after reading it whole.

    Raises:
        IndexStoreError: there is no such snapshot, or it is damaged.
    """
    with changing(root):
        if snapshot_id is None:
            parent = read_manifest(root)[1]["parent"]
            if parent is None:
                raise IndexStoreError(
                    f"{root}: the current snapshot has no parent; name one of `unibrivl snapshots list`"
                )
            snapshot_id = str(parent)
        snapshot = open_snapshot(root, snapshot_id)
        set_current(root, snapshot.id)
        return Changed(snapshot.id, snapshot.counts())


def clean(root: Path, grace_s: float = GRACE_S) -> Cleaned:
    """Remove snapshots other than the current one, and segments that none has any more.

    Args:
        root: folder of the index.
        grace_s: snapshots that were current less than so long ago stay, as do those that a process has open.
    """
    with changing(root):
        current = current_id(root)
        others = [path for path in sorted((root / "snapshots").iterdir()) if path.name != current]
        old = [path for path in others if time.time() - path.stat().st_mtime >= grace_s]
        removed, held, freed = [], [], 0
        for path in old:
            size = _size(path)
            if _remove_unless_held(path):
                removed, freed = [*removed, path.name], freed + size
            else:
                held.append(path.name)
        segments = _unused_segments(root)
        freed += sum(map(_size, segments))
        for path in segments:
            discard(path)
    return Cleaned(tuple(removed), len(segments), freed, tuple(held))


def verify(root: Path) -> list[str]:
    """Hash every file of every snapshot; return what is wrong, a line each.

    Raises:
        IndexStoreError: there is no index.
    """
    current_id(root)
    names = sorted(path.name for path in (root / "snapshots").iterdir() if not path.name.startswith("."))
    return list(dict.fromkeys(fault for name in names for fault in snapshot_faults(root, name)))


def list_snapshots(root: Path) -> list[Listed]:
    """Return every snapshot, the newest first.

    Raises:
        IndexStoreError: there is no index.
    """
    current = current_id(root)
    paths = [path for path in (root / "snapshots").iterdir() if not path.name.startswith(".")]
    return sorted((_listed(root, path, current) for path in paths), key=lambda one: -one.written)


def advice(snapshot: Snapshot) -> str:
    """Return a hint where the index would be better off compacted, else nothing."""
    gone = sum(len(rows) for rows in snapshot.tombstones.values())
    rows = sum(len(segment.rows) for segment in snapshot.segments)
    most = max(len(snapshot.of(segment.modality)) for segment in snapshot.segments)
    if gone > COMPACT_SHARE * rows or most > COMPACT_SEGMENTS:
        return f"{gone} of {rows} rows are deleted, {most} segments: `unibrivl snapshots compact {snapshot.root}` helps"
    return ""


def _chosen(snapshot: Snapshot, item_ids: set[str], keys: set[str], where: Where | None) -> Tombstones:
    """Return the rows that were named, by segment."""
    masks: dict[str, np.ndarray] = {s.id: np.zeros(len(s.rows), dtype=bool) for s in snapshot.segments}
    for item_id in item_ids:
        segment, row = snapshot.find(item_id)
        masks[segment.id][row] = True
    for segment in snapshot.segments:
        if keys:
            found = np.isin(segment.rows["key"].to_numpy(zero_copy_only=False), list(keys))
            masks[segment.id] |= found
    missing = keys - {key for s in snapshot.segments for key in s.rows["key"].filter(pa.array(masks[s.id])).to_pylist()}
    if missing:
        raise IndexStoreError(f"{snapshot.root} holds no clip {min(missing)[:80]!r}")
    if where is not None:
        retriever = Retriever(snapshot)
        for modality in snapshot.counts():
            for name, mask in (retriever.matches(where, modality).allowed or {}).items():
                masks[name] |= mask
    live = {s.id: snapshot.live(s) for s in snapshot.segments}
    return {n: np.flatnonzero(m if live[n] is None else m & live[n]) for n, m in masks.items()}


def _republish(snapshot: Snapshot, gone: Tombstones) -> str:
    manifest = snapshot.manifest | {"parent": snapshot.id}
    return publish(snapshot.root, manifest, snapshot.evaluation, gone)


def _remove_unless_held(path: Path) -> bool:
    """Remove a snapshot unless a process has it open; tell whether it is gone."""
    try:
        fd = os.open(path / MANIFEST, os.O_RDONLY)
    except FileNotFoundError:
        discard(path)
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        discard(path)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _unused_segments(root: Path) -> list[Path]:
    used = set()
    for path in (root / "snapshots").iterdir():
        try:
            used |= {entry["id"] for entry in read_manifest(root, path.name)[1]["segments"]}
        except IndexStoreError:
            return []  # what a damaged snapshot uses is not known: keep everything
    return [path for path in sorted((root / "segments").iterdir()) if path.name not in used]


def _listed(root: Path, path: Path, current: str) -> Listed:
    written = (path / MANIFEST if (path / MANIFEST).exists() else path).stat().st_mtime
    try:
        manifest = read_manifest(root, path.name)[1]
    except IndexStoreError as e:
        return Listed(path.name, path.name == current, None, {}, 0, written, str(e))
    items: dict[str, int] = {}
    for entry in manifest["segments"]:
        items[entry["modality"]] = items.get(entry["modality"], 0) + entry["rows"]
    return Listed(path.name, path.name == current, manifest["parent"], items, len(manifest["segments"]), written)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
