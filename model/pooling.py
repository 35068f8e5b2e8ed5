"""The head on a network's layers: a learned mixture of them, self-attention over frames, a masked mean, two layers.

Shapes: B clips, N frames or units, D width of the network, A = 512 audio dimensions.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from .heads import Mlp, self_attention_block


class LayerMixture(nn.Module):
    """A softmax-weighted sum of the states behind a network's layers, all weighted alike at first."""

    def __init__(self, num_layers: int, *, norm: bool) -> None:
        """Build the weights; `norm` brings every state to unit scale first, since deep pre-norm states grow."""
        super().__init__()
        self.norm = norm
        self.logits = nn.Parameter(torch.zeros(num_layers))

    def forward(self, layers_BND: list[Tensor]) -> Tensor:
        """Return (B, N, D); fewer states than layers are those of the last layers, as text gives them."""
        weights = self.logits[-len(layers_BND) :].softmax(dim=0)
        mixed = torch.zeros_like(layers_BND[0])
        for weight, state in zip(weights, layers_BND, strict=True):
            mixed = mixed + weight * (layer_norm(state, state.shape[-1:]) if self.norm else state)
        return mixed


class PoolingHead(nn.Module):
    """States behind all layers to one embedding: BriVL's text head on a mixture of layers."""

    def __init__(
        self, num_layers: int, dim: int, out_dim: int, *, hidden_dim: int = 512, attention_layers: int = 4,
        attention_heads: int = 4, norm_layers: bool = True,
    ) -> None:  # fmt: skip
        """Build the head with random weights."""
        super().__init__()
        self.mixture = LayerMixture(num_layers, norm=norm_layers)
        self.attention = self_attention_block(dim, num_layers=attention_layers, num_heads=attention_heads)
        self.mlp = Mlp(dim, hidden_dim, out_dim)

    def forward(self, layers_BND: list[Tensor], padding_BN: Tensor | None = None) -> Tensor:
        """Return embeddings (B, A), not normalised; padded frames change nothing."""
        x = self.attention(self.mixture(layers_BND), src_key_padding_mask=padding_BN)
        return self.mlp(masked_mean(x, padding_BN))


def masked_mean(x_BND: Tensor, padding_BN: Tensor | None) -> Tensor:
    """Return the mean over the frames that are no padding (B, D)."""
    if padding_BN is None:
        return x_BND.mean(dim=1)
    real_BN1 = (~padding_BN)[..., None]
    return (x_BND * real_BN1).sum(dim=1) / real_BN1.sum(dim=1).clamp(min=1)
