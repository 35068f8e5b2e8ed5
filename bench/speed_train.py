"""`bench speed train`: attention beside its published form, a step with and without kept pictures, a GPU's use.

Attention with relative positions is measured as one of Base's stacks at 10 s of sound, once as ours (the product with
the table, then the choice by distance, PyTorch's fused attention) and once with a vector for each pair of frames, as
published; both must give the same numbers. A training step is measured with the pictures' embeddings kept, as `train`
keeps them, and with the frozen tower in every step. Each contender is a process of its own, on one core where there is
no GPU; they take turns, and figures are medians. Memory is what the first pass adds to the process, or to the GPU.

With a GPU, `train` itself then fine-tunes SpeechLM-Large in bfloat16 from shards made here. `mfu` is the share of the
rate of a large matrix product, measured beside it, that the products of a step reach; `data_wait_share` the share of
its time that a step waits for its batch. Both are null without a GPU, where they would mean nothing.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ..shards.checks import check_ranges
from .environment import environment
from .errors import BenchError
from .speed import (
    ContenderError,
    Conversation,
    Progress,
    figure,
    fill_in,
    last_core,
    no_progress,
    ratio,
    spread,
    spread_text,
    versions,
    working_folder,
)

MEANING = {
    "unibrivl": "attention: product with the table, choice by distance, fused softmax",
    "dense": "attention as published: a vector for each pair of frames, logits kept",
    "cached": "training step, embeddings of the pictures kept",
    "uncached": "training step, frozen image tower in every step",
}
"""Contenders, in the order of their turns."""
PAIRS = (("unibrivl", "dense"), ("cached", "uncached"))
FRAMES = 499
SAME, SAME_ON_GPU = 1e-3, 2e-2
"""Share by which the results of a pair may differ: float32 in another order; bfloat16, which keeps eight bits."""
PACKAGES = ("unibrivl", "torch", "torchvision", "timm", "accelerate")
NO_GPU = "no GPU: shares of a GPU's time and rate are not measured on a CPU"
ANSWER_S = 1800


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSpeedConfig:
    """What `unibrivl bench speed train` was asked to do; what is None depends on `quick`."""

    quick: bool = False
    """Under a minute instead of several."""
    work: Path | None = None
    """Where the folder for shards and runs is made, and removed again; None: where temporary files go."""
    device: str = "auto"
    """`auto`: a GPU where there is one; or `cpu`."""
    seed: int = 0
    """Of weights, sounds and pictures."""
    frames: int = FRAMES
    """Frames that attend to each other: 10 s."""
    repeats: int | None = None
    """Turns of each contender."""
    batch: int | None = None
    """Clips in a pass of attention and in a step."""
    layers: int | None = None
    """Layers of the stack whose attention is measured."""
    gpu_batch: int | None = None
    """Clips in a step of SpeechLM-Large."""
    gpu_steps: int | None = None
    """Its steps, of which the first fifth warms up."""

    def __post_init__(self) -> None:
        """Fill in what was left open; refuse what cannot be measured."""
        fill_in(self, QUICK if self.quick else FULL)
        if self.device not in ("auto", "cpu"):
            raise ValueError(f"device is {self.device!r}, want 'auto' or 'cpu'")
        check_ranges(
            self, frames=(2, None), repeats=(1, None), batch=(2, None), layers=(1, None), gpu_batch=(2, None),
            gpu_steps=(5, None),
        )  # fmt: skip


QUICK = {"repeats": 3, "batch": 2, "layers": 6, "gpu_batch": 32, "gpu_steps": 20}
FULL = {"repeats": 7, "batch": 4, "layers": 6, "gpu_batch": 32, "gpu_steps": 60}


def measure_train(config: TrainSpeedConfig, progress: Progress = no_progress) -> dict[str, Any]:
    """Measure all contenders; return figures, ratios and all that is needed to read them, as plain JSON values.

    Raises:
        BenchError: a contender fails, or the two forms of attention differ.
    """
    with working_folder(config.work) as folder:
        return _Bench(config, folder, progress).measure()


class _Bench:
    """The contenders' processes, and what they answered."""

    def __init__(self, config: TrainSpeedConfig, folder: Path, progress: Progress) -> None:
        assert config.repeats and config.batch and config.layers and config.gpu_batch and config.gpu_steps
        import torch

        self.config, self.folder = config, folder
        self.on_gpu = config.device == "auto" and torch.cuda.is_available()
        self.device = "cuda" if self.on_gpu else "cpu"
        self.prepared: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, list[float]] = {name: [] for name in MEANING}
        self._progress = progress
        self._done = 0
        self._total = len(MEANING) * (1 + config.repeats) + int(self.on_gpu)

    def step(self, what: str) -> None:
        self._progress(self._done, self._total, what)
        self._done += 1

    def measure(self) -> dict[str, Any]:
        try:
            for pair in PAIRS:
                self.take_turns(pair)
        except ContenderError as e:
            raise BenchError(f"a step of training failed: {e}") from e
        self.compare()
        gpu: dict[str, Any] = dict.fromkeys(GPU_FIGURES)
        if self.on_gpu:
            self.step("SpeechLM-Large")
            gpu = measure_gpu(self.config, self.folder)
        self._progress(self._total, self._total, "done")
        return self.result(gpu)

    def take_turns(self, pair: tuple[str, ...]) -> None:
        """Set a pair of contenders up, one after the other, and let them take turns."""
        with ExitStack() as stack:
            talks = {}
            for name in pair:
                self.step(f"{name}: setting up")
                words = [sys.executable, "-m", f"{__package__}.speed_train_work", json.dumps(self.job(name))]
                talks[name] = Conversation(words, env={"HF_HUB_OFFLINE": "1"}, folder=self.folder, name=name)
                stack.callback(talks[name].close)
                talks[name].tell({"do": "prepare"})
                self.prepared[name] = talks[name].hear(ANSWER_S)
            assert self.config.repeats
            for turn in range(self.config.repeats):
                for name, talk in talks.items():
                    self.step(name)
                    talk.tell({"do": "time", "epoch": turn})
                    self.seconds[name].append(talk.hear(ANSWER_S)["step_s"])

    def job(self, name: str) -> dict[str, Any]:
        """Return what a contender's process is to do; on a CPU, steps that two cores make in seconds."""
        config = self.config
        assert config.batch
        job: dict[str, Any] = {
            "contender": name, "device": self.device, "core": last_core(), "seed": config.seed, "frames": config.frames,
            "batch": config.batch, "layers": config.layers, "steps": 10 if self.on_gpu else 1, "clip_s": 10.0,
            "language_tower": "wav2clip", "options": {"clip_s": 10.0, "num_mels": 64},
            "image_tower": "tf_efficientnet_lite0",
        }  # fmt: skip
        if self.on_gpu:
            batch = config.gpu_batch if name in PAIRS[1] else 8 * config.batch
            job |= {"batch": batch, "language_tower": "speechlm-large", "options": {"clip_s": 10.0},
                    "image_tower": "brivl-b7"}  # fmt: skip
        return job

    def compare(self) -> None:
        """See that a pair did the same work."""
        for ours, theirs in PAIRS:
            marks = [self.prepared[name]["mark"] for name in (ours, theirs)]
            allowed = SAME_ON_GPU if self.on_gpu else SAME
            if not abs(marks[0] - marks[1]) <= allowed * abs(marks[1]):
                raise BenchError(f"{ours} and {theirs} give {marks[0]:g} and {marks[1]:g}, want the same")

    def result(self, gpu: dict[str, Any]) -> dict[str, Any]:
        seconds = {name: figure(median(values)) for name, values in self.seconds.items()}
        peak = {name: figure(self.prepared[name]["peak_mb"]) for name in MEANING}
        return {
            "ratio_attention_time": ratio(seconds["dense"], seconds["unibrivl"]),
            "ratio_attention_memory": ratio(peak["dense"], peak["unibrivl"]),
            "ratio_cached_step": ratio(seconds["uncached"], seconds["cached"]),
            **gpu,
            "notes": {} if self.on_gpu else dict.fromkeys(GPU_FIGURES, NO_GPU),
            "step_s": seconds, "peak_mb": peak,
            "spread": {name: spread(values) for name, values in self.seconds.items()},
            "contenders": MEANING, "jobs": {name: self.job(name) | {"core": None} for name in MEANING},
            "device": self.device, "config": asdict(self.config) | {"work": None}, "seed": self.config.seed,
            "versions": versions(PACKAGES),
            "environment": environment() | {"gpu": _gpu_name() if self.on_gpu else None},
        }  # fmt: skip


