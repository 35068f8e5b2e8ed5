"""The cross-projection loss, in its in-batch form.

Shapes: B pairs, A audio dimensions, V image dimensions.

Source: Wav2CLIP's `clip_loss_x` and UniBriVL, section 3.4. With a sound embedded as a, its picture as v, projections
f and g, and L the symmetric cross-entropy over the batch:  CXLoss = L(a, f(v)) + L(g(a), v)  (the paper's sum;
Wav2CLIP takes half of it).
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def pair_loss(x_BD: Tensor, y_BD: Tensor, scale: Tensor, same_BB: Tensor | None = None) -> Tensor:
    """Return the symmetric cross-entropy of matching x_i to y_i among the batch.

    Args:
        x_BD: embeddings of one kind; normalised here.
        y_BD: embeddings of the other kind.
        scale: the inverse temperature.
        same_BB: true where row and column are related; such pairs are no negatives (the diagonal is kept).
    """
    logits_BB = scale.float() * normalize(x_BD.float(), dim=1) @ normalize(y_BD.float(), dim=1).T
    if same_BB is not None:
        others_BB = same_BB & ~torch.eye(len(same_BB), dtype=torch.bool, device=same_BB.device)
        logits_BB = logits_BB.masked_fill(others_BB, float("-inf"))
    target_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return (cross_entropy(logits_BB, target_B) + cross_entropy(logits_BB.T, target_B)) / 2


def cross_projection_loss(
    audio_BA: Tensor, image_BV: Tensor, f_image_BA: Tensor, g_audio_BV: Tensor, scales: Tensor,
    same_BB: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the two terms L(a, f(v)) and L(g(a), v); the loss is their sum.

    Args:
        audio_BA: a, straight from the language tower.
        image_BV: v, from the frozen image tower.
        f_image_BA: f(v).
        g_audio_BV: g(a).
        scales: the inverse temperatures of the two terms, (2,).
        same_BB: as in `pair_loss`.
    """
    return (
        pair_loss(audio_BA, f_image_BA, scales[0], same_BB),
        pair_loss(g_audio_BV, image_BV, scales[1], same_BB),
    )
