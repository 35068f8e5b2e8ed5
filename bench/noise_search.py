"""Whether pruning and noise search find pictures that fit a sound better than best-of-n, at equal cost.

On the tiny pipeline, whose pictures mean nothing: this measures how well each method climbs, not how pictures look.
The three methods begin from the same seeds, spend at most as many evaluations of the network as best-of-n, and are
compared sound by sound. Shapes: S sounds.
"""

import math
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..index.cards import stored_sample
from ..index.engine import Engine
from ..index.generate import cosines
from ..index.judge import Judge
from ..index.noise_search import METHODS, SearchConfig, Tried, search
from ..index.pictures import Shot
from ..index.pipelines import Pipeline, library_versions
from ..index.question import Part
from ..index.studio import Studio
from ..shards.checks import check_ranges
from .errors import BenchError
from .opened import open_given_pipeline, open_index, open_second
from .protocol import LEVEL, Progress, Result, t_interval
from .tiny_pipeline import TinyPipelineConfig, make_tiny_pipeline

COLUMNS = ("method", "cosine with the sound", "above best-of-n (95 %)", "judge", "judge above (95 %)", "evaluations")
STRIDE = 100_000
"""Between the first seeds of two sounds."""
PROMPT = "a photo"
SIDES = ("score", "judge")
"""The verifier's cosine, and the judge's."""
PROTOCOL = (
    "searches from the same seeds at equal cost, sound by sound beside best-of-n; cosine of the best picture with its "
    "sound, and what a judge gives the same picture"
)


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


def measure_noise_search(config: NoiseSearchConfig, progress: Progress = lambda done, total, text: None) -> Result:
    """Measure each method's best cosine, what the judge says of the same pictures, and what it cost.

    Raises:
        NeedsError: the index, its run, the judge or the pipeline is missing.
        BenchError: the index has too few sounds of the split.
        UnibrivlError: the index, the judge or the pipeline is not in order.
    """
    engine = open_index(config.index)
    sounds = _sounds(engine, config)
    judge = open_second(config.judge, engine)
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as work:
        tiny = TinyPipelineConfig(out=Path(work) / "tiny", seed=config.seed)
        pipeline = open_given_pipeline(config.pipeline or str(make_tiny_pipeline(tiny)))
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
) -> Result:  # fmt: skip
    plain = np.array(found["best-of-n"])
    metrics, intervals, spent = {}, {}, {}
    for name, each in found.items():
        values = np.array(each)
        above = {f"{side}_above": t_interval(values[:, column] - plain[:, column]) for column, side in enumerate(SIDES)}
        means = {side: round(float(values[:, column].mean()), 6) for column, side in enumerate(SIDES)}
        metrics[name] = means | {side: one["mean"] for side, one in above.items()}
        intervals[name] = {side: [one["low"], one["high"]] for side, one in above.items()}
        spent[name] = {
            "evaluations": int(values[:, 2].max()), "scores": [round(float(value), 6) for value in values[:, 0]],
            "judged": [round(float(value), 6) for value in values[:, 1]],
        }  # fmt: skip
    return Result(
        bench="noise-search", protocol=PROTOCOL, tower=engine.encoder.model.tower_name, metrics=metrics,
        coverage={"sounds": len(plain)}, interval=intervals | {"level": LEVEL}, seed=config.seed,
        config=_stored(config),
        more={
            "methods": spent, "verifier": engine.fingerprints,
            "judge": judge.describe() | {"folder": config.judge.name},
            "pipeline": pipeline.describe() | {"name": _stored(config)["pipeline"] or "tiny"},
            "defaults": asdict(SearchConfig()), "versions": library_versions(), "repeats": 1,
        },
    )  # fmt: skip


def _stored(config: NoiseSearchConfig) -> dict[str, Any]:
    """Return the configuration without folders of this machine."""
    return asdict(config) | {
        "index": config.index.name, "judge": config.judge.name,
        "pipeline": config.pipeline and Path(config.pipeline).name,
    }  # fmt: skip


def rows(told: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the table of a result as plain values."""
    return [
        (name, f"{one['score']:.4f}", _bounded(told, name, "score_above"), f"{one['judge']:.4f}",
         _bounded(told, name, "judge_above"), f"{told['methods'][name]['evaluations']:,}")
        for name, one in told["metrics"].items()
    ]  # fmt: skip


def _bounded(told: dict[str, Any], method: str, name: str) -> str:
    low, high = told["interval"][method][name]
    return f"{told['metrics'][method][name]:+.4f} ({low:+.4f} to {high:+.4f})"
