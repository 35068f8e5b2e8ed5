"""The cross-projection loss: against the originals' numbers, and by what must hold for any numbers."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from unibrivl.model import heads
from unibrivl.model.loss import (
    Embeddings,
    LossConfig,
    LossTerms,
    choose_candidates,
    cross_projection_loss,
    direction_loss,
    mutual_neighbours,
)

SHAPES = {"seed": st.integers(0, 2**31), "pairs": st.integers(2, 9), "dims": st.integers(2, 8)}
IN_BATCH = LossConfig(queue_size=0)
QUEUE_ONLY = LossConfig(in_batch=False)
FIELDS = ("audio_MA", "image_MV", "f_image_MA", "g_audio_MV")


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def embeddings(seed: int, count: int, audio_dim: int = 5, image_dim: int = 7) -> Embeddings:
    dims = (audio_dim, image_dim, audio_dim, image_dim)
    return Embeddings(
        **{name: draw(seed + i, count, dim) for i, (name, dim) in enumerate(zip(FIELDS, dims, strict=True))}
    )


def pair_loss(x_BD: Tensor, y_BD: Tensor, scale: Tensor, same_BB: Tensor | None = None) -> Tensor:
    """Return L(x, y) of a batch without a queue."""
    same_BB = torch.eye(len(x_BD), dtype=torch.bool) if same_BB is None else same_BB
    rows = choose_candidates(IN_BATCH, same_BB)
    return (direction_loss(x_BD, y_BD, None, scale, rows) + direction_loss(y_BD, x_BD, None, scale, rows)) / 2


def head(tensors: dict[str, Tensor], name: str) -> torch.nn.Sequential:
    """Return one of our projections with the reference's weights."""
    weight = tensors[f"{name}.0.weight"], tensors[f"{name}.2.weight"]
    module = heads.projection(weight[0].shape[1], weight[1].shape[0], hidden=len(weight[0])).eval()
    module.load_state_dict({
        "0.weight": weight[0], "0.bias": tensors[f"{name}.0.bias"],
        "3.weight": weight[1], "3.bias": tensors[f"{name}.2.bias"],
    })  # fmt: skip
    return module


