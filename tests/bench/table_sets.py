"""Made-up folders in the layouts of UrbanSound8K, VGGSound and VEGAS, the last with generated pictures."""

import csv
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from unibrivl.ingest.mux import write_video

from .esc_folder import SAMPLE_RATE, tone


def write_urbansound8k(folder: Path, per_fold: int = 4) -> Path:
    """Write tones of two classes in ten folds; every class has a third more in the first."""
    rows = []
    for fold in range(1, 11):
        place = folder / "audio" / f"fold{fold}"
        place.mkdir(parents=True)
        for number in range(per_fold):
            class_id = (0, 3)[number % 2]
            name = f"{1000 * fold + number}-{class_id}-0-{number}.wav"
            sound = tone((300, 3000)[number % 2], 100 * fold + number)
            soundfile.write(place / name, np.stack([sound, sound], axis=1), SAMPLE_RATE)
            rows.append(
                {
                    "slice_file_name": name, "fsID": 1000 * fold + number, "start": 0, "end": 0.5, "salience": 1,
                    "fold": fold, "classID": class_id, "class": ("air_conditioner", "dog_bark")[number % 2],
                }
            )  # fmt: skip
    (folder / "metadata").mkdir()
    with (folder / "metadata" / "UrbanSound8K.csv").open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


LABELS = ("dog barking", "playing violin, fiddle", "race car, auto racing")


def write_vggsound(folder: Path, *, clips: int = 4, train: int = 0, media: bool = True) -> Path:
    """Write lists of three classes, `clips` of each to be measured and `train` of each to be trained on."""
    (folder / "video").mkdir(parents=True)
    for split, count in (("test", clips), ("train", train)):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as f:
            rows = csv.writer(f)
            for number in range(count * len(LABELS) if count else 0):
                label = number % len(LABELS)
                name = f"{split}vid{number:04d}_{30 * number:06d}"
                rows.writerow((f"{name}.mp4", LABELS[label]))
                if media:
                    write_clip(folder / "video" / f"{name}.mp4", label, number)
    if not train:
        (folder / "train.csv").unlink()
    return folder


def write_clip(path: Path, label: int, number: int) -> None:
    """Write half a second: a tone of the class, and four pictures that grow lighter, tinted by class."""
    frames = [np.full((48, 64, 3), 40 * (n + 1), np.uint8) for n in range(4)]
    for frame in frames:
        frame[:, :, label] = 255
    write_video(path, frames=frames, audio=tone((250, 1000, 4000)[label], number), fps=8, sample_rate=SAMPLE_RATE)


VEGAS_CLASSES = ("baby_cry", "dog", "rail_transport", "fireworks")


def write_vegas(folder: Path, *, per_class: int = 3) -> Path:
    """Write a manifest, a tone and a frame in the colour of its class for each clip, and one clip of another split."""
    rows = [("clip_id", "class", "split", "audio", "frame")]
    for number in range(per_class * len(VEGAS_CLASSES)):
        label = number % len(VEGAS_CLASSES)
        audio, frame = f"audio/{number}.wav", f"frames/{number}.png"
        (folder / audio).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / audio, tone(200 * 3**label, number), SAMPLE_RATE)
        write_picture(folder / frame, label, number)
        rows.append((f"clip{number:02}", VEGAS_CLASSES[label], "test", audio, frame))
    rows.append(("other", VEGAS_CLASSES[0], "train", "audio/none.wav", "frames/none.png"))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows(rows)
    return folder


def write_generated(images: Path, data: Path, per_clip: int = 2) -> Path:
    """Write pictures of each clip that is to be judged, in the colour of its class and unlike each other."""
    with (data / "manifest.csv").open(newline="", encoding="utf-8") as f:
        for row in csv.DictReader(f):
            for number in range(per_clip if row["split"] == "test" else 0):
                label = VEGAS_CLASSES.index(row["class"])
                write_picture(images / row["clip_id"] / f"{number}.png", label, 1000 * number + int(row["clip_id"][4:]))
    return images


def write_picture(path: Path, label: int, seed: int) -> None:
    """Write noise over the colour of a class."""
    colour = ((220, 40, 40), (40, 220, 40), (40, 40, 220), (220, 220, 40))[label]
    noise = np.random.default_rng(seed).integers(-30, 30, (24, 32, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(colour) + noise).clip(1, 255).astype(np.uint8)).save(path)


SCENES = (
    ("a dog barks loudly at a passing car", "the big dog is barking in a yard"),
    ("rain is falling hard on a metal roof", "heavy rain drops hit the roof"),
    ("birds are chirping in the quiet forest", "several birds sing among tall trees"),
    ("a man speaks while water runs slowly", "someone talks near running water"),
)
CAPTION_COLUMNS = ("file_name", "caption_1", "caption_2", "caption_3", "caption_4", "caption_5")


def scene_captions(scene: int) -> list[str]:
    first, second = SCENES[scene]
    return [f"{first.capitalize()}.", f"{second.capitalize()}!", first, f"{first}, then it stops.", f"{second} today"]


def write_clotho(
    folder: Path, *, clips: tuple[int, ...] = (24, 8, 12), media: bool = True, changes: dict[str, str] | None = None
) -> Path:
    """Write lists of four scenes, a tone for each, in Clotho's layout; two counts: version 1, without validation.

    `changes` are of the first row of the evaluation list.
    """
    splits = ("development", "validation", "evaluation") if len(clips) == 3 else ("development", "evaluation")
    for split, count in zip(splits, clips, strict=True):
        (folder / split).mkdir(parents=True)
        names = [f"{split} {number}: caf\u00e9, take.wav" for number in range(count)]
        rows = [[name, *scene_captions(number % len(SCENES))] for number, name in enumerate(names)]
        if split == "evaluation":
            for column, text in (changes or {}).items():
                rows[0][CAPTION_COLUMNS.index(column)] = text
        write_rows(folder / f"clotho_captions_{split}.csv", [list(CAPTION_COLUMNS), *rows])
        recordings = [[name, "a;b", str(1000 * ord(split[0]) + number)] for number, name in enumerate(names)]
        head = ["file_name", "keywords", "sound_id"]
        write_rows(folder / f"clotho_metadata_{split}.csv", [head, *recordings], encoding="iso-8859-1")
        for number, name in enumerate(names if media else ()):
            sound = np.tile(tone((200, 600, 1800, 5400)[number % len(SCENES)], 100 * ord(split[0]) + number), 4)
            soundfile.write(folder / split / name, sound, SAMPLE_RATE)
    return folder


def write_rows(path: Path, rows: list[list[str]], *, encoding: str = "utf-8") -> None:
    with path.open("w", newline="", encoding=encoding) as f:
        csv.writer(f).writerows(rows)
