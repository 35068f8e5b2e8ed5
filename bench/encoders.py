"""Encoders under test, behind one small adapter, and an embedding cache that all tables share.

An encoder is any object with `name`, `fingerprint` and `sample_rate`, and with one or more of

    embed_audio(sounds, sample_rate) -> (N, D)    float32 mono arrays of any lengths
    embed_image(pictures) -> (N, D)               uint8 (H, W, 3) arrays of any sizes
    embed_text(texts) -> (N, D)

What it lacks it cannot be asked for. `random` and `oracle` see no media: they embed what the protocol says is true.
Code is never found by a name on the command line: an adapter of your own is given to the functions of the tables.

Shapes: N items, D dimensions, C classes.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..model.checkpoint import CHECKPOINT_FILE
from ..model.embed import Encoder, load_encoder
from ..shards import SAMPLE_RATE
from .embedding_cache import EmbeddingCache
from .errors import BenchError, NeedsError
from .protocol import Progress
from .ridge import log_mel

MODALITIES = ("audio", "image", "text")
KNOWN_DIM = 512
BATCH = 32


class Embedder(Protocol):
    """What every encoder under test says of itself."""

    @property
    def name(self) -> str:
        """Return what stands in tables; no path of a machine."""
        ...

    @property
    def fingerprint(self) -> str:
        """Return what decides the embeddings, weights and preprocessing: equal ones embed alike."""
        ...

    @property
    def sample_rate(self) -> int:
        """Return the Hz that sounds are brought to before they are handed over; 0: it takes no sound."""
        ...


@dataclass(frozen=True, slots=True)
class Items:
    """What is to be embedded, with what a protocol knows of it."""

    keys: Sequence[str]
    """Of each item: what tells its contents, for the cache."""
    load: Callable[[int], Any] | None
    """Returns the medium of an item, a sound at the encoder's rate; None: there are no media."""
    classes: np.ndarray
    """int64 (N,), or weights (N, C) where an item may have several."""
    instances: np.ndarray
    """int64 (N,): what is the same in every modality."""
    preprocessing: str = ""
    """How the media come to be, for the cache."""


def embeds(encoder: Embedder, modality: str) -> bool:
    """Tell whether an encoder takes a modality."""
    return isinstance(encoder, KnownEncoder) or callable(getattr(encoder, f"embed_{modality}", None))


def check_embeds(encoder: Embedder, modality: str) -> None:
    """Refuse an encoder that does not take a modality, before anything is read for it.

    Raises:
        BenchError: it does not.
    """
    if not embeds(encoder, modality):
        raise _lacking(encoder, modality)


def _lacking(encoder: Embedder, modality: str) -> BenchError:
    have = [name for name in MODALITIES if embeds(encoder, name)]
    return BenchError(f"{encoder.name} embeds no {modality}; it embeds {' and '.join(have) or 'nothing'}")


def embed(encoder: Embedder, modality: str, media: list[Any], sample_rate: int | None = None) -> np.ndarray:
    """Return float32 (N, D) of media, checked.

    Raises:
        BenchError: the encoder takes no such thing, or returns what is no embedding.
    """
    method = getattr(encoder, f"embed_{modality}", None)
    if not callable(method):
        raise _lacking(encoder, modality)
    found = method(media, sample_rate or encoder.sample_rate) if modality == "audio" else method(media)
    found = np.asarray(found, dtype=np.float32)
    if found.ndim != 2 or len(found) != len(media) or not np.isfinite(found).all():
        raise BenchError(f"{encoder.name} returned {modality} {found.shape}, want ({len(media)}, D), all finite")
    return found


