"""BriVL's image encoder: equal to the public code's tensors, and to a slow forward written from its description."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import affine_grid, avg_pool2d, conv2d, grid_sample, layer_norm, linear, normalize

from unibrivl.model.brivl import B5, B7, BrivlConfig, BrivlImageEncoder, boxes, pooling_matrix

TINY: dict[str, Any] = {
    "backbone": "tf_efficientnet_b0", "channel_multiplier": 0.1, "depth_multiplier": 0.1, "num_classes": 10,
    "dim": 128, "layers": 2,
}  # fmt: skip
FORMS = {
    "b5": BrivlConfig(**TINY, image_px=190),
    "b7": BrivlConfig(**TINY, image_px=192, grid=5, whole="first", conv=False),
}
PREFIX = {"b5": "imgencoder.", "b7": "learnable.imgencoder."}


def slow_boxes(image_px: int, grid: int, whole: str) -> list[list[float]]:
    side = image_px / grid if grid else 0.0
    cells = [[i * side, j * side, (i + 1) * side, (j + 1) * side] for i in range(grid) for j in range(grid)]
    full = [[0.0, 0.0, float(image_px), float(image_px)]]
    return full + cells if whole == "first" else cells + full


def slow_pool(map_CHW: Tensor, box: list[float], image_px: int, samples: int, conv: nn.Conv2d | None = None) -> Tensor:
    """Pool one box as the public code does: theta with denominators W - 1, sampling, convolution, average."""
    side = map_CHW.shape[-1]
    x1, y1, x2, y2 = (value * side / image_px for value in box)
    theta = torch.tensor([[
        [(x2 - x1) / (side - 1), 0, (x1 + x2 - side + 1) / (side - 1)],
        [0, (y2 - y1) / (side - 1), (y1 + y2 - side + 1) / (side - 1)],
    ]], dtype=map_CHW.dtype)  # fmt: skip
    grid = affine_grid(theta, [1, 1, samples, samples], align_corners=False)
    sampled = grid_sample(map_CHW[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if conv is not None:
        sampled = conv2d(sampled, conv.weight.to(map_CHW), conv.bias.to(map_CHW))
    return avg_pool2d(sampled, samples).flatten()


def slow_attention(layer: Any, x_PC: Tensor, counts_P: Tensor, heads: int) -> Tensor:
    """Return one post-norm layer's output, head by head."""
    attention = layer.self_attn
    queries, keys, values = linear(x_PC, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=1)
    width = x_PC.shape[1] // heads
    mixed = []
    for head in range(heads):
        q, k, v = (part[:, head * width : (head + 1) * width] for part in (queries, keys, values))
        scores = (q @ k.T / width**0.5).masked_fill(~counts_P[None], float("-inf"))
        mixed.append(scores.softmax(dim=1) @ v)
    attended = linear(torch.cat(mixed, dim=1), attention.out_proj.weight, attention.out_proj.bias)
    x_PC = layer_norm(x_PC + attended, x_PC.shape[1:], layer.norm1.weight, layer.norm1.bias, 1e-5)
    inner = linear(x_PC, layer.linear1.weight, layer.linear1.bias).relu()
    outer = linear(inner, layer.linear2.weight, layer.linear2.bias)
    return layer_norm(x_PC + outer, x_PC.shape[1:], layer.norm2.weight, layer.norm2.bias, 1e-5)


def slow_forward(encoder: BrivlImageEncoder, map_CHW: Tensor, box_list: list[list[float]], counts_P: Tensor) -> Tensor:
    """Return one picture's embedding of its feature map, step by step."""
    config, parts = encoder.config, encoder.learnable
    conv = parts["max_pool"][0] if config.conv else None
    pooled = [slow_pool(map_CHW, box, config.image_px, config.roi_grid, conv) for box in box_list]
    x_PC = torch.stack([patch / patch.norm() for patch in pooled])
    for layer in parts["imgAtt"].layers:
        x_PC = slow_attention(layer, x_PC, counts_P, config.heads)
    mean = x_PC[counts_P].mean(dim=0)
    mlp = parts["imgFC"]
    return linear(linear(mean, mlp.fc1.weight, mlp.fc1.bias).relu(), mlp.fc2.weight, mlp.fc2.bias)


def make(config: BrivlConfig, seed: int = 0) -> BrivlImageEncoder:
    torch.manual_seed(seed)
    return BrivlImageEncoder(config).eval()


def embed(encoder: BrivlImageEncoder, map_BCHW: Tensor, mask_BP: Tensor | None = None) -> Tensor:
    """Return what the encoder makes of a feature map, as its forward does behind the backbone."""
    encoder.backbone.forward_features = lambda image: image
    return encoder(map_BCHW, mask_BP)


