"""One clip: its members as stored, decoded on request."""

import io
import json
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from .errors import ShardError
from .schema import SAMPLE_RATE

MEND = "the shard is damaged: run `unibrivl shards repair`"


class Members(Mapping[str, bytes]):
    """File extension to data of one clip, cut out of the span that was read when they are asked for."""

    __slots__ = ("_places", "_span")

    def __init__(self, span: bytes, places: dict[str, tuple[int, int]]) -> None:
        """Keep the clip's span of a tar, and where in it each member's data begin and end."""
        self._span = span
        self._places = places

    def __getitem__(self, extension: str) -> bytes:
        """Return the data of a member."""
        start, stop = self._places[extension]
        return self._span[start:stop]

    def __iter__(self) -> Iterator[str]:
        """Yield the extensions in the order of the tar."""
        return iter(self._places)

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self._places)

    def __contains__(self, extension: object) -> bool:
        """Tell whether there is such a member, without cutting it out."""
        return extension in self._places

    def __repr__(self) -> str:
        """Name the members and their sizes."""
        sizes = ", ".join(f"{name}: {stop - start} bytes" for name, (start, stop) in self._places.items())
        return f"Members({sizes})"


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip as stored."""

    key: str
    members: Mapping[str, bytes]
    """File extension to data: `flac` or `wav`; `jpg`, and `384.jpg` and the like for further sizes; `json`."""

    def audio(self) -> np.ndarray:
        """Return the sound: float32 (samples,) at 16 kHz, in -1 to 1."""
        if "wav" in self.members:
            return self._wav(self.members["wav"])
        try:
            samples, sample_rate = soundfile.read(io.BytesIO(self._member("flac")), dtype="float32")
        except soundfile.SoundFileError as e:
            raise ShardError(f"{self.key}: its sound is damaged ({e}); {MEND}") from e
        self._check_sound(sample_rate, samples.ndim)
        return samples

    def frame(self, size: int | None = None) -> np.ndarray:
        """Return the picture: uint8 (height, width, 3); of `size` pixels a side, if the set stores several."""
        name = "jpg" if size is None or f"{size}.jpg" not in self.members else f"{size}.jpg"
        try:
            with Image.open(io.BytesIO(self._member(name)), formats=("JPEG",)) as image:
                frame = np.array(image.convert("RGB"))
        except (OSError, Image.DecompressionBombError) as e:
            raise ShardError(f"{self.key}: its picture is damaged; {MEND}") from e
        if size is not None and frame.shape[0] != size:
            raise ShardError(
                f"{self.key}: no picture of {size} pixels is stored, only {', '.join(self._pictures(frame))}"
            )
        return frame

    def info(self) -> dict[str, Any]:
        """Return the clip's JSON: labels, times, caption."""
        try:
            return dict(json.loads(self._member("json").decode()))
        except (ValueError, TypeError) as e:
            raise ShardError(f"{self.key}: its description is damaged; {MEND}") from e

    def _member(self, name: str) -> bytes:
        try:
            return self.members[name]
        except KeyError:
            raise ShardError(f"{self.key} has no {name}, only {', '.join(self.members) or 'nothing'}") from None

    def _pictures(self, main: np.ndarray) -> list[str]:
        others = [name.removesuffix(".jpg") for name in self.members if name.endswith(".jpg")]
        return [str(main.shape[0]), *others]

    def _wav(self, data: bytes) -> np.ndarray:
        """Read 16-bit samples without soundfile, which takes ten times as long for an uncompressed sound."""
        try:
            with wave.open(io.BytesIO(data)) as file:
                self._check_sound(file.getframerate(), file.getnchannels())
                samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
                whole = file.getsampwidth() == 2 and len(samples) == file.getnframes()
        except (wave.Error, EOFError, ValueError) as e:
            raise ShardError(f"{self.key}: its sound is damaged ({e}); {MEND}") from e
        if not whole:
            raise ShardError(f"{self.key}: its sound is damaged (cut short, or not 16 bits a sample); {MEND}")
        return samples.astype(np.float32) / 32768

    def _check_sound(self, sample_rate: int, channels: int) -> None:
        if sample_rate != SAMPLE_RATE or channels != 1:
            raise ShardError(f"{self.key}: want mono sound at {SAMPLE_RATE} Hz, found {sample_rate} Hz")
