"""Milvus for tests: made-up snapshots, and a Milvus Lite server in a process of its own on a loopback port."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unibrivl.index.snapshot import open_snapshot, publish, writing

from ..made import write_segment

SERVE = """
import sys
from milvus_lite.adapter.grpc.server import run_server
run_server(sys.argv[1], "127.0.0.1", int(sys.argv[2]))
"""
FINGERPRINTS = {"audio": "a" * 64, "image": "b" * 64}


def clustered(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    """Return float32 vectors around 100 centres, always the same ones, which inverted lists can tell apart."""
    centres = np.random.default_rng(99).standard_normal((100, dim))
    return (centres[rng.integers(0, 100, count)] + 0.5 * rng.standard_normal((count, dim))).astype(np.float32)


def made_rows(count: int) -> list[dict[str, Any]]:
    """Return rows whose columns keep 50, 10, 1 and 0.1 % of them, with quotes, commas and accents in labels."""
    return [
        {
            "key": f"k{n}", "labels": [f"tenth {n % 10}"] + (['Bark, "loud"', "back\\slash's"] if n % 100 == 0 else []),
            "caption": f"Écho {n % 7}", "language": "fr" if n % 3 else "",
            "split": "test" if n % 2 else "train", "group": f"g{n % 1000}",
            "media_id": f"m{n}", "start_ms": n, "end_ms": 2 * n + 1, "shard": "test/s", "tar_offset": 0,
            "tar_len": 512, "content_sha256": f"{n:064x}",
        }
        for n in range(count)
    ]  # fmt: skip


def make_index(root: Path, counts: dict[str, int], dim: int = 64, seed: int = 0) -> str:
    """Publish a snapshot with so many rows of each modality, ordered by the first coordinate; return its id."""
    rng, segments, entries = np.random.default_rng(seed), root / "segments", []
    with writing(root):
        for modality, count in counts.items():
            vectors = clustered(rng, count, dim)
            vectors = vectors[np.argsort(vectors[:, 0])]
            entries.append(write_segment(segments, modality, vectors, made_rows(count)))
        return publish(
            root, {"segments": entries, "dim": dim, "encoder": {"fingerprints": FINGERPRINTS}, "sources": []}
        )


def delete_row(root: Path, modality: str, row: int) -> str:
    """Publish a snapshot without one row more; return its id."""
    snapshot = open_snapshot(root)
    manifest = {k: v for k, v in snapshot.manifest.items() if k not in ("files", "format")}
    gone = snapshot.tombstones | {snapshot.of(modality)[0].id: np.array([row])}
    with writing(root):
        return publish(root, manifest, snapshot.evaluation, gone)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def milvus_server(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """Run a server until the block ends; kill it within to take it away."""
    command = [sys.executable, "-u", "-c", SERVE, str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert "listening" in process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()
