"""`bench class-pictures`: sounds that nobody trained on find the picture of their class, fold by fold.

Protocol. Each class of an ESC-50 folder has one picture. For each of the five official folds, a language tower is
trained from random weights on the sounds of the four others, each paired with its class's picture, by the commands
that a user types; then each sound of the fold is asked for among the pictures of all classes. Chance is one in as many
as there are classes. Classes are known from training and recordings are not: it is classification by way of the shared
space, not zero-shot.
"""

import csv
import io
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from ..index.media import read_picture
from ..ingest.mux import write_video
from ..shards import SAMPLE_RATE
from ..shards.atomic import write_bytes
from ..shards.checks import check_ranges
from .errors import BenchError
from .esc50 import FOLDS, Esc50, read_esc50
from .folds import check_folds
from .protocol import LEVEL, Progress, Result, bootstrap
from .retrieval import Direction, RetrievalConfig, measure
from .steps import run_step

SIZE_PX = 320
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassPicturesConfig:
    """What `unibrivl bench class-pictures` was asked to do."""

    data: Path
    """Folder in ESC-50's layout."""
    work: Path
    """Folder for clips, shards, runs and indexes."""
    pictures: Path | None = None
    """Folder with a picture for each class, named by its category; none: cards that bear the class's name."""
    folds: tuple[int, ...] = FOLDS
    language_tower: str = "wav2clip"
    epochs: int = 30
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse folds that there are not."""
        check_folds(self.folds, FOLDS)
        check_ranges(self, epochs=(1, 100_000), batch_size=(2, 1 << 20), seed=(0, 2**31 - 1))


def measure_class_pictures(config: ClassPicturesConfig, progress: Progress = lambda done, total, text: None) -> Result:
    """Train and measure fold by fold.

    Raises:
        BenchError: the folder is not in ESC-50's layout, a picture is missing, or a step failed.
    """
    data = read_esc50(config.data)
    pictures = _pictures(config, data)
    _write_media(config, data, pictures)
    done: dict[int, Direction] = {}
    for number, fold in enumerate(config.folds):
        progress(number, len(config.folds), f"fold {fold}")
        done[fold] = _measure_fold(config, data, fold)
    progress(len(config.folds), len(config.folds), "")
    return _result(config, data, done)


def _pictures(config: ClassPicturesConfig, data: Esc50) -> list[np.ndarray]:
    """Return uint8 (SIZE_PX, SIZE_PX, 3) for each class."""
    if config.pictures is None:
        return [_card(name, number / len(data.names)) for number, name in enumerate(data.names)]
    found = []
    for name in data.names:
        paths = [config.pictures / f"{name}{suffix}" for suffix in PICTURE_SUFFIXES]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise BenchError(f"{config.pictures}: no picture of class {name!r}; want {name}.png or .jpg")
        found.append(read_picture(path, SIZE_PX))
    return found


def _card(name: str, hue: float) -> np.ndarray:
    colour = Image.new("HSV", (1, 1), (round(255 * hue), 110, 235)).convert("RGB").getpixel((0, 0))
    card = Image.new("RGB", (SIZE_PX, SIZE_PX), colour)
    draw, font = ImageDraw.Draw(card), ImageFont.load_default(size=44)
    draw.multiline_text(
        (SIZE_PX / 2, SIZE_PX / 2), name.replace("_", "\n"), fill="black", font=font, anchor="mm", align="center"
    )
    return np.asarray(card)


def _write_media(config: ClassPicturesConfig, data: Esc50, pictures: list[np.ndarray]) -> None:
    """Write each sound with its class's picture as a video, unless an earlier run has; and a list for each fold."""
    for number, (sound, target) in enumerate(zip(data.sounds, data.targets, strict=True)):
        path = config.work / "media" / f"{number:05}.mp4"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, frames=[pictures[target]] * 2, audio=sound, fps=1, sample_rate=SAMPLE_RATE)
    for fold in config.folds:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("id", "path", "start", "end", "labels", "split", "group"))
        for number, (sound, target) in enumerate(zip(data.sounds, data.targets, strict=True)):
            split = "test" if data.folds[number] == fold else "train"
            end_s, name = f"{len(sound) / SAMPLE_RATE:.3f}", data.names[target]
            rows.writerow((f"clip{number:05}", f"{number:05}.mp4", "0", end_s, name, split, name))
        path = config.work / f"fold{fold}" / "list.csv"
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, text.getvalue().encode())


def _measure_fold(config: ClassPicturesConfig, data: Esc50, fold: int) -> Direction:
    root = config.work / f"fold{fold}"
    for name, words in _commands(config, root, max(len(sound) for sound in data.sounds) / SAMPLE_RATE).items():
        run_step(f"{name} of fold {fold}", words)
    return measure(RetrievalConfig(index=root / "index", seed=config.seed))["audio_to_image"]


def _commands(config: ClassPicturesConfig, root: Path, clip_s: float) -> dict[str, list[str]]:
    shards, run, index = (str(root / name) for name in ("shards", "run", "index"))
    # a class is a group: none is held out for validation, since a class without training could not be found
    return {
        "ingest": ["ingest", f"{root}/list.csv", shards, "--media-dir", str(root.parent / "media")],
        "train": [
            "train", shards, "--out", run, "--language-tower", config.language_tower, "--epochs", str(config.epochs),
            "--batch-size", str(config.batch_size), "--lr", str(config.lr), "--seed", str(config.seed),
            "--validate-every", str(config.epochs), "--set", "num_mels=64", "--set", f"clip_s={clip_s:g}",
            "--set", "val_share=0",
        ],
        "index": ["index", run, shards, "--out", index],
    }  # fmt: skip


def _result(config: ClassPicturesConfig, data: Esc50, done: dict[int, Direction]) -> Result:
    hits = {fold: direction.ranks_Q == 1 for fold, direction in done.items()}
    values = np.array([hit.mean() for hit in hits.values()])
    every = list(done.values())
    ranked = np.concatenate([direction.ranks_Q for direction in every])
    asked = [row["key"] for direction in every for row in direction.query_rows]
    return Result(
        bench="class-pictures",
        protocol="official folds, trained from random weights on four, sounds of the fifth among all class pictures",
        tower=config.language_tower,
        metrics={
            "r1": round(float(values.mean()), 4),
            "r1_sd": round(float(values.std(ddof=1)), 4) if len(values) > 1 else None,
            "r1_by_fold": {str(fold): round(float(hit.mean()), 4) for fold, hit in hits.items()},
            "mrr": round(float(np.mean([direction.scores.mrr for direction in every])), 4),
        },
        chance={"r1": round(float(np.mean([direction.scores.chance_r1 for direction in every])), 4)},
        oracle={"r1": 1.0},
        coverage={"clips": len(data.sounds), "listed": data.listed, "folds": list(config.folds)},
        interval={"r1": bootstrap(np.concatenate(list(hits.values())), config.seed), "level": LEVEL},
        seed=config.seed,
        status="ok" if config.folds == FOLDS and len(data.sounds) == data.listed else "partial",
        config={"epochs": config.epochs, "batch_size": config.batch_size, "lr": config.lr},
        more={
            "permuted": {"r1": round(float(np.mean([direction.shuffled["shuffled_r1"] for direction in every])), 4)},
            "pictures": "cards with the class's name" if config.pictures is None else "given",
            "classes": list(data.names),
            "commands": {n: shlex.join(["unibrivl", *w]) for n, w in _commands(config, Path("fold1"), 5.0).items()},
        },
        predictions=pa.table({"item": asked, "r1": (ranked == 1).astype(np.float64), "mrr": 1 / ranked}),
    )
