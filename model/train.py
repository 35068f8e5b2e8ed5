"""Trains the language tower against the frozen image tower; a run that was killed goes on where it was.

Everything random is a function of (seed, epoch, step, process, clip), so a resumed run is bit for bit the undisturbed
one on the same machine, number of processes and number of threads; with another number of processes it sees the same
clips at every step.
"""

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from .. import __version__
from ..shards import ClipShards, read_dataset
from ..shards.atomic import hold_directory, is_foreign, remove_leftovers
from ..shards.batch import Batch
from .alarm import CollapseAlarm
from .batches import decoded, mask, sounds_of, training_audio
from .checkpoint import CHECKPOINT_FILE, REMEDY, RunState, read_state, restore, save_best, save_checkpoint
from .curves import PAGE_FILE, write_curves
from .errors import CheckpointError, TrainError
from .journal import METRICS_FILE, Journal, Validation, event_writer, last_validation
from .loss import LossTerms
from .processes import STEP_PATIENCE, accelerated, check_alike, of_first, shared, wait_no_longer_than, watched
from .schedule import parameter_groups, rate_share
from .settings import flat
from .sharding import shard, whole
from .towers import image_tower, image_tower_kind, load_pretrained, weights_fingerprint
from .train_config import TrainConfig
from .train_data import Progress, TrainData, fraction, prepare_data
from .unibrivl import UniBriVL
from .validation import Validator, mean_figure

SAME = ("plan_sha256", "image_fingerprint")
"""Facts in which a run that goes on must be as it was."""
SHOWN = 5
"""Options that a message lists."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended."""

    run: Path
    steps: int
    seconds: float
    """Of this call; near 0 when the run was complete before."""
    validation: Validation | None
    """The last one."""
    validated_on: str
    best: dict[str, Any] | None
    """Of the best validation: `step` and its figure by name."""


def train(config: TrainConfig, progress: Progress = lambda done, total, text: None) -> TrainResult:
    """Train a run, or go on with it; return at once if it is complete.

    Raises:
        TrainError: too few clips, another configuration in `out`, or a loss that is no number.
        LostProcessError: another process of the run is gone.
        ShardError: the shard set is missing or damaged.
        CheckpointError: the checkpoint in `out` is damaged.
    """
    started = time.monotonic()
    if config.tensorboard:
        event_writer()
    with ExitStack() as stack:
        stack.enter_context(watched(config.out))
        clips = stack.enter_context(ClipShards(config.shards, split=config.split))
        accelerator = stack.enter_context(accelerated(config))
        config.batch_of_each(accelerator.num_processes)
        if accelerator.is_main_process:
            stack.enter_context(_writing(config.out))
        accelerator.wait_for_everyone()
        facts, tower = _facts(config, accelerator)
        resumed = _resumed(config, facts)
        check_alike(accelerator, _seen(config, facts, clips, resumed))
        data = prepare_data(config, clips, tower, accelerator, progress)
        wait_no_longer_than(STEP_PATIENCE)
        trainer = stack.enter_context(_Trainer(config, facts, data, accelerator, resumed))
        is_new = trainer.step < trainer.steps or not (config.out / PAGE_FILE).exists()
        trainer.run(progress)
        if is_new and accelerator.is_main_process:
            write_curves(config.out, config.stored() | {"facts": facts})
        accelerator.wait_for_everyone()
    validation = last_validation(config.out)
    return TrainResult(
        config.out, trainer.steps, time.monotonic() - started, validation, data.validated_on, trainer.best
    )


