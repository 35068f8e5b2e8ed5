"""A tiny index of a short run, indexes of made-up embeddings, and `unibrivl bench` in this process."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unibrivl import cli
from unibrivl.bench import folds
from unibrivl.bench.probes import Recipe
from unibrivl.index.snapshot import publish, writing

from ..made import write_segment

Call = Callable[..., tuple[int, str, str]]
SMALL = Recipe(hidden=((16,),), lrs=(1e-2,), batch_size=16, epochs=40, patience=20)


@pytest.fixture
def run_bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs `unibrivl bench` in this process: exit code, standard output and error."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["unibrivl", "bench", *map(str, words)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as e:
            code = e.code or 0
        out, err = capsys.readouterr()
        return (code, out, err) if isinstance(code, int) else (1, out, f"{err}{code}\n")

    return run


@pytest.fixture
def call(run_bench: Call, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Return the same with a probe that takes a moment."""
    monkeypatch.setitem(folds.PROBES, "l3", SMALL)
    return run_bench


@pytest.fixture
def make_index(tmp_path: Path, make_rows: Callable[..., list[dict[str, Any]]]) -> Callable[..., Path]:
    """Return a function that publishes made-up embeddings.

    It takes vectors of sounds and of pictures and, for each clip, what its row says other than the default: a group,
    a medium and contents of its own, in split `test`.
    """

    def make(audio_ND: np.ndarray, image_ND: np.ndarray, changes: list[dict[str, Any]] | None = None) -> Path:
        out = tmp_path / "made-up"
        entries = []
        with writing(out):
            for modality, vectors in (("audio", audio_ND), ("image", image_ND)):
                own = changes or [{}] * len(vectors)
                rows = [row | change for row, change in zip(make_rows(len(vectors)), own, strict=True)]
                for n, row in enumerate(rows):
                    row["content_sha256"] = row.pop(f"{modality}_content", f"{modality} {n}")
                    row.pop("image_content", None)
                    row.pop("audio_content", None)
                entries.append(write_segment(out / "segments", modality, np.float32(vectors), rows))
            publish(
                out,
                {
                    "segments": entries,
                    "sources": [],
                    "encoder": {"fingerprints": {"audio": "a" * 64, "image": "b" * 64}},
                },
            )
        return out

    return make
