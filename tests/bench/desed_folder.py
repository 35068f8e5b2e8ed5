"""Made-up folders in DESED's official layout: a tone for each class, events on whole seconds unless they are moved."""

from pathlib import Path

import numpy as np
import soundfile

from unibrivl.bench.desed import CLASSES, PARTS

SAMPLE_RATE = 16_000
CLIP_S = 5
FILES = {"synth21-train": 30, "synth21-val": 12, "real-val": 12, "public-eval": 12, "weak": 20}


def events_of(part: str, number: int, shift: float = 0.0) -> list[tuple[float, float, str]]:
    """Return three events of different classes, of one to three seconds; all classes come up in ten files."""
    rng = np.random.default_rng([list(FILES).index(part), number])
    found = []
    for step in (0, 3, 7):
        onset = int(rng.integers(0, CLIP_S - 2))
        offset = onset + int(rng.integers(1, 4))
        found.append((onset + shift, min(offset + shift, CLIP_S), CLASSES[(number + step) % len(CLASSES)]))
    return found


def sound_of(events: list[tuple[float, float, str]], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(CLIP_S * SAMPLE_RATE) / SAMPLE_RATE
    sound = 0.1 * rng.standard_normal(len(time))
    for onset, offset, label in events:
        tone = 0.02 * np.sin(2 * np.pi * 200 * 1.45 ** CLASSES.index(label) * time)
        sound += np.where((time >= onset) & (time < offset), tone, 0)
    return sound.astype(np.float32)


def write_part(folder: Path, part: str, *, shift: float = 0.0, media: bool = True, files: int | None = None) -> None:
    """Write a part's table, and its sounds; the last file has no event."""
    about = PARTS[part]
    table, sounds = folder / about.table, folder / about.folders[0]
    table.parent.mkdir(parents=True, exist_ok=True)
    sounds.mkdir(parents=True, exist_ok=True)
    count = FILES[part] if files is None else files
    lines = ["\t".join(about.columns)]
    for number in range(count):
        name = f"{part}-{number}.wav"
        events = [] if number == count - 1 and part != "weak" else events_of(part, number, shift)
        if part == "weak":
            lines.append(f"{name}\t{','.join(sorted({label for _, _, label in events}))}")
        else:
            lines += [f"{name}\t{on:.3f}\t{off:.3f}\t{label}" for on, off, label in events] or [f"{name}\t\t\t"]
        if media:
            soundfile.write(sounds / name, sound_of(events, 1000 * list(FILES).index(part) + number), SAMPLE_RATE)
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_desed(folder: Path, *, shift: float = 0.0, media: bool = True) -> Path:
    """Write every part."""
    for part in FILES:
        write_part(folder, part, shift=shift, media=media)
    return folder
