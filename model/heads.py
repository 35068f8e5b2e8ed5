"""Heads: the projections f and g of the cross-projection loss, and what BriVL puts on top of a backbone."""

from torch import Tensor, nn

HIDDEN = 512
"""Width between the two layers, and dropout behind the first: Wav2CLIP's (model.py, MLPLayers)."""
DROPOUT = 0.1


def projection(in_dim: int, out_dim: int, *, hidden: int = HIDDEN, dropout: float = DROPOUT) -> nn.Sequential:
    """Return two fully connected layers with one ReLU: (B, in_dim) to (B, out_dim)."""
    return nn.Sequential(nn.Linear(in_dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, out_dim))


def self_attention_block(dim: int, *, num_layers: int = 4, num_heads: int = 4) -> nn.TransformerEncoder:
    """Return BriVL's self-attention block, (B, N, dim) to (B, N, dim): post-norm, ReLU, FFN 2048, no positions."""
    layer = nn.TransformerEncoderLayer(dim, num_heads, batch_first=True)
    return nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)


class Mlp(nn.Module):
    """BriVL's two fully connected layers with one ReLU: (..., in_dim) to (..., out_dim)."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        """Build the layers with random weights."""
        super().__init__()
        self.fc1 = nn.Linear(in_dim, hidden_dim)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return fc2(relu(fc1(x)))."""
        return self.fc2(self.relu(self.fc1(x)))
