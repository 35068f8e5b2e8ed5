"""Trains a captioner on frozen features; the validation loss chooses the epoch.

With a folder, everything that training needs to go on is one file there after every epoch, so that a killed run goes on
to the same weights, bit for bit on the same number of threads: draws depend on seed and epoch only.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..shards.atomic import hold_directory, is_foreign, remove_leftovers, write_bytes
from .captioner import Captioner, CaptionerConfig, padded_words
from .captions import PAD
from .errors import BenchError
from .protocol import Progress

TRAINING_FILE = "captioner.safetensors"
FORMAT = 1
AT_ONCE = 64
"""Examples of a batch that are computed together, which bounds memory; mixup is drawn for each such part."""


@dataclass(frozen=True, slots=True)
class CaptionData:
    """Clips as a decoder takes them."""

    features: list[np.ndarray]
    """Of each clip, float32 (F, D)."""
    captions: list[list[list[int]]]
    """Of each clip, its captions as numbers of words, `BOS` first."""

    def sha256(self) -> str:
        """Return the hash of all of it."""
        found = hashlib.sha256(json.dumps(self.captions).encode())
        for part in self.features:
            found.update(json.dumps(part.shape).encode())
            found.update(np.ascontiguousarray(part, dtype=np.float32).tobytes())
        return found.hexdigest()


@dataclass(slots=True)
class Place:
    """Where training stands."""

    epoch: int = 0
    """Epochs made."""
    best_epoch: int = 0
    best_loss: float = math.inf
    losses: list[list[float]] = field(default_factory=list)
    """Of each epoch: training and validation, nats a word."""


def train_captioner(
    config: CaptionerConfig,
    num_words: int,
    train: CaptionData,
    valid: CaptionData,
    *,
    seed: int,
    work: Path | None = None,
    progress: Progress = lambda done, total, text: None,
) -> tuple[Captioner, Place]:
    """Train, or go on, and return the decoder of the best epoch.

    Args:
        config: of the decoder and its training.
        num_words: V.
        train: clips to learn.
        valid: clips that choose.
        seed: of weights, orders, dropout and mixup.
        work: folder that keeps it after every epoch; None: nothing is kept.
        progress: called after every epoch.

    Raises:
        BenchError: the folder holds something else, or is damaged, or in use; or the loss is no number.
    """
    about = {
        "config": asdict(config), "words": num_words, "seed": seed, "train": train.sha256(), "valid": valid.sha256()
    }  # fmt: skip
    training = _Training(config, num_words, train, valid, seed)
    if work is None:
        return training.run(lambda: None, progress)
    if is_foreign(work, TRAINING_FILE):
        raise BenchError(f"{work}: holds other files and no {TRAINING_FILE}; want an empty folder, or one of a run")
    work.mkdir(parents=True, exist_ok=True)
    with hold_directory(work, wait=False) as held:
        if not held:
            raise BenchError(f"{work}: another process trains in it; end that one first")
        remove_leftovers(work)
        if (work / TRAINING_FILE).exists():
            _restore(work / TRAINING_FILE, about, training)
        return training.run(lambda: _keep(work / TRAINING_FILE, about, training), progress)


class _Training:
    """The loop and what it changes."""

    def __init__(
        self, config: CaptionerConfig, num_words: int, train: CaptionData, valid: CaptionData, seed: int
    ) -> None:
        self.config, self.train, self.valid, self.seed, self.place = config, train, valid, seed, Place()
        torch.manual_seed(seed)
        self.model = Captioner(config, train.features[0].shape[1], num_words)
        self.model.fit_scale(train.features)
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if (p.ndim > 1) == is_matrix], "weight_decay": decay}
            for is_matrix, decay in ((True, config.weight_decay), (False, 0.0))
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=True)
        self.best = self._weights()

    def run(self, keep: Callable[[], None], progress: Progress) -> tuple[Captioner, Place]:
        """Make the epochs that are left, and return the best."""
        config, place = self.config, self.place
        while place.epoch < config.epochs and place.epoch - place.best_epoch < config.patience:
            losses = [self._epoch(place.epoch), self._validate()]
            if not all(map(math.isfinite, losses)):
                raise BenchError(f"the loss became {losses[0]} in epoch {place.epoch + 1}; look at the features")
            place.epoch += 1
            place.losses.append([round(loss, 6) for loss in losses])
            if losses[1] < place.best_loss:
                place.best_epoch, place.best_loss, self.best = place.epoch, losses[1], self._weights()
            keep()
            progress(place.epoch, config.epochs, f"validation {losses[1]:.3f}, best {place.best_loss:.3f}")
        self.model.load_state_dict(self.best)
        return self.model.eval(), place

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _epoch(self, epoch: int) -> float:
        rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        torch.manual_seed(int(rng.integers(2**62)))
        for group in self.optimizer.param_groups:
            share = (1 + math.cos(math.pi * epoch / self.config.epochs)) / 2
            group["lr"] = self.config.lr * (share if self.config.schedule == "cosine" else 1.0)
        self.model.train()
        examples = _examples(self.train, rng, every=self.config.every_caption)
        sums = np.zeros(2)
        for batch in np.array_split(examples, math.ceil(len(examples) / self.config.batch_size)):
            sums += self._step(batch, rng)
        return float(sums[0] / sums[1])

    def _step(self, examples: np.ndarray, rng: np.random.Generator) -> tuple[float, int]:
        """Learn a batch; return the summed loss and of how many words."""
        count, total = sum(len(self.train.captions[clip][n]) - 1 for clip, n in examples), 0.0
        self.optimizer.zero_grad()
        for part in np.array_split(examples, math.ceil(len(examples) / AT_ONCE)):
            loss = self._summed_loss(part, rng)
            (loss / count).backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        return total, count

    def _summed_loss(self, examples: np.ndarray, rng: np.random.Generator) -> Tensor:
        model, config = self.model, self.config
        scaled_BFD, is_pad_BF, words_BW = _batch(model, self.train, examples)
        inputs_BWM = model.embed_words(words_BW[:, :-1])
        if config.mixup:
            share = rng.beta(config.mixup, config.mixup)
            share = max(share, 1 - share)
            scaled_BFD = share * scaled_BFD + (1 - share) * scaled_BFD.roll(1, 0)
            is_pad_BF = is_pad_BF & is_pad_BF.roll(1, 0)
            inputs_BWM = share * inputs_BWM + (1 - share) * inputs_BWM.roll(1, 0)
        return _loss(model(scaled_BFD, is_pad_BF, inputs_BWM), words_BW, config.label_smoothing)

    @torch.inference_mode()
    def _validate(self) -> float:
        self.model.eval()
        examples, sums = _all_examples(self.valid), np.zeros(2)
        for batch in np.array_split(examples, math.ceil(len(examples) / AT_ONCE)):
            scaled_BFD, is_pad_BF, words_BW = _batch(self.model, self.valid, batch)
            logits = self.model(scaled_BFD, is_pad_BF, self.model.embed_words(words_BW[:, :-1]))
            sums += (float(_loss(logits, words_BW, 0.0)), int((words_BW[:, 1:] != PAD).sum()))
        return float(sums[0] / sums[1])


def _all_examples(data: CaptionData) -> np.ndarray:
    """Return every clip with each of its captions, int64 (examples, 2)."""
    return np.array([(clip, caption) for clip, own in enumerate(data.captions) for caption in range(len(own))])


def _examples(data: CaptionData, rng: np.random.Generator, *, every: bool) -> np.ndarray:
    if every:
        return rng.permutation(_all_examples(data))
    drawn = [(clip, int(rng.integers(len(own)))) for clip, own in enumerate(data.captions)]
    return rng.permutation(np.array(drawn))


def _batch(model: Captioner, data: CaptionData, examples: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    scaled_BFD, is_pad_BF = model.prepared([data.features[clip] for clip, _ in examples])
    return scaled_BFD, is_pad_BF, padded_words([data.captions[clip][caption] for clip, caption in examples])


def _loss(logits_BWV: Tensor, words_BW: Tensor, smoothing: float) -> Tensor:
    """Return the summed loss of the words after the first."""
    targets = words_BW[:, 1:].flatten()
    return cross_entropy(
        logits_BWV.flatten(0, 1), targets, ignore_index=PAD, label_smoothing=smoothing, reduction="sum"
    )


def _keep(path: Path, about: dict[str, Any], training: _Training) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in training.model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in training.best.items()}
    for name, parameter in training.model.named_parameters():
        tensors |= {f"optimizer.{name}.{what}": value for what, value in training.optimizer.state[parameter].items()}
    told = {"format": FORMAT, "about": about, "place": asdict(training.place)}
    metadata = {"unibrivl": json.dumps(told, sort_keys=True)}  # one entry: several come in any order, as other bytes
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


def _restore(path: Path, about: dict[str, Any], training: _Training) -> None:
    damaged = f"{path}: damaged; delete it to train again"
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})["unibrivl"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        found, place = dict(told["about"]), Place(**told["place"])
        if told["format"] != FORMAT:
            raise BenchError(f"{path}: format {told['format']}, this program reads {FORMAT}; delete it")
        _check_same(path, found, about)
        _load(tensors, place, training)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as e:
        raise BenchError(f"{damaged} ({str(e).splitlines()[-1].strip()})") from e


def _check_same(path: Path, found: dict[str, Any], about: dict[str, Any]) -> None:
    wanted = json.loads(json.dumps(about))
    for name in wanted:
        if found.get(name) != wanted[name]:
            own = [f for f in wanted["config"] if found["config"].get(f) != wanted["config"][f]] or [name]
            what = {"train": "features or captions", "valid": "features or captions"}.get(own[0], own[0])
            raise BenchError(f"{path}: of a run with other {what}; give the same options and data, or delete it")


def _load(tensors: dict[str, Tensor], place: Place, training: _Training) -> None:
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    training.model.load_state_dict(parts["best"])  # checked, then the last
    training.model.load_state_dict(parts["model"])
    training.best, training.place = parts["best"], place
    for name, parameter in training.model.named_parameters():
        state = {what: parts["optimizer"][f"{name}.{what}"] for what in ("step", "exp_avg", "exp_avg_sq")}
        if not state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.shape:
            raise ValueError(f"the optimiser's state of {name} has another shape")
        training.optimizer.state[parameter] = state
