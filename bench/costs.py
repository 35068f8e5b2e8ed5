"""`bench costs`: what one clip and one vector cost, collected from result files, and towers measured in this run.

`unibrivl plan` multiplies these (`scale_plan.py`). What no result file and no run here has told is null, never a guess.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ..model.library import LITE0
from ..model.towers import image_tower
from ..model.unibrivl import UniBriVL
from ..shards import SAMPLE_RATE
from ..shards.checks import check_ranges, parse_json
from .environment import environment
from .errors import BenchError
from .probes import one_thread
from .protocol import Progress
from .speed import figure

COSTS = Path(__file__).with_name("costs.json")
"""What `unibrivl plan` reads unless it is told otherwise."""
TOWERS: dict[str, dict[str, Any]] = {"wav2clip": {}, "speechlm-base": {}, "speechlm-large": {}}
FILES = ("ingest", "reader", "index")
"""Options that name result files."""
FRAME_PX = 64
SHOWN = 200
"""Characters of a fault that a message shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CostsConfig:
    """What `unibrivl bench costs` was asked to do."""

    ingest: Path
    """Result of `bench speed ingest`."""
    reader: Path
    """Result of `bench speed reader`: bytes of a clip."""
    index: Path
    """Result of `bench speed index`, of many rows."""
    towers: tuple[str, ...] = tuple(TOWERS)
    clip_s: float = 10.0
    batch: int = 2
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is not offered."""
        unknown = [name for name in self.towers if name not in TOWERS]
        if unknown or not self.towers:
            raise ValueError(f"towers is {', '.join(self.towers) or 'empty'}, want some of {', '.join(TOWERS)}")
        check_ranges(self, batch=(1, 64), repeats=(1, 100), clip_s=(0.5, 60), seed=(0, 2**31 - 1))


@one_thread()
def measure_costs(config: CostsConfig, progress: Progress = lambda done, total, text: None) -> dict[str, Any]:
    """Return unit costs, in seconds of one core, bytes and MB, with the file that each is from.

    Raises:
        BenchError: a result file is missing, is of another bench, or lacks a figure.
    """
    ingest, reader, index = (
        _read(config.ingest, "clips_per_s_per_core"), _read(config.reader, "set"), _read(config.index, "engines")
    )  # fmt: skip
    ours = _figure(index, config.index, "engines", "unibrivl")
    rows = _figure(index, config.index, "engines", "unibrivl", "rows")
    sounds, pictures = _made(config)
    progress(0, len(config.towers) + 1, "image tower")
    towers = {}
    image_s = _core_s(config, lambda: image_tower(LITE0).embed, pictures)
    for number, name in enumerate(config.towers, 1):
        progress(number, len(config.towers) + 1, name)
        towers[name] = _tower(config, name, sounds)
    return {
        "bench": "costs", "clip_s": config.clip_s,
        "ingest": {
            "core_s_a_clip": figure(1 / _figure(ingest, config.ingest, "clips_per_s_per_core", "unibrivl")),
            "worker_mb": ingest.get("memory", {}).get("max_rss_mb"), "from": config.ingest.name,
        },
        "shards": {
            "bytes_a_clip": figure(_figure(reader, config.reader, "set", "mean_sample_bytes")),
            "from": config.reader.name,
        },
        "image_tower": {"name": LITE0, "core_s_a_clip": image_s, "from": "bench costs"},
        "towers": towers | {"from": "bench costs, random weights"},
        "index": {
            "rows": rows, "dim": index["config"]["dim"], "bytes_a_vector": ours["bytes_per_vector"],
            "core_s_a_vector": figure(ours["build_cpu_s"] / rows), "peak_mb": ours["peak_rss_mb"],
            "query_core_s": figure(1 / ours["qps_ood_at_095_single"]) if ours.get("qps_ood_at_095_single") else None,
            "from": config.index.name,
        },
        "gpu": None, "config": asdict(config) | {name: getattr(config, name).name for name in FILES},
        "seed": config.seed, "environment": environment(),
    }  # fmt: skip


def read_costs(path: Path) -> dict[str, Any]:
    """Read what `measure_costs` returned.

    Raises:
        BenchError: the file is missing or is not of this shape.
    """
    costs = _read(path, "towers")
    for names in (("ingest", "core_s_a_clip"), ("shards", "bytes_a_clip"), ("index", "core_s_a_vector")):
        _figure(costs, path, *names)
    return costs


def _made(config: CostsConfig) -> tuple[torch.Tensor, np.ndarray]:
    """Return noise (B, T) and pictures (B, 64, 64, 3): the time of a network does not depend on what it is given."""
    rng = np.random.default_rng(config.seed)
    sounds = rng.standard_normal((config.batch, round(config.clip_s * SAMPLE_RATE)), np.float32) / 10
    return torch.from_numpy(sounds), rng.integers(0, 256, (config.batch, FRAME_PX, FRAME_PX, 3), np.uint8)


def _tower(config: CostsConfig, name: str, sounds_BT: torch.Tensor) -> dict[str, float]:
    """Return the seconds of a core that a clip takes to be embedded, and in a step of training with kept pictures."""
    torch.manual_seed(config.seed)
    tower = image_tower(LITE0)
    model = UniBriVL(name, TOWERS[name] | {"clip_s": config.clip_s}, tower.embed_dim)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    images, ids = torch.randn(len(sounds_BT), tower.embed_dim), torch.arange(len(sounds_BT))

    def train() -> None:
        optimizer.zero_grad()
        loss = model(model.language.features(sounds_BT).detach(), images, ids, lambda a, b: a[:, None] == b).total
        loss.backward()
        optimizer.step()

    embed_s = _core_s(config, lambda: model.eval().embed_audio, sounds_BT)
    model.train()
    return {
        "embed_core_s_a_clip": embed_s,
        "train_core_s_a_clip": _core_s(config, lambda: lambda _: train(), sounds_BT),
    }


def _core_s(config: CostsConfig, make: Callable[[], Callable[[Any], Any]], media: Any) -> float:
    """Return the middle of the processor seconds that a clip took, after one pass that is not counted."""
    work, spent = make(), []
    for _ in range(config.repeats + 1):
        began = time.process_time()
        work(media)
        spent.append((time.process_time() - began) / config.batch)
    return figure(median(spent[1:]))


def _read(path: Path, wanted: str) -> dict[str, Any]:
    try:
        told = parse_json(path.read_bytes())
    except (OSError, ValueError) as e:
        raise BenchError(f"{path}: not readable as a result file ({str(e)[:SHOWN]})") from e
    if not isinstance(told, dict) or wanted not in told:
        raise BenchError(f"{path}: has no {wanted!r}; want a result of the bench that the option names")
    return told


def _figure(told: dict[str, Any], path: Path, *names: str) -> Any:
    found: Any = told
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    if found is None or found == 0:
        raise BenchError(f"{path}: has no figure {' '.join(names)}; measure again")
    return found
