"""SpeechLM: one network for 16 kHz sound and for text as phoneme units, under the names of its checkpoints.

Sound passes a convolutional front end, the Speech Transformer and the Shared Transformer; text units pass the Shared
Transformer alone. Nothing here pools states or knows of pictures: `speechlm_tower.py` does.

Shapes: B clips, T samples, N frames (50 a second), U units, D width.

Source: arXiv 2209.15329; microsoft/SpeechT5, folder SpeechLM, whose results the tests compare.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from .errors import CheckpointError, TextError
from .speechlm_config import PADDING, SPEECHLM_BASE, SPEECHLM_LARGE, SpeechLMConfig
from .speechlm_layers import ConvFrontEnd, SharedTransformer, SpeechTransformer, Transposed

__all__ = ["SPEECHLM_BASE", "SPEECHLM_LARGE", "SpeechLM", "SpeechLMConfig", "States"]

MIN_SPANS = 2
"""Of masked frames in a clip of training (fairseq)."""


@dataclass(frozen=True, slots=True)
class States:
    """What a pass through the network gives."""

    layers: list[Tensor]
    """State (B, N, D) behind each layer passed: of both stacks for sound, of the shared one for text."""
    last: Tensor
    """The network's output (B, N, D): the last state, in pre-norm networks behind one more norm."""
    padding_BN: Tensor | None
    """True where a frame or unit is padding."""
    embedded: Tensor
    """What went into the first layer of the Shared Transformer (B, N, D)."""


