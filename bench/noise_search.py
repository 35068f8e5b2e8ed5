"""Whether pruning and noise search find pictures that fit a sound better than best-of-n, at equal cost.

On the tiny pipeline, whose pictures mean nothing: this measures how well each method climbs, not how pictures look.
The three methods begin from the same seeds, spend at most as many evaluations of the network as best-of-n, and are
compared sound by sound. Shapes: S sounds.
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..index.cards import stored_sample
from ..index.engine import Engine, open_engine
from ..index.generate import cosines
from ..index.judge import Judge, open_judge
from ..index.noise_search import METHODS, SearchConfig, Tried, search
from ..index.pictures import Shot
from ..index.pipelines import Pipeline, PipelineConfig, library_versions, open_pipeline
from ..index.question import Part
from ..index.studio import Studio
from ..shards.checks import check_ranges
from .environment import environment
from .errors import BenchError
from .protocol import t_interval
from .tiny_pipeline import TinyPipelineConfig, make_tiny_pipeline

COLUMNS = ("method", "cosine with the sound", "above best-of-n (95 %)", "judge", "judge above (95 %)", "evaluations")
STRIDE = 100_000
"""Between the first seeds of two sounds."""
PROMPT = "a photo"


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseSearchConfig:
    """What is measured."""

    index: Path
    """Its model is the verifier; its sounds are asked for."""
    judge: Path
    """Another run, or the folder of a CLIP-like model."""
    split: str = "test"
    """Where the sounds are drawn."""
    sounds: int = 10
    n: int = 40
    """Whole pictures that each method may spend."""
    steps: int = 10
    seed: int = 0
    """Of the tiny pipeline, the sounds and the noises."""
    pipeline: str | None = None
    """Another pipeline than the tiny one: its folder, or its id on the hub."""
    search: dict[str, Any] = field(default_factory=dict)
    """Settings of `SearchConfig` other than its defaults."""

    def __post_init__(self) -> None:
        """Refuse what says nothing."""
        check_ranges(self, sounds=(5, 1000), n=(5, 1000), steps=(2, 1000), seed=(0, None))


def measure_noise_search(
    config: NoiseSearchConfig, progress: Callable[[int, int, str], None] = lambda done, total, text: None
) -> dict[str, Any]:
    """Return each method's best cosine, what the judge says of the same pictures, and what it cost.

    Raises:
        BenchError: the index has too few sounds of the split.
        UnibrivlError: the index, the judge or the pipeline is not in order.
    """
    engine = open_engine(config.index)
    judge = open_judge(config.judge, engine)
    sounds = _sounds(engine, config)
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as work:
        tiny = TinyPipelineConfig(out=Path(work) / "tiny", seed=config.seed)
        pipeline = open_pipeline(PipelineConfig(name=config.pipeline or str(make_tiny_pipeline(tiny))))
        for number, sound in enumerate(sounds):
            for name in METHODS:
                folder = Path(work) / f"{number}-{name}"
                found[name].append(_one(config, engine, judge, pipeline, sound, number, name, folder))
            progress(number + 1, len(sounds), "")
    return _result(config, pipeline, engine, judge, found)


def _sounds(engine: Engine, config: NoiseSearchConfig) -> list[np.ndarray]:
    rows = [row for segment in engine.snapshot.of("audio") for row in segment.rows.to_pylist()]
    rows = sorted((row for row in rows if row["split"] == config.split), key=lambda row: row["key"])
    if len(rows) < config.sounds:
        raise BenchError(f"{config.index} has {len(rows)} sounds in split {config.split}, want {config.sounds}")
    drawn = np.random.default_rng(config.seed).permutation(len(rows))[: config.sounds]
    return [stored_sample(engine.snapshot, rows[number]).audio() for number in drawn.tolist()]


def _one(
    config: NoiseSearchConfig, engine: Engine, judge: Judge, pipeline: Pipeline, sound: np.ndarray, number: int,
    method: str, folder: Path,
) -> tuple[float, float, int]:  # fmt: skip
    """Return the best cosine, the judge's of the same picture, and the evaluations of the network."""
    chosen = SearchConfig(method=method, n=config.n, seed=config.seed + number * STRIDE, **config.search)
    for name in ("pictures", "estimates"):
        (folder / name).mkdir(parents=True)
    side = pipeline.side_px
    shot = Shot(
        steps=config.steps, guidance=pipeline.family.guidance, width_px=side, height_px=side, mix=chosen.mix
    )  # fmt: skip
    studio = Studio(pipeline, (PROMPT,), shot, folder / "pictures", folder / "estimates")
    heard = Part("audio", engine.embed([Part("audio", sound)])[0])
    tried = search(studio, chosen, lambda pictures: cosines(engine, heard, pictures), lambda done, total, text: None)
    best = max((one for one in tried if one.score is not None), key=lambda one: one.score or -math.inf)
    assert best.made is not None
    judged = judge.scores(Part("audio", sound), [PROMPT], [best.made.picture])
    return float(best.score or 0.0), float(judged[0]), _spent(tried) + studio.probes


def _spent(tried: list[Tried]) -> int:
    return sum(one.evaluations for one in tried)


def _result(
    config: NoiseSearchConfig, pipeline: Pipeline, engine: Engine, judge: Judge,
    found: dict[str, list[tuple[float, float, int]]],
) -> dict[str, Any]:  # fmt: skip
    plain = np.array(found["best-of-n"])
    methods = {}
    for name, rows in found.items():
        values = np.array(rows)
        methods[name] = {
            "score": round(float(values[:, 0].mean()), 6), "judge": round(float(values[:, 1].mean()), 6),
            "score_above": t_interval(values[:, 0] - plain[:, 0]),
            "judge_above": t_interval(values[:, 1] - plain[:, 1]),
            "evaluations": int(values[:, 2].max()), "scores": [round(float(value), 6) for value in values[:, 0]],
            "judged": [round(float(value), 6) for value in values[:, 1]],
        }  # fmt: skip
    told = asdict(config) | {"index": config.index.name, "judge": config.judge.name}
    return {
        "bench": "noise-search", "methods": methods, "verifier": engine.fingerprints,
        "judge": judge.describe() | {"folder": config.judge.name},
        "pipeline": pipeline.describe() | {"name": (config.pipeline and Path(config.pipeline).name) or "tiny"},
        "config": told | {"pipeline": config.pipeline and Path(config.pipeline).name},
        "defaults": asdict(SearchConfig()), "versions": library_versions(), "environment": environment(),
        "repeats": 1,
    }  # fmt: skip


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the table of a result."""
    return [
        (name, f"{one['score']:.4f}", _told(one["score_above"]), f"{one['judge']:.4f}", _told(one["judge_above"]),
         f"{one['evaluations']:,}")
        for name, one in result["methods"].items()
    ]  # fmt: skip


def _told(one: dict[str, float]) -> str:
    return f"{one['mean']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})"
