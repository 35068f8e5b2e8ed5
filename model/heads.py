"""The projections f and g of the cross-projection loss."""

from torch import nn

HIDDEN = 512
"""Width between the two layers, and dropout behind the first: Wav2CLIP's (model.py, MLPLayers)."""
DROPOUT = 0.1


def projection(in_dim: int, out_dim: int, *, hidden: int = HIDDEN, dropout: float = DROPOUT) -> nn.Sequential:
    """Return two fully connected layers with one ReLU: (B, in_dim) to (B, out_dim)."""
    return nn.Sequential(nn.Linear(in_dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, out_dim))