class SpeechLM(nn.Module):
    """The network; a new one has random weights."""

    def __init__(self, config: SpeechLMConfig) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.config = config
        channels = config.conv_layers[-1][0]
        self.feature_extractor = ConvFrontEnd(config)
        self.layer_norm = nn.LayerNorm(channels)
        self.post_extract_proj = nn.Linear(channels, config.dim) if channels != config.dim else nn.Identity()
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.mask_emb = nn.Parameter(torch.empty(config.dim).uniform_())
        self.encoder = SpeechTransformer(config)
        self.unit_encoder = SharedTransformer(config)
        if config.vocabulary:
            self.unit_embed_tokens = nn.Embedding(config.vocabulary, config.dim, padding_idx=PADDING)
        self._add_prediction_heads(config)
        self.apply(_start)

    def _add_prediction_heads(self, config: SpeechLMConfig) -> None:
        """Hold the weights that only pre-training uses, so that a checkpoint has a place for each tensor."""
        self.final_proj_list = nn.ModuleList(
            nn.Linear(config.dim, config.final_dim) for _ in range(config.final_projections)
        )
        self.label_embs_list = nn.ParameterList(
            nn.Parameter(torch.empty(classes, config.final_dim).uniform_()) for classes in config.label_classes
        )
        if config.ctc_classes:
            self.unit_encoder_ctc_head = nn.Sequential(
                nn.Identity(),
                nn.Conv1d(config.dim, config.dim, config.ctc_kernel, bias=False),
                nn.Identity(),
                nn.Sequential(Transposed(), nn.Identity(), nn.LayerNorm(config.dim)),
                nn.GELU(),
                nn.Linear(config.dim, config.ctc_classes),
            )

    def waveform(self, audio_BT: Tensor, padding_BT: Tensor | None = None) -> Tensor:
        """Return sound as `speech` wants it: each clip at mean 0 and variance 1 where the network asks for that."""
        if not self.config.normalize:
            return audio_BT
        if padding_BT is None:
            return layer_norm(audio_BT, audio_BT.shape[-1:])
        real = ~padding_BT
        count = real.sum(dim=1, keepdim=True).clamp(min=1)
        centred = (audio_BT - (audio_BT * real).sum(dim=1, keepdim=True) / count) * real
        return centred * torch.rsqrt(centred.square().sum(dim=1, keepdim=True) / count + 1e-5)

    def speech(
        self,
        audio_BT: Tensor,
        padding_BT: Tensor | None = None,
        *,
        targets_BN: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> States:
        """Return the states of sound; in training mode spans of frames are masked and layers may be dropped.

        Args:
            audio_BT: from `waveform`.
            padding_BT: true behind a clip's end; every clip has some sound.
            targets_BN: each frame's unit; in training random spans of hidden states give way to these units'
                embeddings between the stacks (the paper's random swapping).
            generator: on the CPU, for masks, swaps and dropped layers; None: torch's own. Dropout uses torch's own.
        """
        x = self._frames(audio_BT)
        padding_BN = None if padding_BT is None else frame_padding(padding_BT, x.shape[1])
        x = self.input_dropout(self.post_extract_proj(self.layer_norm(x)))
        masked_BN = None
        if self.training and self.config.mask_prob:
            masked_BN = self._spans(x, padding_BN, self.config.mask_prob, self.config.mask_length, generator)
            x = torch.where(masked_BN[..., None], self.mask_emb.to(x.dtype), x)
        x, speech_states = self.encoder(x, padding_BN, generator)
        if self.config.dim == self.config.final_dim and self.config.final_projections:
            x = self.final_proj_list[0](x)  # the original's hand-off, for networks as wide as their predictions
        if targets_BN is not None and self.training:
            x = self._swap(x, targets_BN, padding_BN, masked_BN, generator)
        embedded = self.unit_encoder.embed(x, padding_BN)
        last, shared_states = self.unit_encoder(embedded, padding_BN, generator)
        return States([*speech_states, *shared_states], last, padding_BN, embedded)

    def text(self, units_BU: Tensor, *, generator: torch.Generator | None = None) -> States:
        """Return the states of text units, where unit 1 is padding; nothing is masked.

        Raises:
            CheckpointError: the network has no unit embedding.
            TextError: a unit is not in the network's vocabulary.
        """
        padding_BU = units_BU == PADDING
        if 0 < self.config.vocabulary <= (most := int(units_BU.max())):
            raise TextError(f"unit {most} is not among the network's {self.config.vocabulary}; use its own vocabulary")
        embedded = self.unit_encoder.embed(self._units(units_BU), padding_BU)
        last, states = self.unit_encoder(embedded, padding_BU, generator)
        return States(states, last, padding_BU, embedded)

    def _frames(self, audio_BT: Tensor) -> Tensor:
        if audio_BT.shape[-1] < self.config.min_samples:
            raise ValueError(f"{audio_BT.shape[-1]} samples make no frame, want at least {self.config.min_samples}")
        frames_BNC = self.feature_extractor(audio_BT)
        factor = self.config.feature_grad_mult
        if factor != 1 and frames_BNC.requires_grad:
            frames_BNC.register_hook(lambda gradient: gradient * factor)
        return frames_BNC

    def _units(self, units: Tensor) -> Tensor:
        if not self.config.vocabulary:
            raise CheckpointError(
                "these SpeechLM weights have no unit embedding; text needs those of a full checkpoint"
            )
        return self.unit_embed_tokens(units)

    def _swap(
        self, x: Tensor, targets_BN: Tensor, padding_BN: Tensor | None, masked_BN: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:  # fmt: skip
        if targets_BN.shape != x.shape[:2]:
            raise ValueError(f"targets have the shape {tuple(targets_BN.shape)}, want {tuple(x.shape[:2])}")
        swapped = self._spans(x, padding_BN, self.config.mask_prob / 2, self.config.mask_length // 2, generator)
        if masked_BN is not None:
            swapped &= ~masked_BN
        return torch.where(swapped[..., None], self._units(targets_BN).to(x.dtype), x)

    def _spans(
        self, x: Tensor, padding_BN: Tensor | None, prob: float, length: int, generator: torch.Generator | None
    ) -> Tensor:
        frames = [x.shape[1]] * len(x) if padding_BN is None else (~padding_BN).sum(dim=1).tolist()
        rows = [random_spans(n, x.shape[1], prob, max(1, length), generator) for n in frames]
        return torch.stack(rows).to(x.device)


def frame_padding(padding_BT: Tensor, num_frames: int) -> Tensor:
    """Return which frames are padding: those whose equal share of the samples is padding throughout (fairseq)."""
    share = padding_BT.shape[1] // num_frames
    return padding_BT[:, : share * num_frames].unflatten(1, (num_frames, share)).all(dim=-1)


def random_spans(num_real: int, num_frames: int, prob: float, length: int, generator: torch.Generator | None) -> Tensor:
    """Return true (num_frames,) in random spans of the first `num_real` frames, which may overlap.

    As fairseq, prob * num_real / length spans, rounded up or down at random, but at least two; other than there,
    clips of a batch may differ in how many frames are masked, and one too short for a span keeps all of its frames.
    """
    mask = torch.zeros(num_frames, dtype=torch.bool)
    if num_real > length:
        wanted = int(prob * num_real / length + torch.rand((), generator=generator).item())
        starts = torch.randperm(num_real - length, generator=generator)[: max(MIN_SPANS, wanted)]
        mask[(starts[:, None] + torch.arange(length)).flatten()] = True
    return mask


def _start(module: nn.Module) -> None:
    """Give a module BERT's start, as fairseq does; convolutions and masks have theirs from where they are built."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()
