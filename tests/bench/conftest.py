"""A tiny index of a short run, and indexes of made-up embeddings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unibrivl.index.segment import write_segment
from unibrivl.index.snapshot import publish, writing


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two threads a process cost more than they give where the models are tiny and other processes are busy."""
    torch.set_num_threads(1)


@pytest.fixture
def make_index(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that publishes made-up embeddings.

    It takes vectors of sounds and of pictures and, for each clip, what its row says other than the default: a group,
    a medium and contents of its own, in split `test`.
    """

    def make(audio_ND: np.ndarray, image_ND: np.ndarray, changes: list[dict[str, Any]] | None = None) -> Path:
        out = tmp_path / "made-up"
        entries = []
        with writing(out):
            for modality, vectors in (("audio", audio_ND), ("image", image_ND)):
                rows = [
                    {
                        "key": f"gen_clip{n}_000000000", "labels": ["tone"], "caption": f"Clip {n}", "language": "",
                        "split": "test", "group": f"g{n}", "media_id": f"m{n}", "start_ms": 0, "end_ms": 1000,
                        "shard": "test/gen-test-000000", "tar_offset": 0, "tar_len": 512,
                    } | change
                    for n, change in enumerate(changes or [{}] * len(vectors))
                ]  # fmt: skip
                for n, row in enumerate(rows):
                    row["content_sha256"] = row.pop(f"{modality}_content", f"{modality} {n}")
                    row.pop("image_content", None)
                    row.pop("audio_content", None)
                entries.append(write_segment(out / "segments", modality, np.float32(vectors), rows))
            publish(out, {"segments": entries, "encoder": {"fingerprints": {"audio": "a" * 64, "image": "b" * 64}}})
        return out

    return make
