"""Published layouts, written here from what their public code says, become folders that our towers load."""

import hashlib
import json
import re
import resource
import subprocess
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchaudio
import torchvision
import transformers
from safetensors.torch import load_file, save_file
from timm.models.efficientnet import _gen_efficientnet
from torch import Tensor

from unibrivl.model import imported
from unibrivl.model.brivl_tower import brivl_tower
from unibrivl.model.errors import CheckpointError
from unibrivl.model.imported import CONFIG_FILE, WEIGHTS_FILE, load_imported, read_imported
from unibrivl.model.imports import ImportConfig, import_weights
from unibrivl.model.info import describe_folder
from unibrivl.model.speechlm import SpeechLM, SpeechLMConfig
from unibrivl.model.towers import language_tower, load_pretrained
from unibrivl.model.wav2clip import Wav2clipConfig, Wav2clipTower
from unibrivl.shards.atomic import hold_directory, temporary_path

Shapes = dict[str, tuple[int, ...]]
TINY = {"dim": 32, "ffn": 64, "heads": 4, "layers": 2, "channels": 16, "positions": 50, "final": 8}
BASE = {"dim": 768, "ffn": 3072, "heads": 8, "layers": 6, "channels": 512, "positions": 3000, "final": 256}
LARGE = {"dim": 1024, "ffn": 4096, "heads": 16, "layers": 12, "channels": 512, "positions": 3000, "final": 256}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(name: str, out_dim: int, in_dim: int) -> Shapes:
    return {f"{name}.weight": (out_dim, in_dim), f"{name}.bias": (out_dim,)}


def fairseq_layer(name: str, dim: int, ffn: int) -> Shapes:
    found: Shapes = {}
    for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
        found |= linear(f"{name}.self_attn.{projection}", dim, dim)
    found |= linear(f"{name}.fc1", ffn, dim) | linear(f"{name}.fc2", dim, ffn)
    return found | norm(f"{name}.self_attn_layer_norm", dim) | norm(f"{name}.final_layer_norm", dim)