def is_writer() -> bool:
    """Tell whether this process, one of several perhaps, is the one that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Create `out` and keep other writers away from it."""
    if is_foreign(out, METRICS_FILE) and is_foreign(out, CHECKPOINT_FILE):
        raise TrainError(f"{out} is not empty and no run; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    with hold_directory(out, wait=False) as is_ours:
        if not is_ours:
            raise TrainError(f"{out}: another process is training there; wait for it, or choose another --out")
        remove_leftovers(out)
        yield


def _facts(config: TrainConfig, accelerator: Accelerator) -> tuple[dict[str, Any], Any]:
    """Return what is stored beside the configuration, and the image tower."""
    kind = accelerator.device.type
    place = "cpu" if kind == "cpu" else str(accelerator.device)
    tower = image_tower(config.image_tower, device=place, bf16=config.precision == "bf16" and kind != "cpu")
    facts = {
        "image_dim": tower.embed_dim,
        "image_fingerprint": tower.fingerprint,
        "plan_sha256": read_dataset(config.shards)["plan_sha256"],
        "weights_fingerprint": weights_fingerprint(config.tower_options),
        "made_with": {
            "unibrivl": __version__, "torch": str(torch.__version__), "device": kind,
            "processes": accelerator.num_processes,
        },
    }  # fmt: skip
    return facts, tower


def _resumed(config: TrainConfig, facts: dict[str, Any]) -> RunState | None:
    """Return the state to go on from, if `out` has one of the same configuration."""
    if not (config.out / CHECKPOINT_FILE).exists():
        return None
    state = read_state(config.out)
    begun = state.facts.get("processes", 1)  # a fact of versions that counted a batch for each process
    if begun != 1:
        raise TrainError(
            f"{config.out} was begun by {begun} processes of an earlier version, with a batch_size for each; finish it "
            "there, or choose another --out"
        )
    wanted, found = _identity(config.stored(), facts), _identity(state.config, state.facts)
    names = [name for name in wanted | found if found.get(name) != wanted.get(name)]
    if names:
        told = ", ".join(f"{name} {found.get(name)}, not {wanted.get(name)}" for name in names[:SHOWN])
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise TrainError(
            f"{config.out} holds a run with {told}{more}; give the same options to resume it, or another --out"
        )
    if not {"reader", "best"} <= state.place.keys():
        raise CheckpointError(f"{config.out / CHECKPOINT_FILE}: does not say where the reader stands; {REMEDY}")
    return state


def _seen(config: TrainConfig, facts: dict[str, Any], clips: ClipShards, resumed: RunState | None) -> dict[str, Any]:
    """Return what every process must see alike."""
    options = _identity(config.stored(), facts)
    return {"checkpoint step": resumed.step if resumed else None, "clips": clips.catalog_sha} | options


def _identity(stored: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Return by name what two runs must have in common; weights may move, and are known by their fingerprints."""
    tower = stored["language_tower"]
    found = {name: value for name, value in stored.items() if name != "language_tower"} | {
        "image_tower": image_tower_kind(str(stored.get("image_tower"))), "language_tower": tower["name"],
        "language": tower["options"] | {"weights": facts.get("weights_fingerprint", "")},
    }  # fmt: skip
    return flat(found) | {name: facts.get(name) for name in SAME}


class _Trainer:
    """The loop and what it changes; use it as a context manager."""

    def __init__(
        self, config: TrainConfig, facts: dict[str, Any], data: TrainData, accelerator: Accelerator,
        resumed: RunState | None,
    ) -> None:  # fmt: skip
        self.config, self.facts, self.data, self.accelerator = config, facts, data, accelerator
        self.loader = data.loader(config, accelerator.process_index, accelerator.num_processes)
        self.steps_per_epoch = len(self.loader) // config.accumulate
        self.steps = self.steps_per_epoch * config.epochs
        self.step, self.best = 0, None
        self.sharded = config.sharded and accelerator.num_processes > 1
        self.model = self._new_model(is_new=resumed is None)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, config), lr=config.lr)
        if resumed:
            restore(config.out, self.model, self.optimizer)
            self.step, self.best = resumed.step, resumed.place["best"]
            self.loader.load_state_dict(resumed.place["reader"])
        alike = [name for name, _ in self.model.named_buffers() if name.startswith("queues.")]
        self.shared = shared(accelerator, self.model, alike, sharded=self.sharded)
        self.validator = Validator(config, data, accelerator)
        self.alarm = CollapseAlarm(log.warning)
        self.journal = None
        if accelerator.is_main_process:
            self.journal = Journal(config.out, step=self.step, tensorboard=config.tensorboard)

    def __enter__(self) -> "_Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.loader.close()
        self.validator.close()
        if self.journal is not None:
            self.journal.close()

    def _new_model(self, *, is_new: bool) -> UniBriVL:
        config = self.config
        if config.sharded and not self.sharded:
            log.warning("sharded is true, but there is one process, which keeps the whole model")
        torch.manual_seed(config.seed)
        model = UniBriVL(config.language_tower, config.tower_options, self.facts["image_dim"], config.loss)
        if is_new:
            load_pretrained(model.language)
            model.reset_keys()
        if not self.sharded:
            return model.to(self.accelerator.device)
        shard(model, self.accelerator.device)
        return model

    def run(self, progress: Progress) -> None:
        """Make the steps that are left."""
        while self.step < self.steps:
            for epoch, batches, waited_s in self._groups():
                began = time.monotonic() - waited_s
                loss = self._update(epoch, batches, began, waited_s)
                progress(self.step, self.steps, f"loss {loss:.3f}")
                self._look_and_keep()

    def _groups(self) -> Iterator[tuple[int, list[Batch], float]]:
        """Yield what is left of an epoch: its number, the micro-batches of a step, the seconds they took to come."""
        epoch, group = self.loader.epoch, []
        began = time.monotonic()
        for batch in decoded(self.loader):
            group.append(batch)
            if len(group) == self.config.accumulate:
                yield epoch, group, time.monotonic() - began
                group, began = [], time.monotonic()

    def _update(self, epoch: int, batches: list[Batch], began: float, waited_s: float) -> float:
        share = rate_share(self.config, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * group["rate"] * share
        self.model.train()
        self.model.begin_step()
        self.optimizer.zero_grad()
        terms = [self._backward(epoch, number, batch, len(batches)) for number, batch in enumerate(batches)]
        norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm))
        figures = self._figures(terms)
        for what, value in (("loss", figures["loss"]), ("gradient", float(norm))):
            if not math.isfinite(value):
                raise TrainError(
                    f"the {what} became {value} at step {self.step}; lower --lr and start again in another --out"
                )
        self.optimizer.step()
        self.model.end_step()
        self.step += 1
        self.alarm.feed(figures.pop("cross_entropy"), figures["candidates"])
        self._log_step(figures | {"grad_norm": float(norm)}, self.config.lr * share, time.monotonic() - began, waited_s)
        return figures["loss"]

    def _backward(self, epoch: int, number: int, batch: Batch, count: int) -> LossTerms:
        """Add the gradients of a micro-batch; processes share them with the last one of the step."""
        config, device = self.config, self.accelerator.device
        positions = self.data.train[batch["position"]]
        audio, rngs = training_audio(
            sounds_of(batch), positions, self.model.language.num_samples, seed=config.seed, epoch=epoch
        )
        key = f"{config.seed}/step/{self.step}/{number}/{self.accelerator.process_index}"
        torch.manual_seed(int(fraction(key) * 2**62))  # dropout, masks, dropped layers
        images_BV = self.data.images.of_epoch(epoch)[positions].to(device)
        with torch.no_grad():
            features = mask(self.model.language.features(audio.to(device)), rngs)
        with ExitStack() as stack:
            if number + 1 < count:
                stack.enter_context(self.accelerator.no_sync(self.shared))
            ids_B = torch.from_numpy(positions).to(device)
            terms: LossTerms = self.shared(features, images_BV, ids_B, self.data.related)
            self.accelerator.backward(terms.total / count)
        return terms

    def _figures(self, terms: list[LossTerms]) -> dict[str, float]:
        """Return what a step's line says of the loss, averaged over micro-batches and processes."""
        names = ("loss", "loss_audio_space", "loss_image_space", "cross_entropy", "candidates")
        values: list[list[Tensor]] = [
            [t.total, t.audio_space, t.image_space, t.per_direction, t.candidates] for t in terms
        ]
        means = torch.tensor([[v.detach().float() for v in row] for row in values]).mean(dim=0)
        if self.accelerator.num_processes > 1:
            means = self.accelerator.reduce(means.to(self.accelerator.device), reduction="mean")
        return dict(zip(names, means.tolist(), strict=True))  # type: ignore[union-attr]

    def _log_step(self, figures: dict[str, float], lr: float, step_s: float, waited_s: float) -> None:
        scales = whole(self.model.log_scale.detach()).exp().tolist()
        if self.journal is None:
            return
        clips = self.config.batch_size * self.config.accumulate
        self.journal.write({
            "step": self.step, "epoch": self.step / self.steps_per_epoch, **figures, "lr": lr,
            "temperature": [1 / s for s in scales],
            "step_s": round(step_s, 4), "data_wait_s": round(waited_s, 4), "clips_per_s": round(clips / step_s, 2),
        })  # fmt: skip

    def _look_and_keep(self) -> None:
        if self.step % (self.config.validate_every * self.steps_per_epoch) == 0 or self.step == self.steps:
            self._validate()
        is_due = self.step % self.config.checkpoint_every == 0 or self.step == self.steps
        if is_due:
            writes = self.accelerator.is_main_process
            save_checkpoint(self.config.out, self._state(), self.model, self.optimizer, writes=writes)

    def _validate(self) -> None:
        scores = self.validator.scores(self.model)
        merit = of_first(self.accelerator, mean_figure(scores, self.config.best_by))  # all must agree on what to keep
        is_best = self.best is None or merit > self.best[self.config.best_by]
        if is_best:
            self.best = {"step": self.step, self.config.best_by: merit}
            save_best(self.config.out, self._state(), self.model, writes=self.journal is not None)
        if self.journal is None:
            return
        self.journal.write({
            "step": self.step, "epoch": self.step / self.steps_per_epoch, "validated_on": self.data.validated_on,
            "validation": {name: asdict(value) for name, value in scores.items()},
        })  # fmt: skip

    def _state(self) -> RunState:
        place = {"reader": self.loader.state_dict(), "best": self.best}
        return RunState(self.config.stored(), self.facts, self.step, self.steps, place)
