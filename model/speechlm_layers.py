"""The parts of SpeechLM: front end, positions, attention with relative positions, layers. Names are fairseq's.

Shapes: B clips, T samples, C channels, N frames or units, H heads, E = D / H, R = 2 * `max_distance` table rows.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, gelu, scaled_dot_product_attention

from .speechlm_config import SpeechLMConfig


class Transposed(nn.Module):
    """Swaps the last two axes, so that a layer norm in a row of modules sees the channels last."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x with its last two axes swapped."""
        return x.transpose(-2, -1)


class ConvFrontEnd(nn.Module):
    """Waveform to frames, by convolutions without padding."""

    def __init__(self, config: SpeechLMConfig) -> None:
        """Build the convolutions."""
        super().__init__()
        self.conv_layers = nn.ModuleList()
        channels = 1
        for number, (width, kernel, stride) in enumerate(config.conv_layers):
            conv = nn.Conv1d(channels, width, kernel, stride=stride, bias=config.conv_bias)
            nn.init.kaiming_normal_(conv.weight)
            norms: list[nn.Module] = []
            if config.conv_norm == "layer":
                norms = [nn.Sequential(Transposed(), nn.LayerNorm(width), Transposed())]
            elif number == 0:
                norms = [nn.GroupNorm(width, width)]
            self.conv_layers.append(nn.Sequential(conv, nn.Identity(), *norms, nn.GELU()))
            channels = width

    def forward(self, audio_BT: Tensor) -> Tensor:
        """Return frames (B, N, C) of sound."""
        x = audio_BT[:, None]
        for layer in self.conv_layers:
            x = layer(x)
        return x.transpose(1, 2)


