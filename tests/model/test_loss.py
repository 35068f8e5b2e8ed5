"""The cross-projection loss: against the original's numbers, and by what must hold for any numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from unibrivl.model import heads
from unibrivl.model.loss import cross_projection_loss, pair_loss

SHAPES = {"seed": st.integers(0, 2**31), "pairs": st.integers(2, 9), "dims": st.integers(2, 8)}


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def head(tensors: dict[str, torch.Tensor], name: str) -> torch.nn.Sequential:
    """Return one of our projections with the reference's weights."""
    weight = tensors[f"{name}.0.weight"], tensors[f"{name}.2.weight"]
    module = heads.projection(weight[0].shape[1], weight[1].shape[0]).eval()
    module.load_state_dict({
        "0.weight": weight[0], "0.bias": tensors[f"{name}.0.bias"],
        "3.weight": weight[1], "3.bias": tensors[f"{name}.2.bias"],
    })  # fmt: skip
    return module


def test_terms_and_gradients_are_those_of_the_original(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = load_file(folder("reference") / "cx_loss.safetensors")
    monkeypatch.setattr(heads, "HIDDEN", len(tensors["f.0.bias"]))
    audio, image = tensors["audio"].requires_grad_(), tensors["image"]
    f, g = head(tensors, "f"), head(tensors, "g")
    scales = torch.stack([tensors["logit_scale_a"], tensors["logit_scale_i"]]).exp()
    terms = cross_projection_loss(audio, image, f(image), g(audio), scales)
    (sum(terms) / 2).backward()
    found = {
        "loss_audio_vs_f_image": terms[0],
        "loss_g_audio_vs_image": terms[1],
        "cx_loss_sum": terms[0] + terms[1],
        "cx_loss_mean": (terms[0] + terms[1]) / 2,
        "grad_audio_of_mean": audio.grad,
        "grad_f0_weight_of_mean": f[0].weight.grad,
        "grad_g2_weight_of_mean": g[3].weight.grad,
    }
    assert not torch.equal(terms[0], terms[1])
    for name, value in found.items():
        # the reference was computed in float32 on a CPU; 1e-5 is what its README asks for
        torch.testing.assert_close(value, tensors[name], rtol=0, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


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

    def loss(rows: torch.Tensor) -> torch.Tensor:
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
