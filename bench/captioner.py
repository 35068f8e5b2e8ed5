"""A small transformer that writes captions from a tower's frozen embeddings: one decoder, two presets.

What each preset takes from a published baseline is taken as it is; the decoder of 2020 was a recurrent one, whose
width, dropout, steps and training are kept. Features are brought to mean 0 and deviation 1 by the training clips.

Shapes: B clips, F features of a clip (the whole clip's, then those of its seconds), D their width, W words of a
caption, V words of the vocabulary, M the decoder's width, K beams.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, pad
from torch.nn.utils.rnn import pad_sequence

from ..shards.checks import check_ranges
from .captions import BOS, EOS, PAD, UNK

SCHEDULES = ("constant", "cosine")
MAX_FEATURES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionerConfig:
    """A decoder, how it is trained, and how it writes."""

    dim: int = 256
    """M."""
    layers: int
    heads: int
    feedforward: int
    dropout: float
    lr: float
    schedule: str
    """Over epochs: `constant`, or `cosine`, half of one down to zero."""
    weight_decay: float = 0.0
    """Of matrices, by AdamW."""
    batch_size: int
    """Clips with a caption each."""
    epochs: int
    patience: int
    """Epochs without a better validation, after which training ends."""
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    """Of the beta distribution by which features and input words of two examples are mixed, the first one's share above
    a half; its words are what is learnt. 0: not at all."""
    every_caption: bool
    """An epoch is True: every caption of every clip; False: one of each clip, drawn."""
    beam: int
    min_words: int = 1
    max_words: int

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        check_ranges(
            self, dim=(2, 4096), layers=(1, 48), heads=(1, 64), feedforward=(1, 1 << 16), dropout=(0, 0.99),
            lr=(0, 10), weight_decay=(0, 10), batch_size=(1, 1 << 20), epochs=(1, 100_000), patience=(1, 100_000),
            max_grad_norm=(0, None), label_smoothing=(0, 0.99), mixup=(0, 100), beam=(1, 64),
            max_words=(1, 200), min_words=(0, self.max_words),
        )  # fmt: skip
        if self.dim % 2 or self.dim % self.heads:
            raise ValueError(f"dim is {self.dim}, want an even multiple of heads, {self.heads}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {self.schedule!r}, want one of {', '.join(SCHEDULES)}")


PRESETS = {
    # audio-captioning/dcase-2020-baseline, settings/method_baseline.yaml and model_baseline.yaml: width, dropout,
    # steps, Adam, batch, epochs, patience, norm, greedy; a layer, four heads and their width are ours
    "dcase2020": CaptionerConfig(
        layers=1, heads=4, feedforward=1024, dropout=0.25, lr=1e-4, schedule="constant", batch_size=16, epochs=300,
        patience=10, every_caption=True, beam=1, max_words=22,
    ),
    # Labbeti/dcase2024-task6-baseline, src/conf/expt/baseline.yaml and src/dcase24t6/nn/decoders/aac_tfmer.py; batches
    # of 64 are there gathered by eight; the patience, which never ends it, and the cosine are ours
    "dcase2024": CaptionerConfig(
        layers=6, heads=8, feedforward=2048, dropout=0.2, lr=5e-4, schedule="cosine", weight_decay=2.0, batch_size=512,
        epochs=400, patience=400, label_smoothing=0.2, mixup=0.4, every_caption=False, beam=3, min_words=3,
        max_words=20,
    ),
}  # fmt: skip


class Captioner(nn.Module):
    """Features in, words out."""

    mean_D: Tensor
    deviation_D: Tensor
    times_FM: Tensor

    def __init__(self, config: CaptionerConfig, feature_dim: int, num_words: int) -> None:
        """Build it with random weights."""
        super().__init__()
        self.config = config
        self.register_buffer("mean_D", torch.zeros(feature_dim))
        self.register_buffer("deviation_D", torch.ones(feature_dim))
        self.register_buffer("times_FM", sinusoids(max(MAX_FEATURES, config.max_words + 2), config.dim), False)
        self.project = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(feature_dim, config.dim), nn.GELU(), nn.LayerNorm(config.dim)
        )
        self.whole = nn.Parameter(torch.zeros(config.dim))
        self.words = nn.Embedding(num_words, config.dim, padding_idx=PAD)
        layer = nn.TransformerDecoderLayer(
            config.dim, config.heads, config.feedforward, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, config.layers, nn.LayerNorm(config.dim))
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.dim, num_words)
        nn.init.normal_(self.words.weight, std=config.dim**-0.5)

    def fit_scale(self, features: list[np.ndarray]) -> None:
        """Take mean and deviation from the training clips' features, each (F, D); a constant one stays as it is."""
        rows = np.concatenate(features).astype(np.float64)
        deviation = rows.std(axis=0)
        self.mean_D.copy_(torch.from_numpy(rows.mean(axis=0)))
        self.deviation_D.copy_(torch.from_numpy(np.where(deviation > 1e-6, deviation, 1.0)))

    def prepared(self, features: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return features, each (F, D), as the network takes them: scaled (B, F, D), and where nothing is (B, F)."""
        parts = [torch.from_numpy(np.asarray(part, dtype=np.float32)) for part in features]
        lengths_B = torch.tensor([len(part) for part in parts])
        stacked_BFD = pad_sequence(parts, batch_first=True)
        is_pad_BF = torch.arange(stacked_BFD.shape[1]) >= lengths_B[:, None]
        scaled_BFD = (stacked_BFD - self.mean_D) / self.deviation_D
        return scaled_BFD.masked_fill(is_pad_BF[:, :, None], 0.0), is_pad_BF

    def embed_words(self, words_BW: Tensor) -> Tensor:
        """Return (B, W, M) of words by number."""
        return self.words(words_BW) * math.sqrt(self.config.dim)

    def forward(self, scaled_BFD: Tensor, is_pad_BF: Tensor, inputs_BWM: Tensor) -> Tensor:
        """Return logits (B, W, V) of the word after each of the inputs."""
        return self.out(self.hidden(scaled_BFD, is_pad_BF, inputs_BWM))

    def hidden(self, scaled_BFD: Tensor, is_pad_BF: Tensor, inputs_BWM: Tensor) -> Tensor:
        """Return (B, W, M), what the logits are made of."""
        memory_BFM = self.project(scaled_BFD) + self.times_FM[: scaled_BFD.shape[1]]
        memory_BFM = torch.cat([memory_BFM[:, :1] + self.whole, memory_BFM[:, 1:]], dim=1)
        length = inputs_BWM.shape[1]
        later_WW = torch.ones(length, length, dtype=torch.bool).triu(1)
        placed_BWM = self.dropout(inputs_BWM + self.times_FM[:length])
        return self.decoder(placed_BWM, memory_BFM, tgt_mask=later_WW, memory_key_padding_mask=is_pad_BF)

    @torch.inference_mode()
    def write(self, features: list[np.ndarray]) -> list[list[int]]:
        """Return the words of a caption for each clip's features (F, D), by beam search; no `BOS`, perhaps an `EOS`."""
        self.eval()
        scaled_BFD, is_pad_BF = self.prepared(features)
        return beam_search(self, scaled_BFD, is_pad_BF)


def beam_search(model: Captioner, scaled_BFD: Tensor, is_pad_BF: Tensor) -> list[list[int]]:
    """Return the words with the best mean log probability among the beams, which are kept by its sum."""
    config, clips, beams = model.config, len(scaled_BFD), model.config.beam
    memory, is_pad = scaled_BFD.repeat_interleave(beams, 0), is_pad_BF.repeat_interleave(beams, 0)
    words = torch.full((clips * beams, 1), BOS)
    sums_BK = torch.full((clips, beams), -torch.inf)
    sums_BK[:, 0] = 0.0
    for step in range(config.max_words + 1):
        logits = model.out(model.hidden(memory, is_pad, model.embed_words(words))[:, -1])
        next_BKV = _next(logits, words[:, -1], step, config).view(clips, beams, -1)
        totals = (sums_BK[:, :, None] + next_BKV).flatten(1)
        sums_BK, chosen = totals.topk(beams, dim=1)
        origin = (chosen // next_BKV.shape[2] + torch.arange(clips)[:, None] * beams).flatten()
        words = torch.cat([words[origin], (chosen % next_BKV.shape[2]).view(-1, 1)], dim=1)
        if ((words[:, -1] == EOS) | (words[:, -1] == PAD)).all():
            break
    lengths_BK = (words[:, 1:] != PAD).sum(dim=1).view(clips, beams)
    best = (sums_BK / lengths_BK.clamp(min=1)).argmax(dim=1)
    found = words.view(clips, beams, -1)[torch.arange(clips), best]
    return [[int(word) for word in row[1:] if word != PAD] for row in found]


def _next(logits: Tensor, last: Tensor, step: int, config: CaptionerConfig) -> Tensor:
    """Return log probabilities (B * K, V) of what may follow: after `EOS` only `PAD`, at the end only `EOS`."""
    logits = logits.clone()
    logits[:, [PAD, BOS, UNK]] = -torch.inf
    found = log_softmax(logits, dim=1)
    if step < config.min_words:
        found[:, EOS] = -torch.inf
    if step == config.max_words:
        found[:, EOS + 1 :] = -torch.inf
    is_over = (last == EOS) | (last == PAD)
    found[is_over] = -torch.inf
    found[is_over, PAD] = 0.0
    return found


def sinusoids(length: int, dim: int) -> Tensor:
    """Return the positions (length, dim) of arXiv 1706.03762, section 3.5."""
    angles = torch.arange(length)[:, None] * torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def padded_words(captions: list[list[int]]) -> Tensor:
    """Return int64 (B, W), filled with `PAD`."""
    longest = max(map(len, captions))
    return torch.stack([pad(torch.tensor(words), (0, longest - len(words)), value=PAD) for words in captions])
