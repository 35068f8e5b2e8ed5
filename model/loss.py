"""The cross-projection loss: four directions, with in-batch candidates, queued ones, or both.

Source: UniBriVL, section 3.4, on Wav2CLIP's `clip_loss_x` and BriVL's queues. With a sound embedded as a, its picture
as v, projections f and g, and L the cross-entropies of finding each partner, both ways:
CXLoss = L(a, f(v)) + L(g(a), v). Without queue and halved it is Wav2CLIP's; with the queue alone it is BriVL's.

Shapes: B pairs of this process, N pairs of all processes, K queue slots, C candidates (N + K, or 1 + K), A audio
dimensions, V image dimensions, D either.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, normalize

from ..shards.checks import check_numbers, check_whole
from .heads import DROPOUT, HIDDEN


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The loss, and the queues and projections that it needs."""

    queue_size: int = 9600
    """K, entries kept of each modality as further negatives (BriVL's); 0: no queue, no momentum encoders."""
    momentum: float = 0.99
    """Share of the momentum encoders that an optimiser step keeps (BriVL's): half-life 69 steps."""
    temperature: float = 0.07
    """At the start of training (BriVL, Wav2CLIP, CLIP)."""
    learned_temperature: bool = True
    """Whether the two temperatures are trained (Wav2CLIP) or stay (BriVL)."""
    max_scale: float = 100.0
    """Upper bound of the inverse temperature (CLIP's)."""
    reduction: str = "sum"
    """`sum` of the two terms (the paper) or their `mean` (Wav2CLIP)."""
    in_batch: bool = True
    """Whether the batch's other pairs are negatives; False: the queue's alone, against momentum keys (BriVL)."""
    topk: int = 0
    """A queue entry among the nearest of both modalities' keys is a further positive (BriVL's multi_label); 0: off."""
    hidden: int = HIDDEN
    """Width between the two layers of f and g."""
    dropout: float = DROPOUT
    """Behind the first layer of f and g."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        check_whole(self, queue_size=(0, 1 << 24), hidden=(1, 1 << 16))
        check_whole(self, topk=(0, self.queue_size))
        check_numbers(self, momentum=(0, 1), temperature=(1e-4, 100), max_scale=(1e-2, 1e4), dropout=(0, 0.99))
        if self.reduction not in ("sum", "mean"):
            raise ValueError(f"reduction is {self.reduction!r}, want 'sum' or 'mean'")
        if not self.in_batch and not self.queue_size:
            raise ValueError("in_batch is False and queue_size 0: no negatives are left; give the one or the other")
        if 1 / self.temperature > self.max_scale:
            raise ValueError(f"temperature is {self.temperature}, want at least 1 / max_scale = {1 / self.max_scale}")

    def without_queue(self) -> Self:
        """Return the configuration of the same model for inference, where no queue is needed."""
        return replace(self, queue_size=0, in_batch=True, topk=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Embeddings:
    """Sounds and pictures of M pairs, each in its own space and in the other's."""

    audio_MA: Tensor
    image_MV: Tensor
    f_image_MA: Tensor
    g_audio_MV: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Who competes for the partner of a query; the same in all four directions.

    Columns are the N pairs of the batch, or the query's own partner alone, and then the K slots of the queue.
    """

    target_B: Tensor
    """Column of the query's own partner."""
    barred_BC: Tensor
    """True: no candidate, being related to the query or an empty slot."""
    extra_BC: Tensor | None = None
    """True: a further positive."""
    own_only: bool = False
    """Whether the batch is one column: row i's partner is row i."""

    def geometric_mean(self) -> Tensor:
        """Return the number of candidates whose logarithm is the loss of a collapsed model."""
        return (~self.barred_BC).sum(dim=1).double().log().mean().exp()


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The loss of a batch, every entry a scalar tensor."""

    audio_space: Tensor
    """L(a, f(v))."""
    image_space: Tensor
    """L(g(a), v)."""
    total: Tensor
    """What to call `backward` on: the terms' sum or mean."""
    per_direction: Tensor
    """Mean cross-entropy of the four directions, detached: ln(`candidates`) if embeddings have collapsed."""
    candidates: Tensor
    """Candidates for a query, geometric mean over the batch."""

    @property
    def collapse_level(self) -> Tensor:
        """Return ln(candidates): where `per_direction` stays if all embeddings are one."""
        return self.candidates.log()


