"""Made-up folders in ESC-50's layout."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

SAMPLE_RATE = 16_000


def tone(frequency: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    return (0.3 * np.sin(2 * np.pi * frequency * time) + 0.05 * rng.standard_normal(len(time))).astype(np.float32)


def write_set(folder: Path, *, table: str = "meta.csv", changes: dict[int, dict[str, str]] | None = None) -> Path:
    """Write 40 short tones of two classes in five folds, ESC-50's way."""
    (folder / "audio").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number in range(40):
        fold, target = number % 5 + 1, number // 5 % 2
        name = f"{fold}-{number}-A-{target * 7}.wav"
        soundfile.write(folder / "audio" / name, tone((300, 3000)[target], number), SAMPLE_RATE)
        row = {"filename": name, "fold": fold, "target": target * 7, "category": ("low", "high")[target]}
        rows.append(row | (changes or {}).get(number, {}))
    path = folder / table
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder
