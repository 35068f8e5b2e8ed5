"""What shapes a SpeechLM network, and how a released fairseq checkpoint says it.

Source: arXiv 2209.15329 and its public code (microsoft/SpeechT5, folder SpeechLM); names of options are fairseq's.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from ..shards.checks import check_numbers, check_whole
from .errors import CheckpointError

CONV_LAYERS = ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)
"""Channels, kernel and stride of the front end: 400 samples make the first frame, 320 every further one."""
MAX_WIDTH, MAX_LAYERS, MAX_ROWS = 1 << 16, 256, 1 << 24
"""Of any network: beyond them a configuration is damaged or hostile. Large has 4096, 12 and 3000."""
PADDING = 1
"""The unit that means padding, in every vocabulary of fairseq."""
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechLMConfig:
    """A network; the defaults are the Base model's."""

    conv_layers: tuple[tuple[int, int, int], ...] = CONV_LAYERS
    conv_bias: bool = False
    conv_norm: str = "group"
    """`group`: a group norm over time behind the first convolution; `layer`: a layer norm behind each."""
    dim: int = 768
    ffn_dim: int = 3072
    heads: int = 8
    speech_layers: int = 6
    """Of the Speech Transformer, which only sound passes."""
    shared_layers: int = 6
    """Of the Shared Transformer, which sound and text units pass."""
    pre_norm: bool = False
    """Layer norm before each sub-layer and at each stack's end, instead of behind each sub-layer."""
    normalize: bool = False
    """Whether a waveform is brought to mean 0 and variance 1 first."""
    conv_pos: int = 128
    """Kernel of the positional convolution, in frames."""
    conv_pos_groups: int = 16
    max_distance: int = 160
    """Frames between query and key beyond which all distances are one."""
    positions: int = 3000
    """Frames or units with a position of their own in the Shared Transformer; later ones share the last."""
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    input_dropout: float = 0.1
    layerdrop: float = 0.1
    """Probability that a layer is skipped in training."""
    feature_grad_mult: float = 0.1
    """Factor on the gradient that reaches the convolutions."""
    mask_prob: float = 0.8
    """Share of the frames that masked spans would cover in training if they never met: a tenth of it are starts."""
    mask_length: int = 10
    vocabulary: int = 0
    """Rows of the unit embedding; 0: a cleaned checkpoint, which cannot read text."""
    final_dim: int = 256
    final_projections: int = 2
    """Prediction heads of pre-training; kept because checkpoints carry them, and used by nothing here."""
    label_classes: tuple[int, ...] = ()
    ctc_classes: int = 0
    """Letters of pre-training's text head; 0: none."""
    ctc_kernel: int = 2

    def __post_init__(self) -> None:
        """Take lists for tuples, and refuse values that make no network."""
        object.__setattr__(self, "conv_layers", tuple(tuple(layer) for layer in self.conv_layers))
        object.__setattr__(self, "label_classes", tuple(self.label_classes))
        self._check_numbers()
        if not 0 < len(self.conv_layers) <= MAX_LAYERS or not all(map(_is_convolution, self.conv_layers)):
            raise ValueError(f"conv_layers is {self.conv_layers}, want (channels, kernel, stride) of each layer")
        if len(self.label_classes) > MAX_LAYERS or not all(_is_count(n, MAX_ROWS) for n in self.label_classes):
            raise ValueError(f"label_classes is {self.label_classes}, want a number of classes for each head")
        if self.conv_norm not in ("group", "layer"):
            raise ValueError(f"conv_norm is {self.conv_norm!r}, want 'group' or 'layer'")
        for name in ("heads", "conv_pos_groups"):
            if self.dim % getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}, want a divisor of dim, {self.dim}")

    def _check_numbers(self) -> None:
        check_whole(
            self, dim=(1, MAX_WIDTH), ffn_dim=(1, MAX_WIDTH), heads=(1, MAX_WIDTH), speech_layers=(1, MAX_LAYERS),
            shared_layers=(1, MAX_LAYERS), conv_pos=(1, MAX_WIDTH), conv_pos_groups=(1, MAX_WIDTH),
            max_distance=(1, MAX_WIDTH), positions=(1, MAX_ROWS), mask_length=(1, MAX_ROWS), final_dim=(1, MAX_WIDTH),
            ctc_kernel=(1, MAX_WIDTH), vocabulary=(0, MAX_ROWS), final_projections=(0, MAX_LAYERS),
            ctc_classes=(0, MAX_ROWS),
        )  # fmt: skip
        check_numbers(
            self, dropout=(0, 1), attention_dropout=(0, 1), activation_dropout=(0, 1), input_dropout=(0, 1),
            layerdrop=(0, 1), feature_grad_mult=(0, 1), mask_prob=(0, 1),
        )  # fmt: skip

    @property
    def num_layers(self) -> int:
        """Return the number of layers of both stacks."""
        return self.speech_layers + self.shared_layers

    @property
    def min_samples(self) -> int:
        """Return how many samples make one frame."""
        samples = 1
        for _, kernel, stride in reversed(self.conv_layers):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def samples_per_frame(self) -> int:
        """Return the samples between two frames."""
        return prod(stride for _, _, stride in self.conv_layers)

    def num_frames(self, num_samples: int) -> int:
        """Return how many frames the front end makes of so many samples."""
        for _, kernel, stride in self.conv_layers:
            num_samples = (num_samples - kernel) // stride + 1
        return max(0, num_samples)

    def as_dict(self) -> dict[str, Any]:
        """Return the values as JSON keeps them."""
        lists = {"conv_layers": [list(layer) for layer in self.conv_layers], "label_classes": list(self.label_classes)}
        return asdict(self) | lists

    @classmethod
    def from_fairseq(cls, cfg: Mapping[str, Any], shapes: Shapes) -> "SpeechLMConfig":
        """Read a released checkpoint: sizes from its tensors, the rest from its configuration.

        Args:
            cfg: the checkpoint's `cfg`, with `model` and `task`.
            shapes: of the tensors of its `model`, by their names there.

        Raises:
            CheckpointError: the checkpoint is no SpeechLM, or asks for something that this network does not have.
        """
        try:
            model, task = cfg["model"], cfg["task"]
            _refuse_others(model)
            found = cls(**_sizes(shapes, model["conv_feature_layers"]), **_switches(model, task))
        except KeyError as e:
            raise CheckpointError(f"the checkpoint has no {e.args[0]!r}, so it is no SpeechLM of fairseq") from e
        except (TypeError, AttributeError, IndexError, ValueError) as e:
            raise CheckpointError(f"the checkpoint's configuration makes no SpeechLM: {e}") from e
        wanted = {"dim": "encoder_embed_dim", "ffn_dim": "encoder_ffn_embed_dim", "heads": "encoder_attention_heads",
                  "speech_layers": "encoder_layers"}  # fmt: skip
        for name, theirs in wanted.items():
            if theirs in model and model[theirs] != getattr(found, name):
                raise CheckpointError(
                    f"the checkpoint says {theirs} {model[theirs]}, its tensors say {getattr(found, name)}"
                )
        return found


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _is_convolution(layer: tuple[Any, ...]) -> bool:
    return len(layer) == 3 and all(_is_count(number, MAX_WIDTH) for number in layer)


