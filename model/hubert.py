"""HuBERT as a start for SpeechLM: the same front end, projections and layers, split over SpeechLM's two stacks.

SpeechLM's own weights are hard to get and HuBERT's are not. The lower half of HuBERT's layers becomes the Speech
Transformer and the upper half the Shared one. What HuBERT has no tensor for starts neutral (positions at zero, norms
at one), so that the layers begin as HuBERT's.

Source: HubertModel of transformers, whose names this maps, and fairseq's HuBERT, whose names SpeechLM shares.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..shards.checks import parse_json
from .errors import CheckpointError
from .foreign import Foreign, read_foreign, state_dict
from .layouts import Released, fairseq_parts, some, without_module
from .speechlm import SpeechLM, SpeechLMConfig
from .weights import shapes_of

LAYER = r"encoder\.layers\.(\d+)\."
CONV = r"encoder\.pos_conv_embed\.conv\."
RENAMED = (
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
    (r"feature_projection\.layer_norm\.", "layer_norm."),
    (r"feature_projection\.projection\.", "post_extract_proj."),
    (r"masked_spec_embed$", "mask_emb"),
    (CONV + r"(?:weight_g|parametrizations\.weight\.original0)$", "encoder.pos_conv.0.weight_g"),
    (CONV + r"(?:weight_v|parametrizations\.weight\.original1)$", "encoder.pos_conv.0.weight_v"),
    (CONV + r"bias$", "encoder.pos_conv.0.bias"),
    (LAYER + r"attention\.", r"encoder.layers.\1.self_attn."),
    (LAYER + r"layer_norm\.", r"encoder.layers.\1.self_attn_layer_norm."),
    (LAYER + r"feed_forward\.intermediate_dense\.", r"encoder.layers.\1.fc1."),
    (LAYER + r"feed_forward\.output_dense\.", r"encoder.layers.\1.fc2."),
)  # fmt: skip
"""Beginnings of transformers' names, and fairseq's."""
IGNORED = ("final_proj.", "label_embs_concat", "lm_head.", "projector.", "classifier.")
"""Beginnings of the names of what predicts units or letters behind the encoder."""
FRESH = ("pos_emb.", "norm_k.", "embed_positions.", "layernorm_embedding.", "unit_encoder.version")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def read_hubert(path: Path) -> tuple[Foreign, Released]:
    """Read HuBERT from a folder of transformers or a file of fairseq; return also the file that held the weights.

    Raises:
        CheckpointError: there is no HuBERT.
    """
    if path.is_dir():
        foreign, options, tensors = _read_folder(path)
        layout = "transformers hubert"
    else:
        foreign = read_foreign(path)
        cfg, tensors = fairseq_parts(foreign)
        options, layout = _fairseq_options(foreign.path, cfg), "fairseq hubert"
    ignored = tuple(name for name in tensors if name.startswith(IGNORED))
    kept = {name: tensor for name, tensor in tensors.items() if name not in ignored}
    if any(name.startswith("unit_encoder.") for name in kept):
        raise CheckpointError(f"{path}: holds SpeechLM itself; import it with: unibrivl model import speechlm")
    try:
        config = _config(shapes_of(kept), options)
        weights = _split(kept, config)
    except (KeyError, IndexError, TypeError, ValueError) as e:
        raise CheckpointError(f"{path}: holds no HuBERT ({e}); its names are {some(tensors)}") from e
    return foreign, Released(layout=layout, config=config, weights=weights, ignored=ignored, fresh=_fresh(config))


def _read_folder(folder: Path) -> tuple[Foreign, dict[str, Any], dict[str, Tensor]]:
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
        kind = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{folder}: no folder of transformers: its config.json is missing or damaged") from e
    if kind != "hubert":
        raise CheckpointError(f"{folder}: holds a model of type {kind!r}, want 'hubert'")
    found = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    if not found:
        raise CheckpointError(f"{folder}: holds no weights, want {' or '.join(WEIGHT_FILES)}")
    foreign = read_foreign(found[0])
    tensors = without_module(state_dict(foreign.content, foreign.path))
    tensors = {_renamed(name.removeprefix("hubert."), config): tensor for name, tensor in tensors.items()}
    return foreign, _folder_options(folder, config), tensors


def _renamed(name: str, config: Mapping[str, Any]) -> str:
    """Return fairseq's name for transformers' name."""
    norm = "2" if config.get("feat_extract_norm") == "group" else "2.1"
    name = re.sub(
        r"^feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", rf"feature_extractor.conv_layers.\1.{norm}.", name
    )
    for pattern, theirs in RENAMED:
        name = re.sub(f"^{pattern}", theirs, name)
    return name


def _folder_options(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tensors do not show."""
    pre_norm = bool(config.get("do_stable_layer_norm", False))
    try:
        normalize = parse_json((folder / "preprocessor_config.json").read_text(encoding="utf-8"))["do_normalize"]
    except (OSError, ValueError, KeyError, TypeError):
        normalize = pre_norm  # as fairseq trained its Base and Large
    return {
        "heads": config.get("num_attention_heads", 12), "pre_norm": pre_norm, "normalize": bool(normalize),
        "strides": list(config.get("conv_stride", (5, 2, 2, 2, 2, 2, 2))),
    }  # fmt: skip


