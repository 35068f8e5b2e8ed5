"""The `tdnn` language tower: a time-delay network on log-mel bands, for short sounds and few clips.

Convolutions over time alone, each band a channel, then mean and maximum over time: whatever was heard counts wherever
it was heard. Source: x-vectors (Snyder et al., ICASSP 2018), with their mean and deviation replaced by mean and
maximum. Trained from nothing on a few hundred spoken names it finds unseen pictures where a ResNet-18 on the same
spectrogram learns the clips by heart (docs/log.md), at a fraction of the cost.

Shapes: B clips, T samples, F bands, N spectrogram columns, D = 512.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..shards import SAMPLE_RATE
from ..shards.checks import check_numbers, check_whole
from .wav2clip import MAX_MELS, mel_spectrogram

FLOOR = 1e-6
LAYERS = ((5, 1, 1), (3, 1, 2), (3, 2, 1), (3, 3, 1), (1, 1, 1))
"""Kernel, dilation and stride of each convolution: 21 columns and their neighbours, a fifth of a second at 10 ms."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TdnnConfig:
    """The tower's front end and size."""

    clip_s: float = 10.0
    """Seconds that the tower sees: longer sound is cut, shorter is followed by silence."""
    hop: int = 160
    """Samples between spectrogram columns."""
    num_mels: int = 64
    width: int = 256
    """Channels; the last convolution has twice as many."""
    dropout: float = 0.3
    """Before the last layer; half of it behind each convolution."""

    def __post_init__(self) -> None:
        """Refuse values that make no network."""
        check_numbers(self, clip_s=(0.1, 600), dropout=(0, 0.95))
        check_whole(self, hop=(16, 16_000), num_mels=(4, MAX_MELS), width=(8, 8192))


class TdnnTower(nn.Module):
    """Sound to an unnormalised embedding."""

    embed_dim = 512
    pooling = "mean and maximum over time"

    def __init__(self, config: TdnnConfig) -> None:
        """Build the tower with random weights."""
        super().__init__()
        self.num_samples = round(config.clip_s * SAMPLE_RATE)
        self.config = config
        self.spectrogram = mel_spectrogram(config.hop, config.num_mels)
        self.norm = nn.BatchNorm1d(config.num_mels)
        widths = (config.num_mels, *[config.width] * (len(LAYERS) - 1), 2 * config.width)
        self.convolutions = nn.Sequential(
            *(_layer(*sizes, *shape, config.dropout / 2) for sizes, shape in zip(pairwise(widths), LAYERS, strict=True))
        )
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(4 * config.width, self.embed_dim))

    def features(self, audio_BT: Tensor) -> Tensor:
        """Return the log-mel spectrogram (B, 1, F, N) of sound in -1 to 1."""
        return torch.log(self.spectrogram(audio_BT) + FLOOR)[:, None]

    def encode(self, features_B1FN: Tensor) -> Tensor:
        """Return embeddings (B, D) of log-mel spectrograms."""
        x_BCN = self.convolutions(self.norm(features_B1FN[:, 0]))
        return self.head(torch.cat([x_BCN.mean(dim=2), x_BCN.amax(dim=2)], dim=1))

    def forward(self, audio_BT: Tensor) -> Tensor:
        """Return embeddings (B, D) of sound (B, `num_samples`)."""
        return self.encode(self.features(audio_BT))


def _layer(in_dim: int, out_dim: int, kernel: int, dilation: int, stride: int, dropout: float) -> nn.Sequential:
    convolution = nn.Conv1d(
        in_dim, out_dim, kernel, dilation=dilation, stride=stride, padding=dilation * (kernel // 2), bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm1d(out_dim), nn.ReLU(), nn.Dropout(dropout))
