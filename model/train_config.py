"""What a training run is told: every option with its default, the presets, and names for all of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..shards.checks import check_ranges
from .errors import TowerError, TrainError
from .library import LITE0
from .loss import LossConfig
from .settings import check_kind, option_kinds, unknown_option
from .towers import LANGUAGE_TOWERS, check_image_tower, language_options, stored_image_tower
from .unibrivl import IN_BATCH_ONLY

MIN_BATCH = 2
"""Fewest clips of a process: one alone has no negatives and no batch norm."""
BEST_BY = ("mrr", "r10")
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("fp32", "bf16")
DEVICES = ("auto", "cpu")
ELSEWHERE = ("shards", "out", "device", "sharded", "workers", "tensorboard")
"""Options that change where and how fast a run goes, not what it computes; they are not part of the run."""
ASIDE = ("shards", "out", "loss", "tower_options")
"""Fields that are no option by themselves."""

PRESETS: dict[str, dict[str, Any]] = {
    # UniBriVL, section 3.4 and its YAML; which SpeechLM it took and lr and epochs it does not say
    "paper": {
        "language_tower": "speechlm-base", "image_tower": "brivl-b7", "image_draws": 8, "batch_size": 64,
        "accumulate": 3, "lr": 1e-4, "layer_decay": 0.9, "warmup_steps": 1000, "precision": "bf16",
        "loss.queue_size": 9600, "loss.momentum": 0.99, "loss.temperature": 0.07, "loss.learned_temperature": False,
    },
    # Wav2CLIP's public code: batch 128, Adam at 1e-3 without decay, at most 100 epochs, half the sum of both terms
    "wav2clip": {
        "language_tower": "wav2clip", "batch_size": 128, "lr": 1e-3, "weight_decay": 0.0, "epochs": 100,
        "loss.queue_size": 0, "loss.temperature": 0.07, "loss.learned_temperature": True, "loss.reduction": "mean",
    },
    # a minute on two cores: mel bands, short sounds, a short queue
    "tiny": {
        "language_tower": "wav2clip", "language.clip_s": 1.6, "language.num_mels": 32, "batch_size": 16, "lr": 5e-4,
        "epochs": 4, "validate_every": 1, "loss.queue_size": 256,
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """What `unibrivl train` was asked to do; all but `ELSEWHERE` is stored with the run."""

    shards: Path
    """Shard set to train on."""
    out: Path
    """Folder of the run."""
    split: str = "train"
    """Part of the shard set."""
    language_tower: str = "wav2clip"
    tower_options: dict[str, Any] = field(default_factory=dict)
    """Of the language tower, such as `clip_s`; by name `language.clip_s`."""
    image_tower: str = LITE0
    loss: LossConfig = IN_BATCH_ONLY
    """Loss and queues; by name `loss.queue_size` and so on."""
    image_draws: int = 0
    """Variants of each picture, in changed colours, that epochs take in turn; 0: the picture itself."""
    epochs: int = 20
    batch_size: int = 64
    """Clips of a micro-batch, all processes together; each of them is a negative of the others."""
    accumulate: int = 1
    """Micro-batches an optimiser step."""
    lr: float = 1e-3
    """Peak learning rate, after warm-up and before the cosine."""
    schedule: str = "cosine"
    """After the warm-up: `cosine`, half of one down to zero, or `constant`."""
    warmup_steps: int = 20
    tower_lr: float = 1.0
    """Share of `lr` that the language tower's last layer gets; its head, f, g and temperatures get all of it."""
    layer_decay: float = 1.0
    """Share of the rate of a layer that the layer below it gets."""
    weight_decay: float = 0.05
    """Of matrices and convolutions; biases, norms and temperatures have none."""
    max_grad_norm: float = 1.0
    precision: str = "fp32"
    """`fp32`, or `bf16` where autocast allows it; the loss is always computed in fp32."""
    val_share: float = 0.1
    """Share of the groups kept from training, for the curves."""
    val_clips: int = 5000
    """Most clips that are looked at; retrieval compares all with all."""
    validate_every: int = 2
    """Epochs between two looks at the validation clips."""
    best_by: str = "mrr"
    """What decides which validation was the best: `mrr` or `r10`, the mean of both directions."""
    checkpoint_every: int = 25
    """Steps between two checkpoints."""
    seed: int = 0
    device: str = "auto"
    """`auto`: a GPU where there is one; or `cpu`."""
    sharded: bool = False
    """Whether each of several processes keeps a part of the model; for the SpeechLM towers."""
    workers: int = 0
    """Processes that read and decode; 0: a thread."""
    tensorboard: bool = False
    """Whether to write event files for TensorBoard, too."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        check_ranges(
            self, image_draws=(0, 1000), epochs=(1, 100_000), batch_size=(MIN_BATCH, 1 << 20), accumulate=(1, 1 << 16),
            lr=(0, 10), warmup_steps=(0, 10**9), tower_lr=(0, 1), layer_decay=(0, 1), weight_decay=(0, 10),
            max_grad_norm=(1e-6, 1e9), val_share=(0, 0.9), val_clips=(1, 1 << 24), validate_every=(1, 100_000),
            checkpoint_every=(1, 10**9), seed=(0, 2**63 - 1), workers=(0, 1024),
        )  # fmt: skip
        for name, known in (
            ("schedule", SCHEDULES), ("precision", PRECISIONS), ("best_by", BEST_BY), ("device", DEVICES),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, want {' or '.join(known)}")
        step = self.batch_size * self.accumulate
        if 0 < self.loss.queue_size < step:
            raise ValueError(
                f"loss.queue_size is {self.loss.queue_size}, smaller than the {step} clips of a step: they would drive "
                "each other out; take a larger queue, none (0), or smaller batches"
            )
        check_image_tower(self.image_tower)
        language_options(self.language_tower, self.tower_options)
        if self.sharded and not hasattr(LANGUAGE_TOWERS[self.language_tower][1], "blocks"):
            raise ValueError(
                f"sharded is true, and language tower {self.language_tower} has no layers that processes could share; "
                "leave it out, or take a speechlm tower"
            )

    def batch_of_each(self, num_processes: int) -> int:
        """Return the clips of a micro-batch that one of several processes takes.

        Raises:
            TrainError: they cannot be shared out evenly.
        """
        share, rest = divmod(self.batch_size, num_processes)
        if rest or share < MIN_BATCH:
            raise TrainError(
                f"batch_size is {self.batch_size}, want a multiple of the {num_processes} processes and {MIN_BATCH} "
                "clips or more for each; start another number of them, or another run with another batch_size"
            )
        return share

    def stored(self) -> dict[str, Any]:
        """Return the part of the configuration that makes two runs the same."""
        value = asdict(self)
        for name in (*ELSEWHERE, "language_tower", "tower_options"):
            del value[name]
        options = language_options(self.language_tower, self.tower_options)
        return value | {
            "language_tower": {"name": self.language_tower, "options": options},
            "image_tower": stored_image_tower(self.image_tower),
        }


def make_config(shards: Path, out: Path, settings: Mapping[str, Any], *, preset: str | None = None) -> TrainConfig:
    """Return the configuration of a preset, if any, changed by settings.

    Args:
        shards: shard set to train on.
        out: folder of the run.
        settings: by name: fields of `TrainConfig`, `loss.*`, `language.*`; an option of the language tower may also
            stand without `language.`.
        preset: one of `PRESETS`.

    Raises:
        ValueError: a name or preset is unknown, or a value is not of its kind or range.
        TowerError: a tower is unknown, or an option of the language tower cannot be meant.
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; there are {', '.join(PRESETS)}")
    start = dict(PRESETS[preset]) if preset else {}
    if settings.get("language_tower", start.get("language_tower")) != start.get("language_tower"):
        start = {name: value for name, value in start.items() if not name.startswith("language.")}  # of another tower
    return change_config(TrainConfig(shards=shards, out=out), start | dict(settings))


