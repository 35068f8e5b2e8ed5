"""The model: a trained language tower and two projections beside a frozen image tower.

Shapes: B clips, T samples, A = 512 audio dimensions, V image dimensions.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .heads import projection
from .library import fingerprint
from .loss import cross_projection_loss
from .towers import language_options, language_tower

TEMPERATURE = 0.07
"""At the start of training (Wav2CLIP, CLIP); learned from there."""
MAX_LOG_SCALE = math.log(100)
"""CLIP's clamp of the learned inverse temperature."""


class UniBriVL(nn.Module):
    """What training changes: the language tower, f, g and the temperatures. The image tower stands outside."""

    def __init__(self, tower: str, options: dict[str, Any], image_dim: int) -> None:
        """Build the model with random weights.

        Args:
            tower: name of the language tower.
            options: of that tower.
            image_dim: V, the width of the image tower's output.
        """
        super().__init__()
        self.tower_name = tower
        self.options = language_options(tower, options)
        self.language = language_tower(tower, options)
        self.f = projection(image_dim, self.language.embed_dim)
        self.g = projection(self.language.embed_dim, image_dim)
        self.log_scale = nn.Parameter(torch.full((2,), math.log(1 / TEMPERATURE)))

    def loss(self, features: Tensor, image_BV: Tensor, same_BB: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two terms of the cross-projection loss for the tower's input features."""
        audio_BA = self.language.encode(features)
        scales = self.log_scale.clamp(max=MAX_LOG_SCALE).exp()
        return cross_projection_loss(audio_BA, image_BV, self.f(image_BV), self.g(audio_BA), scales, same_BB)

    @torch.inference_mode()
    def embed_audio(self, audio_BT: Tensor) -> Tensor:
        """Return g(a), unit norm (B, V): the sound in the image tower's space (Wav2CLIP's inference)."""
        return normalize(self.g(self.language(audio_BT)), dim=1)

    def describe(self) -> dict[str, Any]:
        """Return what, beside the weights, decides the embedding of a sound."""
        return {"tower": self.tower_name, "options": self.options, "pooling": "average", "output": "g(a), unit norm"}

    def fingerprint(self) -> str:
        """Return a SHA-256 over all that decides the embedding of a sound."""
        state = {k: v for k, v in self.state_dict().items() if k.startswith(("language.", "g."))}
        return fingerprint(self.describe(), state)
