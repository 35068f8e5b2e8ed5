"""`bench human prepare`: a study of the human test (Table 5), frozen before anybody answers.

Protocol. A trial is a sound, the picture that a system made for it, and the picture that the same system made for a
sound of another class. A person hears the sound and says which picture fits it better, or neither. The paper gives
percentages of three such tests and neither raters nor counts; what it leaves open is decided in `StudyConfig` and
stored with the trials in `study.json`, whose hash every answer carries. Catch trials show the photo of a thing beside
the photo of another one.

Media are written anew under names that tell nothing, without what was stored in them (prompts, scores, seeds).
"""

import hashlib
import io
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import soundfile
from PIL import Image, ImageOps

from .. import __version__
from ..shards.atomic import canonical_json, temporary_path, write_bytes, write_json
from ..shards.checks import check_ranges
from .errors import BenchError

FORMAT = 1
PROTOCOL = "sound, two pictures, neither"
STUDY, ANSWERS, MEDIA = "study.json", "answers.jsonl", "media"
LONGER_SIDE_PX = 1024
ROLES = ("sound", "picture", "foil")
TITLE = "Which picture fits the sound?"
CONSENT = """\
You will hear short sounds. For each one you see two pictures, and say which of them fits the sound better, or that \
neither does. Some pictures were made by a computer, some are photos. There is no right speed.

What you choose, how long it took and how often you played the sound is kept on the computer that shows you this page, \
under a random number. Nothing else about you is kept: no name, no address.

Taking part is voluntary. You can stop at any time, and you can withdraw: then none of your answers is counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """What is fixed before the first answer."""

    title: str = TITLE
    consent: str = CONSENT
    """What a person agrees to; paragraphs are parted by empty lines."""
    raters: int = 30
    """How many valid raters are wanted: below it there are no figures, and later ones are not counted."""
    per_class: int | None = None
    """Trials of each class and system; None: as many as the smallest has."""
    catches: int = 4
    """Catch trials drawn from the photos, if there are any."""
    catch_pass: float = 0.75
    """Least share of catch trials in which a rater must choose the photo; others are excluded."""
    primary: str | None = None
    """The system that the result is about, where there are several."""
    level: float = 0.95
    """Of all intervals."""
    resamples: int = 10_000
    """Of the bootstrap over raters and items."""
    seed: int = 0
    """Of the choice of trials, orders and sides, and the bootstrap."""

    def __post_init__(self) -> None:
        """Refuse a study that can say nothing."""
        check_ranges(
            self, raters=(2, 10_000), per_class=(1, 1000), catches=(0, 100), catch_pass=(0, 1), level=(0.5, 0.999),
            resamples=(100, 1_000_000), seed=(0, 2**63 - 1),
        )  # fmt: skip
        for name in ("title", "consent"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is empty, want words for those who take part")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A trial before it is written: where its media lie now."""

    trial_id: str
    category: str
    audio: Path
    picture: Path
    foil: Path | None
    """None: to be drawn from the other classes of the same system."""
    foil_category: str
    system: str
    is_catch: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A trial as it is frozen; media by the names that raters' browsers see."""

    trial: str
    """Its blind name."""
    source: str
    """Its id in the list that it came from."""
    category: str
    foil_category: str
    system: str
    is_catch: bool
    sound: str
    picture: str
    foil: str
    item: str
    """Hash of the sound's file: trials of several systems with equal ones are paired."""
    sound_ms: int


@dataclass(frozen=True, slots=True)
class Study:
    """A frozen study, its hashes compared."""

    root: Path
    sha256: str
    config: StudyConfig
    trials: tuple[Trial, ...]
    """Catch trials last."""

    @property
    def rated(self) -> tuple[Trial, ...]:
        """Return the trials that the study is about."""
        return tuple(trial for trial in self.trials if not trial.is_catch)

    @property
    def catches(self) -> tuple[Trial, ...]:
        """Return the trials that tell who listens."""
        return tuple(trial for trial in self.trials if trial.is_catch)

    @property
    def systems(self) -> tuple[str, ...]:
        """Return the systems, the one that the result is about first."""
        names = sorted({trial.system for trial in self.rated})
        return tuple(sorted(names, key=lambda name: name != self.config.primary))

    def medium(self, name: str) -> Path:
        """Return where a medium of this study lies."""
        return self.root / MEDIA / name


