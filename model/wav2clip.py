"""The `wav2clip` language tower: a ResNet-18 on the log spectrogram of 16 kHz sound.

Source: Wav2CLIP (arXiv 2110.11499), whose public code takes n_fft 512, hop 353, log(x + 1e-7). `num_mels` is ours:
0 keeps Wav2CLIP's 257 linear bands; 64 mel bands cost a quarter and are what a CPU can train.

Shapes: B clips, T samples, F bands, N spectrogram columns, D = 512.
"""

from dataclasses import dataclass

import torch
import torchaudio
import torchvision
from torch import Tensor, nn

from ..shards import SAMPLE_RATE
from ..shards.checks import check_numbers, check_whole

N_FFT = 512
MAX_MELS = 114
"""With more, a band at the low end would hold no frequency at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wav2clipConfig:
    """The tower's front end."""

    clip_s: float = 10.0
    """Seconds that the tower sees: longer sound is cut, shorter is followed by silence."""
    hop: int = 353
    """Samples between spectrogram columns."""
    num_mels: int = 0
    """Mel bands; 0: the linear spectrogram."""
    standardize: bool = False
    """Brings each clip's log spectrogram to mean 0 and deviation 1, as Wav2CLIP's released weights want it."""
    weights: str = ""
    """Folder of imported weights that training starts from; none: random weights."""

    def __post_init__(self) -> None:
        """Refuse values that make no spectrogram."""
        check_numbers(self, clip_s=(0.1, 600))
        check_whole(self, hop=(16, 16_000), num_mels=(0, MAX_MELS))


def mel_spectrogram(hop: int, num_mels: int) -> torchaudio.transforms.MelSpectrogram:
    """Return the front end of mel bands; torchaudio looks at its filters, which so need memory in any network."""
    with torch.device("cpu"):
        return torchaudio.transforms.MelSpectrogram(SAMPLE_RATE, n_fft=N_FFT, hop_length=hop, n_mels=num_mels)


class Wav2clipTower(nn.Module):
    """Sound to an unnormalised embedding."""

    embed_dim = 512
    pooling = "average"

    def __init__(self, config: Wav2clipConfig) -> None:
        """Build the tower with random weights."""
        super().__init__()
        self.num_samples = round(config.clip_s * SAMPLE_RATE)
        self.config = config
        if config.num_mels:
            self.spectrogram = mel_spectrogram(config.hop, config.num_mels)
        else:
            self.spectrogram = torchaudio.transforms.Spectrogram(n_fft=N_FFT, hop_length=config.hop)
        self.encoder = torchvision.models.resnet18(weights=None)
        self.encoder.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.encoder.fc = nn.Identity()  # type: ignore[assignment]

    def features(self, audio_BT: Tensor) -> Tensor:
        """Return the log spectrogram (B, 1, F, N) of sound in -1 to 1."""
        x_B1FN = torch.log(self.spectrogram(audio_BT) + 1e-7)[:, None]
        if not self.config.standardize:
            return x_B1FN
        # the original takes mean and deviation over the whole batch: the same for the one clip that it embeds at a time
        mean, std = x_B1FN.mean(dim=(1, 2, 3), keepdim=True), x_B1FN.std(dim=(1, 2, 3), keepdim=True)
        return (x_B1FN - mean) / (std + 1e-9)

    def encode(self, features_B1FN: Tensor) -> Tensor:
        """Return embeddings (B, D) of log spectrograms."""
        return self.encoder(features_B1FN)

    def forward(self, audio_BT: Tensor) -> Tensor:
        """Return embeddings (B, D) of sound (B, `num_samples`)."""
        return self.encode(self.features(audio_BT))
