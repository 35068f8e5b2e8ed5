"""A tower of ours, or of anybody's, as a model of MTEB: its tasks of sound, pictures and text measure it.

`mteb` is an extra and takes seconds to import, so it loads with the first use. Sounds are decoded and resampled here,
as everywhere in `bench`, so torchcodec is not needed. Nothing is fetched or sent by this module; MTEB fetches the data
sets of the tasks that it is given. Source of the protocol: mteb 2.26, models/models_protocols.py.

Shapes: N items, D dimensions.
"""

import hashlib
import io
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from .encoders import MODALITIES, Embedder, KnownEncoder, embed, embeds, open_encoder, unit
from .errors import BenchError
from .supervised import read_sound

if TYPE_CHECKING:
    from mteb.models import ModelMeta

ORGANIZATION = "unibrivl"
REVISION_DIGITS = 40


class MtebModel:
    """What `mteb.evaluate` takes; it implements MTEB's `EncoderProtocol`."""

    def __init__(self, tower: str | Embedder, *, name: str | None = None) -> None:
        """Open a tower.

        Args:
            tower: as `--tower` names it (a run, an index, `clap:DIR`, `clip:DIR`, `logmel`), or any object as
                `encoders.py` describes it.
            name: in results, `organization/name`; by default the tower's.

        Raises:
            BenchError: mteb is not installed, or the tower looks at no media.
            NeedsError: its weights are not there.
        """
        _mteb()
        self.encoder = open_encoder(tower) if isinstance(tower, str) else tower
        if isinstance(self.encoder, KnownEncoder):
            raise BenchError(
                f"{self.encoder.name} is told the truth by our own tables, which MTEB does not; use another"
            )
        self._meta = _meta(self.encoder, name)

    @property
    def mteb_model_meta(self) -> "ModelMeta":
        """Return what MTEB tells of the model: its name, fingerprint and modalities."""
        return self._meta

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Return float32 (N, D) of all items of a DataLoader; of an item with several media, the sum of their units.

        Raises:
            BenchError: the items are of a kind that the tower does not take, or not readable.
        """
        if kwargs.get("precision") not in (None, "float32"):
            raise BenchError(f"precision is {kwargs['precision']!r}, want float32: embeddings are not quantized here")
        parts = [self._embedded(batch, str(task_metadata.name)) for batch in _undecoded(inputs)]
        if not parts:
            raise BenchError(f"{task_metadata.name}: has no items to embed")
        return np.concatenate(parts)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the cosines (N, M) of two sets of embeddings."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the cosines (N,) of embeddings in pairs."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)

    def _embedded(self, batch: dict[str, Any], task: str) -> np.ndarray:
        found = [modality for modality in MODALITIES if modality in batch]
        if "video" in batch or not found:
            kinds = "video" if "video" in batch else " and ".join(batch) or "nothing"
            raise BenchError(f"{task}: its items are {kinds}; {self.encoder.name} embeds {_taken(self.encoder)}")
        sides = [self._side(modality, batch[modality], task) for modality in found]
        return sides[0] if len(sides) == 1 else np.sum([unit(side) for side in sides], axis=0)

    def _side(self, modality: str, items: Iterable[Any], task: str) -> np.ndarray:
        if not embeds(self.encoder, modality):
            embed(self.encoder, modality, [])  # says so before anything is decoded
        if modality == "audio":
            return embed(self.encoder, modality, [_sound(item, self.encoder.sample_rate, task) for item in items])
        return embed(self.encoder, modality, [_picture(item, task) if modality == "image" else item for item in items])


def _mteb() -> Any:
    try:
        import mteb
    except ImportError as e:
        raise BenchError(f"{e.name} is not installed: run pip install 'unibrivl[mteb]'") from e
    return mteb


def _meta(encoder: Embedder, name: str | None) -> "ModelMeta":
    from mteb.models import ModelMeta
    from mteb.models.model_meta import ScoringFunction

    own = f"{ORGANIZATION}/{re.sub(r'[^A-Za-z0-9._-]+', '-', encoder.name)}"
    told = {
        "name": name or own, "revision": hashlib.sha256(encoder.fingerprint.encode()).hexdigest()[:REVISION_DIGITS],
        "modalities": [modality for modality in MODALITIES if embeds(encoder, modality)],
        "similarity_fn_name": ScoringFunction.COSINE, "framework": ["PyTorch"],
    }  # fmt: skip
    return ModelMeta.create_empty(told)


def _taken(encoder: Embedder) -> str:
    return " and ".join(modality for modality in MODALITIES if embeds(encoder, modality)) or "nothing"


def _undecoded(inputs: Any) -> Iterable[dict[str, Any]]:
    """Return the batches of a DataLoader with sounds as they are stored, where its data set would decode them."""
    from datasets import Audio, Dataset
    from torch.utils.data import DataLoader

    dataset = getattr(inputs, "dataset", None)
    if not isinstance(dataset, Dataset) or not isinstance(dataset.features.get("audio"), Audio):
        return inputs
    stored = dataset.cast_column("audio", Audio(decode=False))
    return DataLoader(
        stored,  # pyright: ignore[reportArgumentType]  # a Dataset is what MTEB itself gives it
        batch_size=inputs.batch_size, collate_fn=inputs.collate_fn, num_workers=inputs.num_workers, shuffle=False,
    )  # fmt: skip


def _sound(item: Any, sample_rate: int, task: str) -> np.ndarray:
    """Return float32 (samples,), mono, of a sound as a file, as bytes, or as an array with its rate."""
    if isinstance(item, dict) and "array" not in item:
        data, path = item.get("bytes"), item.get("path")
        try:
            samples, rate = soundfile.read(io.BytesIO(data) if data else str(path), dtype="float32", always_2d=True)
        except soundfile.SoundFileError as e:
            raise BenchError(f"{task}: {path or 'a sound'}: not readable as sound ({e})") from e
        if not len(samples):
            raise BenchError(f"{task}: {path or 'a sound'}: holds no sound")
        return read_sound(samples, rate, sample_rate)
    samples, rate = np.asarray(item["array"], dtype=np.float32), int(item["sampling_rate"])
    if samples.ndim != 1 or not len(samples):
        raise BenchError(f"{task}: a sound of shape {samples.shape}, want (samples,), mono and not empty")
    return read_sound(samples[:, None], rate, sample_rate)


def _picture(item: Any, task: str) -> np.ndarray:
    """Return uint8 (H, W, 3) of a Pillow picture."""
    if not callable(getattr(item, "convert", None)):
        raise BenchError(f"{task}: a picture is {type(item).__name__}, want one of Pillow's")
    return np.asarray(item.convert("RGB"))
