"""Trains the language tower against the frozen image tower; a run that was killed goes on where it was.

Everything random is a function of (seed, epoch, step, clip), so a resumed run is bit for bit the undisturbed one on
the same machine and number of threads.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..shards import ClipShards, epoch_order, read_dataset
from ..shards.atomic import hold_directory, is_foreign, remove_leftovers, write_bytes
from ..shards.checks import check_ranges
from .batches import fit, mask, training_audio
from .checkpoint import CHECKPOINT_FILE, RunState, read_state, restore, save_checkpoint
from .errors import TrainError
from .frozen import image_embeddings
from .library import LITE0
from .plot import write_plot
from .relation import MIN_OVERLAP, Spans, related
from .retrieval import RetrievalScores, score
from .towers import image_tower, language_options
from .unibrivl import UniBriVL

METRICS_FILE = "metrics.jsonl"
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """What `unibrivl train` was asked to do; everything but paths is stored with the run."""

    shards: Path
    """Shard set to train on."""
    out: Path
    """Folder of the run."""
    split: str = "train"
    """Part of the shard set."""
    language_tower: str = "wav2clip"
    tower_options: dict[str, Any] = field(default_factory=dict)
    """Of the language tower, such as `clip_s`."""
    image_tower: str = LITE0
    epochs: int = 20
    batch_size: int = 64
    """Clips a step; every other clip of the batch is a negative."""
    lr: float = 1e-3
    """Peak learning rate, after warm-up and before the cosine."""
    weight_decay: float = 0.05
    warmup_steps: int = 20
    val_share: float = 0.1
    """Share of the groups kept from training, for the curves."""
    validate_every: int = 2
    """Epochs between two looks at the validation clips."""
    checkpoint_every: int = 25
    """Steps between two checkpoints."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        check_ranges(
            self, epochs=(1, 100_000), batch_size=(2, 1 << 20), lr=(0, 10), weight_decay=(0, 10),
            warmup_steps=(0, 10**9), val_share=(0, 0.9), validate_every=(1, 100_000), checkpoint_every=(1, 10**9),
            seed=(0, 2**63 - 1),
        )  # fmt: skip
        language_options(self.language_tower, self.tower_options)

    def stored(self) -> dict[str, Any]:
        """Return the part of the configuration that makes two runs the same."""
        value = asdict(self)
        for name in ("shards", "out", "language_tower", "tower_options"):
            del value[name]
        options = language_options(self.language_tower, self.tower_options)
        return value | {"language_tower": {"name": self.language_tower, "options": options}}


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended."""

    run: Path
    steps: int
    seconds: float
    """Of this call; near 0 when the run was complete before."""
    validation: dict[str, RetrievalScores] | None
    validated_on: str


Progress = Callable[[int, int, str], None]
"""Called with what is done, of how many, and a short text."""


@dataclass(frozen=True, slots=True)
class _Data:
    """The clips of a run: positions in the catalog, and what belongs to them."""

    clips: ClipShards
    images_NV: Tensor
    spans: Spans
    train: np.ndarray
    val: np.ndarray
    validated_on: str


def train(config: TrainConfig, progress: Progress = lambda done, total, text: None) -> TrainResult:
    """Train a run, or go on with it; return at once if it is complete.

    Raises:
        TrainError: too few clips, another configuration in `out`, or a loss that is no number.
        ShardError: the shard set is missing or damaged.
        CheckpointError: the checkpoint in `out` is damaged.
    """
    started = time.monotonic()
    with ClipShards(config.shards, split=config.split) as clips, _writing(config.out):
        tower = image_tower(config.image_tower)
        facts = {
            "image_dim": tower.embed_dim,
            "image_fingerprint": tower.fingerprint,
            "plan_sha256": read_dataset(config.shards)["plan_sha256"],
            "made_with": {"unibrivl": __version__, "torch": str(torch.__version__)},
        }
        resumed = _resumed(config, facts)
        data = _prepare(config, clips, tower, progress)
        trainer = _Trainer(config, facts, data, resumed)
        validation = trainer.run(progress)
    write_plot(config.out / METRICS_FILE, config.out / "plot.png")
    return TrainResult(config.out, trainer.steps, time.monotonic() - started, validation, data.validated_on)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Create `out` and keep other writers away from it."""
    if is_foreign(out, METRICS_FILE):
        raise TrainError(f"{out} is not empty and no run; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    with hold_directory(out, wait=False) as is_ours:
        if not is_ours:
            raise TrainError(f"{out}: another process is training there; wait for it, or choose another --out")
        remove_leftovers(out)
        yield


def _resumed(config: TrainConfig, facts: dict[str, Any]) -> RunState | None:
    """Return the state to go on from, if `out` has one of the same configuration."""
    if not (config.out / CHECKPOINT_FILE).exists():
        return None
    state = read_state(config.out)
    wanted = config.stored() | {"plan_sha256": facts["plan_sha256"], "image_fingerprint": facts["image_fingerprint"]}
    found = state.config | {name: state.facts.get(name) for name in ("plan_sha256", "image_fingerprint")}
    for name in wanted:
        if found.get(name) != wanted[name]:
            raise TrainError(
                f"{config.out} holds a run with {name} {found.get(name)}, not {wanted[name]}; "
                "give the same options to resume it, or another --out"
            )
    return state


def _prepare(config: TrainConfig, clips: ClipShards, tower: Any, progress: Progress) -> _Data:
    embedded = 0

    def count(number: int) -> None:
        nonlocal embedded
        embedded += number
        progress(embedded, len(clips), "pictures through the frozen tower")

    images = torch.from_numpy(image_embeddings(clips, tower, count))
    spans = Spans.of(clips.catalog.table.select(["group", "media_id", "start_ms", "end_ms"]).to_pylist())
    held = np.array([_fraction(f"{config.seed}/{name}") < config.val_share for name in spans.groups])
    train_positions, val = np.flatnonzero(~held), np.flatnonzero(held)
    validated_on = "held-out groups"
    if not len(val) or not len(train_positions):
        train_positions = np.arange(len(clips))
        val, validated_on = train_positions[:1000], "training clips: no group could be held out"
    if len(train_positions) < config.batch_size:
        raise TrainError(
            f"{config.shards} has {len(train_positions)} clips to train on, fewer than a batch of "
            f"{config.batch_size}; pass a smaller --batch-size"
        )
    return _Data(clips, images, spans, train_positions, val, validated_on)


def _fraction(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def _step_of(line: str) -> float:
    """Return the step of a line of the log; infinity for one that was torn."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


class _Trainer:
    """The loop and what it changes."""

    def __init__(self, config: TrainConfig, facts: dict[str, Any], data: _Data, resumed: RunState | None) -> None:
        self.config, self.facts, self.data = config, facts, data
        self.steps_per_epoch = len(data.train) // config.batch_size
        self.steps = self.steps_per_epoch * config.epochs
        torch.manual_seed(config.seed)
        self.model = UniBriVL(config.language_tower, config.tower_options, facts["image_dim"])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.step = 0
        if resumed:
            restore(config.out, self.model, self.optimizer)
            self.step = resumed.step
        self._trim_metrics()

    def run(self, progress: Progress) -> dict[str, RetrievalScores] | None:
        """Make the steps that are left; return the last validation."""
        with ThreadPoolExecutor(1) as loader:
            ahead = loader.submit(self._batch, self.step) if self.step < self.steps else None
            while ahead is not None:
                began = time.monotonic()
                batch = ahead.result()
                waited = time.monotonic() - began
                ahead = loader.submit(self._batch, self.step + 1) if self.step + 1 < self.steps else None
                loss = self._update(batch, began, waited)
                progress(self.step, self.steps, f"loss {loss:.3f}")
                self._look_and_keep()
        return self._last_validation()

    def _batch(self, step: int) -> tuple[Tensor, list[np.random.Generator], np.ndarray]:
        epoch, number = divmod(step, self.steps_per_epoch)
        order = epoch_order(len(self.data.train), seed=self.config.seed, epoch=epoch)
        size = self.config.batch_size
        positions = self.data.train[order[number * size : (number + 1) * size]]
        num_samples = self.model.language.num_samples
        audio, rngs = training_audio(self.data.clips, positions, num_samples, seed=self.config.seed, epoch=epoch)
        return audio, rngs, positions

    def _update(
        self, batch: tuple[Tensor, list[np.random.Generator], np.ndarray], began: float, waited: float
    ) -> float:
        audio, rngs, positions = batch
        torch.manual_seed(int(_fraction(f"{self.config.seed}/step/{self.step}") * 2**62))  # dropout
        lr = self._lr()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        with torch.no_grad():
            features = mask(self.model.language.features(audio), rngs)
        spans = self.data.spans.take(positions)
        terms = self.model.loss(features, self.data.images_NV[positions], torch.from_numpy(related(spans, spans)))
        loss = terms[0] + terms[1]
        if not math.isfinite(loss.item()):
            raise TrainError(f"the loss became {loss.item()} at step {self.step}; lower --lr and start again")
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        self.step += 1
        step_s = time.monotonic() - began
        self._log({
            "step": self.step, "epoch": self.step / self.steps_per_epoch, "loss": loss.item(),
            "loss_audio_space": terms[0].item(), "loss_image_space": terms[1].item(), "lr": lr,
            "temperature": [1 / s for s in self.model.log_scale.exp().tolist()],
            "step_s": round(step_s, 4), "data_wait_s": round(waited, 4),
            "clips_per_s": round(self.config.batch_size / step_s, 2),
        })  # fmt: skip
        return loss.item()

    def _lr(self) -> float:
        """Linear warm-up, then a half cosine to zero."""
        warmup = min(self.config.warmup_steps, self.steps)
        if self.step < warmup:
            return self.config.lr * (self.step + 1) / warmup
        done = (self.step - warmup) / max(1, self.steps - warmup)
        return self.config.lr * (1 + math.cos(math.pi * done)) / 2

    def _look_and_keep(self) -> None:
        every = self.config.validate_every * self.steps_per_epoch
        if self.step % every == 0 or self.step == self.steps:
            scores = self._validate()
            self._log({"step": self.step, "epoch": self.step / self.steps_per_epoch,
                       "validated_on": self.data.validated_on,
                       "validation": {name: asdict(value) for name, value in scores.items()}})  # fmt: skip
        if self.step % self.config.checkpoint_every == 0 or self.step == self.steps:
            state = RunState(self.config.stored(), self.facts, self.step, self.steps)
            save_checkpoint(self.config.out, state, self.model, self.optimizer)

    def _validate(self) -> dict[str, RetrievalScores]:
        """Retrieve among the validation clips, in both directions."""
        self.model.eval()
        val, num_samples = self.data.val, self.model.language.num_samples
        parts = []
        for start in range(0, len(val), self.config.batch_size):
            audio = [
                fit(self.data.clips[int(p)].audio(), num_samples) for p in val[start : start + self.config.batch_size]
            ]
            parts.append(self.model.embed_audio(torch.from_numpy(np.stack(audio))))
        scores = (torch.cat(parts) @ self.data.images_NV[val].T).numpy()
        spans = self.data.spans.take(val)
        relevant = related(spans, spans, min_overlap=MIN_OVERLAP)
        return {"audio_to_image": score(scores, relevant), "image_to_audio": score(scores.T, relevant)}

    def _log(self, entry: dict[str, Any]) -> None:
        with (self.config.out / METRICS_FILE).open("a", encoding="utf-8") as f:
            f.write(json.dumps(entry) + "\n")

    def _trim_metrics(self) -> None:
        """Forget what was logged after the checkpoint: those steps are made again."""
        path = self.config.out / METRICS_FILE
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= self.step]
        write_bytes(path, "".join(f"{line}\n" for line in kept).encode())

    def _last_validation(self) -> dict[str, RetrievalScores] | None:
        lines = (self.config.out / METRICS_FILE).read_text(encoding="utf-8").splitlines()
        for line in reversed(lines):
            if found := json.loads(line).get("validation"):
                return {name: RetrievalScores(**value) for name, value in found.items()}
        return None