def test_without_a_queue_terms_and_gradients_are_wav2clips(folder) -> None:
    tensors = load_file(folder("reference") / "cx_loss.safetensors")
    audio, image = tensors["audio"].requires_grad_(), tensors["image"]
    f, g = head(tensors, "f"), head(tensors, "g")
    scales = torch.stack([tensors["logit_scale_a"], tensors["logit_scale_i"]]).exp()
    pairs = Embeddings(audio_MA=audio, image_MV=image, f_image_MA=f(image), g_audio_MV=g(audio))
    rows = choose_candidates(IN_BATCH, torch.eye(len(audio), dtype=torch.bool))
    halved = cross_projection_loss(LossConfig(queue_size=0, reduction="mean"), pairs, pairs, None, scales, rows)
    summed = cross_projection_loss(IN_BATCH, pairs, pairs, None, scales, rows)
    halved.total.backward()
    found = {
        "loss_audio_vs_f_image": halved.audio_space,
        "loss_g_audio_vs_image": halved.image_space,
        "cx_loss_sum": summed.total,
        "cx_loss_mean": halved.total,
        "grad_audio_of_mean": audio.grad,
        "grad_f0_weight_of_mean": f[0].weight.grad,
        "grad_g2_weight_of_mean": g[3].weight.grad,
    }
    assert not torch.equal(halved.audio_space, halved.image_space)
    for name, value in found.items():
        # the reference was computed in float32 on a CPU; 1e-5 is what its README asks for
        torch.testing.assert_close(value, tensors[name], rtol=0, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_with_the_queue_alone_it_is_brivls(folder) -> None:
    """BriVL's one space stands for each of our two: image for the picture's side, language for the sound's."""
    ref = load_file(folder("reference") / "moco_loss.safetensors")
    kinds = ("language", "image", "image", "language")
    queries, keys, queued = (
        Embeddings(**{name: tensor(kind) for name, kind in zip(FIELDS, kinds, strict=True)})
        for tensor in (
            lambda kind: ref[f"{kind}_query"],
            lambda kind: ref[f"{kind}_key"],
            lambda kind: ref[f"{kind}_queue"].T,
        )
    )
    eye = torch.eye(len(ref["image_query"]), dtype=torch.bool)
    nobody = torch.zeros(len(eye), ref["image_queue"].shape[1], dtype=torch.bool)
    rows = choose_candidates(QUEUE_ONLY, eye, barred_BK=nobody)
    scales = torch.full((2,), 1 / 0.07)
    terms = cross_projection_loss(QUEUE_ONLY, queries, keys, queued, scales, rows)
    close = {"rtol": 0, "atol": 1e-5}  # what the reference's README asks for
    torch.testing.assert_close(terms.audio_space, ref["loss"], **close)
    torch.testing.assert_close(terms.image_space, ref["loss"], **close)
    torch.testing.assert_close(terms.total, 2 * ref["loss"], **close)
    for query, key, name in (("image", "language", "image_to_language"), ("language", "image", "language_to_image")):
        one = direction_loss(ref[f"{query}_query"], ref[f"{key}_key"], ref[f"{key}_queue"].T, scales[0], rows)
        torch.testing.assert_close(one, ref[f"loss_{name}"], **close)
    assert terms.candidates.item() == pytest.approx(101)


def plain_loss(pairs: Embeddings, scales: Tensor, same: Tensor) -> list[Tensor]:
    """Return the in-batch loss's terms, written plainly."""
    terms = []
    for x, y, scale in (
        (pairs.audio_MA, pairs.f_image_MA, scales[0]), (pairs.g_audio_MV, pairs.image_MV, scales[1])
    ):  # fmt: skip
        logits = (scale * normalize(x, dim=1) @ normalize(y, dim=1).T).masked_fill(
            same & ~torch.eye(len(x), dtype=torch.bool), -math.inf
        )
        target = torch.arange(len(x))
        terms.append((cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2)
    return terms


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), pairs=st.integers(2, 9), groups=st.integers(1, 9))
def test_without_a_queue_it_is_the_plain_in_batch_loss(seed: int, pairs: int, groups: int) -> None:
    both = embeddings(seed, pairs)
    group = torch.randint(groups, (pairs,), generator=torch.Generator().manual_seed(seed))
    same, scales = group[:, None] == group, torch.tensor([5.0, 14.0])
    terms = cross_projection_loss(IN_BATCH, both, both, None, scales, choose_candidates(IN_BATCH, same))
    # float32 sums in another order; terms are up to 28
    for found, wanted in zip((terms.audio_space, terms.image_space), plain_loss(both, scales, same), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert terms.total == terms.audio_space + terms.image_space


def both_forms(**options: Any) -> Any:
    return pytest.mark.parametrize("config", [LossConfig(**options), LossConfig(in_batch=False, **options)], ids=str)


def queue_terms(
    config: LossConfig,
    barred: Tensor,
    queued: Embeddings,
    queries: Embeddings | None = None,
    extra: Tensor | None = None,
) -> LossTerms:
    queries = queries or embeddings(0, len(barred))
    rows = choose_candidates(config, torch.eye(len(barred), dtype=torch.bool), 0, barred, extra)
    return cross_projection_loss(config, queries, queries, queued, torch.tensor([3.0, 4.0]), rows)


@both_forms()
def test_barred_entries_of_the_queue_change_nothing(config: LossConfig) -> None:
    barred = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 1], [0, 1, 0, 1]], dtype=torch.bool)
    queued, other = embeddings(10, 4), embeddings(20, 4)
    for name in FIELDS:
        getattr(queued, name)[[1, 3]] = getattr(other, name)[[1, 3]] * 5
    before = queue_terms(config, barred, embeddings(10, 4)).total
    assert torch.equal(queue_terms(config, barred, queued).total, before)
    for name in FIELDS:
        getattr(queued, name)[0] *= -1  # an entry that counts, for two of three
    assert not torch.equal(queue_terms(config, barred, queued).total, before)


