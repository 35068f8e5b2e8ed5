"""The `speechlm-base` and `speechlm-large` language towers: SpeechLM and a head on all of its layers.

They take sound, text as phoneme units, or both.

Shapes: B clips, T samples at 16 kHz, U units, A = 512.

Source: the UniBriVL paper; BriVL's text tower for the head (docs/architecture.md).
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from ..shards import SAMPLE_RATE
from ..shards.checks import check_numbers, check_whole
from .errors import CheckpointError
from .imported import load_imported, read_imported
from .pooling import PoolingHead
from .speechlm import SPEECHLM_BASE, SPEECHLM_LARGE, SpeechLM, SpeechLMConfig

SIZES = {"base": SPEECHLM_BASE, "large": SPEECHLM_LARGE}
NETWORK_OPTIONS = tuple(f.name for f in fields(SpeechLMConfig))
Group = tuple[str, list[nn.Parameter]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechlmTowerConfig:
    """The tower: which network, what of it trains, and the head's sizes."""

    size: str = "base"
    """`base` or `large`."""
    clip_s: float = 10.0
    """Seconds that the tower sees; beyond 60 the network has no positions."""
    weights: str = ""
    """Folder of an imported network that training starts from; none: random weights."""
    network: dict[str, Any] = field(default_factory=dict)
    """Options of `SpeechLMConfig` other than those of the size or the imported network; completed when checked, so
    that a stored run needs no folder."""
    trained_layers: int = -1
    """How many layers train, counted from the last; -1: all, and what comes before the first; 0: the head only."""
    freeze_extractor: bool = True
    """Keeps the convolutions of the front end as they are."""
    head_layers: int = 4
    head_heads: int = 4
    """Of the head's self-attention."""
    hidden_dim: int = 512
    """Between the head's last two layers."""
    norm_layers: bool = True
    """Brings each layer's state to unit scale before the layers are mixed."""

    def __post_init__(self) -> None:
        """Refuse values that make no tower, and complete `network`."""
        if self.size not in SIZES:
            raise ValueError(f"size is {self.size!r}, want {' or '.join(map(repr, SIZES))}")
        network = self._network()
        object.__setattr__(self, "network", network.as_dict())
        check_numbers(self, clip_s=(network.min_samples / SAMPLE_RATE, 60))
        check_whole(
            self, head_layers=(1, 100), head_heads=(1, network.dim), hidden_dim=(1, 1 << 16),
            trained_layers=(-1, network.num_layers),
        )  # fmt: skip
        if network.dim % self.head_heads:
            raise ValueError(f"head_heads is {self.head_heads}, want a divisor of the network's width, {network.dim}")

    def _network(self) -> SpeechLMConfig:
        unknown = set(self.network) - set(NETWORK_OPTIONS)
        if unknown:
            raise ValueError(f"network has no option {min(unknown)!r}; it has {', '.join(NETWORK_OPTIONS)}")
        expected = SpeechLMConfig(**SIZES[self.size].as_dict() | self.network)
        if not self.weights or len(self.network) == len(NETWORK_OPTIONS):
            return expected
        stored = SpeechLMConfig(**read_imported(Path(self.weights), "speechlm").config)
        for name in ("dim", "speech_layers", "shared_layers", "pre_norm"):
            if getattr(stored, name) != getattr(expected, name):
                raise CheckpointError(
                    f"{self.weights} holds a network with {name} {getattr(stored, name)}, but this tower's has "
                    f"{getattr(expected, name)}; choose the tower of its size"
                )
        return SpeechLMConfig(**stored.as_dict() | self.network)


