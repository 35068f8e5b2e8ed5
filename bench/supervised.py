"""Trains a language tower from random weights to tell classes of sound, as a bound for what frozen embeddings give.

The last epoch counts: nothing is chosen on the clips that are measured.

Shapes: B clips, T samples, C classes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..model.batches import augment, clip_rng, fit, mask
from ..model.wav2clip import Wav2clipConfig, Wav2clipTower
from ..shards.checks import check_ranges
from ..shards.schema import SAMPLE_RATE


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisedConfig:
    """How a tower is trained on labelled sound."""

    clip_s: float = 5.0
    """Seconds that the tower sees."""
    num_mels: int = 64
    hop: int = 353
    """Samples between spectrogram columns."""
    epochs: int = 40
    batch_size: int = 32
    lr: float = 1e-3
    """Peak, after a tenth of the steps and before a half cosine to zero."""
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    mixup: float = 0.3
    """Parameter of the beta distribution by which spectrograms and labels of two clips are mixed (arXiv 1710.09412);
    0: not at all."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        check_ranges(
            self, epochs=(1, 100_000), batch_size=(2, 1 << 20), lr=(0, 10), weight_decay=(0, 10),
            label_smoothing=(0, 0.99), mixup=(0, 100), seed=(0, 2**31 - 1),
        )  # fmt: skip
        self.tower()

    def tower(self) -> Wav2clipConfig:
        """Return the tower's own configuration."""
        return Wav2clipConfig(clip_s=self.clip_s, num_mels=self.num_mels, hop=self.hop)

    def stored(self) -> dict[str, object]:
        """Return all of it for a result file."""
        return asdict(self)


class SoundClassifier(nn.Module):
    """A `wav2clip` tower and one linear layer."""

    def __init__(self, config: Wav2clipConfig, num_classes: int) -> None:
        """Build it with random weights."""
        super().__init__()
        self.tower = Wav2clipTower(config)
        self.head = nn.Linear(self.tower.embed_dim, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, C) of the tower's features."""
        return self.head(self.tower.encode(features))

    @torch.inference_mode()
    def predict(self, sounds: Sequence[np.ndarray], batch_size: int) -> np.ndarray:
        """Return probabilities float32 (sounds, C)."""
        self.eval()
        parts = []
        for start in range(0, len(sounds), batch_size):
            batch = [fit(sound, self.tower.num_samples) for sound in sounds[start : start + batch_size]]
            parts.append(self(self.tower.features(torch.from_numpy(np.stack(batch)))).softmax(dim=1))
        return torch.cat(parts).numpy()


def train_classifier(
    sounds: Sequence[np.ndarray],
    classes: np.ndarray,
    num_classes: int,
    config: SupervisedConfig,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> SoundClassifier:
    """Train on mono sounds at 16 kHz, float32, of any length.

    Args:
        sounds: of the training clips.
        classes: of each, int64 (sounds,).
        num_classes: C.
        config: how.
        progress: called with steps done, of how many, and the loss.
    """
    torch.manual_seed(config.seed)
    model = SoundClassifier(config.tower(), num_classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    steps_per_epoch = math.ceil(len(sounds) / config.batch_size)
    steps = steps_per_epoch * config.epochs
    for epoch in range(config.epochs):
        order = np.random.Generator(np.random.Philox(key=[config.seed, epoch])).permutation(len(sounds))
        for number, positions in enumerate(np.array_split(order, steps_per_epoch)):
            step = epoch * steps_per_epoch + number
            for group in optimizer.param_groups:
                group["lr"] = config.lr * _rate(step, steps)
            loss = _loss(model, sounds, classes, positions, config, epoch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress(step + 1, steps, f"loss {loss.item():.3f}")
    return model


def _rate(step: int, steps: int) -> float:
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


def _loss(
    model: SoundClassifier,
    sounds: Sequence[np.ndarray],
    classes: np.ndarray,
    positions: np.ndarray,
    config: SupervisedConfig,
    epoch: int,
) -> Tensor:
    model.train()
    rngs = [clip_rng(config.seed, epoch, int(position)) for position in positions]
    audio = [augment(sounds[int(p)], model.tower.num_samples, rng) for p, rng in zip(positions, rngs, strict=True)]
    with torch.no_grad():
        features = mask(model.tower.features(torch.from_numpy(np.stack(audio))), rngs)
    target = torch.from_numpy(classes[positions])
    if not config.mixup:
        return cross_entropy(model(features), target, label_smoothing=config.label_smoothing)
    shares = torch.tensor([rng.beta(config.mixup, config.mixup) for rng in rngs], dtype=torch.float32)
    logits = model(features.lerp(features.roll(1, 0), shares[:, None, None, None]))
    losses = [
        cross_entropy(logits, labels, label_smoothing=config.label_smoothing, reduction="none")
        for labels in (target, target.roll(1, 0))
    ]
    return (losses[0] * (1 - shares) + losses[1] * shares).mean()


def read_sound(samples: np.ndarray, sample_rate: int, wanted: int = SAMPLE_RATE) -> np.ndarray:
    """Return float32 (samples,), mono, at `wanted` Hz, of float32 (samples, channels)."""
    from torchaudio.functional import resample

    mono = torch.from_numpy(samples.mean(axis=1))
    return resample(mono, sample_rate, wanted).numpy()