class NormedConv(nn.Module):
    """A grouped convolution over time whose kernel has one learned length a tap (weight norm over axis 2)."""

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        """Build the convolution with fairseq's start."""
        super().__init__()
        self.groups, self.kernel = groups, kernel
        weight = torch.empty(dim, dim // groups, kernel).normal_(std=(4 / (kernel * dim)) ** 0.5)
        self.weight_v = nn.Parameter(weight)
        self.weight_g = nn.Parameter(weight.norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x_BDN: Tensor) -> Tensor:
        """Return as many frames; an even kernel's surplus frame at the end is dropped."""
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True))
        y = conv1d(x_BDN, weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return y[..., : x_BDN.shape[-1]]


def relative_index(num_frames: int, max_distance: int, device: torch.device | None = None) -> Tensor:
    """Return the table's row (N, N) for each query i and key j: i - j, held within -160 and 159, plus 160."""
    frames = torch.arange(num_frames, device=device)
    distance = frames[:, None] - frames[None, :]
    return distance.clamp(-max_distance, max_distance - 1) + max_distance


def relative_bias(q_BHNE: Tensor, table_RE: Tensor, index_NN: Tensor) -> Tensor:
    """Return what relative positions add to the attention logits (B, H, N, N): q_i . table[index_ij].

    The product with the whole table comes first (N x R), then the choice by distance, so that no N x N x E tensor
    of position vectors exists.

    Source: Shaw et al. (arXiv 1803.02155), keys only, as SpeechLM has it.
    """
    scores_BHNR = q_BHNE @ table_RE.T
    return scores_BHNR.gather(-1, index_NN.expand(*q_BHNE.shape[:2], -1, -1))


class RelativePositions(nn.Module):
    """One vector for each distance between two frames, shared by a stack's layers and heads."""

    def __init__(self, max_distance: int, head_dim: int) -> None:
        """Build the table."""
        super().__init__()
        self.max_distance = max_distance
        self.pe_k = nn.Embedding(2 * max_distance, head_dim)


class SelfAttention(nn.Module):
    """Attention whose logits are q . (k + position) / sqrt(E)."""

    def __init__(self, config: SpeechLMConfig) -> None:
        """Build the four projections."""
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        self.k_proj = nn.Linear(config.dim, config.dim)
        self.v_proj = nn.Linear(config.dim, config.dim)
        self.q_proj = nn.Linear(config.dim, config.dim)
        self.out_proj = nn.Linear(config.dim, config.dim)

    def forward(self, x_BND: Tensor, table_RE: Tensor, index_NN: Tensor, padding_BN: Tensor | None) -> Tensor:
        """Return (B, N, D); padded frames are seen by none."""
        q, k, v = (
            proj(x_BND).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        # scaling the table's small product costs less than scaling the (N, N) logits
        bias = relative_bias(q * q.shape[-1] ** -0.5, table_RE, index_NN)
        if padding_BN is not None:
            bias = bias.masked_fill(padding_BN[:, None, None], float("-inf"))
        dropout = self.dropout if self.training else 0.0
        y = scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and feed-forward, each with a residual, in post-norm or pre-norm order."""

    def __init__(self, config: SpeechLMConfig) -> None:
        """Build the layer; `norm_k` acts in pre-norm only, but every checkpoint has it."""
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attn = SelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.dim)
        self.fc1 = nn.Linear(config.dim, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.dim)
        self.final_layer_norm = nn.LayerNorm(config.dim)
        self.norm_k = nn.LayerNorm(config.dim // config.heads)
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)

    def forward(
        self, x_BND: Tensor, table_RE: Tensor, index_NN: Tensor, padding_BN: Tensor | None, *, dropped: bool = False
    ) -> Tensor:
        """Return the next state (B, N, D); a dropped layer returns the one it got.

        It is called all the same: processes that share a layer's parameters must agree on which are called.
        """
        if dropped:
            return _past([*self.parameters(), table_RE], x_BND)
        if self.pre_norm:
            table_RE = self.norm_k(table_RE)
            x = self.self_attn_layer_norm(x_BND)
            x_BND = x_BND + self.dropout(self.self_attn(x, table_RE, index_NN, padding_BN))
            return x_BND + self._feed_forward(self.final_layer_norm(x_BND))
        y = self.self_attn(x_BND, table_RE, index_NN, padding_BN)
        x_BND = self.self_attn_layer_norm(x_BND + self.dropout(y))
        return self.final_layer_norm(x_BND + self._feed_forward(x_BND))

    def _feed_forward(self, x_BND: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.activation_dropout(gelu(self.fc1(x_BND)))))


class Stack(nn.Module):
    """Layers over one table of relative positions: what the two Transformers have in common."""

    def __init__(self, config: SpeechLMConfig, num_layers: int) -> None:
        """Build the layers."""
        super().__init__()
        self.layerdrop = config.layerdrop
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(num_layers))
        self.pos_emb = RelativePositions(config.max_distance, config.dim // config.heads)

    def run(self, x_BND: Tensor, padding_BN: Tensor | None, generator: torch.Generator | None) -> list[Tensor]:
        """Return the state behind each layer; one that is dropped in training hands on what it got.

        fairseq pads an odd number of frames with a masked one here, which changes nothing, so we do not.
        """
        index_NN = relative_index(x_BND.shape[1], self.pos_emb.max_distance, x_BND.device)
        states = []
        for layer in self.layers:
            dropped = layer.training and torch.rand((), generator=generator).item() < self.layerdrop
            x_BND = layer(x_BND, self.pos_emb.pe_k.weight, index_NN, padding_BN, dropped=dropped)
            states.append(x_BND)
        return states


def _past(parameters: list[Tensor], x_BND: Tensor) -> Tensor:
    """Return x as it is, and give the parameters of a dropped layer gradients of zero, as fairseq's trainer does.

    So every step has a gradient for every parameter: optimisers and processes agree on what there is.
    """
    firsts = [parameter.flatten()[0] for parameter in parameters if parameter.requires_grad]
    return x_BND + 0 * torch.stack(firsts).sum() if firsts else x_BND


class SpeechTransformer(Stack):
    """The stack that only sound passes."""

    def __init__(self, config: SpeechLMConfig) -> None:
        """Build the positional convolution and the layers."""
        super().__init__(config, config.speech_layers)
        self.pre_norm = config.pre_norm
        self.pos_conv = nn.Sequential(NormedConv(config.dim, config.conv_pos, config.conv_pos_groups), nn.GELU())
        self.layer_norm = nn.LayerNorm(config.dim)

    def forward(
        self, x_BND: Tensor, padding_BN: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the stack's output and the state behind each layer."""
        if padding_BN is not None:
            x_BND = x_BND.masked_fill(padding_BN[..., None], 0)
        x_BND = x_BND + self.pos_conv(x_BND.transpose(1, 2)).transpose(1, 2)
        if not self.pre_norm:
            x_BND = self.layer_norm(x_BND)
        states = self.run(self.dropout(x_BND), padding_BN, generator)
        return (self.layer_norm(states[-1]) if self.pre_norm else states[-1]), states


class SharedTransformer(Stack):
    """The stack that sound and text units pass, with learned absolute positions."""

    version: Tensor

    def __init__(self, config: SpeechLMConfig) -> None:
        """Build positions and layers."""
        super().__init__(config, config.shared_layers)
        self.register_buffer("version", torch.full((1,), 3.0))  # fairseq's mark, in every checkpoint
        self.embed_positions = nn.Embedding(config.positions + 2, config.dim, padding_idx=1)
        self.layernorm_embedding = nn.LayerNorm(config.dim)
        if config.pre_norm:
            self.layer_norm = nn.LayerNorm(config.dim)

    def embed(self, x_BND: Tensor, padding_BN: Tensor | None) -> Tensor:
        """Return what the first layer gets: positions added (row 2 is the first), normed, padding zeroed."""
        if padding_BN is None:
            padding_BN = torch.zeros(x_BND.shape[:2], dtype=torch.bool, device=x_BND.device)
        rows = (~padding_BN).cumsum(dim=1).masked_fill(padding_BN, 0) + 1
        x = x_BND + self.embed_positions(rows.clamp(max=self.embed_positions.num_embeddings - 1))
        return self.dropout(self.layernorm_embedding(x)).masked_fill(padding_BN[..., None], 0)

    def forward(
        self, x_BND: Tensor, padding_BN: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the stack's output and the state behind each layer, for what `embed` made."""
        states = self.run(x_BND, padding_BN, generator)
        return (self.layer_norm(states[-1]) if hasattr(self, "layer_norm") else states[-1]), states