def read_reference(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["cfg"])  # noqa: SIM118


@pytest.mark.parametrize("form", ["b5", "b7"])
def test_the_public_codes_tensors_are_met(folder: Callable[[str], Path], form: str) -> None:
    tensors, stored = read_reference(folder("reference") / f"brivl_{form}_tiny.safetensors")
    config = FORMS[form]
    assert (config.image_px, config.dim, config.heads, config.layers, config.roi_grid, config.conv) == tuple(
        stored[name] for name in ("image_size", "feature_dim", "heads", "layers", "roi_grid", "conv_before_pool")
    )
    encoder = make(config)
    weights = {name.removeprefix(PREFIX[form]): t for name, t in tensors.items() if name.startswith(PREFIX[form])}
    assert (form == "b5") == any(name.startswith("imgencoder_mom.") for name in tensors)
    encoder.load_state_dict(weights, strict=True)
    assert boxes(config).float() == pytest.approx(tensors["io.boxes_xyxy"][0], abs=1e-4)
    with torch.inference_mode():
        map_BCHW = encoder.backbone.forward_features(tensors["io.image_normalised"])
        patches = encoder.patches(map_BCHW)
        found = encoder(tensors["io.image_normalised"], tensors["io.patch_mask"])
    # the map and its patches are not normalised: some hundreds at most, so 1e-5 of that
    scale = tensors["io.feature_map"].abs().max().item()
    assert map_BCHW == pytest.approx(tensors["io.feature_map"], abs=1e-5 * scale)
    assert patches == pytest.approx(tensors["io.patch_features"], abs=1e-5 * scale)
    assert normalize(patches, dim=2) == pytest.approx(normalize(tensors["io.patch_features"], dim=2), abs=1e-5)
    assert found == pytest.approx(tensors["io.embedding"], abs=1e-5)
    assert normalize(found, dim=1) == pytest.approx(tensors["io.embedding_l2"], abs=1e-5)


def test_a_plain_mean_is_a_mask_that_counts_every_patch() -> None:
    encoder = make(FORMS["b5"])
    map_BCHW = torch.randn(2, 128, 6, 6)
    with torch.inference_mode():
        plain, masked = embed(encoder, map_BCHW), embed(encoder, map_BCHW, torch.ones(2, 37))
    assert plain == pytest.approx(masked, abs=1e-6)


@pytest.mark.parametrize("form", ["b5", "b7"])
@pytest.mark.parametrize(("image_px", "grid", "heads"), [(64, 2, 1), (224, 7, 8), (130, 0, 4), (257, 3, 2)])
def test_a_slow_forward_gives_the_same(form: str, image_px: int, grid: int, heads: int) -> None:
    config = replace(FORMS[form], image_px=image_px, grid=grid, heads=heads)
    encoder = make(config, seed=image_px)
    box_list = slow_boxes(image_px, grid, config.whole)
    map_BCHW = torch.randn(2, 128, config.map_side, config.map_side)
    mask_BP = torch.rand(2, len(box_list)) < 0.7
    mask_BP[:, 0] = True
    with torch.inference_mode():
        found = embed(encoder, map_BCHW, mask_BP)
        expected = torch.stack(
            [slow_forward(encoder, *one) for one in zip(map_BCHW, [box_list] * 2, mask_BP, strict=True)]
        )
        whole = embed(encoder, map_BCHW)
        every = torch.ones(len(box_list), dtype=torch.bool)
        expected_whole = torch.stack([slow_forward(encoder, one, box_list, every) for one in map_BCHW])
    # float32 sums in another order, on outputs below 1
    assert found == pytest.approx(expected, abs=1e-5)
    assert whole == pytest.approx(expected_whole, abs=1e-5)
    assert grid == 0 or (found - whole).abs().max() > 1e-4


