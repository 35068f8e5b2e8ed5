"""What `bench reference` computes for each kind of file: our results beside those that the original gave.

A check takes the file's inputs and weights, runs our code, and returns pairs of tensors by their names in the file.
Sizes come from the file, never from here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..model.brivl import REDUCTION, BrivlConfig, BrivlImageEncoder, pooling_matrix
from ..model.foreign import Foreign
from ..model.heads import projection
from ..model.layouts import read_brivl, read_speechlm
from ..model.loss import Embeddings, LossConfig, choose_candidates, cross_projection_loss, direction_loss
from ..model.queues import Queues
from ..model.speechlm import SpeechLM, SpeechLMConfig
from ..model.weights import fit_weights
from ..shards.checks import parse_json
from .errors import BenchError

TEMPERATURE = 0.07
"""BriVL's, for files of the queue loss that name no other."""
IN_BATCH = LossConfig(queue_size=0)
Pair = tuple[Tensor, Tensor]
"""Ours and the original's, where both mean something."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A file of tensors."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor that the check cannot do without.

        Raises:
            BenchError: the file lacks it.
        """
        try:
            return self.tensors[name]
        except KeyError:
            raise BenchError(f"{self.path}: lacks the tensor {name}, which its kind needs") from None

    def cfg(self) -> dict[str, Any]:
        """Return the configuration in the metadata.

        Raises:
            BenchError: there is none.
        """
        try:
            value = parse_json(self.metadata["cfg"])
        except (KeyError, ValueError) as e:
            raise BenchError(f"{self.path}: its metadata has no cfg in JSON, which its kind needs") from e
        if not isinstance(value, dict):
            raise BenchError(f"{self.path}: the cfg in its metadata is a {type(value).__name__}, want an object")
        return value

    def refuse_more(self, family: str, count: int) -> None:
        """Refuse a file with more results of a numbered family than ours.

        Raises:
            BenchError: there is a number that ours does not reach.
        """
        for name in self.tensors:
            if name.startswith(family) and int(name.removeprefix(family)) >= count:
                raise BenchError(f"{self.path}: has {name}, our network only {count} of {family.rstrip('.')}")

    def compared(self, found: dict[str, Tensor], masks: dict[str, Tensor] | None = None) -> dict[str, Pair]:
        """Pair our results with the file's; those that the file does not hold are left out.

        Args:
            found: by the file's names.
            masks: true (B, N) where a result means something; elsewhere it is padding.
        """
        pairs = {}
        for name, ours in found.items():
            if name not in self.tensors:
                continue
            theirs = self.tensors[name]
            if ours.shape != theirs.shape:
                raise BenchError(f"{self.path}: {name} has shape {tuple(theirs.shape)}, ours {tuple(ours.shape)}")
            mask = (masks or {}).get(name)
            pairs[name] = (ours, theirs) if mask is None else (ours[mask], theirs[mask])
        if not pairs:
            raise BenchError(f"{self.path}: holds none of the results of its kind: {', '.join(found)}")
        return pairs


@torch.inference_mode()
def check_speechlm(reference: Reference) -> dict[str, Pair]:
    """Compare every layer of both stacks, for sound with padding, for one clip alone, and for text units."""
    weights = {k.removeprefix("model."): v for k, v in reference.tensors.items() if k.startswith("model.")}
    content = {"cfg": reference.cfg(), "model": weights}
    released = read_speechlm(Foreign(reference.path, "zip", content, {}))
    assert isinstance(released.config, SpeechLMConfig)
    network = SpeechLM(released.config).eval()
    fit_weights(network, released.weights, reference.path)
    sound, padding = reference["io.wav"], reference["io.wav_padding_mask"]
    states = network.speech(sound, padding)
    assert states.padding_BN is not None
    found = {f"io.speech_layer.{i}": state for i, state in enumerate(states.layers)} | {"io.speech_last": states.last}
    reference.refuse_more("io.speech_layer.", len(states.layers))
    masks = dict.fromkeys(found, ~states.padding_BN)
    found["io.frame_padding_mask"] = states.padding_BN
    found["io.single_last"] = network.speech(sound[:1, : int((~padding[0]).sum())]).last
    if "io.units" in reference.tensors:
        text = network.text(reference["io.units"])
        assert text.padding_BN is not None
        texts = {f"io.text_state.{i}": state for i, state in enumerate([text.embedded, *text.layers])}
        reference.refuse_more("io.text_state.", len(texts))
        texts["io.text_last"] = text.last
        masks |= dict.fromkeys(texts, ~text.padding_BN)
        found |= texts
    return reference.compared(found, masks)


