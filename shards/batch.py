"""Turns samples into a batch: NumPy arrays, which every framework takes without a copy.

Shapes: B clips, T samples of the longest sound in the batch, H and W pixels.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import ShardError
from .sample import Sample
from .skip import IntactReader, Skipped

_FIELD = re.compile(r"audio|frame(:[1-9][0-9]{0,4})?|info")

Batch = dict[str, Any]
"""`key` list of str, `position` int64 (B,) in the catalog, `valid` bool (B,), and what `fields` name: `audio` float32
(B, T) followed by silence with `num_samples` int64 (B,); `frame` uint8 (B, H, W, 3); `info` list of dicts."""


def check_fields(fields: tuple[str, ...]) -> tuple[str, ...]:
    """Return `fields`; ValueError where one is unknown."""
    for field in fields:
        if not _FIELD.fullmatch(field):
            raise ValueError(f"field {field!r}: want audio, frame, frame:SIZE or info")
    return tuple(fields)


@dataclass(frozen=True, slots=True)
class BatchMaker:
    """Makes a batch of positions; it travels to worker processes."""

    reader: IntactReader
    fields: tuple[str, ...]
    raw: bool

    def __call__(self, task: tuple[np.ndarray, np.ndarray]) -> tuple[Batch | list[Sample], list[Skipped]]:
        """Return the batch of (positions, valid), and the clips that were found damaged on the way."""
        positions, valid = task
        known = len(self.reader.skipped)
        take: Callable[[Sample], Any] = _keep if self.raw else self._decode
        found = [self.reader.get(position, take) for position in positions.tolist()]
        skipped = list(self.reader.skipped.values())[known:]
        values: list[Any] = [value for _, value in found]
        return values if self.raw else self._stack([place for place, _ in found], valid, values), skipped

    def _decode(self, sample: Sample) -> dict[str, Any]:
        return {"key": sample.key} | {field: _decode_field(sample, field) for field in self.fields}

    def _stack(self, positions: list[int], valid: np.ndarray, decoded: list[dict[str, Any]]) -> Batch:
        keys = [one["key"] for one in decoded]
        batch: Batch = {"key": keys, "position": np.array(positions, dtype=np.int64), "valid": valid.copy()}
        for field in self.fields:
            values = [one[field] for one in decoded]
            if field == "audio":
                batch["audio"], batch["num_samples"] = pad(values)
            elif field == "info":
                batch["info"] = values
            else:
                batch[field] = _stack_frames(keys, values)
        return batch


def pad(sounds: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 (B, T), each sound followed by silence, and their lengths, int64 (B,)."""
    num_samples = np.array([len(sound) for sound in sounds], dtype=np.int64)
    audio_BT = np.empty((len(sounds), num_samples.max(initial=0)), dtype=np.float32)
    for row, sound in zip(audio_BT, sounds, strict=True):
        row[: len(sound)] = sound
        row[len(sound) :] = 0
    return audio_BT, num_samples


def _stack_frames(keys: list[str], frames: list[np.ndarray]) -> np.ndarray:
    for key, frame in zip(keys, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise ShardError(
                f"{key}: a picture of {frame.shape[1]} x {frame.shape[0]} pixels, {keys[0]} has {frames[0].shape[1]} "
                f"x {frames[0].shape[0]}; read them one by one, or ask for a size that all have (frame:SIZE)"
            )
    return np.stack(frames)


def _decode_field(sample: Sample, field: str) -> Any:
    if field == "audio":
        return sample.audio()
    if field == "info":
        return sample.info()
    _, _, size = field.partition(":")
    return sample.frame(int(size) if size else None)


def _keep(sample: Sample) -> Sample:
    return sample
