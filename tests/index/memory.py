"""A snapshot in memory: several segments of small vectors, some rows deleted."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from unibrivl.index.errors import IndexStoreError


@dataclass
class MemorySegment:
    id: str
    modality: str
    vectors_ND: np.ndarray
    rows: pa.Table
    folder: Path = Path("/nowhere")


@dataclass
class MemorySnapshot:
    segments: tuple[MemorySegment, ...]
    dead: dict[str, np.ndarray] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    root: Path = Path("memory")
    id: str = "memory"
    manifest: dict[str, Any] = field(default_factory=lambda: {"sources": [{"shards": "shards"}], "search": {}})

    def of(self, modality: str) -> tuple[MemorySegment, ...]:
        return tuple(segment for segment in self.segments if segment.modality == modality)

    def live(self, segment: MemorySegment) -> np.ndarray | None:
        return ~self.dead[segment.id] if segment.id in self.dead else None

    def count(self, modality: str) -> int:
        return sum(
            len(s.rows) - int(self.dead.get(s.id, np.zeros(0, bool)).sum()) for s in self.of(modality)
        )  # fmt: skip

    def find(self, item_id: str) -> tuple[MemorySegment, int]:
        for segment in self.segments:
            ids = segment.rows["item_id"].to_pylist()
            if item_id in ids:
                return segment, ids.index(item_id)
        raise IndexStoreError("no such item")


def unit(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    """Return random float16 vectors of length one."""
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def memory_segment(modality: str, number: int, vectors_ND: np.ndarray, contents: list[str]) -> MemorySegment:
    """Return a segment whose rows have ids, splits and contents."""
    rows = [
        {
            "item_id": f"{modality}{number}-{n}/{modality}", "modality": modality, "key": f"{modality}{number}-{n}",
            "caption": f"Item {n}", "labels": ["odd" if n % 2 else "even"], "language": "", "group": "g",
            "split": "test" if n % 3 else "train", "media_id": "m", "start_ms": 0, "end_ms": 1000 * (n + 1),
            "duration_s": float(n + 1), "source": 0, "shard": "test/s",
            "tar_offset": 1024 * n, "tar_len": 1024, "content_sha256": content,
        }
        for n, content in enumerate(contents)
    ]  # fmt: skip
    schema = {"labels": pa.list_(pa.string()), "content_sha256": pa.string()}
    table = pa.Table.from_pylist(rows) if rows else pa.table({})
    for name, kind in schema.items():
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(kind))
    return MemorySegment(f"{modality}{number}", modality, vectors_ND, table)