@given(
    image_px=st.integers(33, 700), grid=st.integers(0, 8), whole=st.sampled_from(["first", "last"]),
    roi_grid=st.integers(1, 7), seed=st.integers(0, 1000),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_matrix_is_the_sampling_of_every_box(
    image_px: int, grid: int, whole: Any, roi_grid: int, seed: int
) -> None:
    config = replace(B7, image_px=image_px, grid=grid, whole=whole, roi_grid=roi_grid)
    side = config.map_side
    map_CHW = torch.randn(3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    box_list = slow_boxes(image_px, grid, whole)
    matrix_PM = pooling_matrix(boxes(config), image_px, side, roi_grid)
    assert boxes(config) == pytest.approx(torch.tensor(box_list), abs=1e-3)  # pixels
    assert matrix_PM.dtype == torch.float32 and matrix_PM.shape == (grid * grid + 1, side * side)
    expected = torch.stack([slow_pool(map_CHW, box, image_px, roi_grid) for box in box_list])
    # the matrix is rounded to float32
    assert matrix_PM.double() @ map_CHW.flatten(1).T == pytest.approx(expected, abs=1e-5)


def test_rows_of_boxes_at_the_edge_sum_to_less_than_one() -> None:
    for config, last in ((B7, 25), (B5, 35)):  # the box at the lower right, farthest out
        sums = pooling_matrix(boxes(config), config.image_px, 12, 4).sum(dim=1)
        assert sums.max().item() == pytest.approx(1, abs=1e-6)
        # the public code's: 0.25 to 0.43, depending on the grid
        assert sums.argmin() == last and 0.245 < sums.min() < 0.435


def test_columns_come_one_after_the_other() -> None:
    found = boxes(replace(B7, image_px=50))
    assert found.shape == (26, 4)
    assert found[:3].tolist() == [[0, 0, 50, 50], [0, 0, 10, 10], [0, 10, 10, 20]]
    assert boxes(replace(B5, image_px=60))[[0, 1, 6, 36]].tolist() == [
        [0, 0, 10, 10], [0, 10, 10, 20], [10, 0, 20, 10], [0, 0, 60, 60],
    ]  # fmt: skip


def test_the_whole_picture_alone_is_what_masked_boxes_leave() -> None:
    """BriVL-Generation feeds the whole picture and 36 boxes of zeros, which its mask removes."""
    alone = make(replace(FORMS["b5"], grid=0))
    filled = make(FORMS["b5"])
    filled.load_state_dict(alone.state_dict())
    padded = torch.zeros(37, 4, dtype=torch.float64)
    padded[0, 2:] = 190
    filled.pool_PM = pooling_matrix(padded, 190, 6, 4)
    mask_BP = torch.zeros(2, 37)
    mask_BP[:, 0] = 1
    map_BCHW = torch.randn(2, 128, 6, 6)
    with torch.inference_mode():
        assert embed(alone, map_BCHW) == pytest.approx(embed(filled, map_BCHW, mask_BP), abs=1e-5)


def count(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize(
    ("config", "cnn", "attention", "mlp", "conv"),
    [(B5, 30.39, 100.7, 8.39, 4.20), (B7, 66.35, 146.9, 13.11, 0)],
    ids=["b5", "b7"],
)
def test_full_size_has_the_published_parameters(
    config: BrivlConfig, cnn: float, attention: float, mlp: float, conv: float
) -> None:
    with torch.device("meta"):
        encoder = BrivlImageEncoder(config)
    assert count(encoder.backbone) == pytest.approx(cnn, abs=0.005)
    assert count(encoder.learnable["imgAtt"]) == pytest.approx(attention, abs=0.06)
    assert count(encoder.learnable["imgFC"]) == pytest.approx(mlp, abs=0.006)
    assert count(encoder) == pytest.approx(cnn + attention + mlp + conv, abs=0.1)
    names = set(encoder.state_dict())
    assert sum(name.startswith("backbone.") for name in names) == (854 if config is B5 else 1200)
    assert ("learnable.max_pool.0.weight" in names) == config.conv
    assert {"backbone.conv_stem.weight", "backbone.classifier.bias", "learnable.imgFC.fc2.bias"} <= names
    assert {"learnable.imgAtt.layers.3.self_attn.in_proj_weight", "learnable.imgAtt.layers.0.norm1.bias"} <= names
    assert {name.split(".")[0] for name in names} == {"backbone", "learnable"}
    for image_px in (360, 380, 384):
        with torch.inference_mode():
            side = encoder.backbone.forward_features(torch.empty(1, 3, image_px, image_px, device="meta")).shape
        assert side == (1, config.dim, 12, 12)
        assert replace(config, image_px=image_px).map_side == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_px": 32}, "image_px is 32, want a whole number from 33"),
        ({"grid": -1}, "grid is -1"),
        ({"layers": 2.0}, r"layers is 2\.0, want a whole number"),
        ({"heads": 3}, "dim is 2048, want a multiple of 3 heads"),
        ({"whole": "middle"}, "whole is 'middle', want 'first' or 'last'"),
        ({"conv": 1}, "conv is 1, want true or false"),
        ({"depth_multiplier": 0.1}, "both, or neither"),
        ({"depth_multiplier": "0.1"}, "depth_multiplier is '0.1', want 0.01 to 10"),
        ({"backbone": None}, "backbone is None, want a name in timm"),
    ],
)
def test_values_that_make_no_encoder_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(B5, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "tf_efficientnet_b55"}, "timm has no such model"),
        ({"dim": 2560}, r"dim is 2560, tf_efficientnet_b5\.ns_jft_in1k has 2048"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        BrivlImageEncoder(replace(B5, **change))