GPU_FIGURES = ("mfu", "data_wait_share", "clips_per_s", "matmul_tflops", "step_tflop")


def measure_gpu(config: TrainSpeedConfig, folder: Path) -> dict[str, Any]:
    """Fine-tune SpeechLM-Large from shards for some steps; return `GPU_FIGURES`."""
    assert config.gpu_batch and config.gpu_steps
    options = {"language_tower": "speechlm-large", "precision": "bf16"}
    cores = len(os.sched_getaffinity(0))
    lines = train_steps(
        folder, options, batch=config.gpu_batch, steps=config.gpu_steps, workers=min(12, cores), seed=config.seed
    )
    return gpu_figures(lines, step_flop("speechlm-large", config.gpu_batch, "cuda"), matmul_flops("cuda"))


def gpu_figures(lines: list[dict[str, Any]], flop: float, rate: float) -> dict[str, Any]:
    """Return `GPU_FIGURES` of a run's steps.

    Args:
        lines: the run's lines of steps, without those that warm up.
        flop: floating-point operations of a step.
        rate: of a large matrix product, in operations a second.
    """
    step_s = median(line["step_s"] for line in lines)
    waited = sum(line["data_wait_s"] for line in lines) / sum(line["step_s"] for line in lines)
    return {
        "mfu": figure(flop / (step_s * rate)), "data_wait_share": figure(waited),
        "clips_per_s": figure(median(line["clips_per_s"] for line in lines)), "matmul_tflops": figure(rate / 1e12),
        "step_tflop": figure(flop / 1e12),
    }  # fmt: skip


