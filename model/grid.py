"""`train --grid`: one run for each combination of settings, and a table of how they ended.

A grid file is JSON or TOML: lists of values by setting, of which every combination is a point, or the points
themselves under `points`. Each point is a run in a folder of its own; finished ones are skipped, so that the same
command goes on after a crash.
"""

import itertools
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import UnibrivlError
from ..shards.atomic import is_foreign, write_json
from ..shards.checks import parse_json
from .checkpoint import CHECKPOINT_FILE, read_state
from .errors import CheckpointError, LostProcessError, TrainError
from .journal import Validation, read_metrics
from .retrieval import RetrievalScores
from .settings import flat
from .train_config import TrainConfig, change_config
from .validation import mean_figure

GRID_FILE = "grid.json"
GRID_FORMAT = 1
MAX_POINTS = 10_000
MAX_NAME = 80
"""Characters of a point's name."""

Run = Callable[[TrainConfig], object]
"""Trains a configuration, or goes on with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A combination of settings, and how it ended."""

    name: str
    """Of its folder: number and settings."""
    settings: dict[str, Any]
    state: str = "to do"
    """`to do`, `done` or `failed`."""
    reason: str = ""
    """Why it failed."""
    step: int = 0
    """Of the best validation."""
    steps: int = 0
    """Of the whole run."""
    validated_on: str = ""
    validation: dict[str, dict[str, Any]] | None = None
    """Scores of both directions in the best validation."""

    def figure(self, name: str) -> float:
        """Return the mean of both directions of a figure, such as `mrr`; minus infinity if there is none."""
        return mean_figure(self.scores, name) if self.validation else float("-inf")

    @property
    def scores(self) -> Validation:
        """The scores of both directions."""
        return {direction: RetrievalScores(**values) for direction, values in (self.validation or {}).items()}


def read_grid(path: Path) -> list[dict[str, Any]]:
    """Return the settings of every point of a grid file, in its order.

    Raises:
        TrainError: the file is missing, no JSON or TOML, or no grid.
    """
    try:
        text = path.read_text(encoding="utf-8")
        grid = tomllib.loads(text) if path.suffix == ".toml" else parse_json(text)
    except OSError as e:
        raise TrainError(f"{path}: cannot be read ({e.strerror or e})") from e
    except (ValueError, RecursionError) as e:
        kind = "TOML" if path.suffix == ".toml" else "JSON (TOML files end in .toml)"
        raise TrainError(f"{path}: is no {kind}: {e}") from e
    if not isinstance(grid, dict) or not grid:
        raise TrainError(f'{path}: want settings with lists of values, such as {{"lr": [1e-3, 3e-4]}}')
    return _listed(path, grid["points"]) if set(grid) == {"points"} else _combined(path, flat(grid))


def _listed(path: Path, points: Any) -> list[dict[str, Any]]:
    if not isinstance(points, list) or not points or not all(isinstance(point, dict) and point for point in points):
        raise TrainError(f"{path}: `points` must be a list of settings")
    return [flat(point) for point in points]


def _combined(path: Path, axes: dict[str, Any]) -> list[dict[str, Any]]:
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            raise TrainError(f"{path}: {name} is {values!r}, want a list of values, such as [{json.dumps(values)}]")
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    if len(points) > MAX_POINTS:
        raise TrainError(f"{path}: {len(points):,} combinations, more than {MAX_POINTS:,}")
    return points


def run_grid(
    config: TrainConfig, points: list[dict[str, Any]], run: Run, *, writes: bool = True,
    report: Callable[[Point], None] = lambda point: None,
) -> list[Point]:  # fmt: skip
    """Train every point that is not finished, and return all of them, the best first.

    Args:
        config: what all points share; its `out` is the folder of the grid.
        points: their settings.
        run: trains one.
        writes: whether this process is the one that writes.
        report: called after each point.

    Raises:
        ValueError: a point has a setting that is unknown or cannot be meant; nothing was trained then.
        TrainError: the folder holds something else.
        LostProcessError: another process is gone, and so no point could be trained.
    """
    configs = [_config_of(config, number, settings) for number, settings in enumerate(points)]
    names = [one.out.name for one in configs]
    found = [Point(name=name, settings=settings) for name, settings in zip(names, points, strict=True)]
    if writes:
        _claim(config.out, found)
    for number, one in enumerate(configs):
        found[number] = _train_point(found[number], one, run)
        if writes:
            _write(config.out, found)
        report(found[number])
    return sorted(found, key=lambda point: -point.figure(config.best_by))


def _config_of(config: TrainConfig, number: int, settings: dict[str, Any]) -> TrainConfig:
    words = "_".join(f"{name.rpartition('.')[2]}-{value}" for name, value in settings.items())
    name = f"{number:03d}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', words)}"[:MAX_NAME]
    try:
        return replace(change_config(config, settings), out=config.out / name)
    except (ValueError, CheckpointError) as e:
        raise ValueError(f"point {number} of the grid: {e}") from e


def _claim(out: Path, points: list[Point]) -> None:
    """Write the grid's file if it is new; refuse a folder with another grid."""
    if is_foreign(out, GRID_FILE):
        raise TrainError(f"{out} is not empty and no grid; choose another --out")
    path = out / GRID_FILE
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        _write(out, points)
        return
    try:
        there = [(p["name"], p["settings"]) for p in parse_json(path.read_bytes())["points"]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise TrainError(f"{path}: damaged ({e}); delete that file, the runs beside it are kept") from e
    if there != [(p.name, p.settings) for p in points]:
        raise TrainError(f"{out} holds another grid, of {len(there)} points; choose another --out")


def _write(out: Path, points: list[Point]) -> None:
    write_json(out / GRID_FILE, {"format": GRID_FORMAT, "points": [asdict(point) for point in points]})


def _train_point(point: Point, config: TrainConfig, run: Run) -> Point:
    try:
        if not _is_finished(config):
            run(config)
    except LostProcessError:
        raise
    except UnibrivlError as e:
        return replace(point, state="failed", reason=str(e))
    return _ended(point, config)


def _is_finished(config: TrainConfig) -> bool:
    if not (config.out / CHECKPOINT_FILE).exists():
        return False
    state = read_state(config.out)
    return state.step == state.steps and state.config == config.stored()


def _ended(point: Point, config: TrainConfig) -> Point:
    state = read_state(config.out)
    best = (state.place.get("best") or {}).get("step", 0)
    look = next((e for e in read_metrics(config.out) if e["step"] == best and "validation" in e), None)
    if look is None:  # its log was damaged since
        return replace(point, state="done", step=best, steps=state.steps)
    return replace(
        point, state="done", step=best, steps=state.steps, validated_on=look["validated_on"],
        validation=look["validation"],
    )  # fmt: skip