def embed_items(
    encoder: Embedder,
    modality: str,
    items: Items,
    cache: Path | None = None,
    progress: Progress = lambda done, total, text: None,
) -> np.ndarray:
    """Return float32 (N, D) of all items, from the cache where they are in it.

    Raises:
        BenchError: as `embed`; or the cache is damaged.
        NeedsError: there are no media, and the encoder needs them.
    """
    if isinstance(encoder, KnownEncoder):
        return encoder.embed_known(modality, items.classes, items.instances, "\n".join(items.keys))
    check_embeds(encoder, modality)
    if items.load is None:
        raise NeedsError(
            f"{encoder.name}: the {modality} is not there", status="needs-data", expected=tuple(items.keys[:3])
        )
    stored, load = EmbeddingCache(cache, encoder.fingerprint, modality, items.preprocessing), items.load
    parts = []
    for start in range(0, len(items.keys), BATCH):
        numbers = range(start, min(start + BATCH, len(items.keys)))

        def compute(numbers: range = numbers) -> np.ndarray:
            return embed(encoder, modality, [load(number) for number in numbers])

        parts.append(stored.block([items.keys[number] for number in numbers], compute))
        progress(numbers[-1] + 1, len(items.keys), modality)
    return np.concatenate(parts) if parts else np.zeros((0, KNOWN_DIM), dtype=np.float32)


def content_key(medium: np.ndarray | bytes) -> str:
    """Return the hash of a medium's contents, for `Items.keys`."""
    data = medium if isinstance(medium, bytes) else np.ascontiguousarray(medium).tobytes()
    return hashlib.sha256(data).hexdigest()


