"""`unibrivl plan`: what a collection of any size takes, by unit costs that were measured.

Everything but memory is in proportion to clips. That holds for ingestion, embedding and training, which treat clips one
by one; for building an index it was measured up to the rows that the costs name, and is an extrapolation beyond.
"""

from dataclasses import asdict, dataclass
from typing import Any

from ..shards.checks import check_ranges
from .errors import BenchError

HOUR = 3600
COLUMNS = ("step", "core-hours", "days on {cores} cores", "GPU-hours", "disk", "memory", "from")
MODALITIES = 2
"""A sound and a picture of each clip are indexed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleConfig:
    """What is planned for."""

    clips: int
    tower: str = "speechlm-base"
    epochs: int = 10
    cores: int = 64

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_ranges(self, clips=(1, 10**12), epochs=(1, 10_000), cores=(1, 10**6))


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step on the way from videos to answers."""

    name: str
    core_hours: float
    disk_gb: float | None = None
    memory_mb: float | None = None
    """Of one process at work."""
    gpu_hours: float | None = None
    """None: not measured."""
    origin: str
    note: str = ""

    def cells(self, cores: int) -> tuple[str, ...]:
        """Return the texts of `COLUMNS`."""
        disk = "" if self.disk_gb is None else f"{self.disk_gb:,.1f} GB"
        memory = "" if self.memory_mb is None else f"{self.memory_mb:,.0f} MB"
        gpu = "not measured" if self.gpu_hours is None else f"{self.gpu_hours:,.1f}"
        origin = f"{self.origin}; {self.note}" if self.note else self.origin
        days = self.core_hours / cores / 24
        return self.name, f"{self.core_hours:,.1f}", f"{days:,.2f}", gpu, disk, memory, origin


def plan_scale(config: ScaleConfig, costs: dict[str, Any]) -> list[Step]:
    """Return each step of ingestion, embedding, training, indexing, and a million questions.

    Raises:
        BenchError: the costs do not know the tower.
    """
    towers = {name: told for name, told in costs["towers"].items() if isinstance(told, dict)}
    if config.tower not in towers:
        raise BenchError(f"the costs know no tower {config.tower!r}; want one of {', '.join(towers)}")
    tower, index, clips = towers[config.tower], costs["index"], config.clips
    vectors = MODALITIES * clips
    beyond = "" if vectors <= index["rows"] else f"measured at {index['rows']:,} vectors, extrapolated"
    steps = [
        Step(
            name="ingest", core_hours=clips * costs["ingest"]["core_s_a_clip"] / HOUR,
            disk_gb=clips * costs["shards"]["bytes_a_clip"] / 1e9, memory_mb=costs["ingest"]["worker_mb"],
            origin=costs["ingest"]["from"],
        ),
        Step(
            name="embed pictures once", core_hours=clips * costs["image_tower"]["core_s_a_clip"] / HOUR,
            origin=costs["image_tower"]["from"],
        ),
        Step(
            name=f"train {config.tower}, {config.epochs} epochs", origin=costs["towers"]["from"],
            core_hours=clips * config.epochs * tower["train_core_s_a_clip"] / HOUR,
        ),
        Step(
            name="embed sounds", core_hours=clips * tower["embed_core_s_a_clip"] / HOUR, origin=costs["towers"]["from"],
        ),
        Step(
            name="build the index", core_hours=vectors * index["core_s_a_vector"] / HOUR,
            disk_gb=vectors * index["bytes_a_vector"] / 1e9,
            memory_mb=index["peak_mb"] * max(1.0, vectors / index["rows"]), origin=index["from"], note=beyond,
        ),
    ]  # fmt: skip
    if index["query_core_s"]:
        asked = Step(
            name="a million questions", core_hours=1e6 * index["query_core_s"] / HOUR, origin=index["from"], note=beyond
        )
        steps.append(asked)
    return steps


def as_dict(config: ScaleConfig, steps: list[Step], costs: dict[str, Any]) -> dict[str, Any]:
    """Return plain JSON values."""
    return {
        "config": asdict(config), "steps": [asdict(step) for step in steps],
        "core_hours": sum(step.core_hours for step in steps),
        "disk_gb": sum(step.disk_gb or 0.0 for step in steps), "environment": costs["environment"],
    }  # fmt: skip
