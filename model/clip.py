"""Frozen image towers of the CLIP family with their text side, from a local folder through transformers.

Nothing is fetched, no code of the folder runs, and weights are read from safetensors only.

Shapes: B pictures or texts, D features of both.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..shards.checks import first_line
from .errors import CheckpointError
from .images import ImageTower, Preprocessing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEXT_BATCH = 64
RESIZES: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
"""One of these makes a tokenizer; without any, transformers would make one that knows no word."""
FILES = ("config.json", "tokenizer_config.json", "merges.txt", *VOCABULARIES)
"""What, beside the weights, decides the embeddings of pictures and texts."""
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


class ClipTower(ImageTower):
    """A model with `get_image_features` and `get_text_features`: one space for pictures and texts."""

    def __init__(self, folder: Path, model: "PreTrainedModel", preprocessing: Preprocessing) -> None:
        """Freeze a loaded model."""
        self.folder = folder
        self._tokenizer: Any = None
        files = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES if (folder / name).exists()
        }
        description = {"tower": f"clip/{model.config.model_type}", "files": files}
        super().__init__(f"clip:{folder}", model, preprocessing, dim=_width(model), description=description)

    def _encode(self, x_BCHW: Tensor) -> Tensor:
        return _pooled(self.module.get_image_features(pixel_values=x_BCHW))

    @torch.inference_mode()
    def embed_text(self, texts: list[str]) -> np.ndarray:
        """Return float32 (B, D), not normalised; longer texts than the model takes are cut.

        Raises:
            CheckpointError: the folder holds no readable tokenizer.
        """
        parts = []
        for start in range(0, len(texts), TEXT_BATCH):
            tokens = self._tokens(texts[start : start + TEXT_BATCH])
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                features_BD = _pooled(self.module.get_text_features(**tokens))
            parts.append(features_BD.float().cpu().numpy())
        return np.concatenate(parts) if parts else np.zeros((0, self.embed_dim), dtype=np.float32)

    def _tokens(self, texts: list[str]) -> dict[str, Tensor]:
        """Return token ids and mask; SigLIP was trained without a mask, on texts filled to their full length."""
        tokenizer = self._loaded_tokenizer()
        config: Any = self.module.config
        length = min(tokenizer.model_max_length, config.text_config.max_position_embeddings)
        filled = config.model_type.startswith("siglip")
        tokens = tokenizer(
            texts, padding="max_length" if filled else True, truncation=True, max_length=length, return_tensors="pt"
        )
        return {name: tensor.to(self.device) for name, tensor in tokens.items()}

    def _loaded_tokenizer(self) -> Any:
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            if not any((self.folder / name).is_file() for name in VOCABULARIES):
                raise CheckpointError(f"{self.folder}: has no tokenizer, so texts cannot be embedded")
            try:
                self._tokenizer = AutoTokenizer.from_pretrained(self.folder, **LOCAL)
            except Exception as e:  # transformers raises many kinds for a faulty folder
                raise CheckpointError(f"{self.folder}: its tokenizer is not readable ({first_line(e)})") from e
        return self._tokenizer


def clip_tower(place: str) -> ClipTower:
    """Load a model of the CLIP family from the folder that `save_pretrained` wrote.

    Raises:
        CheckpointError: transformers is not installed, or the folder is missing, damaged or of another kind.
    """
    try:
        from transformers import AutoImageProcessor, AutoModel
    except ImportError as e:
        raise CheckpointError("clip: towers need transformers; install it with: pip install 'unibrivl[clip]'") from e
    folder = Path(place).expanduser()
    if not (folder / "config.json").is_file():
        what = "has no config.json" if folder.is_dir() else "there is no such folder"
        raise CheckpointError(f"{folder}: {what}; want a folder that transformers' save_pretrained wrote")
    try:
        with _no_bars():
            processor = AutoImageProcessor.from_pretrained(folder, **LOCAL)
            model, loading = AutoModel.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **LOCAL
            )
    except Exception as e:  # transformers raises many kinds for a faulty folder
        raise CheckpointError(f"{folder}: not readable by transformers ({first_line(e)})") from e
    _check(folder, model, loading)
    return ClipTower(folder, model, _preprocessing(folder, processor))


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers from drawing progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _check(folder: Path, model: "PreTrainedModel", loading: Mapping[str, Any]) -> None:
    """Refuse models without a common space, and weights that do not fit: transformers would draw them at random."""
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise CheckpointError(f"{folder} holds {type(model).__name__}; want CLIP, SigLIP or another with both sides")
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        names = sorted(str(name) for name in loading[kind])
        if names:
            words = kind.replace("_keys", "")
            raise CheckpointError(f"{folder}: {len(names)} {words} tensors, such as {names[0]}; get the weights again")


def _preprocessing(folder: Path, processor: Any) -> Preprocessing:
    """Return what a processor's numbers mean; its own resizing depends on which libraries are installed."""
    size, crop = dict(processor.size or {}), dict(processor.crop_size or {}) if processor.do_center_crop else {}
    resized = size.get("height") or size.get("shortest_edge") or 0
    seen = crop.get("height", size.get("height"))
    square = size.get("height") == size.get("width") and crop.get("height") == crop.get("width")
    resize = RESIZES.get(int(processor.resample))
    if not processor.do_resize or not square or not seen or seen > resized or resize is None:
        raise CheckpointError(
            f"{folder}: its pictures are resized to {size}, cut to {crop}, by Pillow's method {processor.resample}; "
            "want one square, bilinear (2) or bicubic (3)"
        )
    return Preprocessing(
        size_px=seen, resize=resize, crop_share=None if seen == size.get("height") else seen / resized,
        scale=round(1 / processor.rescale_factor, 6) if processor.do_rescale else 1.0,
        mean=tuple(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0),
        std=tuple(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0),
    )  # fmt: skip


def _width(model: Any) -> int:
    """Return D, which every family keeps under another name."""
    side = model.config.vision_config.image_size
    with torch.inference_mode():
        return _pooled(model.eval().get_image_features(pixel_values=torch.zeros(1, 3, side, side))).shape[1]


def _pooled(output: Any) -> Tensor:
    """Return the features; transformers 5 wraps them."""
    return output if isinstance(output, Tensor) else output.pooler_output