def speechlm_shapes(sizes: dict[str, int], *, pre_norm: bool, vocabulary: int) -> Shapes:
    """Return names and shapes of a released SpeechLM; `vocabulary` 0: a cleaned one."""
    dim, channels, head = sizes["dim"], sizes["channels"], sizes["dim"] // sizes["heads"]
    found: Shapes = {"mask_emb": (dim,), **norm("layer_norm", channels), **linear("post_extract_proj", dim, channels)}
    for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        found[f"feature_extractor.conv_layers.{i}.0.weight"] = (channels, channels if i else 1, kernel)
        if pre_norm:
            found |= norm(f"feature_extractor.conv_layers.{i}.2.1", channels)
    if not pre_norm:
        found |= norm("feature_extractor.conv_layers.0.2", channels)
    found |= {"encoder.pos_conv.0.bias": (dim,), "encoder.pos_conv.0.weight_g": (1, 1, 128),
              "encoder.pos_conv.0.weight_v": (dim, dim // 16, 128), **norm("encoder.layer_norm", dim)}  # fmt: skip
    for stack in ("encoder", "unit_encoder"):
        found[f"{stack}.pos_emb.pe_k.weight"] = (320, head)
        for i in range(sizes["layers"]):
            found |= fairseq_layer(f"{stack}.layers.{i}", dim, sizes["ffn"]) | norm(f"{stack}.layers.{i}.norm_k", head)
    found |= {"unit_encoder.version": (1,), "unit_encoder.embed_positions.weight": (sizes["positions"] + 2, dim),
              **norm("unit_encoder.layernorm_embedding", dim)}  # fmt: skip
    if pre_norm:
        found |= norm("unit_encoder.layer_norm", dim)
    for i in range(2):
        found |= linear(f"final_proj_list.{i}", sizes["final"], dim)
    if vocabulary:
        found |= {"unit_embed_tokens.weight": (vocabulary, dim), "unit_encoder.embed_tokens.weight": (vocabulary, dim),
                  "label_embs_list.0": (504, sizes["final"]), "label_embs_list.1": (504, sizes["final"])}  # fmt: skip
    return found


def fairseq_cfg(sizes: dict[str, int], *, pre_norm: bool) -> dict[str, Any]:
    channels = sizes["channels"]
    text = {
        "activation_fn": "gelu", "no_scale_embedding": True, "layernorm_embedding": True,
        "no_token_positional_embeddings": False, "encoder": {"learned_pos": True, "normalize_before": pre_norm},
    }  # fmt: skip
    model = {
        "_name": "speechlm", "encoder_layers": sizes["layers"], "encoder_embed_dim": sizes["dim"],
        "encoder_ffn_embed_dim": sizes["ffn"], "encoder_attention_heads": sizes["heads"], "activation_fn": "gelu",
        "layer_norm_first": pre_norm, "use_rel_pos_enc": True, "add_unit_encoder": True, "text_transformer": text,
        "conv_feature_layers": f"[({channels},10,5)] + [({channels},3,2)] * 4 + [({channels},2,2)] * 2",
        "dropout": 0.1, "attention_dropout": 0.1, "encoder_layerdrop": 0.05, "mask_prob": 0.8,
    }  # fmt: skip
    return {"model": model, "task": {"normalize": pre_norm}}


def filled(shapes: Shapes, *, cheap: bool = False) -> dict[str, Tensor]:
    """Return random tensors; `cheap`: all are views of the same four bytes, and so is their file."""
    if cheap:
        one = torch.tensor(0.25)
        return OrderedDict((name, one.expand(shape)) for name, shape in shapes.items())
    made = OrderedDict((name, 0.1 * torch.randn(shape)) for name, shape in shapes.items())
    if "unit_encoder.embed_tokens.weight" in made:
        made["unit_encoder.embed_tokens.weight"] = made["unit_embed_tokens.weight"]
    return made


def save_speechlm(path: Path, sizes: dict[str, int], *, pre_norm: bool, vocabulary: int, cheap: bool = False) -> Any:
    """Write a checkpoint as fairseq does, a full one with its vocabulary pickled; return its tensors."""
    weights = filled(speechlm_shapes(sizes, pre_norm=pre_norm, vocabulary=vocabulary), cheap=cheap)
    content: dict[str, Any] = {"cfg": fairseq_cfg(sizes, pre_norm=pre_norm), "model": weights}
    if not vocabulary:
        torch.save(content, path)
        return weights
    names = ("fairseq", "fairseq.data", "fairseq.data.dictionary")
    kind = type("Dictionary", (), {"__module__": names[2]})
    try:
        sys.modules |= {name: types.ModuleType(name) for name in names}
        sys.modules[names[2]].Dictionary = kind  # type: ignore[attr-defined]
        words = kind()
        words.symbols, words.indices = ["<s>", "<pad>", "AE1_I"], {"<s>": 0, "<pad>": 1, "AE1_I": 2}
        content |= {"args": None, "task_state": {"dictionaries": [words], "text_dict": words},
                    "optimizer_history": [{"num_updates": 400_000}], "extra_state": {"epoch": 3}}  # fmt: skip
        torch.save(content, path)
    finally:
        for name in names:
            sys.modules.pop(name, None)
    return weights


def bring(kind: str, file: Path, out: Path | None) -> Any:
    return import_weights(ImportConfig(kind=kind, file=file, out=out))


def load_speechlm(folder: Path) -> SpeechLM:
    """Return an imported network."""
    network = SpeechLM(SpeechLMConfig(**read_imported(folder, "speechlm").config)).eval()
    load_imported(network, "speechlm", folder)
    return network


def refused(kind: str, file: Path, out: Path) -> str:
    """Return the one line with which an import is refused; nothing may be left behind."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(CheckpointError) as caught:
        bring(kind, file, out)
    assert sorted(out.parent.iterdir()) == before
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("vocabulary", [0, 40])
def test_speechlm_comes_through_bit_for_bit(pre_norm: bool, vocabulary: int, tmp_path: Path) -> None:
    file, out = tmp_path / "speechlm.pt", tmp_path / "out" / "speechlm"
    weights = save_speechlm(file, TINY, pre_norm=pre_norm, vocabulary=vocabulary)
    report = bring("speechlm", file, out)
    assert report.missing == report.unexpected == () and report.matched == len(weights) - bool(vocabulary)
    assert report.ignored == ({"unit_encoder": 1} if vocabulary else {})
    weights.pop("unit_encoder.embed_tokens.weight", None)
    network = load_speechlm(out)
    state = network.state_dict()
    assert state.keys() == weights.keys() and all(torch.equal(state[name], weights[name]) for name in weights)
    config = network.config
    assert (config.dim, config.heads, config.speech_layers, config.vocabulary) == (32, 4, 2, vocabulary)
    assert config.pre_norm == config.normalize == pre_norm
    stored = json.loads((out / CONFIG_FILE).read_text())
    assert (stored["format"], stored["kind"], stored["fingerprint"]) == (1, "speechlm", report.fingerprint)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    layout = {"file": "speechlm.pt", "layout": "fairseq speechlm", "keys_ignored": int(bool(vocabulary))}
    assert stored["source"] == layout | {"sha256": sha256}


@pytest.mark.parametrize(
    ("sizes", "pre_norm", "vocabulary", "parameters"),
    [(BASE, False, 369, 97_136_256), (LARGE, True, 352, 319_082_112)],
    ids=["base", "large"],
)
def test_full_size_speechlm_fits_name_by_name(
    sizes: dict[str, int], pre_norm: bool, vocabulary: int, parameters: int, tmp_path: Path
) -> None:
    """Without --out nothing is written, so tensors that share four bytes never become real."""
    file = tmp_path / "full.pt"
    weights = save_speechlm(file, sizes, pre_norm=pre_norm, vocabulary=vocabulary, cheap=True)
    assert file.stat().st_size < 1_000_000
    report = bring("speechlm", file, None)
    assert report.missing == report.unexpected == () and report.matched == len(weights) - 1
    assert report.fingerprint is None and list(tmp_path.iterdir()) == [file]
    surplus = vocabulary * sizes["dim"] + 2 * 504 * 256  # which cleaned checkpoints lack
    assert report.parameters - surplus == parameters


def brivl_shapes(backbone: str, dim: int, *, conv: bool) -> Shapes:
    """Return names and shapes of a released image encoder, or of one with a tenth of B0 as its backbone."""
    with torch.device("meta"):
        if backbone == "tiny":
            made = _gen_efficientnet("tf_efficientnet_b0", 0.1, 0.1, pad_type="same", bn_eps=1e-3, num_classes=10)
        else:
            made = timm.create_model(backbone, pretrained=False)
    state = made.state_dict()
    found = {f"backbone.{name}": tuple(tensor.shape) for name, tensor in state.items()}
    if conv:
        found |= {"learnable.max_pool.0.weight": (dim, dim, 1, 1), "learnable.max_pool.0.bias": (dim,)}
    for i in range(4):
        name = f"learnable.imgAtt.layers.{i}"
        found |= {f"{name}.self_attn.in_proj_weight": (3 * dim, dim), f"{name}.self_attn.in_proj_bias": (3 * dim,)}
        found |= linear(f"{name}.self_attn.out_proj", dim, dim)
        found |= linear(f"{name}.linear1", 2048, dim) | linear(f"{name}.linear2", dim, 2048)
        found |= norm(f"{name}.norm1", dim) | norm(f"{name}.norm2", dim)
    return found | linear("learnable.imgFC.fc1", dim, dim) | linear("learnable.imgFC.fc2", dim, dim)


def counters(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the batch norms' counters their type."""
    return {n: torch.tensor(7) if n.endswith("num_batches_tracked") else w for n, w in weights.items()}


OTHERS: Shapes = {
    "imgencoder_mom.backbone.conv_stem.weight": (8, 3, 3, 3), "imgencoder_mom.learnable.imgFC.fc1.bias": (9,),
    "textencoder.backbone.bert.embeddings.word_embeddings.weight": (30, 8),
    "textencoder.learnable.textFC.fc1.bias": (8,), "textencoder_mom.learnable.textFC.fc1.bias": (8,),
}  # fmt: skip


def save_brivl(path: Path, backbone: str, dim: int, *, form: str, cheap: bool) -> dict[str, Tensor]:
    """Write a B5 checkpoint (`learnable`) or a B7 one (bare state dict); return the encoder's tensors."""
    weights = counters(filled(brivl_shapes(backbone, dim, conv=form == "b5"), cheap=cheap))
    others = filled(OTHERS, cheap=cheap)
    named = {f"imgencoder.{name}": tensor for name, tensor in weights.items()} | others
    if form == "b5":
        torch.save({"learnable": named, "epoch": 3, "optimizer": {"state": {}}}, path)
    else:
        named |= {"videoAtt.layers.0.norm1.bias": torch.ones(3)}
        torch.save({f"learnable.{name}": tensor for name, tensor in named.items()} | {"txt_queue": torch.ones(2)}, path)
    return weights


@pytest.mark.parametrize(
    ("form", "backbone", "dim"),
    [("b5", "tf_efficientnet_b5", 2048), ("b7", "tf_efficientnet_b7", 2560)],
)
def test_full_size_brivl_fits_name_by_name(form: str, backbone: str, dim: int, tmp_path: Path) -> None:
    file = tmp_path / "brivl.pth"
    weights = save_brivl(file, backbone, dim, form=form, cheap=True)
    report = bring("brivl", file, None)
    assert report.missing == report.unexpected == () and report.matched == len(weights)
    config = report.config
    assert (config["backbone"], config["dim"]) == (f"{backbone}.ns_jft_in1k", dim)
    places = {"b5": (6, "last", True, 380), "b7": (5, "first", False, 384)}
    assert (config["grid"], config["whole"], config["conv"], config["image_px"]) == places[form]
    prefix = "" if form == "b5" else "learnable."
    assert report.ignored.items() >= {
        f"{prefix}imgencoder_mom": 2, f"{prefix}textencoder": 2, f"{prefix}textencoder_mom": 1
    }.items()  # fmt: skip


@pytest.mark.parametrize("form", ["b5", "b7"])
def test_brivl_comes_through_bit_for_bit(form: str, tmp_path: Path) -> None:
    """On a backbone outside the family, whose multipliers are found by its sizes."""
    file, out = tmp_path / "brivl.pth", tmp_path / "brivl"
    weights = save_brivl(file, "tiny", 128, form=form, cheap=False)
    report = import_weights(ImportConfig(kind="brivl", file=file, out=out, image_px=224))
    tower = brivl_tower(form, str(out))
    state = tower.module.state_dict()
    assert state.keys() == weights.keys() and all(torch.equal(state[name], weights[name]) for name in weights)
    assert tower.fingerprint == report.fingerprint and tower.preprocessing.size_px == 224


@pytest.mark.slow
def test_a_full_size_import_is_written_and_loads(tmp_path: Path) -> None:
    file, out = tmp_path / "full.pt", tmp_path / "base"
    save_speechlm(file, BASE, pre_norm=False, vocabulary=369, cheap=True)
    report = bring("speechlm", file, out)
    assert (out / WEIGHTS_FILE).stat().st_size > 4 * report.parameters
    assert load_speechlm(out).config.dim == 768


def hubert(tmp_path: Path, *, pre_norm: bool) -> tuple[Any, Path]:
    """Return a small HuBERT of transformers and its folder."""
    torch.manual_seed(3)
    config = transformers.HubertConfig(
        hidden_size=48, num_hidden_layers=5, num_attention_heads=3, intermediate_size=64, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=128, do_stable_layer_norm=pre_norm, conv_bias=pre_norm,
        feat_extract_norm="layer" if pre_norm else "group",
    )  # fmt: skip
    model = transformers.HubertModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1) if parameter.dim() == 1 else None
    folder = tmp_path / "hubert"
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("pre_norm", [False, True])
def test_hubert_starts_speechlm_as_hubert_computes(pre_norm: bool, tmp_path: Path) -> None:
    """The lower stack computes HuBERT's states; tolerance: float32 over a few layers of unit-scale states."""
    model, folder = hubert(tmp_path, pre_norm=pre_norm)
    out = tmp_path / "start"
    report = bring("hubert", folder, out)
    network = load_speechlm(out)
    assert (network.config.speech_layers, network.config.shared_layers, network.config.heads) == (2, 3, 3)
    sound = torch.randn(2, 8000)
    with torch.no_grad():
        states = network.speech(sound).layers
        theirs = model(sound, output_hidden_states=True).hidden_states
    for i in range(2):
        assert (states[i] - theirs[i + 1]).abs().max() < 1e-4
    upper = dict(model.encoder.layers[4].named_parameters())["feed_forward.output_dense.weight"]
    assert torch.equal(network.state_dict()["unit_encoder.layers.2.fc2.weight"], upper)
    assert report.missing == read_imported(out).fresh
    parts = {"pos_emb", "norm_k", "embed_positions", "layernorm_embedding", "version"} | (
        {"layer_norm"} if pre_norm else set()
    )
    assert {part for name in report.missing for part in name.split(".") if part in parts} == parts
    assert report.matched + len(report.missing) == len(network.state_dict())


def test_hubert_of_fairseq_is_hubert_of_transformers(tmp_path: Path) -> None:
    """The same weights in fairseq's file give the same folder."""
    model, folder = hubert(tmp_path, pre_norm=False)
    first = bring("hubert", folder, tmp_path / "first")
    renamed = {}
    pairs = (
        ("feature_projection.layer_norm", "layer_norm"), ("feature_projection.projection", "post_extract_proj"),
        (".conv.weight", ".0.weight"), ("conv_layers.0.layer_norm", "conv_layers.0.2"),
        ("masked_spec_embed", "mask_emb"),
        ("pos_conv_embed.conv.parametrizations.weight.original0", "pos_conv.0.weight_g"),
        ("pos_conv_embed.conv.parametrizations.weight.original1", "pos_conv.0.weight_v"),
        ("pos_conv_embed.conv.bias", "pos_conv.0.bias"), ("attention.", "self_attn."),
        ("intermediate_dense", "fc1"), ("output_dense", "fc2"), ("feed_forward.", ""),
    )  # fmt: skip
    for name, tensor in model.state_dict().items():
        words = name.split(".")
        if words[:2] == ["encoder", "layers"] and words[3] == "layer_norm":
            name = name.replace("layer_norm", "self_attn_layer_norm")
        for theirs, ours in pairs:
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    renamed |= {"label_embs_concat": torch.ones(4, 8), "final_proj.weight": torch.ones(8, 48)}
    cfg = {
        "model": {"encoder_attention_heads": 3, "layer_norm_first": False,
                  "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"},
        "task": {"normalize": False},
    }  # fmt: skip
    torch.save({"cfg": cfg, "model": renamed}, tmp_path / "hubert.pt")
    second = bring("hubert", tmp_path / "hubert.pt", tmp_path / "second")
    assert second.fingerprint == first.fingerprint and second.layout != first.layout
    assert second.ignored == {"label_embs_concat": 1, "final_proj": 1}


def wav2clip_state() -> dict[str, Tensor]:
    """Return a state dict in the layout of the release: a ResNet-18 of one channel, without its classifier."""
    torch.manual_seed(5)
    network = torchvision.models.resnet18()
    network.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    network.fc = torch.nn.Identity()  # type: ignore[assignment]
    state = {f"audio_encoder.{name}": tensor for name, tensor in network.state_dict().items()}
    state["audio_encoder.spectrogram.window"] = torch.hann_window(512)
    for part in ("audio_transform", "image_transform"):
        for i in (0, 3):
            state |= {
                f"{part}.sequential.{i}.weight": torch.ones(512, 512),
                f"{part}.sequential.{i}.bias": torch.ones(512),
            }
    return state


def test_wav2clip_computes_what_its_release_does(tmp_path: Path) -> None:
    """One clip at a time, as the release embeds; tolerance: float32 over 18 layers."""
    state = wav2clip_state()
    file, out = tmp_path / "Wav2CLIP.pt", tmp_path / "wav2clip"
    torch.save(state, file)
    report = bring("wav2clip", file, out)
    assert report.ignored == {"audio_transform": 4, "image_transform": 4} and report.matched == len(state) - 8
    tower = Wav2clipTower(Wav2clipConfig(**read_imported(out).config))
    tower.load_state_dict(load_file(out / WEIGHTS_FILE))
    sound = 0.1 * torch.randn(1, 32_000)
    x = torch.log(torchaudio.transforms.Spectrogram(n_fft=512, hop_length=353)(sound[:, None]) + 1e-7)
    x = (x - torch.mean(x)) / (torch.std(x) + 1e-9)
    network = torchvision.models.resnet18()
    network.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    network.fc = torch.nn.Identity()  # type: ignore[assignment]
    prefix = "audio_encoder."
    network.load_state_dict({
        name.removeprefix(prefix): tensor for name, tensor in state.items()
        if name.startswith(prefix) and "window" not in name
    })  # fmt: skip
    with torch.no_grad():
        assert (tower.eval()(sound) - network.eval()(x)).abs().max() < 1e-4


def test_training_can_start_from_imported_wav2clip(tmp_path: Path) -> None:
    file, out = tmp_path / "Wav2CLIP.pt", tmp_path / "wav2clip"
    torch.save(wav2clip_state(), file)
    bring("wav2clip", file, out)
    tower = language_tower("wav2clip", {"weights": str(out), "standardize": True, "clip_s": 2.0})
    load_pretrained(tower)
    state, stored = tower.state_dict(), load_file(out / WEIGHTS_FILE)
    assert state.keys() == stored.keys() and all(torch.equal(state[name], stored[name]) for name in state)
    with pytest.raises(CheckpointError, match="give it with --set standardize=true"):
        load_pretrained(language_tower("wav2clip", {"weights": str(out)}))
    save_file({name: tensor + 1 for name, tensor in stored.items()}, out / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="not the weights that"):
        load_pretrained(tower)


def changed(weights: dict[str, Tensor], fault: str) -> dict[str, Tensor]:
    """Return tensors with one fault."""
    weights = dict(weights)
    if fault == "missing":
        for name in [name for name in weights if "encoder.layers.1.fc" in name]:
            del weights[name]
    elif fault == "unexpected":
        weights["encoder.layers.0.adapter.weight"] = torch.ones(2)
    elif fault == "shape":
        weights["encoder.layers.1.fc2.bias"] = torch.ones(31)
    elif fault == "nan":
        weights["encoder.layers.1.fc2.bias"] = torch.full((32,), float("nan"))
    elif fault == "type":
        weights["encoder.layers.1.fc2.bias"] = torch.ones(32, dtype=torch.int64)
    elif fault == "embedding":
        weights["unit_encoder.embed_tokens.weight"] = torch.ones(40, 32)
    return weights


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", "8 missing: encoder.layers.1.fc1.weight"),
        ("unexpected", "1 unexpected: encoder.layers.0.adapter.weight"),
        ("shape", "1 of another shape: encoder.layers.1.fc2.bias ((31,), want (32,))"),
        ("nan", "encoder.layers.1.fc2.bias holds values that are no finite numbers"),
        ("type", "encoder.layers.1.fc2.bias is of type torch.int64"),
        ("embedding", "differ, want one tensor"),
    ],
)
def test_a_partial_match_is_refused_by_name(fault: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    weights = save_speechlm(file, TINY, pre_norm=False, vocabulary=40)
    torch.save({"cfg": fairseq_cfg(TINY, pre_norm=False), "model": changed(weights, fault)}, file)
    message = refused("speechlm", file, tmp_path / "out")
    assert words in message and str(file) in message
    if fault == "missing":
        assert message.count("encoder.layers") == 5 and message.endswith("and 3 more")


def test_a_file_of_another_kind_is_told_so(tmp_path: Path) -> None:
    speechlm, brivl, wav2clip = (tmp_path / name for name in ("speechlm.pt", "brivl.pth", "wav2clip.pt"))
    save_speechlm(speechlm, TINY, pre_norm=False, vocabulary=0)
    save_brivl(brivl, "tiny", 128, form="b7", cheap=True)
    torch.save(wav2clip_state(), wav2clip)
    out = tmp_path / "out"
    assert "no BriVL image encoder" in refused("brivl", wav2clip, out)
    assert "no checkpoint of fairseq" in refused("speechlm", brivl, out)
    assert "no Wav2CLIP" in refused("wav2clip", brivl, out)
    assert "import speechlm" in refused("hubert", speechlm, out)
    assert "no folder of transformers" in refused("hubert", tmp_path, out)
    assert "the weights hold a value of type dict under 'cfg'" in refused("brivl", speechlm, out)


def test_hubert_as_speechlm_is_told_the_way(tmp_path: Path) -> None:
    weights = {"mask_emb": torch.ones(8), "encoder.layer_norm.weight": torch.ones(8)}
    torch.save({"cfg": {"model": {}}, "model": weights}, tmp_path / "hubert.pt")
    assert "unibrivl model import hubert" in refused("speechlm", tmp_path / "hubert.pt", tmp_path / "out")


def test_weights_that_claim_too_much_are_refused(tmp_path: Path) -> None:
    """A file of 1 MB can claim any number of values, since all of them may be one."""
    sizes = BASE | {"dim": 1 << 15, "ffn": 1 << 16, "heads": 64}
    file = tmp_path / "a.pt"
    save_speechlm(file, sizes, pre_norm=False, vocabulary=0, cheap=True)
    assert "claims more than 16 GiB" in refused("speechlm", file, tmp_path / "out")


@pytest.fixture
def wav2clip(tmp_path: Path) -> Path:
    path = tmp_path / "Wav2CLIP.pt"
    torch.save(wav2clip_state(), path)
    return path


def test_an_import_never_replaces_what_is_not_one(wav2clip: Path, tmp_path: Path) -> None:
    for name, content in (("config.json", '{"model_type": "hubert"}'), ("notes.txt", "mine"), ("config.json", "[]")):
        out = tmp_path / f"taken-{len(content)}"
        out.mkdir()
        (out / name).write_text(content)
        assert "holds other files" in refused("wav2clip", wav2clip, out)
        assert (out / name).read_text() == content
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused("wav2clip", wav2clip, tmp_path / "file")


def test_an_earlier_import_and_an_empty_folder_are_replaced(wav2clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    first = bring("wav2clip", wav2clip, out)
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    assert bring("wav2clip", wav2clip, out).fingerprint == first.fingerprint
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files
    assert set(files) == {CONFIG_FILE, WEIGHTS_FILE} and sorted(tmp_path.iterdir()) == sorted([out, wav2clip])


def test_a_failed_write_leaves_the_earlier_import(
    wav2clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    bring("wav2clip", wav2clip, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(imported, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        bring("wav2clip", wav2clip, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(tmp_path.iterdir()) == sorted([out, wav2clip])


DIES_WHILE_WRITING = """
import os, sys
from pathlib import Path
from unibrivl.model import imported, imports
imported.canonical_json = lambda value: os._exit(9)
imports.import_weights(imports.ImportConfig(kind="wav2clip", file=Path(sys.argv[1]), out=Path(sys.argv[2])))
"""


def test_what_killed_imports_left_goes_with_the_next_and_what_is_at_work_stays(wav2clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "towers" / "a[b]"
    done = subprocess.run([sys.executable, "-c", DIES_WHILE_WRITING, wav2clip, out], check=False)
    assert done.returncode == 9 and [path.suffix for path in out.parent.iterdir()] != []
    at_work, others = temporary_path(out), temporary_path(out.with_name("other"))
    at_work.mkdir()
    others.mkdir()
    with hold_directory(at_work, wait=False):
        bring("wav2clip", wav2clip, out)
    assert sorted(out.parent.iterdir()) == sorted([out, at_work, others])
    bring("wav2clip", wav2clip, out)
    assert sorted(out.parent.iterdir()) == sorted([out, others])


def test_a_full_disk_leaves_the_earlier_import_and_is_one_line(wav2clip: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: both fail the writing in the middle."""
    out = tmp_path / "out"
    bring("wav2clip", wav2clip, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    limits = (1_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    done = subprocess.run(
        [sys.executable, "-m", "unibrivl", "model", "import", "wav2clip", wav2clip, "--out", out],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1 and re.fullmatch(rf"error: {out}: cannot be written .*make room.*\n", done.stderr)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(tmp_path.iterdir()) == sorted([out, wav2clip])


def test_weights_of_others_are_told_whose_they_may_be(wav2clip: Path, tmp_path: Path) -> None:
    save_speechlm(tmp_path / "speechlm.pt", TINY, pre_norm=False, vocabulary=0)
    save_brivl(tmp_path / "brivl.pth", "tiny", 128, form="b5", cheap=True)
    save_brivl(tmp_path / "brivl7.pth", "tiny", 128, form="b7", cheap=True)
    files = {"speechlm.pt": "speechlm", "brivl.pth": "brivl", "brivl7.pth": "brivl", wav2clip.name: "wav2clip"}
    for name, kind in files.items():
        for asked in ("speechlm", "brivl", "wav2clip"):
            if asked != kind:
                told = refused(asked, tmp_path / name, tmp_path / "out")
                assert told.endswith(f"; it may be of {kind}: unibrivl model import {kind} {tmp_path / name}"), told


@pytest.mark.parametrize("image_px", [0, 32, 4097, 10**9])
def test_a_side_that_no_input_has_is_a_mistake_of_usage(image_px: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"image_px is {image_px}, want a whole number from 33 to 4096"):
        ImportConfig(kind="brivl", file=tmp_path / "a.pth", out=None, image_px=image_px)


def test_info_tells_what_was_imported(wav2clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = bring("wav2clip", wav2clip, out)
    info = describe_folder(out).as_dict()
    assert json.loads(json.dumps(info)) == info
    assert (info["kind"], info["fingerprint"], info["sizes"]["hop"]) == ("wav2clip", report.fingerprint, 353)
    assert info["source"]["layout"] == "wav2clip" and info["tensors"] == report.matched
    assert info["parameters"] == sum(tensor.numel() for tensor in load_file(out / WEIGHTS_FILE).values())


def test_info_tells_what_a_run_is(run: Path) -> None:
    info = describe_folder(run)
    assert info.kind == "run" and info.sizes["language_tower"]["name"] == "wav2clip"
    assert info.parameters > 1_000_000 and len(info.fingerprint) == 64
    assert info.source["steps"] == info.source["steps_planned"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / CONFIG_FILE).unlink(), "neither imported weights"),
        (lambda folder: (folder / CONFIG_FILE).write_text("{"), "describes no imported network"),
        (lambda folder: (folder / CONFIG_FILE).write_text('{"format": 2, "kind": "brivl"}'), "format 2"),
        (lambda folder: (folder / CONFIG_FILE).write_text("[]"), "describes no imported network"),
        (lambda folder: (folder / CONFIG_FILE).write_text("[" * 100_000), "describes no imported network"),
        (lambda folder: save_file({"a": torch.ones(2)}, folder / WEIGHTS_FILE), "does not fit the model"),
        (lambda folder: (folder / WEIGHTS_FILE).unlink(), "missing or damaged"),
        (lambda folder: (folder / WEIGHTS_FILE).write_bytes(b"\x00" * 20), "missing or damaged"),
    ],
)
def test_a_damaged_folder_is_one_line(
    change: Callable[[Path], Any], words: str, wav2clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    import_weights(ImportConfig(kind="wav2clip", file=wav2clip, out=out))
    change(out)
    with pytest.raises(CheckpointError, match=words) as caught:
        describe_folder(out)
    assert str(out) in str(caught.value) and "\n" not in str(caught.value)


def test_safetensors_of_speechlm_carry_their_cfg(tmp_path: Path) -> None:
    weights = filled(speechlm_shapes(TINY, pre_norm=True, vocabulary=0))
    file = tmp_path / "a.safetensors"
    save_file(weights, file, metadata={"cfg": json.dumps(fairseq_cfg(TINY, pre_norm=True))})
    assert bring("speechlm", file, tmp_path / "out").matched == len(weights)
    save_file(weights, file)
    with pytest.raises(CheckpointError, match="holds no cfg"):
        bring("speechlm", file, tmp_path / "out")