def train_steps(
    folder: Path, options: dict[str, Any], *, batch: int, steps: int, workers: int, seed: int
) -> list[dict[str, Any]]:
    """Make shards and run `train` on them; return its lines of steps without the first fifth, which warms up."""
    from ..model.journal import METRICS_FILE
    from ..model.train import train
    from ..model.train_config import TrainConfig
    from .speed_clips import make_set

    shards, out = folder / "shards", folder / "run"
    make_set(shards, count=batch * steps, shard_clips=256, seed=seed, workers=len(os.sched_getaffinity(0)))
    never = 10**9
    train(TrainConfig(
        shards=shards, out=out, batch_size=batch, epochs=1, val_share=0, val_clips=batch, warmup_steps=1, lr=1e-5,
        validate_every=1, checkpoint_every=never, seed=seed, workers=workers, **options,
    ))  # fmt: skip
    lines = [json.loads(line) for line in (out / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "step_s" in line][steps // 5 :]


def step_flop(language_tower: str, batch: int, device: str, options: dict[str, Any] | None = None) -> float:
    """Return the floating-point operations of matrix products and convolutions in a step, forward and backward."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ..model.unibrivl import UniBriVL

    dim = 1280
    model = UniBriVL(language_tower, options or {}, dim).to(device).train()
    audio = torch.randn(batch, model.language.num_samples, device=device) / 10
    ids, images = torch.arange(batch, device=device), torch.randn(batch, dim, device=device)
    with FlopCounterMode(display=False) as counter, torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        terms = model(model.language.features(audio), images, ids, lambda a, b: a[:, None] == b)
        terms.total.backward()
    return float(counter.get_total_flops())


def matmul_flops(device: str, side: int = 8192, repeats: int = 20) -> float:
    """Return the rate of a square bfloat16 matrix product, in operations a second: the best of some."""
    import torch

    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        wait()
        began = time.perf_counter()
        torch.matmul(a, b)
        wait()
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name()


COLUMNS = ("contender", "ms a step", "min-max", "peak MB", "what it does")


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of a table of `COLUMNS`."""
    found = []
    for name, seconds in result["step_s"].items():
        millis = {key: 1000 * value for key, value in result["spread"][name].items()}
        found.append((name, f"{1000 * seconds:,.0f}", spread_text(millis), f"{result['peak_mb'][name]:,.0f}",
                      result["contenders"][name]))  # fmt: skip
    return found
