"""The head on a network's layers: BriVL's block, padding that changes nothing, weights that sum to one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.model.heads import Mlp, self_attention_block
from unibrivl.model.pooling import LayerMixture, PoolingHead, masked_mean


def states(layers: int, *shape: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for _ in range(layers)]


def head(layers: int = 3, **options: int) -> PoolingHead:
    torch.manual_seed(0)
    return PoolingHead(layers, 16, 6, hidden_dim=10, attention_layers=2, **options).eval()


def test_the_blocks_are_brivls() -> None:
    """Sizes of model.md A3: a block of width 2048 has 100.7 M parameters, a two-layer MLP 8.39 M."""
    with torch.device("meta"):
        block, mlp = self_attention_block(2048), Mlp(2048, 2048, 2048)
    assert sum(p.numel() for p in block.parameters()) == pytest.approx(100.7e6, rel=1e-3)
    assert sum(p.numel() for p in mlp.parameters()) == pytest.approx(8.39e6, rel=1e-3)
    assert set(mlp.state_dict()) == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    assert "layers.3.self_attn.in_proj_weight" in block.state_dict() and block.num_layers == 4


def test_layers_weigh_alike_at_first_and_by_their_softmax_then() -> None:
    layers = states(3, 2, 5, 4)
    mixture = LayerMixture(3, norm=False)
    torch.testing.assert_close(mixture(layers), torch.stack(layers).mean(dim=0))
    with torch.no_grad():
        mixture.logits.copy_(torch.tensor([0.0, 0.0, 50.0]))
    torch.testing.assert_close(mixture(layers), layers[2])
    normed = LayerMixture(1, norm=True)(layers[:1])
    torch.testing.assert_close(normed.mean(dim=-1), torch.zeros(2, 5), rtol=0, atol=1e-6)
    torch.testing.assert_close(normed.var(dim=-1, unbiased=False), torch.ones(2, 5), rtol=0, atol=1e-3)


def test_fewer_states_are_those_of_the_last_layers() -> None:
    layers = states(2, 1, 3, 4)
    mixture = LayerMixture(4, norm=False)
    with torch.no_grad():
        mixture.logits.copy_(torch.tensor([9.0, 9.0, 0.0, 50.0]))
    torch.testing.assert_close(mixture(layers), layers[1])


def test_a_mean_leaves_padding_out() -> None:
    x = torch.tensor([[[1.0], [3.0], [50.0]], [[2.0], [4.0], [6.0]]])
    padding = torch.tensor([[False, False, True], [False, False, False]])
    assert masked_mean(x, padding).tolist() == [[2.0], [4.0]] and masked_mean(x, None).tolist() == [[18.0], [4.0]]


@settings(max_examples=20, deadline=None)
@given(frames=st.integers(1, 9), surplus=st.integers(1, 6), seed=st.integers(0, 2**31), training=st.booleans())
def test_padded_frames_change_nothing(frames: int, surplus: int, seed: int, training: bool) -> None:
    model = head()
    layers = states(3, 2, frames + surplus, 16, seed=seed)
    padding = torch.zeros(2, frames + surplus, dtype=torch.bool)
    padding[0, frames:] = True
    with torch.set_grad_enabled(training):  # without gradients torch takes a fused path
        together = model(layers, padding)
        alone = model([state[:1, :frames] for state in layers])
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-5)


def test_the_order_of_frames_does_not_matter() -> None:
    """The block has no positions: the network's states carry them."""
    layers = states(3, 1, 7, 16)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(head()([s[:, order] for s in layers]), head()(layers), rtol=0, atol=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    model = head().train()
    model(states(3, 2, 5, 16)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
