"""`bench reference` against files of other sizes than any given one, made here by a slow, separate implementation."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.efficientnet import _gen_efficientnet
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

from unibrivl.bench.commands import app
from unibrivl.bench.errors import BenchError
from unibrivl.bench.reference import check_file, check_folder, compare, rows
from unibrivl.model.errors import CheckpointError

Tensors = dict[str, Tensor]
CONVS = ((12, 10, 5), (12, 3, 2), (20, 3, 2), (20, 2, 2))
DIM, FFN, HEADS, LAYERS, SHARED, FAR, POSITIONS, VOCABULARY = 36, 52, 3, 3, 1, 9, 13, 17
"""The stacks differ in depth, more frames exist than positions, and heads are of 12."""


def drawn(*shape: int, scale: float = 0.3) -> Tensor:
    return scale * torch.randn(shape)


def norm(name: str, width: int) -> Tensors:
    return {f"{name}.weight": 1 + drawn(width), f"{name}.bias": drawn(width)}


def linear(name: str, out_dim: int, in_dim: int) -> Tensors:
    return {f"{name}.weight": drawn(out_dim, in_dim), f"{name}.bias": drawn(out_dim)}


def speechlm_weights(pre_norm: bool) -> Tensors:
    w: Tensors = {"mask_emb": drawn(DIM), **norm("layer_norm", 20), **linear("post_extract_proj", DIM, 20)}
    before = 1
    for i, (channels, kernel, _) in enumerate(CONVS):
        w[f"feature_extractor.conv_layers.{i}.0.weight"] = drawn(channels, before, kernel)
        before = channels
        if pre_norm:
            w |= norm(f"feature_extractor.conv_layers.{i}.2.1", channels)
        elif i == 0:
            w |= norm("feature_extractor.conv_layers.0.2", channels)
    w |= {"encoder.pos_conv.0.bias": drawn(DIM), "encoder.pos_conv.0.weight_v": drawn(DIM, DIM // 4, 6),
          "encoder.pos_conv.0.weight_g": 1 + drawn(1, 1, 6).abs(), **norm("encoder.layer_norm", DIM)}  # fmt: skip
    for stack, count in (("encoder", LAYERS), ("unit_encoder", SHARED)):
        w[f"{stack}.pos_emb.pe_k.weight"] = drawn(2 * FAR, DIM // HEADS)
        for i in range(count):
            name = f"{stack}.layers.{i}"
            for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                w |= linear(f"{name}.self_attn.{projection}", DIM, DIM)
            w |= linear(f"{name}.fc1", FFN, DIM) | linear(f"{name}.fc2", DIM, FFN)
            w |= norm(f"{name}.self_attn_layer_norm", DIM) | norm(f"{name}.final_layer_norm", DIM)
            w |= norm(f"{name}.norm_k", DIM // HEADS)
    w |= {"unit_encoder.version": torch.tensor([3.0]), "unit_embed_tokens.weight": drawn(VOCABULARY, DIM)}
    w["unit_encoder.embed_positions.weight"] = drawn(POSITIONS + 2, DIM)
    w |= norm("unit_encoder.layernorm_embedding", DIM)
    if pre_norm:
        w |= norm("unit_encoder.layer_norm", DIM)
    return w | linear("final_proj_list.0", 7, DIM)


def speechlm_cfg(pre_norm: bool) -> dict[str, Any]:
    text = {"activation_fn": "gelu", "no_scale_embedding": True, "layernorm_embedding": True,
            "encoder": {"normalize_before": pre_norm}}  # fmt: skip
    model = {
        "encoder_layers": LAYERS, "encoder_attention_heads": HEADS, "layer_norm_first": pre_norm,
        "use_rel_pos_enc": True, "add_unit_encoder": True, "text_transformer": text,
        "conv_feature_layers": "[(12,10,5)] + [(12,3,2)] + [(20,3,2)] + [(20,2,2)]", "dropout": 0.0,
        "attention_dropout": 0.0,
    }  # fmt: skip
    return {"model": model, "task": {"normalize": pre_norm}}


class SlowSpeechLM:
    """SpeechLM with the original's dense N x N x E position vectors, head by head, in float64."""

    def __init__(self, weights: Tensors, pre_norm: bool) -> None:
        self.w = {name: tensor.double() for name, tensor in weights.items()}
        self.pre_norm = pre_norm

    def norm(self, x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def frames(self, wav_BT: Tensor) -> Tensor:
        x = wav_BT.double()[:, None]
        for i, (_, _, stride) in enumerate(CONVS):
            name = f"feature_extractor.conv_layers.{i}"
            x = functional.conv1d(x, self.w[f"{name}.0.weight"], stride=stride)
            if self.pre_norm:
                x = self.norm(x.transpose(1, 2), f"{name}.2.1").transpose(1, 2)
            elif i == 0:
                x = functional.group_norm(x, x.shape[1], self.w[f"{name}.2.weight"], self.w[f"{name}.2.bias"])
            x = functional.gelu(x)
        return self.linear(self.norm(x.transpose(1, 2), "layer_norm"), "post_extract_proj")

    def positioned(self, x_BND: Tensor, padding_BN: Tensor) -> Tensor:
        x = x_BND.masked_fill(padding_BN[..., None], 0)
        v = self.w["encoder.pos_conv.0.weight_v"]
        kernel = v * self.w["encoder.pos_conv.0.weight_g"] / v.pow(2).sum(dim=(0, 1), keepdim=True).sqrt()
        y = functional.conv1d(x.transpose(1, 2), kernel, self.w["encoder.pos_conv.0.bias"], padding=3, groups=4)
        x = x + functional.gelu(y[..., :-1]).transpose(1, 2)
        return x if self.pre_norm else self.norm(x, "encoder.layer_norm")

    def attention(self, x_BND: Tensor, name: str, stack: str, padding_BN: Tensor) -> Tensor:
        table = self.w[f"{stack}.pos_emb.pe_k.weight"]
        if self.pre_norm:
            table = self.norm(table, f"{name}.norm_k")
        count, width = x_BND.shape[1], DIM // HEADS
        places = torch.tensor([[min(max(i - j, -FAR), FAR - 1) + FAR for j in range(count)] for i in range(count)])
        position_NNE = table[places]
        q, k, v = (self.linear(x_BND, f"{name}.self_attn.{p}_proj") for p in "qkv")
        mixed = []
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            logits = torch.einsum("bie,bje->bij", q[..., part], k[..., part])
            logits = (logits + torch.einsum("bie,ije->bij", q[..., part], position_NNE)) / math.sqrt(width)
            logits = logits.masked_fill(padding_BN[:, None], -math.inf)
            mixed.append(logits.softmax(dim=-1) @ v[..., part])
        return self.linear(torch.cat(mixed, dim=-1), f"{name}.self_attn.out_proj")

    def run(self, x: Tensor, stack: str, count: int, padding_BN: Tensor) -> list[Tensor]:
        states = []
        for i in range(count):
            name = f"{stack}.layers.{i}"
            first, last = f"{name}.self_attn_layer_norm", f"{name}.final_layer_norm"

            def feed_forward(x: Tensor, name: str = name) -> Tensor:
                return self.linear(functional.gelu(self.linear(x, f"{name}.fc1")), f"{name}.fc2")

            if self.pre_norm:
                x = x + self.attention(self.norm(x, first), name, stack, padding_BN)
                x = x + feed_forward(self.norm(x, last))
            else:
                x = self.norm(x + self.attention(x, name, stack, padding_BN), first)
                x = self.norm(x + feed_forward(x), last)
            states.append(x)
        return states

    def shared(self, x_BND: Tensor, padding_BN: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        x = x_BND.clone()
        for b in range(len(x)):
            place = 1
            for n in range(x.shape[1]):
                if not padding_BN[b, n]:
                    place = min(place + 1, POSITIONS + 1)
                    x[b, n] += self.w["unit_encoder.embed_positions.weight"][place]
        x = self.norm(x, "unit_encoder.layernorm_embedding").masked_fill(padding_BN[..., None], 0)
        states = self.run(x, "unit_encoder", SHARED, padding_BN)
        return x, states, self.norm(states[-1], "unit_encoder.layer_norm") if self.pre_norm else states[-1]

    def speech(self, wav_BT: Tensor, padding_BT: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        x = self.frames(wav_BT)
        share = padding_BT.shape[1] // x.shape[1]
        padding_BN = torch.tensor([
            [bool(row[n * share : (n + 1) * share].all()) for n in range(x.shape[1])] for row in padding_BT
        ])  # fmt: skip
        states = self.run(self.positioned(x, padding_BN), "encoder", LAYERS, padding_BN)
        handed = self.norm(states[-1], "encoder.layer_norm") if self.pre_norm else states[-1]
        _, more, last = self.shared(handed, padding_BN)
        return [*states, *more], last, padding_BN


def write_speechlm(folder: Path, pre_norm: bool) -> Path:
    torch.manual_seed(11)
    weights = speechlm_weights(pre_norm)
    slow = SlowSpeechLM(weights, pre_norm)
    wav = drawn(3, 1730, scale=1.0)
    padding = torch.arange(1730)[None] >= torch.tensor([[1730], [1210], [777]])
    wav = wav.masked_fill(padding, 0)
    states, last, frames = slow.speech(wav, padding)
    _, _, single = (*slow.speech(wav[:1], padding[:1])[:2], slow.speech(wav[:1], padding[:1])[1])
    units = torch.tensor([[4, 5, 16, 2, 9, 7, 7], [6, 3, 0, 4, 1, 1, 1]])
    embedded, text_states, text_last = slow.shared(slow.w["unit_embed_tokens.weight"][units], units == 1)
    io = {f"io.speech_layer.{i}": state for i, state in enumerate(states)}
    io |= {f"io.text_state.{i}": state for i, state in enumerate([embedded, *text_states])}
    io |= {"io.speech_last": last, "io.single_last": single, "io.text_last": text_last}
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
    tensors |= {name: tensor.float().contiguous() for name, tensor in io.items()}
    tensors |= {"io.wav": wav, "io.wav_padding_mask": padding, "io.frame_padding_mask": frames, "io.units": units}
    path = folder / f"speechlm_{'pre' if pre_norm else 'post'}.safetensors"
    save_file(tensors, path, metadata={"cfg": json.dumps(speechlm_cfg(pre_norm))})
    return path


def slow_box(map_CHW: Tensor, box: Tensor, image_px: int, samples: int) -> Tensor:
    """Return the samples (C, samples, samples) of one box, placed as the public code places them."""
    side = map_CHW.shape[-1]
    x1, y1, x2, y2 = (box.double() * side / image_px).tolist()
    theta = torch.tensor([[(x2 - x1) / (side - 1), 0, (x1 + x2 - side + 1) / (side - 1)],
                          [0, (y2 - y1) / (side - 1), (y1 + y2 - side + 1) / (side - 1)]]).to(map_CHW)  # fmt: skip
    grid = functional.affine_grid(theta[None], [1, 1, samples, samples], align_corners=False)
    return functional.grid_sample(map_CHW[None], grid, align_corners=False)[0]


def write_brivl(folder: Path, form: str) -> Path:
    """Write a file with boxes anywhere, other ones in each picture, and for B5 patches that do not count."""
    torch.manual_seed(12)
    size, samples, dim = 130, 3, 64
    backbone = _gen_efficientnet("tf_efficientnet_b0", 0.05, 0.4, pad_type="same", bn_eps=1e-3, num_classes=5).eval()
    for name, tensor in backbone.state_dict().items():
        if "running" in name:
            tensor.copy_(1 + 0.1 * torch.rand_like(tensor))
    layer = nn.TransformerEncoderLayer(dim, 2)
    attention = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    fc1, fc2, conv = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Conv2d(dim, dim, 1)
    weights = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    parts: list[tuple[str, nn.Module]] = [("imgAtt", attention), ("imgFC.fc1", fc1), ("imgFC.fc2", fc2)]
    parts += [("max_pool.0", conv)] if form == "b5" else []
    for name, module in parts:
        weights |= {f"learnable.{name}.{k}": v for k, v in module.state_dict().items()}
    image = drawn(2, 3, size, size, scale=1.0)
    corners = (size * torch.rand(2, 7, 2, 2)).sort(dim=2).values
    boxes = corners.flatten(2)
    mask = torch.ones(2, 7)
    if form == "b5":
        mask[1, 4:] = 0
    with torch.no_grad():
        map_BCHW = backbone.forward_features(image)
        pooled = []
        for b in range(2):
            for box in boxes[b]:
                sampled = slow_box(map_BCHW[b], box, size, samples)
                pooled.append((conv(sampled[None])[0] if form == "b5" else sampled).mean(dim=(1, 2)))
        patches = torch.stack(pooled).reshape(2, 7, dim)
        x = patches / patches.norm(dim=2, keepdim=True).clamp(min=1e-12)  # a box may lie outside all samples
        x = attention(x.transpose(0, 1), src_key_padding_mask=~mask.bool()).transpose(0, 1)
        mean = torch.stack([x[b][mask[b].bool()].mean(dim=0) for b in range(2)])
        embedding = fc2(fc1(mean).relu())
    prefix = "imgencoder." if form == "b5" else "learnable.imgencoder."
    tensors = {f"{prefix}{name}": tensor.clone() for name, tensor in weights.items()}
    tensors |= {"imgencoder_mom.learnable.imgFC.fc1.bias": torch.ones(3)} if form == "b5" else {}
    tensors |= {
        "io.image_normalised": image, "io.boxes_xyxy": boxes.contiguous(), "io.patch_mask": mask,
        "io.feature_map": map_BCHW, "io.patch_features": patches, "io.embedding": embedding,
        "io.embedding_l2": embedding / embedding.norm(dim=1, keepdim=True),
    }  # fmt: skip
    cfg = {"heads": 2, "layers": 1, "roi_grid": samples, "image_size": size}
    path = folder / f"brivl_{form}_other.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"cfg": json.dumps(cfg)})
    return path


def unit(x: Tensor) -> Tensor:
    return x / x.pow(2).sum(dim=-1, keepdim=True).sqrt()


def plain_cross_entropy(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """Return the mean loss of finding each row's partner, one row after the other."""
    terms = []
    for i in range(len(x)):
        logits = torch.stack([scale * (unit(x[i]) * unit(y[j])).sum() for j in range(len(y))])
        terms.append(torch.logsumexp(logits, dim=0) - logits[i])
    return torch.stack(terms).mean()


def write_cx_loss(folder: Path) -> Path:
    torch.manual_seed(13)
    weights = linear("f.0", 6, 9) | linear("f.2", 5, 6) | linear("g.0", 6, 5) | linear("g.2", 9, 6)
    live = {name: tensor.double().requires_grad_() for name, tensor in weights.items()}
    audio, image = drawn(7, 5).double().requires_grad_(), drawn(7, 9).double()

    def mlp(x: Tensor, name: str) -> Tensor:
        hidden = (x @ live[f"{name}.0.weight"].T + live[f"{name}.0.bias"]).relu()
        return hidden @ live[f"{name}.2.weight"].T + live[f"{name}.2.bias"]

    logs = torch.tensor([2.1, 2.9]).double()
    terms = []
    for x, y, log in ((audio, mlp(image, "f"), logs[0]), (mlp(audio, "g"), image, logs[1])):
        terms.append((plain_cross_entropy(x, y, log.exp()) + plain_cross_entropy(y, x, log.exp())) / 2)
    mean = (terms[0] + terms[1]) / 2
    mean.backward()
    tensors = weights | {
        "audio": audio, "image": image, "logit_scale_a": logs[0], "logit_scale_i": logs[1],
        "loss_audio_vs_f_image": terms[0], "loss_g_audio_vs_image": terms[1], "cx_loss_mean": mean,
        "cx_loss_sum": 2 * mean, "grad_audio_of_mean": audio.grad, "grad_f0_weight_of_mean": live["f.0.weight"].grad,
        "grad_g2_bias_of_mean": live["g.2.bias"].grad,
    }  # fmt: skip
    path = folder / "cx_loss_other.safetensors"
    save_file({name: tensor.detach().float().clone() for name, tensor in tensors.items() if tensor is not None}, path)
    return path


def write_moco_loss(folder: Path) -> Path:
    torch.manual_seed(14)
    batch, dim, slots, pointer = 5, 7, 11, 9
    t = {f"{kind}_{what}": unit(drawn(batch, dim)) for kind in ("image", "language") for what in ("query", "key")}
    queues = {kind: unit(drawn(slots, dim)) for kind in ("image", "language")}
    losses = {}
    for query, key in (("image", "language"), ("language", "image")):
        terms = []
        for i in range(batch):
            positive = (t[f"{query}_query"][i] * t[f"{key}_key"][i]).sum()
            others = [(t[f"{query}_query"][i] * entry).sum() for entry in queues[key]]
            logits = torch.stack([positive, *others]).double() / 0.07
            terms.append(torch.logsumexp(logits, dim=0) - logits[0])
        losses[f"loss_{query}_to_{key}"] = torch.stack(terms).mean()
    after = {kind: queue.clone() for kind, queue in queues.items()}
    for i in range(batch):
        for kind in after:
            after[kind][(pointer + i) % slots] = t[f"{kind}_key"][i]
    tensors = t | losses | {"loss": losses["loss_image_to_language"] + losses["loss_language_to_image"]}
    for kind in queues:
        tensors |= {f"{kind}_queue": queues[kind].T, f"{kind}_queue_after": after[kind].T}
    tensors = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    tensors |= {"pointer_before": torch.tensor(pointer), "pointer_after": torch.tensor((pointer + batch) % slots)}
    path = folder / "moco_loss_other.safetensors"
    save_file(tensors, path)
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "speechlm_post": lambda folder: write_speechlm(folder, False),
    "speechlm_pre": lambda folder: write_speechlm(folder, True),
    "brivl_b5": lambda folder: write_brivl(folder, "b5"), "brivl_b7": lambda folder: write_brivl(folder, "b7"),
    "cx_loss": write_cx_loss, "moco_loss": write_moco_loss,
}  # fmt: skip
TENSORS = {"speechlm_post": 10, "speechlm_pre": 10, "brivl_b5": 4, "brivl_b7": 4, "cx_loss": 7, "moco_loss": 6}


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a file of each kind, of other sizes than the given ones; do not write there."""
    folder = tmp_path_factory.mktemp("others")
    for write in WRITERS.values():
        write(folder)
    return folder


def path_of(others: Path, name: str) -> Path:
    (path,) = others.glob(f"{name}*")
    return path


@pytest.mark.parametrize("name", WRITERS)
def test_our_code_meets_a_slow_one_of_other_sizes(others: Path, name: str) -> None:
    """Within the command's own tolerance; the slow one computes in float64, ours in float32."""
    result = check_file(path_of(others, name))
    assert len(result.tensors) == TENSORS[name] and result.unchecked == ()
    assert result.passed, [tensor for tensor in result.tensors if not tensor.passed]
    assert result.kind == name.partition("_")[0] or result.kind == name


def test_the_given_files_are_met(folder: Callable[[str], Path]) -> None:
    results = check_folder(folder("reference"))
    assert {result.kind for result in results} == {"speechlm", "brivl", "cx_loss", "moco_loss"}
    assert all(result.passed and not result.unchecked for result in results)
    assert all(tensor.max_rel < 2e-6 for result in results for tensor in result.tensors)


def change(source: Path, target: Path, edit: Callable[[Tensors], object], metadata: Any = None) -> Path:
    """Write a file again with other tensors."""
    tensors = load_file(source)
    header = json.loads(source.read_bytes()[8 : 8 + int.from_bytes(source.read_bytes()[:8], "little")])
    edit(tensors)
    save_file(tensors, target, metadata=header.get("__metadata__") if metadata is None else metadata)
    return target


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("speechlm_post", "io.speech_layer.2"), ("speechlm_pre", "io.text_last"), ("brivl_b5", "io.embedding"),
        ("brivl_b7", "io.patch_features"), ("cx_loss", "grad_audio_of_mean"), ("moco_loss", "language_queue_after"),
    ],
)  # fmt: skip
def test_a_wrong_number_is_seen_and_named(others: Path, tmp_path: Path, name: str, tensor: str) -> None:
    def edit(tensors: Tensors) -> None:
        index = (0,) * tensors[tensor].dim()
        tensors[tensor][index] += 3e-5 * max(5.0, tensors[tensor].abs().max().item())

    result = check_file(change(path_of(others, name), tmp_path / f"{name}.safetensors", edit))
    assert not result.passed and result.worst.name == tensor
    assert [t.name for t in result.tensors if not t.passed] == [tensor]


@pytest.mark.parametrize("name", ["speechlm_post", "speechlm_pre", "brivl_b5", "brivl_b7", "cx_loss", "moco_loss"])
def test_a_wrong_weight_or_input_is_seen(others: Path, tmp_path: Path, name: str) -> None:
    """The comparison reaches the network: with another weight the same outputs are not met."""
    changed = {"speechlm": "model.encoder.layers.0.fc1.weight", "brivl": "imgFC.fc2.weight", "cx": "g.2.weight",
               "moco": "image_query"}[name.partition("_")[0]]  # fmt: skip

    def edit(tensors: Tensors) -> None:
        (key,) = [key for key in tensors if key.endswith(changed) and "mom" not in key]
        tensors[key] = tensors[key].roll(1, dims=0)

    assert not check_file(change(path_of(others, name), tmp_path / f"{name}.safetensors", edit)).passed


def test_padding_is_not_compared(others: Path, tmp_path: Path) -> None:
    def edit(tensors: Tensors) -> None:
        tensors["io.speech_last"][tensors["io.frame_padding_mask"]] = 99.0

    assert check_file(change(path_of(others, "speechlm_pre"), tmp_path / "speechlm_a.safetensors", edit)).passed


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("cx_loss", lambda t: t.pop("f.0.weight"), "lacks the tensor f.0.weight"),
        ("cx_loss", lambda t: t.update(image=torch.ones(3, 4)), "do not go together"),
        ("moco_loss", lambda t: t.update(image_queue=torch.ones(7, 3)), "11 and 3 slots"),
        ("moco_loss", lambda t: [t.pop(n) for n in list(t) if n.startswith(("loss", "pointer_a")) or "after" in n],
         "holds none of the results"),
        ("brivl_b5", lambda t: t.pop("io.boxes_xyxy"), "lacks the tensor io.boxes_xyxy"),
        ("brivl_b7", lambda t: t.update({"io.embedding": torch.ones(2, 3)}), "has shape (2, 3), ours (2, 64)"),
        ("speechlm_pre", lambda t: t.update({"io.speech_layer.4": torch.ones(3, 42, 36)}), "has io.speech_layer.4"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_go_together_is_one_line(
    others: Path, tmp_path: Path, name: str, edit: Callable[[Tensors], object], words: str
) -> None:
    path = change(path_of(others, name), tmp_path / f"{name}.safetensors", edit)
    with pytest.raises(BenchError) as caught:
        check_file(path)
    assert words in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_one_line(others: Path, tmp_path: Path) -> None:
    for name, lost in (
        ("speechlm_pre", "model.encoder.layers.0.fc1.bias"),
        ("brivl_b5", "imgencoder.backbone.bn1.bias"),
    ):
        path = change(path_of(others, name), tmp_path / f"{name}.safetensors", lambda t, lost=lost: t.pop(lost))
        with pytest.raises(CheckpointError, match=r"missing|lacks"):
            check_file(path)


def test_folders_and_files_that_are_none_are_one_line(others: Path, tmp_path: Path) -> None:
    for make, words in (
        (lambda: tmp_path / "nowhere", "there is no such folder"),
        (lambda: tmp_path, "holds no *.safetensors"),
        (lambda: write_bytes(tmp_path / "a" / "cx_loss.safetensors", b"\x01" * 40), "damaged file of tensors"),
        (lambda: write_bytes(tmp_path / "b" / "other.safetensors", path_of(others, "cx_loss").read_bytes()),
         "of no known kind, want a name that begins with speechlm_"),
        (lambda: write_bytes(tmp_path / "c" / "brivl_x.safetensors", path_of(others, "cx_loss").read_bytes()),
         "has no cfg"),
    ):  # fmt: skip
        with pytest.raises(BenchError) as caught:
            check_folder(make())
        assert words in str(caught.value) and "\n" not in str(caught.value)


def write_bytes(path: Path, content: bytes) -> Path:
    path.parent.mkdir()
    path.write_bytes(content)
    return path.parent


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "passed"),
    [
        ("loss", [1.0, 2.0], [1.0, 2.000009], True),
        ("loss", [1.0, 2.0], [1.0, 2.00002], False),
        ("loss", [18.0], [18.00002], False),
        ("io.speech_layer.3", [7.0], [7.00002], False),
        ("io.speech_layer.3", [9.0], [9.00008], True),
        ("io.speech_layer.3", [9.0], [9.0002], False),
        ("io.feature_map", [1000.0], [1000.009], True),
        ("io.feature_map", [1000.0], [1000.02], False),
        ("loss", [float("nan")], [1.0], False),
        ("loss", [1.0], [float("nan")], False),
        ("loss", [float("inf")], [float("inf")], False),
        ("loss", [], [], False),
    ],
)
def test_what_may_differ(name: str, ours: list[float], theirs: list[float], passed: bool) -> None:
    mine, given = (torch.tensor(values, dtype=torch.float64) for values in (ours, theirs))
    assert compare(name, mine, given).passed is passed