def unit(vectors_ND: np.ndarray) -> np.ndarray:
    """Return the vectors at length 1, float32; a vector of nothing but zeros stays."""
    norms = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return (vectors_ND / np.maximum(norms, 1e-12)).astype(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownEncoder:
    """Chance and ceiling: embeds no media, but what the protocol knows of them, or nothing of it."""

    name: str
    seed: int = 0
    sample_rate: int = SAMPLE_RATE

    @property
    def fingerprint(self) -> str:
        """Return what decides the embeddings."""
        return f"{self.name} {self.seed}"

    def embed_known(self, modality: str, classes: np.ndarray, instances: np.ndarray, items: str = "") -> np.ndarray:
        """Return float32 (N, D), unit norm.

        `oracle`: the same for one instance in every modality, near for one class. `random`: independent of all, and
        drawn anew for other `items`, or training clips would be the measured ones in disguise.
        """
        if self.name == "random":
            drawn = hashlib.sha256(f"{modality}\n{items}".encode()).digest()
            rng = np.random.Generator(np.random.Philox(key=[self.seed, int.from_bytes(drawn[:8])]))
            return unit(rng.standard_normal((len(classes), KNOWN_DIM)))
        own = np.random.Generator(np.random.Philox(key=[self.seed, 0]))
        weights_NC = classes if classes.ndim == 2 else None
        num_classes = weights_NC.shape[1] if weights_NC is not None else int(classes.max(initial=0)) + 1
        table_CD = np.random.Generator(np.random.Philox(key=[self.seed, 9])).standard_normal((num_classes, KNOWN_DIM))
        of_class = weights_NC @ table_CD if weights_NC is not None else table_CD[classes]
        of_instance = own.standard_normal((int(instances.max(initial=-1)) + 2, KNOWN_DIM))
        of_instance[-1] = 0  # instance -1: nothing but its class
        return unit(of_class + 0.3 * of_instance[instances])


def run_fingerprint(fingerprints: dict[str, str]) -> str:
    """Return what a run is known by here, of the fingerprints of its modalities."""
    return hashlib.sha256(json.dumps(fingerprints, sort_keys=True).encode()).hexdigest()


class RunEncoder:
    """A run of ours."""

    def __init__(self, encoder: Encoder, name: str) -> None:
        """Wrap a loaded run; it takes text only where the run does."""
        self.name, self.sample_rate, self._encoder = name, SAMPLE_RATE, encoder
        self.fingerprint = run_fingerprint(encoder.fingerprints())
        self.embed_text = encoder.text if encoder.has_text else None

    def embed_audio(self, sounds: list[np.ndarray], sample_rate: int) -> np.ndarray:
        """Return float32 (N, D) of sounds at 16 kHz."""
        assert sample_rate == SAMPLE_RATE
        return self._encoder.audio(sounds)

    def embed_image(self, pictures: list[np.ndarray]) -> np.ndarray:
        """Return float32 (N, D)."""
        return self._encoder.image(pictures)


class LogMelEncoder:
    """The baseline that nobody trained: mean and deviation over time of the log-mel spectrum."""

    name, fingerprint, sample_rate = "logmel", "logmel 64 mean sd", SAMPLE_RATE

    def embed_audio(self, sounds: list[np.ndarray], sample_rate: int) -> np.ndarray:
        """Return float32 (N, 128) of sounds at 16 kHz."""
        assert sample_rate == SAMPLE_RATE
        spectra = [log_mel(sound) for sound in sounds]
        return np.stack([np.concatenate([s.mean(axis=1), s.std(axis=1)]) for s in spectra]).astype(np.float32)


class ClipEncoder:
    """A model of the CLIP family, pictures and texts."""

    def __init__(self, place: str) -> None:
        """Load the folder that `save_pretrained` wrote."""
        from ..model.clip import clip_tower

        tower = clip_tower(place)
        self.name, self.fingerprint, self.sample_rate = f"clip:{Path(place).name}", tower.fingerprint, 0
        self.embed_image, self.embed_text = tower.embed, tower.embed_text


class TowerEncoder:
    """A frozen image tower by itself: pictures only."""

    sample_rate = 0

    def __init__(self, name: str) -> None:
        """Load a tower by the name that training knows it by."""
        from ..model.towers import image_tower, image_tower_kind

        tower, kind = image_tower(name), image_tower_kind(name)
        self.name, self.fingerprint, self.embed_image = f"image:{kind}", tower.fingerprint, tower.embed


def open_encoder(name: str, *, seed: int = 0, image_tower: str | None = None) -> Embedder:
    """Open an encoder by name.

    Args:
        name: folder of a run or an index, `logmel`, `random`, `oracle`, `clap:DIR`, `clip:DIR` or
            `image:TOWER`, an image tower as `unibrivl train` names it.
        seed: of `random` and `oracle`.
        image_tower: of a run, where its weights lie now, if they were moved.

    Raises:
        NeedsError: the folder has no weights.
        CheckpointError: they are damaged.
        BenchError: there is no encoder of that name.
    """
    if name in ("random", "oracle"):
        return KnownEncoder(name=name, seed=seed)
    if name == "logmel":
        return LogMelEncoder()
    kind, colon, place = name.partition(":")
    if colon and kind in ("clip", "clap"):
        return _open_transformers(kind, place)
    if colon and kind == "image":
        return _open_tower(place)
    return _open_run(Path(name), image_tower)


def _open_transformers(kind: str, place: str) -> Embedder:
    folder = Path(place).expanduser()
    expected = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer_config.json")
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise NeedsError(
            f"{kind}:{folder.name}: no such weights; put the folder that transformers' save_pretrained wrote there",
            status="needs-weights", expected=tuple(f"{folder.name}/{name}" for name in expected),
        )  # fmt: skip
    if kind == "clip":
        return ClipEncoder(str(folder))
    from .clap import ClapEncoder

    return ClapEncoder(folder)


def _open_tower(name: str) -> Embedder:
    from ..model.towers import image_tower_kind

    place = name.removeprefix(image_tower_kind(name)).removeprefix(":")
    if place and not Path(place).expanduser().exists():
        raise NeedsError(
            f"image:{name}: there is no {place}", status="needs-weights", expected=(Path(place).name,)
        )  # fmt: skip
    return TowerEncoder(name)


def _open_run(folder: Path, image_tower: str | None) -> Embedder:
    from ..index.encoders import open_encoder as open_built
    from ..index.snapshot import open_snapshot

    if (folder / "CURRENT").is_file():
        return RunEncoder(open_built(open_snapshot(folder), image_tower=image_tower), folder.resolve().name)
    if (folder / CHECKPOINT_FILE).is_file():
        return RunEncoder(load_encoder(folder, image_tower), folder.resolve().name)
    known = "logmel, random, oracle, clap:DIR, clip:DIR, image:TOWER, or the folder of a run or an index"
    raise NeedsError(
        f"{folder}: neither a run nor an index; want {known}", status="needs-weights", expected=(CHECKPOINT_FILE,)
    )
