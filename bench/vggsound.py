"""VGGSound's lists and the files of its clips, for every table that is made of them.

Layout. `test.csv` and `train.csv` hold `<id>_<start:06d>.mp4,label`; `vggsound.csv` holds id, start in seconds, label,
split. Labels have commas, within quotes; a header is skipped where there is one. Clips lie beside the list, in
`video/`, or as `audio/` and `frames/`, each under the clip's name. Source: hche11/VGGSound.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .clip_media import read_frame, read_sound_at, tiled
from .encoders import Embedder, Items, KnownEncoder, embed_items, unit
from .errors import BenchError, NeedsError
from .protocol import Progress

TEST_CLIPS = 15_446
CLIP_S = 10.0
SOUND_FOLDERS, PICTURE_FOLDERS = ("audio", "video", "."), ("frames", "video", ".")
SOUNDS = (".wav", ".flac", ".ogg", ".m4a", ".mp4", ".mkv", ".webm")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".mp4", ".mkv", ".webm")
HEADS = ("youtube", "# youtube", "file", "filename", "id", "clip", "ytid")


@dataclass(frozen=True, slots=True)
class Clips:
    """Clips of a list."""

    names: tuple[str, ...]
    """`<id>_<start:06d>`."""
    classes: np.ndarray
    """int64 (N,), numbers of `labels`."""
    labels: tuple[str, ...]
    """Every class of the list, sorted."""
    folder: Path
    """Where the clips' files lie, if anywhere."""
    listed: int
    """Clips of the whole list."""

    def take(self, numbers: Sequence[int] | np.ndarray) -> "Clips":
        """Return some of them, of the same classes."""
        return replace(
            self, names=tuple(self.names[n] for n in numbers), classes=self.classes[np.asarray(numbers, int)]
        )

    def files(self, folders: tuple[str, ...], suffixes: tuple[str, ...]) -> dict[str, Path]:
        """Return the file of each clip that has one, the first kind that there is."""
        found: dict[str, Path] = {}
        wanted = set(self.names)
        for place in (self.folder / name for name in folders):
            by_stem = {(path.stem, path.suffix.lower()): path for path in place.iterdir()} if place.is_dir() else {}
            for suffix in suffixes:
                for (stem, kind), path in by_stem.items():
                    if kind == suffix and stem in wanted:
                        found.setdefault(stem, path)
        return found

    def coverage(self, of: "Clips") -> dict[str, Any]:
        """Return how many of the list `of` are here, and the classes of it that have none."""
        missing = np.setdiff1d(of.classes, self.classes)
        return {
            "clips": len(self.names), "listed": of.listed, "classes": len(np.unique(self.classes)),
            "classes_listed": len(self.labels), "missing_classes": [self.labels[n] for n in missing],
        }  # fmt: skip