def test_whole_numbers_may_not_differ() -> None:
    assert compare("x", torch.tensor([3]), torch.tensor([3])).passed
    assert not compare("x", torch.tensor([3]), torch.tensor([4]), tolerance=10).passed
    assert not compare("x", torch.tensor([True]), torch.tensor([False]), tolerance=10).passed


def test_the_command_tells_each_file_and_exits_by_the_result(others: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    good = run(app, ["reference", str(others), "--json"])
    told = json.loads(good.stdout)
    assert good.exit_code == 0 and len(told) == len(WRITERS)
    assert all(
        set(one) >= {"file", "kind", "tensors", "max_abs", "max_rel", "passed"} and one["passed"] for one in told
    )
    strict = run(app, ["reference", str(others), "--json", "--tolerance", "1e-12"])
    assert strict.exit_code == 1 and not all(one["passed"] for one in json.loads(strict.stdout))
    table = run(app, ["reference", str(others), "--verbose"])
    assert (
        table.exit_code == 0 and "moco_loss_other.safetensors" in table.stdout and "io.patch_features" in table.stdout
    )
    change(path_of(others, "cx_loss"), tmp_path / "cx_loss.safetensors", lambda t: t.update(extra=torch.ones(1)))
    assert "not compared: extra" in run(app, ["reference", str(tmp_path)]).stdout
    assert [row[-1] for row in rows(check_folder(others))] == ["same"] * len(WRITERS)
