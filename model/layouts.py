"""The layouts of published weights: which tensors are the network's, and what configuration they have.

A layout names what it ignores; every other tensor must find its place, so that nothing is lost in silence.

Source: the loaders of the public code of BriVL, WenLan-Video, SpeechLM and Wav2CLIP.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..shards.checks import parse_json
from .brivl import B5, B7, BrivlConfig
from .efficientnets import backbone_options
from .errors import CheckpointError
from .foreign import Foreign, is_state_dict, plain, state_dict
from .speechlm import SpeechLMConfig
from .wav2clip import Wav2clipConfig
from .weights import shapes_of

SHOWN = 5
"""Names that a message lists."""
UNIT_EMBEDDING = "unit_embed_tokens.weight"
UNIT_EMBEDDING_AGAIN = "unit_encoder.embed_tokens.weight"
WAV2CLIP_ENCODER = "audio_encoder."


@dataclass(frozen=True, kw_only=True, slots=True)
class Released:
    """A checkpoint's tensors under the names of our network."""

    layout: str
    """Name of the layout, for reports."""
    config: BrivlConfig | SpeechLMConfig | Wav2clipConfig
    weights: dict[str, Tensor]
    ignored: tuple[str, ...] = ()
    """Names, in the file, of tensors that belong to other networks."""
    fresh: frozenset[str] = frozenset()
    """Our names that this layout never holds; they get a neutral start."""


def read_brivl(foreign: Foreign) -> Released:
    """Read BriVL's image encoder: `imgencoder.*` of `learnable`, or `learnable.imgencoder.*` of a bare state dict.

    Raises:
        CheckpointError: the file holds neither.
    """
    content = foreign.content
    if isinstance(content, dict) and isinstance(content.get("learnable"), dict):
        layout, prefix, tensors = "brivl learnable", "imgencoder.", state_dict(content["learnable"], foreign.path)
    else:
        layout, prefix, tensors = "wenlan-video", "learnable.imgencoder.", state_dict(content, foreign.path)
        if not any(name.removeprefix("module.").startswith(prefix) for name in tensors):
            layout, prefix = "brivl learnable", "imgencoder."
    tensors = without_module(tensors)
    weights = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not weights:
        raise CheckpointError(
            f"{foreign.path}: holds no BriVL image encoder: no name begins with imgencoder. or learnable.imgencoder.; "
            f"its names are {some(tensors)}"
        )
    ignored = tuple(name for name in tensors if not name.startswith(prefix))
    try:
        config = _brivl_config(shapes_of(weights))
    except (KeyError, IndexError, ValueError) as e:
        raise CheckpointError(f"{foreign.path}: its image encoder is not BriVL's ({e})") from e
    return Released(layout=layout, config=config, weights=weights, ignored=ignored)


def _brivl_config(shapes: Mapping[str, tuple[int, ...]]) -> BrivlConfig:
    """Tell the form by the 1x1 convolution that only B5 has, and sizes by the tensors."""
    form = B5 if "learnable.max_pool.0.weight" in shapes else B7
    layers = {name.split(".")[3] for name in shapes if name.startswith("learnable.imgAtt.layers.")}
    backbone = {name.removeprefix("backbone."): shape for name, shape in shapes.items() if name.startswith("backbone.")}
    return replace(
        form,
        dim=shapes["learnable.imgFC.fc1.weight"][1],
        layers=len(layers),
        num_classes=backbone["classifier.weight"][0] if "classifier.weight" in backbone else 0,
        **backbone_options(backbone),
    )