@torch.inference_mode()
def check_brivl(reference: Reference) -> dict[str, Pair]:
    """Compare feature map, pooled patches and embedding, in the boxes that the file gives."""
    cfg = reference.cfg()
    weights = {k: v for k, v in reference.tensors.items() if not k.startswith("io.")}
    released = read_brivl(Foreign(reference.path, "safetensors", weights, reference.metadata))
    config = _brivl_config(reference, released.config, cfg)
    encoder = BrivlImageEncoder(config).eval()
    fit_weights(encoder, released.weights, reference.path)
    image, boxes_BP4 = reference["io.image_normalised"], reference["io.boxes_xyxy"]
    mask = reference.tensors.get("io.patch_mask")
    map_BCHW = encoder.backbone.forward_features(image)  # type: ignore[operator]
    patches, embedded = [], []
    for number, boxes_P4 in enumerate(boxes_BP4):
        encoder.pool_PM = pooling_matrix(boxes_P4, config.image_px, map_BCHW.shape[-1], config.roi_grid)
        patches.append(encoder.patches(map_BCHW[number : number + 1]))
        counts = None if mask is None or not config.conv else mask[number : number + 1]
        embedded.append(encoder(image[number : number + 1], counts))
    embedding = torch.cat(embedded)
    return reference.compared({
        "io.feature_map": map_BCHW, "io.patch_features": torch.cat(patches), "io.embedding": embedding,
        "io.embedding_l2": normalize(embedding, dim=1),
    })  # fmt: skip


def _brivl_config(reference: Reference, found: Any, cfg: dict[str, Any]) -> BrivlConfig:
    """Take from the file what no tensor shows."""
    assert isinstance(found, BrivlConfig)
    size = reference["io.image_normalised"].shape[-1]
    named = {
        ours: cfg[theirs]
        for theirs, ours in (("heads", "heads"), ("roi_grid", "roi_grid"), ("channel_multiplier", "channel_multiplier"),
                             ("depth_multiplier", "depth_multiplier"))
        if theirs in cfg
    }  # fmt: skip
    if "channel_multiplier" in named:
        named["backbone"] = "tf_efficientnet_b0"
    if cfg.get("image_size", size) != size or size <= REDUCTION:
        raise BenchError(f"{reference.path}: pictures of {size} px, its cfg says {cfg.get('image_size')}")
    try:
        return replace(found, image_px=size, **named)
    except ValueError as e:
        raise BenchError(f"{reference.path}: its cfg makes no encoder ({e})") from e


def check_cx_loss(reference: Reference) -> dict[str, Pair]:
    """Compare the two terms, their mean and sum, and the gradients of the mean."""
    audio = reference["audio"].clone().requires_grad_()
    image = reference["image"]
    f, g = (_projection(reference, name) for name in ("f", "g"))
    scales = torch.stack([reference["logit_scale_a"], reference["logit_scale_i"]]).exp()
    pairs = Embeddings(audio_MA=audio, image_MV=image, f_image_MA=f(image), g_audio_MV=g(audio))
    rows = choose_candidates(IN_BATCH, torch.eye(len(audio), dtype=torch.bool))
    halved = cross_projection_loss(replace(IN_BATCH, reduction="mean"), pairs, pairs, None, scales, rows)
    summed = cross_projection_loss(IN_BATCH, pairs, pairs, None, scales, rows)
    halved.total.backward()
    found = {
        "loss_audio_vs_f_image": halved.audio_space, "loss_g_audio_vs_image": halved.image_space,
        "cx_loss_mean": halved.total, "cx_loss_sum": summed.total, "grad_audio_of_mean": audio.grad,
    }  # fmt: skip
    for name, module in (("f", f), ("g", g)):
        for ours, theirs in ((0, 0), (3, 2)):
            for what in ("weight", "bias"):
                found[f"grad_{name}{theirs}_{what}_of_mean"] = getattr(module[ours], what).grad
    return reference.compared({name: tensor.detach() for name, tensor in found.items() if tensor is not None})


