"""Snapshots: what an index is at one moment, published by replacing the file `CURRENT`.

`snapshots/{id}/manifest.json` names the segments with the hashes of their files, and the encoder that made them. A
reader sees the old snapshot or the new one, never a mixture.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..shards.atomic import canonical_json, hold_directory, is_foreign, write_bytes, write_json
from .errors import IndexStoreError
from .segment import Segment, open_segment, remove_leftovers

INDEX_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An opened snapshot."""

    root: Path
    id: str
    manifest: dict[str, Any]
    segments: tuple[Segment, ...]

    def segment(self, modality: str) -> Segment:
        """Return the segment of a modality.

        Raises:
            IndexStoreError: the index has none.
        """
        for segment in self.segments:
            if segment.modality == modality:
                return segment
        raise IndexStoreError(f"{self.root} holds no {modality} embeddings")

    @property
    def evaluation(self) -> dict[str, Any]:
        """Return what was measured at the build."""
        return {}

    def of(self, modality: str) -> tuple[Segment, ...]:
        """Return the segments of a modality."""
        return tuple(segment for segment in self.segments if segment.modality == modality)

    def live(self, segment: Segment) -> None:
        """Return which rows are not deleted; None: all."""

    def count(self, modality: str) -> int:
        """Return the number of items of a modality."""
        return sum(len(segment.rows) for segment in self.of(modality))

    def find(self, item_id: str) -> tuple[Segment, int]:
        """Return segment and row of an item."""
        for segment in self.segments:
            ids = segment.rows["item_id"].to_pylist()
            if item_id in ids:
                return segment, ids.index(item_id)
        raise IndexStoreError(f"{self.root} holds no item {item_id[:80]!r}")


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
            remove_leftovers(root / "segments")
            yield
    except OSError as e:
        raise IndexStoreError(f"{e.filename or root}: cannot be written ({e.strerror or e})") from e


def publish(root: Path, manifest: dict[str, Any]) -> str:
    """Write the manifest of a new snapshot and make it the current one; return its id."""
    content = manifest | {"format": INDEX_FORMAT}
    name = hashlib.sha256(canonical_json(content)).hexdigest()[:16]
    directory = root / "snapshots" / name
    directory.mkdir(exist_ok=True)
    write_json(directory / "manifest.json", content)
    write_bytes(root / "CURRENT", f"{name}\n".encode())
    return name


def read_manifest(root: Path) -> tuple[str, dict[str, Any]]:
    """Return id and manifest of the current snapshot.

    Raises:
        IndexStoreError: there is none, or it is damaged or of another format.
    """
    try:
        name = (root / "CURRENT").read_text(encoding="utf-8").strip()
        content = (root / "snapshots" / name / "manifest.json").read_bytes()
    except (OSError, ValueError):
        raise IndexStoreError(f"{root} is no index; make one with `unibrivl index RUN SHARDS --out {root}`") from None
    if hashlib.sha256(content).hexdigest()[:16] != name:
        raise IndexStoreError(f"{root}: the manifest of snapshot {name[:40]} is damaged; build the index again")
    manifest = json.loads(content)
    if manifest["format"] != INDEX_FORMAT:
        raise IndexStoreError(f"{root}: index format {manifest['format']}, this program reads {INDEX_FORMAT}")
    return name, manifest


def open_snapshot(root: Path) -> Snapshot:
    """Open the current snapshot, every file checked.

    Raises:
        IndexStoreError: as `read_manifest` and `open_segment`.
    """
    name, manifest = read_manifest(root)
    segments = tuple(open_segment(root / "segments", entry) for entry in manifest["segments"])
    return Snapshot(root, name, manifest, segments)