def _refuse_others(model: Mapping[str, Any]) -> None:
    """Name what a configuration asks for that no released SpeechLM has, and this network neither."""
    text = model["text_transformer"]
    before = text["encoder"].get("normalize_before", False)
    wanted: tuple[tuple[str, Any, Any], ...] = (
        ("use_rel_pos_enc", model.get("use_rel_pos_enc", False), True),
        ("add_unit_encoder", model.get("add_unit_encoder", False), True),
        ("layer_type", model.get("layer_type", "transformer"), "transformer"),
        ("activation_fn", model.get("activation_fn", "gelu"), "gelu"),
        ("target_glu", model.get("target_glu", False), False),
        ("text_transformer.activation_fn", text.get("activation_fn", "gelu"), "gelu"),
        ("text_transformer.no_scale_embedding", text.get("no_scale_embedding", False), True),
        ("text_transformer.layernorm_embedding", text.get("layernorm_embedding", False), True),
        ("text_transformer.no_token_positional_embeddings", text.get("no_token_positional_embeddings", False), False),
        ("text_transformer.encoder.learned_pos", text["encoder"].get("learned_pos", True), True),
        ("text_transformer.encoder.normalize_before", before, model.get("layer_norm_first", False)),
    )
    for name, found, want in wanted:
        if found != want:
            raise CheckpointError(f"the checkpoint's {name} is {found!r}; only {want!r} is supported")


