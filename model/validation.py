"""Retrieval among the validation clips, in both directions; every process embeds its share of the sounds."""

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.nn.functional import normalize

from ..shards import ClipLoader
from .batches import decoded, fit, sounds_of
from .errors import TrainError
from .journal import Validation
from .relation import MIN_OVERLAP, related
from .retrieval import score
from .train_config import TrainConfig
from .train_data import TrainData
from .unibrivl import UniBriVL


class Validator:
    """Looks at the validation clips every now and then."""

    def __init__(self, config: TrainConfig, data: TrainData, accelerator: Accelerator) -> None:
        """Prepare to read the clips."""
        self.data = data
        self.accelerator = accelerator
        self._clips = data.clips.take(data.val, fields=("audio",))
        self._loader: ClipLoader = self._clips.loader(
            batch_size=config.batch_of_each(accelerator.num_processes), shuffle="none", drop_last=False,
            rank=accelerator.process_index, world_size=accelerator.num_processes,
        )  # fmt: skip

    def scores(self, model: UniBriVL) -> Validation:
        """Return how well sounds find pictures and pictures sounds, beside chance; the model is left in eval mode.

        Raises:
            TrainError: the model has grown beyond what numbers hold.
        """
        model.eval()
        embedded_NV = self._embed(model)
        if not embedded_NV.isfinite().all():
            raise TrainError("embeddings of validation clips became nan; lower --lr and start again in another --out")
        scores = (embedded_NV @ self.data.images.plain[self.data.val].T).numpy()
        spans = self.data.spans.take(self.data.val)
        relevant = related(spans, spans, min_overlap=MIN_OVERLAP)
        return {"audio_to_image": score(scores, relevant), "image_to_audio": score(scores.T, relevant)}

    def _embed(self, model: UniBriVL) -> torch.Tensor:
        """Return the embeddings (clips, V) of all validation sounds, in every process."""
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for batch in decoded(self._loader):
            audio = np.stack([fit(sound, model.language.num_samples) for sound in sounds_of(batch)])
            with self.accelerator.autocast():
                embedded = model.embed_audio(torch.from_numpy(audio).to(self.accelerator.device))
            found.append((batch["position"], normalize(embedded.float(), dim=1).cpu().numpy()))
        everyone = gather_object(found) if self.accelerator.num_processes > 1 else found
        embeddings_NV = np.empty((len(self.data.val), everyone[0][1].shape[1]), dtype=np.float32)
        for positions, values in everyone:
            embeddings_NV[positions] = values
        return torch.from_numpy(embeddings_NV)

    def close(self) -> None:
        """End the reader."""
        self._loader.close()
        self._clips.close()


def mean_figure(scores: Validation, name: str) -> float:
    """Return the mean of both directions of a figure such as `mrr`, `r10` or `chance_mrr`."""
    return float(np.mean([getattr(direction, name) for direction in scores.values()]))