def change_config(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration with other settings, by name as in `make_config`, and with its errors."""
    tower = check_kind("language_tower", settings.get("language_tower", config.language_tower), (str,))
    known = option_names(tower)
    changed: dict[str, dict[str, Any]] = {"": {}, "loss": {}, "language": {}}
    for given, value in settings.items():
        name = given if given in known else f"language.{given}"
        if name not in known:
            raise unknown_option(given, known)
        part, _, field_name = name.rpartition(".")
        changed[part][field_name] = check_kind(given, value, known[name])
    kept = config.tower_options if tower == config.language_tower else {}
    return replace(
        config, **changed[""], loss=replace(config.loss, **changed["loss"]), tower_options=kept | changed["language"]
    )


def option_names(tower: str) -> dict[str, tuple[type, ...]]:
    """Return every option by its name, with the kinds of value that it takes.

    Raises:
        TowerError: the language tower is unknown.
    """
    ours = {f.name for f in fields(TrainConfig)} - set(ASIDE)
    names = {name: kinds for name, kinds in option_kinds(TrainConfig).items() if name in ours}
    names |= {f"loss.{name}": kinds for name, kinds in option_kinds(LossConfig).items()}
    if tower not in LANGUAGE_TOWERS:
        raise TowerError(f"language tower {tower!r} is unknown; known: {', '.join(LANGUAGE_TOWERS)}")
    config: Any = LANGUAGE_TOWERS[tower][0]
    bound = getattr(config, "keywords", {})  # of a `partial`, which makes one tower of several out of a class
    kinds = option_kinds(getattr(config, "func", config))
    return names | {f"language.{name}": kind for name, kind in kinds.items() if name not in bound}
