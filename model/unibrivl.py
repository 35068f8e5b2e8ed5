"""The model: a trained language tower and two projections beside a frozen image tower.

With a queue there are momentum copies of all three, which make the queue's keys. The frozen image tower is its own
momentum copy. Copies follow parameters only, as in MoCo: the copied tower has batch statistics of its own, and trains
as the live one does (dropout, batch norm in training mode); no shuffling is needed, since sounds and pictures share no
batch statistics. Copied projections never drop out: they read the whole queue at every step.

Shapes: B clips, N clips of all processes, K queue slots, T samples, A = 512 audio dimensions, V image dimensions.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .gather import gather, rank
from .heads import projection
from .library import fingerprint
from .loss import (
    Candidates,
    Embeddings,
    LossConfig,
    LossTerms,
    choose_candidates,
    cross_projection_loss,
    mutual_neighbours,
)
from .queues import Queued, Queues
from .towers import language_options, language_tower

Related = Callable[[Tensor, Tensor], Tensor]
"""From two tensors of ids, (N,) and (M,), to which pairs are related, boolean (N, M)."""
IN_BATCH_ONLY = LossConfig(queue_size=0)
TRAINING_ONLY = ("queues", "key_language", "key_f", "key_g")
"""Parts that exist only with a queue, and that no embedding needs."""


class UniBriVL(nn.Module):
    """What training changes: the language tower, f, g and the temperatures. The image tower stands outside."""

    def __init__(self, tower: str, options: dict[str, Any], image_dim: int, loss: LossConfig = IN_BATCH_ONLY) -> None:
        """Build the model with random weights.

        Args:
            tower: name of the language tower.
            options: of that tower.
            image_dim: V, the width of the image tower's output.
            loss: what it is trained with.
        """
        super().__init__()
        self.tower_name = tower
        self.options = language_options(tower, options)
        self.loss_config = loss
        self.language = language_tower(tower, options)
        audio_dim = self.language.embed_dim
        self.f = projection(image_dim, audio_dim, hidden=loss.hidden, dropout=loss.dropout)
        self.g = projection(audio_dim, image_dim, hidden=loss.hidden, dropout=loss.dropout)
        log_scale = torch.full((2,), math.log(1 / loss.temperature))
        self.log_scale = nn.Parameter(log_scale, requires_grad=loss.learned_temperature)
        self._keys: list[tuple[Tensor, Tensor, Tensor]] = []
        self.queues: Queues | None = None
        if loss.queue_size:
            self.queues = Queues(loss.queue_size, audio_dim, image_dim)
            self.reset_keys()

    def reset_keys(self) -> None:
        """Copy the live parts to the momentum copies; call it when weights were loaded into the language tower."""
        if self.queues is not None:
            self.key_language = copy.deepcopy(self.language).requires_grad_(False)
            self.key_f = copy.deepcopy(self.f).requires_grad_(False)
            self.key_g = copy.deepcopy(self.g).requires_grad_(False)
            self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; the copied projections stay in eval mode."""
        super().train(mode)
        if self.queues is not None:
            self.key_f.eval()
            self.key_g.eval()
        return self

    @torch.no_grad()
    def begin_step(self) -> None:
        """Let the momentum copies follow; once per optimiser step, before its first micro-batch."""
        self._keys.clear()  # of a step that was given up
        if self.queues is not None:
            follow = get_ema_multi_avg_fn(self.loss_config.momentum)
            for key, live in ((self.key_language, self.language), (self.key_f, self.f), (self.key_g, self.g)):
                follow(list(key.parameters()), list(live.parameters()), 0)

    def loss(self, features: Tensor, image_BV: Tensor, ids_B: Tensor, related: Related) -> LossTerms:
        """Return the loss of a batch or micro-batch, and remember its keys for `end_step`.

        Args:
            features: of the sounds, from the language tower's `features`.
            image_BV: embeddings of the pictures, fixed.
            ids_B: positions of the clips in the catalog.
            related: which pairs are no negatives; a clip is always related to itself.
        """
        image_BV = image_BV.detach()
        audio_BA = self.language.encode(features)
        live = Embeddings(
            audio_MA=audio_BA, image_MV=image_BV, f_image_MA=self.f(image_BV), g_audio_MV=self.g(audio_BA)
        )
        keys = self._make_keys(features, image_BV, ids_B) if self._needs_keys() else None
        kept = self.queues.read() if self.queues is not None else None
        queued = self._project(kept.audio_KA, kept.image_KV) if kept else None
        candidates = self._candidates(ids_B, related, keys, kept, queued)
        partners = _gathered(live) if self.loss_config.in_batch else keys
        assert partners is not None
        scales = self.log_scale.clamp(max=math.log(self.loss_config.max_scale)).exp()
        return cross_projection_loss(self.loss_config, live, partners, queued, scales, candidates)

    def forward(self, features: Tensor, image_BV: Tensor, ids_B: Tensor, related: Related) -> LossTerms:
        """Return the loss: what a wrapper for several processes calls."""
        return self.loss(features, image_BV, ids_B, related)

    @torch.no_grad()
    def end_step(self) -> None:
        """Enqueue the keys of the step's micro-batches and bound the temperatures; after the optimiser's step."""
        self.log_scale.clamp_(max=math.log(self.loss_config.max_scale))
        if self.queues is not None and self._keys:
            for keys in self._keys:  # one after another: the order in the queue is then that of one process
                self.queues.enqueue(*keys)
        self._keys.clear()

    def _needs_keys(self) -> bool:
        return self.queues is not None and (self.training or not self.loss_config.in_batch)

    @torch.no_grad()
    def _make_keys(self, features: Tensor, image_BV: Tensor, ids_B: Tensor) -> Embeddings:
        """Return what the momentum copies make of a batch; remember it in training."""
        audio_BA = self.key_language.encode(features)
        if self.training:
            self._keys.append((audio_BA, image_BV, ids_B))
        return self._project(audio_BA, image_BV)

    @torch.no_grad()
    def _project(self, audio_MA: Tensor, image_MV: Tensor) -> Embeddings:
        f_image_MA, g_audio_MV = self.key_f(image_MV), self.key_g(audio_MA)
        return Embeddings(audio_MA=audio_MA, image_MV=image_MV, f_image_MA=f_image_MA, g_audio_MV=g_audio_MV)

    def _candidates(
        self, ids_B: Tensor, related: Related, keys: Embeddings | None, kept: Queued | None, queued: Embeddings | None
    ) -> Candidates:
        ids_N, offset = gather(ids_B), rank() * len(ids_B)
        same_BN = related(ids_B, ids_N) | (ids_B[:, None] == ids_N)
        if kept is None or queued is None:
            return choose_candidates(self.loss_config, same_BN, offset)
        barred_BK = related(ids_B, kept.ids_K) | (ids_B[:, None] == kept.ids_K) | ~kept.filled_K
        extra_BK = None
        if self.loss_config.topk and keys is not None:
            extra_BK = mutual_neighbours(keys, queued, barred_BK, self.loss_config.topk)
        return choose_candidates(self.loss_config, same_BN, offset, barred_BK, extra_BK)

    @torch.no_grad()  # a model in parts could not train on what it put together in inference mode
    def embed_audio(self, audio_BT: Tensor) -> Tensor:
        """Return g(a), unit norm (B, V): the sound in the image tower's space (Wav2CLIP's inference)."""
        return normalize(self.project_audio(audio_BT), dim=1)

    def project_audio(self, audio_BT: Tensor) -> Tensor:
        """Return g(a) (B, V) of the length that it has."""
        return self.g(self.language(audio_BT))

    def describe(self) -> dict[str, Any]:
        """Return what, beside the weights, decides the embedding of a sound."""
        options = self.options | ({"weights": ""} if "weights" in self.options else {})  # a path decides nothing
        return {
            "tower": self.tower_name, "options": options, "pooling": self.language.pooling, "output": "g(a), unit norm"
        }  # fmt: skip

    def fingerprint(self) -> str:
        """Return a SHA-256 over all that decides the embedding of a sound."""
        state = {k: v for k, v in self.state_dict().items() if k.startswith(("language.", "g."))}
        return fingerprint(self.describe(), state)


def _gathered(live: Embeddings) -> Embeddings:
    return Embeddings(
        audio_MA=gather(live.audio_MA),
        image_MV=gather(live.image_MV),
        f_image_MA=gather(live.f_image_MA),
        g_audio_MV=gather(live.g_audio_MV),
    )
