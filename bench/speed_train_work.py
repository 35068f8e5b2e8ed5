"""One contender of `bench speed train`, in a process of its own: attention in two forms, a step with and without cache.

Started as `python -m unibrivl.bench.speed_train_work JOB`; it obeys the orders of `peers.serve`. The dense form of
attention is SpeechLM's as published: a vector for each pair of frames (N x N x E), multiplied with the queries layer by
layer, and logits that are kept for the softmax. Both forms do the same numbers, forward and backward, without the four
projections around them, which cost the same in both.

Shapes: B clips, H heads, N frames, E width of a head, R rows of the table.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..model.speechlm_config import SPEECHLM_BASE
from ..model.speechlm_layers import SelfAttention, relative_index
from ..shards import SAMPLE_RATE
from .peers import Contender, pin, serve

WARM_FRAMES = 32
STEPS = {"attention": ("unibrivl", "dense"), "step": ("cached", "uncached")}


class TrainContender(Contender):
    """A step of training or of its attention, set up once and then timed turn by turn."""

    def prepare(self) -> dict[str, Any]:
        """Build the step, warm it up, and tell what it computes and how much memory it adds."""
        if self.job["device"] == "cpu":
            pin(self.job["core"])
        torch.manual_seed(self.job["seed"])
        self.device = torch.device(self.job["device"])
        make = attention_step if self.job["contender"] in STEPS["attention"] else training_step
        self.step: Callable[[], float] = make(self.job, self.device)
        before = _memory_mb(self.device, restart=True)
        mark = self.step()
        return {"mark": mark, "peak_mb": _memory_mb(self.device, restart=False) - before, "convert_s": 0.0}

    def run(self, kind: str, number: int) -> dict[str, float]:
        """Time `steps` steps."""
        began = time.perf_counter()
        for _ in range(self.job["steps"]):
            self.step()
        return {"step_s": (time.perf_counter() - began) / self.job["steps"]}


def attention_step(job: dict[str, Any], device: torch.device) -> Callable[[], float]:
    """Return a pass, forward and backward, through the attention of one of Base's stacks."""
    heads, head_dim = SPEECHLM_BASE.heads, SPEECHLM_BASE.dim // SPEECHLM_BASE.heads
    table = torch.randn(2 * SPEECHLM_BASE.max_distance, head_dim, device=device).requires_grad_()
    x = torch.randn(job["batch"], job["frames"], heads * head_dim, device=device).requires_grad_()
    through = _gathered if job["contender"] == "unibrivl" else _dense
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    def step(frames: int = job["frames"]) -> float:
        table.grad = x.grad = None
        index = relative_index(frames, SPEECHLM_BASE.max_distance, device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            y = through(x[:, :frames], table, index, heads, job["layers"])
        y.float().square().mean().backward()
        assert table.grad is not None and x.grad is not None
        return sum(tensor.detach().float().abs().mean().item() for tensor in (y, table.grad, x.grad))

    step(min(WARM_FRAMES, job["frames"]))  # threads, kernels and their workspaces exist before memory is watched
    return step


def _gathered(x_BND: Tensor, table_RE: Tensor, index_NN: Tensor, heads: int, layers: int) -> Tensor:
    """Pass `layers` times through our attention without its projections."""
    attention = SelfAttention(SPEECHLM_BASE).eval()
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        setattr(attention, name, nn.Identity())
    for _ in range(layers):
        x_BND = attention(x_BND, table_RE, index_NN, None)
    return x_BND


def _dense(x_BND: Tensor, table_RE: Tensor, index_NN: Tensor, heads: int, layers: int) -> Tensor:
    """Pass `layers` times through attention with a vector for each pair of frames, looked up once."""
    position_NNE = table_RE[index_NN]
    for _ in range(layers):
        q = x_BND.unflatten(-1, (heads, -1)).transpose(1, 2)
        batch, _, frames, width = q.shape
        scaled = (q * width**-0.5).flatten(0, 1)
        bias = torch.matmul(scaled.transpose(0, 1), position_NNE.transpose(1, 2)).transpose(0, 1)
        logits = torch.bmm(scaled, q.flatten(0, 1).transpose(1, 2)) + bias
        y = torch.bmm(logits.float().softmax(dim=-1).to(q.dtype), q.flatten(0, 1))
        x_BND = y.view(batch, heads, frames, width).transpose(1, 2).flatten(2)
    return x_BND


def training_step(job: dict[str, Any], device: torch.device) -> Callable[[], float]:
    """Return an optimiser step that takes the pictures' embeddings as kept, or runs the frozen tower for them."""
    from ..model.unibrivl import UniBriVL

    batch, on_gpu = job["batch"], device.type == "cuda"
    tower = _frozen_tower(job["image_tower"]).place(device, bf16=on_gpu)
    model = UniBriVL(job["language_tower"], job["options"], tower.embed_dim).to(device).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    rng = np.random.default_rng(job["seed"])
    frames = rng.integers(0, 256, (batch, 64, 64, 3), np.uint8)
    audio = torch.from_numpy(rng.standard_normal((batch, round(job["clip_s"] * SAMPLE_RATE)), np.float32) / 10)
    features, ids = model.language.features(audio.to(device)).detach(), torch.arange(batch, device=device)
    kept = torch.from_numpy(tower.embed(frames)).to(device)

    def step() -> float:
        images = kept if job["contender"] == "cached" else torch.from_numpy(tower.embed(frames)).to(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            loss = model(features, images, ids, lambda a, b: a[:, None] == b).total
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _frozen_tower(name: str) -> Any:
    """Return the default tower, or BriVL with random weights: speed does not depend on them."""
    from ..model.brivl import B7, BrivlImageEncoder
    from ..model.brivl_tower import BrivlTower
    from ..model.library import LITE0
    from ..model.towers import image_tower

    return image_tower(LITE0) if name == LITE0 else BrivlTower(name, BrivlImageEncoder(B7))


def _memory_mb(device: torch.device, *, restart: bool) -> float:
    """Return what is held now, and count the most anew (`restart`), or the most since then."""
    if device.type == "cuda":
        if restart:
            torch.cuda.reset_peak_memory_stats(device)
            return torch.cuda.memory_allocated(device) / 1e6
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        if restart:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the kernel forgets the highest size
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Vm")}
        return sizes["VmRSS" if restart else "VmHWM"] * 1024 / 1e6
    except (OSError, KeyError, ValueError):  # no Linux, or no permission: the highest size since the start
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    serve(TrainContender(json.loads(sys.argv[1])))