def freeze(config: StudyConfig, sources: Iterable[Source], out: Path) -> Study:
    """Write a study, whole or not at all, and read it again.

    Raises:
        BenchError: something is there already, or a medium cannot be read.
    """
    if out.exists():
        raise BenchError(f"{out}: is there already, and a frozen study stays as it is; choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = temporary_path(out)
    (aside / MEDIA).mkdir(parents=True)
    try:
        trials = [_write_trial(source, config.seed, aside / MEDIA) for source in sources]
        media = {path.name: _digest(path.read_bytes()) for path in sorted((aside / MEDIA).iterdir())}
        told = {
            "format": FORMAT, "unibrivl": __version__, "protocol": PROTOCOL, "config": asdict(config),
            "trials": [asdict(trial) for trial in trials], "media": media,
        }  # fmt: skip
        write_json(aside / STUDY, told | {"sha256": _digest(canonical_json(told))})
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return open_study(out)


def open_study(root: Path) -> Study:
    """Read a study and compare every hash.

    Raises:
        BenchError: it is none, of another format, or was changed after it was frozen.
    """
    try:
        told = json.loads((root / STUDY).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise BenchError(f"{root}: has no readable {STUDY}; make one with unibrivl bench human prepare") from e
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise BenchError(f"{root / STUDY}: want format {FORMAT}")
    sha256 = told.pop("sha256", None)
    if sha256 != _digest(canonical_json(told)):
        raise BenchError(f"{root / STUDY}: was changed after it was frozen; its answers belong to another study")
    for name, digest in told["media"].items():
        path = root / MEDIA / name
        if not path.is_file() or _digest(path.read_bytes()) != digest:
            raise BenchError(f"{path}: is missing or was changed after the study was frozen")
    return Study(root, sha256, StudyConfig(**told["config"]), tuple(Trial(**trial) for trial in told["trials"]))


def _write_trial(source: Source, seed: int, folder: Path) -> Trial:
    assert source.foil is not None
    names = {role: _blind(seed, source.trial_id, role) for role in ROLES}
    sound, sound_ms = _plain_sound(source.audio)
    write_bytes(folder / f"{names['sound']}.wav", sound)
    write_bytes(folder / f"{names['picture']}.png", _plain_picture(source.picture))
    write_bytes(folder / f"{names['foil']}.png", _plain_picture(source.foil))
    return Trial(
        trial=_blind(seed, source.trial_id, "trial"), source=source.trial_id, category=source.category,
        foil_category=source.foil_category, system=source.system, is_catch=source.is_catch,
        sound=f"{names['sound']}.wav", picture=f"{names['picture']}.png", foil=f"{names['foil']}.png",
        item=_digest(sound)[:16], sound_ms=sound_ms,
    )  # fmt: skip


def _plain_sound(path: Path) -> tuple[bytes, int]:
    """Return a sound as 16-bit WAV without tags, and its length in ms."""
    try:
        samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as e:
        raise BenchError(f"{path}: not readable as sound ({e})") from e
    if not len(samples):
        raise BenchError(f"{path}: has no sound in it")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue(), round(1000 * len(samples) / sample_rate)


def _plain_picture(path: Path) -> bytes:
    """Return a picture as PNG without texts, upright, its longer side at most `LONGER_SIDE_PX`."""
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as e:
        raise BenchError(f"{path}: not readable as a picture ({e})") from e
    picture.thumbnail((LONGER_SIDE_PX, LONGER_SIDE_PX))
    buffer = io.BytesIO()
    Image.frombytes("RGB", picture.size, picture.tobytes()).save(buffer, "PNG")
    return buffer.getvalue()


def _blind(seed: int, trial_id: str, role: str) -> str:
    return _digest(json.dumps([seed, trial_id, role]).encode())[:24]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def as_told(study: Study) -> dict[str, Any]:
    """Return what `prepare` says of a study."""
    return {
        "study": str(study.root), "sha256": study.sha256, "raters": study.config.raters, "systems": list(study.systems),
        "primary": study.config.primary, "trials": len(study.rated), "catches": len(study.catches),
        "classes": len({trial.category for trial in study.rated}), "seed": study.config.seed,
    }  # fmt: skip
