"""The projections f and g of the cross-projection loss."""

from torch import nn

HIDDEN = 512
"""Width between the two layers, and dropout behind the first: Wav2CLIP's (model.py, MLPLayers)."""
DROPOUT = 0.1


def projection(in_dim: int, out_dim: int) -> nn.Sequential:
    """Return two fully connected layers with one ReLU: (B, in_dim) to (B, out_dim)."""
    return nn.Sequential(nn.Linear(in_dim, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, out_dim))