class SpeechlmTower(nn.Module):
    """Sound, text, or both to an unnormalised embedding."""

    embed_dim = 512
    pooling = "layers mixed, then attention, then the mean over frames"

    def __init__(self, config: SpeechlmTowerConfig) -> None:
        """Build the tower with random weights; `load_pretrained` brings the network's."""
        super().__init__()
        self.config = config
        self.num_samples = round(config.clip_s * SAMPLE_RATE)
        self.network = SpeechLM(SpeechLMConfig(**config.network))
        self.head = PoolingHead(
            self.network.config.num_layers, self.network.config.dim, self.embed_dim, hidden_dim=config.hidden_dim,
            attention_layers=config.head_layers, attention_heads=config.head_heads, norm_layers=config.norm_layers,
        )  # fmt: skip
        self.requires_grad_(False)
        for _, parameters in self._trained():
            for parameter in parameters:
                parameter.requires_grad_()

    def load_pretrained(self) -> None:
        """Give the network the weights of the configured folder, if there is one.

        Raises:
            CheckpointError: the folder is missing or damaged, or its network is another.
        """
        if self.config.weights:
            load_imported(self.network, "speechlm", Path(self.config.weights))

    def features(self, audio_BT: Tensor, padding_BT: Tensor | None = None) -> Tensor:
        """Return what `encode` takes: the waveform (B, T), normalised where the network asks for that."""
        return self.network.waveform(audio_BT, padding_BT)

    def encode(self, features_BT: Tensor, padding_BT: Tensor | None = None) -> Tensor:
        """Return embeddings (B, A) of waveforms; in training mode, spans of frames are masked."""
        states = self.network.speech(features_BT, padding_BT)
        return self.head(states.layers, states.padding_BN)

    def encode_text(self, units_BU: Tensor) -> Tensor:
        """Return embeddings (B, A) of text units (see units.py), where 1 is padding.

        Raises:
            CheckpointError: the network has no unit embedding.
        """
        states = self.network.text(units_BU)
        return self.head(states.layers, states.padding_BN)

    def encode_both(self, features_BT: Tensor, units_BU: Tensor, padding_BT: Tensor | None = None) -> Tensor:
        """Return embeddings (B, A) of sound and text together: the mean of the two directions.

        The paper names this input without saying how the two meet; a mean of unit vectors weighs both alike.
        """
        sound = normalize(self.encode(features_BT, padding_BT), dim=1)
        return (sound + normalize(self.encode_text(units_BU), dim=1)) / 2

    def forward(self, audio_BT: Tensor, padding_BT: Tensor | None = None) -> Tensor:
        """Return embeddings (B, A) of sound in -1 to 1."""
        return self.encode(self.features(audio_BT, padding_BT), padding_BT)

    def layers(self) -> list[Group]:
        """Return what trains, by depth: (name, parameters), from the input to the head, to give rates to."""
        return self._trained()

    def blocks(self) -> list[nn.Module]:
        """Return the layers of both Transformers, by depth: what a process needs whole one after the other."""
        return [*self.network.encoder.layers, *self.network.unit_encoder.layers]

    def train(self, mode: bool = True) -> "SpeechlmTower":
        """Set the mode; frozen layers stay in eval mode, and so does a wholly frozen network: no masks, no dropout."""
        super().train(mode)
        if self.config.trained_layers == 0:
            self.network.eval()
        elif self.config.trained_layers > 0:
            for layer in self.blocks()[: -self.config.trained_layers]:
                layer.eval()
        return self

    def _trained(self) -> list[Group]:
        groups = self._groups()
        kept = self.config.trained_layers
        if kept >= 0:
            names = [name for name, _ in groups]
            layers = [name for name in names if "layer" in name]
            groups = groups[names.index(layers[-kept]) :] if kept else []
        elif self.config.freeze_extractor:
            groups = groups[1:]
        return [*groups, ("head", list(self.head.parameters()))]

    def _groups(self) -> list[Group]:
        """Return the network's parameters by depth, without those that no embedding of sound depends on.

        These are pre-training's prediction heads, the unit embedding, in pre-norm the norm behind the last layer
        (the head mixes states before it), and in post-norm `norm_k`.
        """
        net, pre_norm = self.network, self.network.config.pre_norm
        speech, shared = net.encoder, net.unit_encoder
        start = [net.layer_norm, net.post_extract_proj, speech.pos_conv, speech.pos_emb]
        between = [shared.embed_positions, shared.layernorm_embedding, shared.pos_emb]
        (between if pre_norm else start).append(speech.layer_norm)
        groups = [("front end", _parameters([net.feature_extractor])), ("input", _parameters(start))]
        if net.config.mask_prob:
            groups[1][1].append(net.mask_emb)
        groups += [(f"speech layer {i}", _parameters([layer], pre_norm)) for i, layer in enumerate(speech.layers)]
        groups.append(("between", _parameters(between)))
        return groups + [(f"shared layer {i}", _parameters([layer], pre_norm)) for i, layer in enumerate(shared.layers)]


def _parameters(modules: list[nn.Module], norm_k: bool = True) -> list[nn.Parameter]:
    named = [pair for module in modules for pair in module.named_parameters()]
    return [parameter for name, parameter in named if norm_k or not name.startswith("norm_k.")]
