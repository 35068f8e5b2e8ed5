"""Media and lists of a small human test, made in code."""

import csv
import json
from pathlib import Path
from typing import Any

import soundfile
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from unibrivl.bench.human import Study, StudyConfig, freeze
from unibrivl.bench.human_trials import COLUMNS, make_trials

from ..conftest import tone

CLASSES = ("dog", "rain", "siren")
SYSTEMS = ("ours", "theirs")
SECRET = "a prompt that raters must not see"
SOUND_S = 0.2


def draw(path: Path, words: str, color: str) -> None:
    """Write a picture with words on it, and a prompt within."""
    picture = Image.new("RGB", (96, 96), color)
    ImageDraw.Draw(picture).text((6, 40), words, fill="white")
    told = PngInfo()
    told.add_text("unibrivl", SECRET)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "PNG", pnginfo=told)


def make_media(root: Path, *, per_class: int = 2) -> list[dict[str, Any]]:
    """Write sounds, pictures of two systems for each, and a photo of each class; return the rows of a list."""
    rows = []
    for number, name in enumerate(CLASSES):
        draw(root / "photos" / f"{name}.png", f"photo {name}", "#804040")
        for take in range(per_class):
            sound = f"{name}-{take}.wav"
            soundfile.write(root / sound, tone(SOUND_S, 300 + 60 * number + 7 * take), 44_100)
            for system, color in zip(SYSTEMS, ("#405080", "#408050"), strict=True):
                picture = f"{system}/{name}-{take}.png"
                draw(root / picture, f"{system} {name} {take}", color)
                row = {"trial_id": f"{system}-{name}-{take}", "class": name, "audio": sound, "picture": picture}
                rows.append(row | {"foil": "", "foil_class": "", "system": system, "catch": "0"})
    return rows


def write_list(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_study(root: Path, *, per_class: int = 2, systems: int = 1, classes: int = 3, **changes: Any) -> Study:
    """Freeze a study of the media under `root`, which are made."""
    root.mkdir(parents=True, exist_ok=True)
    rows = make_media(root, per_class=per_class)
    rows = [row for row in rows if row["system"] in SYSTEMS[:systems] and row["class"] in CLASSES[:classes]]
    options = {"raters": 3, "catches": 2, "primary": SYSTEMS[0], "resamples": 2000} | changes
    config = StudyConfig(**options)
    return freeze(*make_trials(write_list(root / "list.csv", rows), root / "photos", config), root / "study")


def make_generated(root: Path, *, per_class: int = 2) -> Path:
    """Lay the same media out as `unibrivl generate` leaves them."""
    for row in make_media(root, per_class=per_class):
        folder = root / "generated" / row["system"] / row["class"] / row["trial_id"]
        (folder / "kept").mkdir(parents=True)
        (root / row["picture"]).rename(folder / "kept" / "1-00-000000.png")
        record = {"format": 1, "sound": str(root / row["audio"])}
        (folder / "generation.json").write_text(json.dumps(record), encoding="utf-8")
    return root / "generated"