def test_a_queue_without_candidates_leaves_the_batch() -> None:
    both = embeddings(0, 4)
    barred = torch.ones(4, 6, dtype=torch.bool)
    found = queue_terms(LossConfig(), barred, embeddings(9, 6), both)
    rows = choose_candidates(IN_BATCH, torch.eye(4, dtype=torch.bool))
    wanted = cross_projection_loss(IN_BATCH, both, both, None, torch.tensor([3.0, 4.0]), rows)
    assert torch.equal(found.total, wanted.total) and found.candidates == wanted.candidates == 4


@pytest.mark.parametrize(
    ("config", "candidates"),
    [(LossConfig(), 5 + 40), (LossConfig(in_batch=False), 1 + 40), (LossConfig(reduction="mean"), 45)],
    ids=["both", "queue", "halved"],
)
def test_collapsed_embeddings_give_ln_of_the_candidates(config: LossConfig, candidates: int) -> None:
    ones, kept = (
        Embeddings(**{name: torch.ones(count, 3) for name in FIELDS}) for count in (5, 40)
    )  # fmt: skip
    barred = torch.zeros(5, 40, dtype=torch.bool)
    terms = queue_terms(config, barred, kept, ones)
    assert terms.candidates.item() == pytest.approx(candidates)
    assert terms.collapse_level.item() == pytest.approx(math.log(candidates))
    assert terms.per_direction.item() == pytest.approx(math.log(candidates), abs=1e-5)
    share = {True: 2, False: 4}[config.in_batch] / (2 if config.reduction == "mean" else 1)
    assert terms.total.item() == pytest.approx(share * math.log(candidates), abs=1e-5)


@both_forms()
def test_the_collapse_level_holds_with_masks(config: LossConfig) -> None:
    ones, kept = (Embeddings(**{name: torch.ones(count, 3) for name in FIELDS}) for count in (3, 5))
    barred = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    terms = queue_terms(config, barred, kept, ones)
    assert terms.per_direction.item() == pytest.approx(terms.collapse_level.item(), abs=1e-5)
    assert terms.candidates.item() < 9


def test_the_queue_alone_against_fixed_sides_has_no_gradient() -> None:
    """Between the picture and the momentum projection of its sound nothing is live."""
    queries = embeddings(0, 3)
    for name in ("audio_MA", "f_image_MA", "g_audio_MV"):
        getattr(queries, name).requires_grad_()
    rows = choose_candidates(QUEUE_ONLY, torch.eye(3, dtype=torch.bool), 0, torch.zeros(3, 4, dtype=torch.bool))
    keys, queued = embeddings(5, 3), embeddings(10, 4)
    terms = cross_projection_loss(QUEUE_ONLY, queries, keys, queued, torch.tensor([3.0, 4.0]), rows)
    terms.total.backward()
    assert all(getattr(queries, name).grad.any() for name in ("audio_MA", "f_image_MA", "g_audio_MV"))
    fixed = direction_loss(queries.image_MV, keys.g_audio_MV, queued.g_audio_MV, torch.tensor(4.0), rows)
    assert not fixed.requires_grad


def test_further_positives_are_near_in_both_modalities_and_not_barred() -> None:
    def unit(degrees: list[float]) -> Tensor:
        angle = torch.tensor(degrees).deg2rad()
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    def places(audio: list[float], image: list[float]) -> Embeddings:
        return Embeddings(audio_MA=unit(audio), image_MV=unit(image), f_image_MA=unit(audio), g_audio_MV=unit(image))

    keys = places([0, 90], [0, 90])
    queued = places([1, 10, 80, 85], [10, 1, 180, 88])
    nobody = torch.zeros(2, 4, dtype=torch.bool)
    assert mutual_neighbours(keys, queued, nobody, 1).tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]
    assert mutual_neighbours(keys, queued, nobody, 2).tolist() == [[1, 1, 0, 0], [0, 0, 0, 1]]
    assert mutual_neighbours(keys, queued, nobody, 4).all()
    barred = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.bool)
    assert mutual_neighbours(keys, queued, barred, 1).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]
    assert torch.equal(mutual_neighbours(keys, queued, barred, 4), ~barred)