def choose_candidates(
    config: LossConfig, same_BN: Tensor, offset: int = 0, barred_BK: Tensor | None = None,
    extra_BK: Tensor | None = None,
) -> Candidates:  # fmt: skip
    """Return the candidates of a batch.

    Args:
        config: the loss.
        same_BN: true where pairs are related, and so no negatives; a row's own pair is its positive all the same.
        offset: column of the first row's own pair among the N.
        barred_BK: queue entries that are no negatives; None: no queue.
        extra_BK: queue entries that are positives.
    """
    target_B = torch.arange(len(same_BN), device=same_BN.device) + offset
    if config.in_batch:
        barred_BC = same_BN.clone()
        barred_BC[torch.arange(len(same_BN), device=same_BN.device), target_B] = False
    else:
        target_B = torch.zeros_like(target_B)
        barred_BC = torch.zeros_like(same_BN[:, :1])
    extra_BC = None if extra_BK is None else torch.cat([torch.zeros_like(barred_BC), extra_BK], dim=1)
    if barred_BK is not None:
        barred_BC = torch.cat([barred_BC, barred_BK], dim=1)
    return Candidates(target_B=target_B, barred_BC=barred_BC, extra_BC=extra_BC, own_only=not config.in_batch)


def mutual_neighbours(keys: Embeddings, queued: Embeddings, barred_BK: Tensor, k: int) -> Tensor:
    """Return the queue entries among the k nearest of a pair's sound and of its picture, boolean (B, K).

    Source: BriVL's `multi_label`. Barred entries are passed over: a clip's earlier key would always be the nearest.
    """
    near_BK = ~barred_BK
    for key_BD, queue_KD in ((keys.audio_MA, queued.audio_MA), (keys.image_MV, queued.image_MV)):
        similar_BK = _cosines(key_BD, queue_KD).masked_fill(barred_BK, float("-inf"))
        nearest_Bk = similar_BK.topk(k, dim=1).indices
        near_BK = near_BK & torch.zeros_like(near_BK).scatter(1, nearest_Bk, True)
    return near_BK


def direction_loss(
    query_BD: Tensor, partner_ND: Tensor, queue_KD: Tensor | None, scale: Tensor, candidates: Candidates
) -> Tensor:
    """Return the mean cross-entropy of finding every query's partner among its candidates, in float32.

    Args:
        query_BD: embeddings of one kind; normalised here, as the others.
        partner_ND: embeddings of the other kind, of which those of the queries' own pairs are the positives.
        queue_KD: further candidates, detached.
        scale: the inverse temperature.
        candidates: who competes.

    With further positives, their terms are added (BriVL).
    """
    logits_BC = _cosines(query_BD, partner_ND, rowwise=candidates.own_only)
    if queue_KD is not None:
        logits_BC = torch.cat([logits_BC, _cosines(query_BD, queue_KD)], dim=1)
    logits_BC = (scale.float() * logits_BC).masked_fill(candidates.barred_BC, float("-inf"))
    loss = cross_entropy(logits_BC, candidates.target_B)
    if candidates.extra_BC is None:
        return loss
    extra_BC = log_softmax(logits_BC, dim=1).masked_fill(~candidates.extra_BC, 0)
    return loss - extra_BC.sum() / len(query_BD)


def _cosines(x_BD: Tensor, y_ND: Tensor, *, rowwise: bool = False) -> Tensor:
    """Return cosines (B, N), or (B, 1) of equal rows, computed in float32 whatever comes and whatever is autocast."""
    with torch.autocast(x_BD.device.type, enabled=False):
        x_BD, y_ND = normalize(x_BD.float(), dim=1), normalize(y_ND.float(), dim=1)
        return (x_BD * y_ND).sum(dim=1, keepdim=True) if rowwise else x_BD @ y_ND.T


def cross_projection_loss(
    config: LossConfig, queries: Embeddings, partners: Embeddings, queued: Embeddings | None, scales: Tensor,
    candidates: Candidates,
) -> LossTerms:  # fmt: skip
    """Return the loss of B pairs.

    Args:
        config: decides how directions and terms are reduced: the mean of two directions where the batch competes
            (Wav2CLIP), their sum where only the queue does (BriVL).
        queries: the B pairs, live.
        partners: the N pairs of all processes, live, or with `in_batch` off the momentum keys of the B pairs. Then
            the direction v -> g(a) has no gradient: both sides are fixed.
        queued: the K entries of the queues, by the momentum projections.
        scales: the inverse temperatures of the two terms, (2,).
        candidates: who competes.
    """
    kept = queued or Embeddings(**dict.fromkeys(Embeddings.__slots__, None))  # type: ignore[arg-type]
    q, p = queries, partners
    audio = [
        direction_loss(q.audio_MA, p.f_image_MA, kept.f_image_MA, scales[0], candidates),
        direction_loss(q.f_image_MA, p.audio_MA, kept.audio_MA, scales[0], candidates),
    ]
    image = [
        direction_loss(q.g_audio_MV, p.image_MV, kept.image_MV, scales[1], candidates),
        direction_loss(q.image_MV, p.g_audio_MV, kept.g_audio_MV, scales[1], candidates),
    ]
    share = 0.5 if config.in_batch else 1.0
    audio_space, image_space = share * (audio[0] + audio[1]), share * (image[0] + image[1])
    total = audio_space + image_space
    return LossTerms(
        audio_space=audio_space,
        image_space=image_space,
        total=total / 2 if config.reduction == "mean" else total,
        per_direction=total.detach() / (4 * share),
        candidates=candidates.geometric_mean(),
    )
