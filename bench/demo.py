"""`bench demo`: the whole way from a sample corpus to a page of answers, through the commands that a user types.

Each step is a command of its own, run as one; a second run finds its work done and takes seconds.
"""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..index.page import write_page
from ..shards.atomic import write_json
from .environment import environment
from .retrieval import RetrievalConfig, measure
from .retrieval_page import retrieval_page
from .steps import run_step


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a sample corpus is taken from package to page on two cores."""

    shard_clips: int
    train: str
    """Options of `unibrivl train`."""
    query_split: str
    gallery_split: str
    ridge: bool
    """Whether clips of another split are there to fit a linear map on."""
    paragraphs: tuple[str, ...]
    """What the page says the figures can and cannot prove."""


RECIPES = {
    "stamps": Recipe(
        shard_clips=128,
        train="--language-tower tdnn --epochs 30 --batch-size 64 --lr 1e-3 --set clip_s=1.6",
        query_split="test",
        gallery_split="test",
        ridge=True,
        paragraphs=(
            "Every clip is a picture of a thing with its spoken name in French or with its sound. A fifth of the "
            "things were kept from training; the questions below are drawn from them by a seeded hash, not chosen.",
            "The language tower was trained from nothing for minutes on a few hundred clips. What this can show: that "
            "the whole way from video to answer works, and that what was learnt carries over to things never met, "
            "beyond chance and beyond the permutation control. What it cannot show: how well UniBriVL searches with "
            "the paper's encoders and data, whose weights are in no package (needs-weights).",
        ),
    ),
    "film": Recipe(
        shard_clips=32,
        train="--epochs 16 --validate-every 4 --batch-size 32 --set num_mels=64 --set hop=706",
        query_split="test",
        gallery_split="train",
        ridge=False,
        paragraphs=(
            "One film of ten minutes, cut into windows of 10 s every 5 s. The questions are windows shifted by 2.5 s; "
            "a true answer overlaps its question by half or more. The questions are drawn by a seeded hash, "
            "not chosen.",
            "What this can show: that long video goes in and that a moment can be found again. What it cannot show: "
            "anything about other films. The model was trained on the very film that it searches, and one film "
            "cannot show generalisation: a ridge map to held-out stretches of it measured no better than chance.",
        ),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """What `unibrivl bench demo` was asked to do."""

    sample: str = "stamps"
    """`stamps` or `film`."""
    out: Path = Path("demo")
    setup_s: float | None = None
    """Seconds that setting up took, to be counted as a step."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a sample without a recipe."""
        if self.sample not in RECIPES:
            raise ValueError(f"sample is {self.sample!r}, want {' or '.join(RECIPES)}")


Report = Callable[[str, float, str], None]
"""Called after each step with its name, its seconds and the command."""


def run_demo(config: DemoConfig, report: Report = lambda name, seconds, command: None) -> dict[str, Any]:
    """Run every step and write `summary.json` and `{sample}/page.html` below `out`; return the summary.

    Raises:
        BenchError: a step failed.
    """
    recipe = RECIPES[config.sample]
    root = config.out / config.sample
    steps: dict[str, float] = {}

    def note(name: str, seconds: float, command: str) -> None:
        steps[name] = round(seconds, 2)
        report(name, seconds, command)

    if config.setup_s is not None:
        note("setup", config.setup_s, "make setup")
    commands = _commands(config, recipe, root)
    for name, words in commands.items():
        note(name, run_step(name, words), shlex.join(["unibrivl", *words]))
    began = time.monotonic()
    retrieval = RetrievalConfig(
        index=root / "index",
        query_split=recipe.query_split,
        gallery_split=recipe.gallery_split,
        seed=config.seed,
        ridge=recipe.ridge,
    )
    measured = measure(retrieval)
    page = root / "page.html"
    write_page(retrieval_page(retrieval, measured, recipe.paragraphs), page)
    words = ["bench", "retrieval", str(root / "index"), "--query-split", recipe.query_split]
    words += ["--ridge"] * recipe.ridge + [
        "--gallery-split",
        recipe.gallery_split,
        "--seed",
        str(config.seed),
        "--html",
        str(page),
    ]
    note("retrieval", time.monotonic() - began, shlex.join(["unibrivl", *words]))
    summary = {
        "sample": config.sample, "steps": steps, "page": str(page),
        "retrieval": {name: d.as_dict() | {"seed": config.seed} for name, d in measured.items()},
        "commands": [shlex.join(["unibrivl", *words]) for words in commands.values()],
        "environment": environment(),
    }  # fmt: skip
    write_json(config.out / "summary.json", summary)
    return summary


def _commands(config: DemoConfig, recipe: Recipe, root: Path) -> dict[str, list[str]]:
    sample, shards, run, index = (str(root / name) for name in ("sample", "shards", "run", "index"))
    return {
        "sample": ["sample", config.sample, sample],
        "ingest": [
            "ingest", f"{sample}/list.csv", shards, "--media-dir", f"{sample}/media",
            "--shard-clips", str(recipe.shard_clips),
        ],
        "train": ["train", shards, "--out", run, "--seed", str(config.seed), *shlex.split(recipe.train)],
        "index": ["index", run, shards, "--out", index],
    }  # fmt: skip
