"""How media become samples: everything that decides the bytes of a shard, apart from the plan and the media."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import av
import soundfile
from PIL import Image

from .. import __version__
from ..shards import SAMPLE_RATE, ShardError
from .decoded import DecodeConfig
from .quality import FLAGS

AUDIO_CODECS = {"flac": "FLAC", "wav": "WAV"}
"""Member extension to libsndfile's name of the format."""
JPEG_QUALITY = 95
"""At 64 px a JPEG is 3 kB; a lower quality would save little and show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What is made of a clip; stored in `dataset.json`, and the same for every shard of a set."""

    decode: DecodeConfig = field(default_factory=DecodeConfig)
    audio: str = "flac"
    """`flac`, or `wav`: 2.7 times the size, and decoded 60 times as fast."""
    drop: tuple[str, ...] = ()
    """Quality flags (`ingest/quality.py`) with which a clip fails as `quality.FLAG`; others are only noted."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        if self.audio not in AUDIO_CODECS:
            raise ValueError(f"audio is {self.audio!r}, want {' or '.join(AUDIO_CODECS)}")
        if unknown := [flag for flag in self.drop if flag not in FLAGS]:
            raise ValueError(f"drop has {unknown[0]!r}, want {', '.join(FLAGS)}")

    def stored(self) -> dict[str, Any]:
        """Return what `dataset.json` keeps: enough to make the same bytes again."""
        decode = {name: value for name, value in asdict(self.decode).items() if name != "ffmpeg"}
        decode["frame_sizes"] = list(self.decode.frame_sizes)
        return {"decode": decode, "audio": self.audio, "drop": list(self.drop)}

    def described(self) -> dict[str, Any]:
        """Return the facts about stored sound and pictures that others need."""
        return {
            "audio": {"codec": self.audio, "sample_rate_hz": SAMPLE_RATE, "channels": 1, "subtype": "PCM_16"},
            "frame": {"codec": "jpeg", "sizes_px": list(self.decode.frame_sizes), "quality": JPEG_QUALITY},
            "made_with": {
                "unibrivl": __version__, "av": av.__version__, "soundfile": soundfile.__version__,
                "libsndfile": soundfile.__libsndfile_version__, "pillow": Image.__version__,
            },
        }  # fmt: skip

    def token(self, plan_sha256: str) -> str:
        """Name what a shard is made from and how: an unfinished one is gone on with only under the same name."""
        facts = [plan_sha256, self.stored(), self.described()["made_with"]]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_recipe(dataset: dict[str, Any], root: Path, *, ffmpeg: Path | None = None) -> Recipe:
    """Return the recipe that `dataset.json` of the set at `root` keeps.

    Raises:
        ShardError: it has none that can be read.
    """
    try:
        stored = dataset["recipe"]
        decode = {**stored["decode"], "frame_sizes": tuple(stored["decode"]["frame_sizes"]), "ffmpeg": ffmpeg}
        return Recipe(decode=DecodeConfig(**decode), audio=stored["audio"], drop=tuple(stored["drop"]))
    except (KeyError, TypeError, ValueError) as e:
        raise ShardError(f"{root}: dataset.json does not say how the clips were made ({e}); ingest again") from e
