"""Candidates of a request and their PNG files, each of which says what made it."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image, PngImagePlugin

from ..shards.atomic import write_bytes
from .errors import GenerateError

METADATA = "unibrivl"
"""Key of a PNG's text that says what made it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A picture that is, or could be, made."""

    prompt: int
    """Its number among the prompts."""
    seeds: tuple[int, ...]
    """Of its noise: drawn from the first, then mixed with that of each further one."""

    @property
    def seed(self) -> int:
        """Return the seed that no other candidate of the prompt has: the last one."""
        return self.seeds[-1]

    @property
    def name(self) -> str:
        """Return the name of its file, without the ending."""
        return f"{self.prompt:02d}-{self.seed:06d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """How pictures are made."""

    steps: int
    guidance: float
    width_px: int
    height_px: int
    mix: float = 0.0
    """Share of new noise, 0 to 1, in a candidate with further seeds."""

    @property
    def size_px(self) -> tuple[int, int]:
        """Return height and width."""
        return self.height_px, self.width_px


@dataclass(frozen=True, slots=True)
class Made:
    """A finished candidate, or an estimate of it."""

    candidate: Candidate
    path: Path
    flagged: bool
    """By the pipeline's safety checker, which blanks the picture."""
    black: bool
    """In every pixel."""
    evaluations: int
    """Pictures that passed the network for it; with guidance a step takes two."""

    @property
    def picture(self) -> np.ndarray:
        """Return the picture, uint8 (H, W, 3), read from its file: memory need not hold them all."""
        return read_png(self.path)[0]

    @property
    def dropped(self) -> str:
        """Return why it is not to be scored; empty where it is."""
        return dropped_reason(flagged=self.flagged, black=self.black)


def dropped_reason(*, flagged: bool, black: bool) -> str:
    """Return why a picture that was made is not to be scored; empty where it is."""
    if flagged:
        return "flagged by the safety checker"
    return "all black" if black else ""


class Pictures(Sequence[np.ndarray]):
    """Pictures, uint8 (H, W, 3), each read when it is asked for."""

    def __init__(self, made: Sequence[Made]) -> None:
        """Read nothing yet."""
        self._made = made

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._made)

    @overload
    def __getitem__(self, number: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, number: slice) -> "Pictures": ...
    def __getitem__(self, number: int | slice) -> "np.ndarray | Pictures":
        """Return one picture, or some of them that are still to be read."""
        return Pictures(self._made[number]) if isinstance(number, slice) else self._made[number].picture


def write_made(
    path: Path, candidate: Candidate, picture: np.ndarray, facts: dict[str, Any], *, flagged: bool, evaluations: int
) -> Made:
    """Write a picture, uint8 (H, W, 3), with its facts, whole or not at all."""
    write_bytes(path, png(picture, facts | {"flagged": flagged, "evaluations": evaluations}))
    return Made(candidate, path, flagged, not picture.any(), evaluations)


def read_made(path: Path, candidate: Candidate, facts: dict[str, Any]) -> Made | None:
    """Return what `write_made` wrote; None: it is not there.

    Raises:
        GenerateError: it is damaged, none of ours, or its facts are others.
    """
    if not path.exists():
        return None
    picture, told = read_png(path)
    for name, value in facts.items():
        if told.get(name) != value:
            raise GenerateError(
                f"{path}: was made with {name} {str(told.get(name))[:60]!r}, want {str(value)[:60]!r}; remove it, or "
                "name another --out"
            )
    return Made(candidate, path, bool(told.get("flagged")), not picture.any(), int(told.get("evaluations", 0)))


def png(picture: np.ndarray, told: dict[str, Any]) -> bytes:
    """Return a picture as PNG with what is told of it, as iTXt."""
    text = PngImagePlugin.PngInfo()
    text.add_itxt(METADATA, json.dumps(told, ensure_ascii=False, sort_keys=True))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def told_inside(path: Path) -> dict[str, Any]:
    """Return what a PNG of ours says of itself; nothing for any other file, whatever is wrong with it."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            told = json.loads(str(image.info[METADATA]))
    except (OSError, ValueError, SyntaxError, KeyError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def read_png(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a picture of ours, uint8 (H, W, 3), and what is told of it.

    Raises:
        GenerateError: it is damaged, or none of ours.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
            picture = np.asarray(image.convert("RGB"))
            told = json.loads(str(image.info[METADATA]))
        return picture, dict(told)
    except (OSError, ValueError, TypeError, SyntaxError, KeyError) as e:
        raise GenerateError(f"{path}: not a picture that generate wrote; remove it, or name another --out") from e