def read_list(data: Path, split: str = "test") -> Clips:
    """Read the clips of a split from a list, or from the folder that holds one.

    Raises:
        NeedsError: there is no list.
        BenchError: a row is not of VGGSound's.
    """
    places = [data] if data.is_file() else [data / f"{split}.csv", data / "vggsound.csv"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise NeedsError(
            f"{data}: has no {split}.csv nor vggsound.csv; want VGGSound's list", status="needs-data",
            expected=(f"{split}.csv", "vggsound.csv", "video/<id>_<start:06d>.mp4"),
        )  # fmt: skip
    pairs = []
    with path.open(newline="", encoding="utf-8") as f:
        for number, row in enumerate(csv.reader(f), start=1):
            if row and not (number == 1 and row[0].strip().lower().startswith(HEADS) and not row[0].endswith(".mp4")):
                pairs += _clip(path, number, row, split)
    if not pairs:
        raise BenchError(f"{path}: lists no clip of split {split}")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BenchError(f"{path}: clip {twice} stands twice; take the list as it was published")
    labels = sorted({label for _, label in pairs})
    number_of = {label: number for number, label in enumerate(labels)}
    classes = np.array([number_of[label] for _, label in pairs], dtype=np.int64)
    return Clips(tuple(names), classes, tuple(labels), path.parent, len(names))


def _clip(path: Path, number: int, row: list[str], split: str) -> list[tuple[str, str]]:
    """Return a row's clip name and label, or nothing if it is of another split."""
    if len(row) == 4 and row[1].strip().isdigit():
        return [(f"{row[0]}_{int(row[1]):06d}", row[2].strip())] if row[3].strip() == split else []
    if len(row) == 2 and row[0].endswith(".mp4") and row[1].strip():
        return [(row[0].removesuffix(".mp4"), row[1].strip())]
    raise BenchError(f"{path}:{number}: {row}, want <id>_<start>.mp4,label or id,start,label,split")


def shares_of(clip: str, frames: str, seed: int) -> list[float]:
    """Return where in a clip its pictures are taken, as shares of its length.

    `single`: drawn, by seed and clip; `middle`; `mean-of-N`: the middles of N equal parts.
    """
    if frames == "middle":
        return [0.5]
    if frames == "single":
        drawn = hashlib.sha256(f"{seed} {clip}".encode()).digest()
        return [int.from_bytes(drawn[:6]) / 2**48]
    count = int(frames.removeprefix("mean-of-"))
    return [(number + 0.5) / count for number in range(count)]


def check_frames(frames: str) -> None:
    """Raise a ValueError for a choice of frames that there is not."""
    count = frames.removeprefix("mean-of-")
    if frames not in ("single", "middle") and not (count != frames and count.isdigit() and 1 <= int(count) <= 300):
        raise ValueError(f"frames is {frames!r}, want single, middle, or mean-of-N with N from 1 to 300")


def embed_sounds(
    encoder: Embedder, clips: Clips, cache: Path | None, progress: Progress = lambda done, total, text: None
) -> np.ndarray:
    """Return float32 (N, D) of the clips' sounds, each repeated or cut to 10 s."""
    files = {} if isinstance(encoder, KnownEncoder) else clips.files(SOUND_FOLDERS, SOUNDS)
    rate, paths = encoder.sample_rate, [files.get(name) for name in clips.names]

    def load(number: int) -> np.ndarray:
        return tiled(read_sound_at(_there(paths[number]), rate), round(CLIP_S * rate))

    items = Items(_keys(paths, clips), load, clips.classes, np.arange(len(paths)), f"tiled to 10 s, {rate} Hz")
    return embed_items(encoder, "audio", items, cache, progress)


def embed_pictures(
    encoder: Embedder,
    clips: Clips,
    frames: str,
    seed: int,
    cache: Path | None,
    progress: Progress = lambda done, total, text: None,
) -> np.ndarray:
    """Return float32 (N, D) of the clips' pictures; of several the mean of their unit embeddings."""
    if isinstance(encoder, KnownEncoder):
        return encoder.embed_known("image", clips.classes, np.arange(len(clips.names)), "\n".join(clips.names))
    files = clips.files(PICTURE_FOLDERS, PICTURES)
    paths = [files.get(name) for name in clips.names]
    shares = [shares_of(name, frames, seed) for name in clips.names]
    each = len(shares[0])

    def load(number: int) -> np.ndarray:
        return read_frame(_there(paths[number // each]), shares[number // each][number % each])

    keys = [f"{key} {share:.9f}" for key, own in zip(_keys(paths, clips), shares, strict=True) for share in own]
    numbers = np.repeat(np.arange(len(paths)), each)
    items = Items(keys, load, clips.classes[numbers], numbers, "frame as it is")
    embedded = unit(embed_items(encoder, "image", items, cache, progress))
    return embedded.reshape(len(paths), each, -1).mean(axis=1)


def present(encoder: Embedder | None, clips: Clips, *, sound: bool, picture: bool) -> Clips:
    """Return the clips whose files are there; all of them for an encoder that looks at none.

    Raises:
        NeedsError: not one is there.
    """
    if encoder is None or isinstance(encoder, KnownEncoder):
        return clips
    sounds = clips.files(SOUND_FOLDERS, SOUNDS) if sound else clips.names
    pictures = clips.files(PICTURE_FOLDERS, PICTURES) if picture else clips.names
    kept = [number for number, name in enumerate(clips.names) if name in sounds and name in pictures]
    if not kept:
        raise NeedsError(
            f"{clips.folder}: not one of {len(clips.names)} clips is there", status="needs-data",
            expected=tuple(f"video/{name}.mp4" for name in clips.names[:3]),
        )  # fmt: skip
    return clips.take(kept)


def _keys(paths: list[Path | None], clips: Clips) -> list[str]:
    return [
        hashlib.sha256(path.read_bytes()).hexdigest() if path else name
        for path, name in zip(paths, clips.names, strict=True)
    ]


def _there(path: Path | None) -> Path:
    if path is None:
        raise BenchError("a clip's file went away while it was embedded; measure again")
    return path