def _projection(reference: Reference, name: str) -> torch.nn.Sequential:
    """Return our f or g with the file's weights; the file has no place for the dropout between the layers."""
    first, second = reference[f"{name}.0.weight"], reference[f"{name}.2.weight"]
    module = projection(first.shape[1], len(second), hidden=len(first)).eval()
    state = {
        "0.weight": first, "0.bias": reference[f"{name}.0.bias"],
        "3.weight": second, "3.bias": reference[f"{name}.2.bias"],
    }  # fmt: skip
    fit_weights(module, state, reference.path)
    return module


@torch.inference_mode()
def check_moco_loss(reference: Reference) -> dict[str, Pair]:
    """Compare both directions and their sum, and queues and pointer behind an enqueue."""
    scale = 1 / reference.tensors.get("temperature", torch.tensor(TEMPERATURE))
    losses = {}
    for query, key in (("image", "language"), ("language", "image")):
        queries, queue_KD = reference[f"{query}_query"], reference[f"{key}_queue"].T
        nobody = torch.zeros(len(queries), len(queue_KD), dtype=torch.bool)
        config = LossConfig(queue_size=len(queue_KD), in_batch=False)
        rows = choose_candidates(config, torch.eye(len(queries), dtype=torch.bool), barred_BK=nobody)
        losses[f"loss_{query}_to_{key}"] = direction_loss(queries, reference[f"{key}_key"], queue_KD, scale, rows)
    queues = _queues(reference)
    queues.enqueue(
        reference["language_key"], reference["image_key"], torch.arange(len(reference["image_key"]))
    )  # fmt: skip
    return reference.compared(losses | {
        "loss": torch.stack(list(losses.values())).sum(), "language_queue_after": queues.audio.T,
        "image_queue_after": queues.image.T, "pointer_after": queues.pointer,
    })  # fmt: skip


def _queues(reference: Reference) -> Queues:
    """Return our queues as full as the file's."""
    language, image = reference["language_queue"], reference["image_queue"]
    if language.shape[1] != image.shape[1]:
        raise BenchError(
            f"{reference.path}: queues of {language.shape[1]} and {image.shape[1]} slots, want equally many"
        )
    queues = Queues(language.shape[1], len(language), len(image))
    queues.audio.copy_(language.T)
    queues.image.copy_(image.T)
    queues.pointer.copy_(reference["pointer_before"])
    queues.filled.fill_(queues.size)
    return queues


CHECKS: dict[str, Callable[[Reference], dict[str, Pair]]] = {
    "speechlm_": check_speechlm, "brivl_": check_brivl, "cx_loss": check_cx_loss, "moco_loss": check_moco_loss,
}  # fmt: skip
"""By the beginning of a file's name."""
INPUTS = {
    "speechlm_": r"model\..*|io\.(wav|wav_padding_mask|units)",
    "brivl_": r"(?!io\.).*|io\.(image_normalised|boxes_xyxy|patch_mask)",
    "cx_loss": r"audio|image|[fg]\.[02]\.(weight|bias)|logit_scale_[ai]",
    "moco_loss": r"(image|language)_(query|key|queue)|pointer_before|temperature",
}
"""Names of what a check takes, by the same beginnings."""