@both_forms(topk=1)
def test_a_further_positive_adds_its_own_term(config: LossConfig) -> None:
    """BriVL sums the negative logarithms of all positives' shares, and divides by the batch alone."""
    rows = choose_candidates(
        config, torch.eye(3, dtype=torch.bool), 0, torch.zeros(3, 4, dtype=torch.bool),
        torch.tensor([[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]], dtype=torch.bool),
    )  # fmt: skip
    x, y, queue, scale = draw(0, 3, 5), draw(1, 3, 5), draw(2, 4, 5), torch.tensor(6.0)
    found = direction_loss(x, y, queue, scale, rows)
    own = (normalize(x, dim=1) * normalize(y, dim=1)).sum(1, keepdim=True)
    batch = normalize(x, dim=1) @ normalize(y, dim=1).T if config.in_batch else own
    kept = normalize(x, dim=1) @ normalize(queue, dim=1).T
    below = torch.logsumexp(scale * torch.cat([batch, kept], dim=1), dim=1)
    terms = [below[0] - scale * own[0, 0], below[1] - scale * own[1, 0], below[2] - scale * own[2, 0]]
    terms += [below[0] - scale * kept[0, 2], below[2] - scale * kept[2, 0], below[2] - scale * kept[2, 3]]
    torch.testing.assert_close(found, sum(terms) / 3)


def test_a_further_positive_beside_barred_entries_has_a_gradient_that_is_a_number() -> None:
    barred = torch.tensor([[1, 0, 0, 1]], dtype=torch.bool).expand(3, 4)
    queries = embeddings(0, 3)
    queries.audio_MA.requires_grad_()
    extra = torch.tensor([[0, 1, 0, 0]], dtype=torch.bool).expand(3, 4)
    terms = queue_terms(LossConfig(topk=1), barred, embeddings(7, 4), queries, extra)
    terms.total.backward()
    assert torch.isfinite(terms.total) and torch.isfinite(queries.audio_MA.grad).all() and queries.audio_MA.grad.any()


def test_logits_are_float32_under_autocast() -> None:
    """Bfloat16 keeps 8 bits: a scaled cosine of 14 would be off by up to 0.03."""
    both, queued = embeddings(0, 6, 64, 64), embeddings(9, 20, 64, 64)
    barred = torch.zeros(6, 20, dtype=torch.bool)
    wanted = queue_terms(LossConfig(topk=2), barred, queued, both)
    near = mutual_neighbours(both, queued, barred, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (both.audio_MA @ both.audio_MA.T).dtype == torch.bfloat16
        found = queue_terms(LossConfig(topk=2), barred, queued, both)
        assert torch.equal(mutual_neighbours(both, queued, barred, 2), near)
    for field in dataclasses.fields(LossTerms):
        assert torch.equal(getattr(found, field.name), getattr(wanted, field.name)), field.name
    assert found.total.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_size": -1}, "queue_size is -1, want a whole number from 0 to"),
        ({"momentum": 1.5}, "momentum is 1.5, want 0 to 1"),
        ({"temperature": 0}, "temperature is 0, want"), ({"temperature": math.nan}, "temperature is nan, want"),
        ({"temperature": 0.001}, "want at least 1 / max_scale = 0.01"),
        ({"dropout": 1}, "dropout is 1, want 0 to 0.99"),
        ({"hidden": 0}, "hidden is 0, want a whole number from 1 to"),
        ({"reduction": "max"}, "reduction is 'max', want 'sum' or 'mean'"),
        ({"queue_size": 5, "topk": 6}, "topk is 6, want a whole number from 0 to 5"),
        ({"queue_size": 0, "topk": 1}, "topk is 1, want a whole number from 0 to 0"),
        ({"queue_size": 9600.5}, "queue_size is 9600.5, want a whole"),
        ({"queue_size": 0, "in_batch": False}, "no negatives are left"),
    ],
    ids=str,
)  # fmt: skip
def test_values_that_cannot_be_meant_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**options)