def _switches(model: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "pre_norm": "layer_norm_first", "dropout": "dropout", "attention_dropout": "attention_dropout",
        "activation_dropout": "activation_dropout", "input_dropout": "dropout_input", "layerdrop": "encoder_layerdrop",
        "feature_grad_mult": "feature_grad_mult", "mask_prob": "mask_prob", "mask_length": "mask_length",
    }  # fmt: skip
    fairseq_defaults = {"pre_norm": False, "activation_dropout": 0.0, "input_dropout": 0.0, "layerdrop": 0.0,
                        "feature_grad_mult": 1.0, "mask_prob": 0.65}  # fmt: skip
    found = {ours: model[theirs] for ours, theirs in names.items() if theirs in model}
    return fairseq_defaults | found | {"normalize": bool(task.get("normalize", False))}


def _sizes(shapes: Shapes, conv_text: str) -> dict[str, Any]:
    """Return what tensors say, strides (which have none) apart."""
    (dim,) = shapes["mask_emb"]
    table = shapes["encoder.pos_emb.pe_k.weight"]
    kernel = shapes["encoder.pos_conv.0.weight_v"]
    labels = [shapes[f"label_embs_list.{i}"][0] for i in range(_count(shapes, "label_embs_list"))]
    has_ctc = "unit_encoder_ctc_head.5.weight" in shapes
    return {
        "conv_layers": _conv_layers(shapes, conv_text),
        "conv_bias": "feature_extractor.conv_layers.0.0.bias" in shapes,
        "conv_norm": "layer" if "feature_extractor.conv_layers.0.2.1.weight" in shapes else "group",
        "dim": dim,
        "ffn_dim": shapes["encoder.layers.0.fc1.weight"][0],
        "heads": dim // table[1],
        "speech_layers": _count(shapes, "encoder.layers"),
        "shared_layers": _count(shapes, "unit_encoder.layers"),
        "conv_pos": kernel[2],
        "conv_pos_groups": dim // kernel[1],
        "max_distance": table[0] // 2,
        "positions": shapes["unit_encoder.embed_positions.weight"][0] - PADDING - 1,
        "vocabulary": shapes.get("unit_embed_tokens.weight", (0,))[0],
        "final_dim": shapes.get("final_proj_list.0.weight", (256,))[0],
        "final_projections": _count(shapes, "final_proj_list"),
        "label_classes": labels,
        "ctc_classes": shapes["unit_encoder_ctc_head.5.weight"][0] if has_ctc else 0,
        "ctc_kernel": shapes["unit_encoder_ctc_head.1.weight"][2] if has_ctc else 2,
    }


def _count(shapes: Shapes, prefix: str) -> int:
    return len({name[len(prefix) + 1 :].partition(".")[0] for name in shapes if name.startswith(f"{prefix}.")})


def _conv_layers(shapes: Shapes, text: str) -> list[tuple[int, int, int]]:
    """Read `[(512,10,5)] + [(512,3,2)] * 4`, and hold it to the tensors."""
    layers: list[tuple[int, int, int]] = []
    for part in text.replace(" ", "").split("+"):
        match = re.fullmatch(r"\[((?:\(\d+,\d+,\d+\),?)+)\](?:\*(\d{1,2}))?", part)
        if match is None:
            raise ValueError(f"conv_feature_layers is {text!r}, want [(channels,kernel,stride)] * n + ...")
        triples = [tuple(map(int, triple)) for triple in re.findall(r"\((\d+),(\d+),(\d+)\)", match[1])]
        layers += triples * int(match[2] or 1)  # type: ignore[operator]
    numbers = range(_count(shapes, "feature_extractor.conv_layers"))
    found = [shapes[f"feature_extractor.conv_layers.{i}.0.weight"] for i in numbers]
    if [(shape[0], shape[2]) for shape in found] != [layer[:2] for layer in layers]:
        raise ValueError(f"conv_feature_layers is {text!r}, but the tensors have the shapes {found}")
    return layers


SPEECHLM_BASE = SpeechLMConfig()
SPEECHLM_LARGE = SpeechLMConfig(
    conv_norm="layer", dim=1024, ffn_dim=4096, heads=16, speech_layers=12, shared_layers=12, pre_norm=True,
    normalize=True, dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layerdrop=0.0, feature_grad_mult=1.0,
)  # fmt: skip
