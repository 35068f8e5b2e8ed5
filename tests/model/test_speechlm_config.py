"""SpeechLM's configuration: read from released checkpoints, kept as JSON, checked."""

import copy
import dataclasses
import json
from typing import Any

import pytest
import torch

from unibrivl.model.errors import CheckpointError
from unibrivl.model.speechlm import SPEECHLM_BASE, SPEECHLM_LARGE, SpeechLM, SpeechLMConfig

CFG: dict[str, Any] = {
    "model": {
        "extractor_mode": "default", "encoder_layers": 6, "encoder_embed_dim": 768, "encoder_ffn_embed_dim": 3072,
        "encoder_attention_heads": 8, "activation_fn": "gelu", "layer_type": "transformer", "dropout": 0.1,
        "attention_dropout": 0.1, "activation_dropout": 0.0, "encoder_layerdrop": 0.1, "dropout_input": 0.1,
        "final_dim": 256, "layer_norm_first": False, "use_rel_pos_enc": True, "add_unit_encoder": True,
        "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2", "feature_grad_mult": 0.1,
        "mask_prob": 0.8, "mask_length": 10, "target_glu": False,
        "text_transformer": {
            "activation_fn": "gelu", "no_scale_embedding": True, "layernorm_embedding": True,
            "no_token_positional_embeddings": False,
            "encoder": {"layers": 6, "normalize_before": False, "learned_pos": True},
        },
    },
    "task": {"normalize": False},
}  # fmt: skip
"""What matters of a released Base checkpoint's configuration."""