def read_speechlm(foreign: Foreign) -> Released:
    """Read a SpeechLM checkpoint of fairseq, full or cleaned: a dictionary with `cfg` and `model`.

    Raises:
        CheckpointError: the file holds none.
    """
    cfg, weights = fairseq_parts(foreign)
    if not any(name.startswith("unit_encoder.") for name in weights):
        raise CheckpointError(
            f"{foreign.path}: holds no SpeechLM: no name begins with unit_encoder.; its names are {some(weights)}"
        )
    ignored: tuple[str, ...] = ()
    again = weights.pop(UNIT_EMBEDDING_AGAIN, None)
    if again is not None:
        if not torch.equal(weights.setdefault(UNIT_EMBEDDING, again), again):
            raise CheckpointError(
                f"{foreign.path}: {UNIT_EMBEDDING} and {UNIT_EMBEDDING_AGAIN} differ, want one tensor"
            )
        ignored = (UNIT_EMBEDDING_AGAIN,)
    try:
        config = SpeechLMConfig.from_fairseq(cfg, shapes_of(weights))
    except CheckpointError as e:
        raise CheckpointError(f"{foreign.path}: {e}") from e
    return Released(layout="fairseq speechlm", config=config, weights=weights, ignored=ignored)


def fairseq_parts(foreign: Foreign) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return configuration and tensors of a fairseq checkpoint; of safetensors the former stands in the metadata.

    Raises:
        CheckpointError: a part is missing.
    """
    content = foreign.content
    if foreign.container == "safetensors":
        try:
            content = {"cfg": parse_json(foreign.metadata.get("cfg", "null")), "model": content}
        except ValueError as e:
            raise CheckpointError(f"{foreign.path}: the cfg in its metadata is no JSON ({e})") from e
    if not isinstance(content, dict) or "model" not in content:
        names = some(content) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise CheckpointError(f"{foreign.path}: no checkpoint of fairseq: want cfg and model, it holds {names}")
    cfg = plain(content.get("cfg"))
    if not isinstance(cfg, dict):
        raise CheckpointError(f"{foreign.path}: holds no cfg, which says how the network is built")
    return cfg, without_module(state_dict(content["model"], foreign.path))


def read_wav2clip(foreign: Foreign) -> Released:
    """Read Wav2CLIP's audio encoder: `audio_encoder.*` of its state dict.

    Raises:
        CheckpointError: the file holds none.
    """
    content = foreign.content
    if isinstance(content, dict) and is_state_dict(content.get("state_dict")):
        content = content["state_dict"]
    tensors = without_module(state_dict(content, foreign.path))
    names = {name: name.removeprefix(WAV2CLIP_ENCODER) for name in tensors if name.startswith(WAV2CLIP_ENCODER)}
    if not names:
        raise CheckpointError(
            f"{foreign.path}: holds no Wav2CLIP: no name begins with {WAV2CLIP_ENCODER}; its names are {some(tensors)}"
        )
    weights = {
        ours if ours.startswith("spectrogram.") else f"encoder.{ours}": tensors[theirs]
        for theirs, ours in names.items()
    }
    ignored = tuple(name for name in tensors if name not in names)
    return Released(layout="wav2clip", config=Wav2clipConfig(standardize=True), weights=weights, ignored=ignored)


def likely_kind(foreign: Foreign) -> str | None:
    """Return whose weights a file seems to hold, for whoever asked for others; None: nobody's that we know."""
    content = foreign.content
    parts = content if isinstance(content, dict) else {}
    inner = next(
        (parts[name] for name in ("model", "learnable", "state_dict") if isinstance(parts.get(name), dict)), {}
    )
    names = [str(name) for name in (*parts, *inner)]
    signs = {"unit_encoder.": "speechlm", "mask_emb": "hubert", "imgencoder.": "brivl", WAV2CLIP_ENCODER: "wav2clip"}
    return next((kind for sign, kind in signs.items() if any(sign in name for name in names)), None)


def without_module(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without the prefix that PyTorch's data-parallel wrappers give to all names."""
    if not all(name.startswith("module.") for name in tensors):
        return tensors
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def some(names: Any) -> str:
    """Return a few of many names for a message."""
    found = [str(name)[:80] for name in names]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more