def _fairseq_options(path: Path, cfg: Mapping[str, Any]) -> dict[str, Any]:
    try:
        model, task = cfg["model"], cfg.get("task") or {}
        text = model.get("conv_feature_layers", "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2")
        strides = []
        for part in text.replace(" ", "").split("+"):
            triples = re.findall(r"\(\d+,\d+,(\d+)\)", part)
            times = re.search(r"\]\*(\d{1,2})$", part)
            strides += [int(stride) for stride in triples] * int(times[1] if times else 1)
        return {
            "heads": model["encoder_attention_heads"], "pre_norm": bool(model.get("layer_norm_first", False)),
            "normalize": bool(task.get("normalize", False)), "strides": strides,
        }  # fmt: skip
    except (KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{path}: its cfg is not that of HuBERT ({e})") from e


def _config(shapes: Mapping[str, tuple[int, ...]], options: Mapping[str, Any]) -> SpeechLMConfig:
    convs = [shapes[f"feature_extractor.conv_layers.{i}.0.weight"] for i in range(len(options["strides"]))]
    layers = len({match[1] for name in shapes if (match := re.match(LAYER, name))})
    if layers < 2:
        raise ValueError(f"{layers} layers, want at least 2")
    kernel = shapes["encoder.pos_conv.0.weight_v"]
    dim = shapes["encoder.layer_norm.weight"][0]
    return SpeechLMConfig(
        conv_layers=tuple((conv[0], conv[2], s) for conv, s in zip(convs, options["strides"], strict=True)),
        conv_bias="feature_extractor.conv_layers.0.0.bias" in shapes,
        conv_norm="layer" if "feature_extractor.conv_layers.0.2.1.weight" in shapes else "group",
        dim=dim, ffn_dim=shapes["encoder.layers.0.fc1.weight"][0], heads=options["heads"],
        speech_layers=layers // 2, shared_layers=layers - layers // 2, pre_norm=options["pre_norm"],
        normalize=options["normalize"], conv_pos=kernel[2], conv_pos_groups=dim // kernel[1], final_projections=0,
    )  # fmt: skip


def _split(tensors: Mapping[str, Tensor], config: SpeechLMConfig) -> dict[str, Tensor]:
    """Give the upper layers, and in pre-norm the last norm, to the Shared Transformer."""
    found = {}
    for name, tensor in tensors.items():
        match = re.match(LAYER, name)
        if match and int(match[1]) >= config.speech_layers:
            name = f"unit_encoder.layers.{int(match[1]) - config.speech_layers}.{name[match.end() :]}"
        elif config.pre_norm and name.startswith("encoder.layer_norm."):
            name = f"unit_{name}"
        found[name] = tensor
    return found


def _fresh(config: SpeechLMConfig) -> frozenset[str]:
    """Return the names of what HuBERT has not: positions, their norms, and in pre-norm the first stack's last norm."""
    with torch.device("meta"):
        names = SpeechLM(config).state_dict()
    parts = (*FRESH, *(["encoder.layer_norm."] if config.pre_norm else []))
    return frozenset(name for name in names if any(name.startswith(part) or f".{part}" in name for part in parts))