def shapes_of(config: SpeechLMConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in SpeechLM(config).state_dict().items()}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the configuration with one value replaced; ... deletes it."""
    cfg = copy.deepcopy(CFG)
    *words, last = path.split(".")
    place = cfg
    for word in words:
        place = place[word]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return cfg


@pytest.mark.parametrize("extra", [{}, {"vocabulary": 369, "label_classes": (369, 369), "ctc_classes": 33}])
def test_a_base_checkpoint_is_the_base_preset(extra: dict[str, Any]) -> None:
    wanted = dataclasses.replace(SPEECHLM_BASE, **extra)
    assert SpeechLMConfig.from_fairseq(CFG, shapes_of(wanted)) == wanted


def test_a_large_checkpoint_is_the_large_preset() -> None:
    cfg = copy.deepcopy(CFG)
    cfg["model"] |= {
        "extractor_mode": "layer_norm", "encoder_layers": 12, "encoder_embed_dim": 1024, "encoder_ffn_embed_dim": 4096,
        "encoder_attention_heads": 16, "layer_norm_first": True, "dropout": 0.0, "attention_dropout": 0.0,
        "dropout_input": 0.0, "encoder_layerdrop": 0.0, "feature_grad_mult": 1.0, "scaling_for_att": 32,
    }  # fmt: skip
    cfg["model"]["text_transformer"]["encoder"]["normalize_before"] = True
    cfg["task"]["normalize"] = True
    assert SpeechLMConfig.from_fairseq(cfg, shapes_of(SPEECHLM_LARGE)) == SPEECHLM_LARGE


def test_sizes_come_from_the_tensors() -> None:
    wanted = dataclasses.replace(
        SPEECHLM_BASE, conv_layers=((6, 10, 5), (8, 3, 2)), conv_bias=True, dim=24, ffn_dim=10, heads=3,
        speech_layers=11, shared_layers=2, conv_pos=5, conv_pos_groups=4, max_distance=7, positions=20, vocabulary=9,
        final_dim=3, final_projections=1, label_classes=(9,), ctc_classes=5, ctc_kernel=3,
    )  # fmt: skip
    cfg = changed("model.conv_feature_layers", "[(6,10,5)]+[(8, 3, 2)]")
    cfg["model"] |= {"encoder_layers": 11, "encoder_embed_dim": 24, "encoder_ffn_embed_dim": 10}
    cfg["model"]["encoder_attention_heads"] = 3
    assert SpeechLMConfig.from_fairseq(cfg, shapes_of(wanted)) == wanted


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model.use_rel_pos_enc", False, "use_rel_pos_enc is False; only True is supported"),
        ("model.use_rel_pos_enc", ..., "use_rel_pos_enc is False; only True"),
        ("model.layer_type", "conformer", "layer_type is 'conformer'; only 'transformer'"),
        ("model.activation_fn", "relu", "activation_fn is 'relu'; only 'gelu'"),
        ("model.target_glu", True, "target_glu is True; only False"),
        ("model.text_transformer.no_scale_embedding", False, "no_scale_embedding is False; only True"),
        ("model.text_transformer.encoder.normalize_before", True, "normalize_before is True; only False"),
        ("model.encoder_attention_heads", 12, "encoder_attention_heads 12, its tensors say 8"),
        ("model.encoder_layers", 7, "encoder_layers 7, its tensors say 6"),
        ("model.text_transformer", ..., "has no 'text_transformer', so it is no SpeechLM"),
        ("task", ..., "has no 'task'"),
        ("model.conv_feature_layers", "[(512,10,5)]*999", r"conv_feature_layers is '.*', want"),
        ("model.conv_feature_layers", "__import__('os')", r"conv_feature_layers is .*, want"),
        ("model.conv_feature_layers", "[(512,10,5)] + [(512,3,2)] * 3", "but the tensors have the shapes"),
        ("model.conv_feature_layers", "[(256,10,5)]", "but the tensors have the shapes"),
        ("model.dropout", "much", "dropout is 'much', want 0 to 1"),
    ],
)
def test_what_is_no_such_network_is_refused(path: str, value: Any, words: str) -> None:
    shapes = shapes_of(SPEECHLM_BASE)
    with pytest.raises(CheckpointError, match=words):
        SpeechLMConfig.from_fairseq(changed(path, value), shapes)


@pytest.mark.parametrize("missing", ["mask_emb", "encoder.pos_emb.pe_k.weight", "unit_encoder.embed_positions.weight"])
def test_a_checkpoint_without_a_tensor_is_refused_by_name(missing: str) -> None:
    shapes = shapes_of(SPEECHLM_BASE)
    del shapes[missing]
    with pytest.raises(CheckpointError, match=f"has no '{missing}', so it is no SpeechLM of fairseq"):
        SpeechLMConfig.from_fairseq(CFG, shapes)


@pytest.mark.parametrize(
    "config", [SPEECHLM_BASE, SPEECHLM_LARGE, dataclasses.replace(SPEECHLM_BASE, label_classes=(4,))]
)
def test_json_keeps_it(config: SpeechLMConfig) -> None:
    text = json.dumps(config.as_dict())
    assert json.loads(text) == config.as_dict()
    assert SpeechLMConfig(**json.loads(text)) == config


@pytest.mark.parametrize(
    "change",
    [{"dim": 0}, {"dim": 7.5}, {"heads": 7}, {"conv_pos_groups": 5}, {"conv_norm": "batch"}, {"conv_layers": ()},
     {"conv_layers": ((512, 10),)}, {"conv_layers": ((512, 0, 5),)}, {"dropout": 1.5}, {"layerdrop": -0.1},
     {"vocabulary": -1}, {"positions": 0}, {"mask_prob": float("nan")}, {"dim": None}, {"speech_layers": True},
     {"dim": 1 << 40}, {"speech_layers": 10**6}, {"vocabulary": 10**11}, {"label_classes": (10**11,)},
     {"label_classes": (4,) * 10**4}, {"conv_layers": ((512, 10, 5),) * 10**4}, {"conv_layers": (("a", 2, 3),)},
     {"conv_layers": ((1 << 40, 10, 5),)}],
    ids=str,
)  # fmt: skip
def test_values_that_make_no_network_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} is .*, want "):
        dataclasses.replace(SPEECHLM_BASE, **change)