def test_inference_keeps_what_shapes_the_projections() -> None:
    config = LossConfig(in_batch=False, topk=3, hidden=77).without_queue()
    assert config == LossConfig(queue_size=0, hidden=77)


@settings(max_examples=50, deadline=None)
@given(**SHAPES)
def test_it_is_symmetric_in_its_two_sides(seed: int, pairs: int, dims: int) -> None:
    x, y = draw(seed, pairs, dims), draw(seed + 1, pairs, dims)
    scale = torch.tensor(14.0)
    torch.testing.assert_close(pair_loss(x, y, scale), pair_loss(y, x, scale))


@settings(max_examples=50, deadline=None)
@given(**SHAPES)
def test_the_order_of_the_batch_does_not_matter(seed: int, pairs: int, dims: int) -> None:
    x, y = draw(seed, pairs, dims), draw(seed + 1, pairs, dims)
    groups = torch.randint(3, (pairs,), generator=torch.Generator().manual_seed(seed))
    order = torch.randperm(pairs, generator=torch.Generator().manual_seed(seed))

    def loss(rows: Tensor) -> Tensor:
        same = groups[rows][:, None] == groups[rows][None]
        return pair_loss(x[rows], y[rows], torch.tensor(10.0), same)

    # a float32 sum in another order; terms are up to 20
    torch.testing.assert_close(loss(torch.arange(pairs)), loss(order), rtol=1e-5, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(**SHAPES)
def test_the_length_of_an_embedding_does_not_matter(seed: int, pairs: int, dims: int) -> None:
    x, y = draw(seed, pairs, dims), draw(seed + 1, pairs, dims)
    lengths = draw(seed + 2, pairs, 1).abs() + 0.1
    scale = torch.tensor(5.0)
    torch.testing.assert_close(pair_loss(x * lengths, y, scale), pair_loss(x, y, scale), rtol=1e-4, atol=1e-5)


def test_one_by_hand() -> None:
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    y = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # cosines are [[1, 1], [0, 0]]; rows: ln 2 and ln 2; columns: 1 against 0, then 0 against 1
    scale = 2.0
    rows = math.log(2)
    columns = (math.log(1 + math.exp(-scale)) + math.log(1 + math.exp(scale))) / 2
    assert pair_loss(x, y, torch.tensor(scale)).item() == pytest.approx((rows + columns) / 2, abs=1e-6)


@pytest.mark.parametrize("pairs", [2, 7, 64])
def test_a_collapsed_side_gives_ln_of_the_batch(pairs: int) -> None:
    x = torch.ones(pairs, 5)
    assert pair_loss(x, x, torch.tensor(14.3)).item() == pytest.approx(math.log(pairs), abs=1e-5)


def test_a_pair_of_one_group_is_no_negative() -> None:
    """x_0 has no share along e_1, so only the logit of (x_0, y_1) can give it a gradient there."""
    y = torch.eye(4)[:3]
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    gradients = {}
    for name, mask in (("masked", same), ("plain", None)):
        x = torch.tensor([[0.5, 0.0, 0.3, 0.7], [0.2, 0.6, 0.1, 0.4], [0.3, 0.3, 0.8, 0.1]]).requires_grad_()
        pair_loss(x, y, torch.tensor(3.0), mask).backward()
        gradients[name] = x.grad
    assert gradients["masked"][0, 1] == 0
    assert gradients["masked"][1, 1] < 0  # its own partner still draws it
    assert gradients["masked"][0, 2] > 0  # another group's still repels it
    assert gradients["plain"][0, 1] > 0.01


def test_a_batch_of_one_group_teaches_nothing() -> None:
    x = draw(0, 5, 4).requires_grad_()
    loss = pair_loss(x, draw(1, 5, 4), torch.tensor(14.0), torch.ones(5, 5, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and not x.grad.any()


def test_it_computes_in_float32_whatever_comes() -> None:
    x, y = draw(0, 4, 8).bfloat16(), draw(1, 4, 8).bfloat16()
    found = pair_loss(x, y, torch.tensor(14.0))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, pair_loss(x.float(), y.float(), torch.tensor(14.0)))
