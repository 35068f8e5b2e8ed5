"""`bench demo`: the real run over real commands on a tiny corpus, and what its recipes promise."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from unibrivl.bench import demo
from unibrivl.bench.demo import RECIPES, DemoConfig, run_demo
from unibrivl.bench.errors import BenchError
from unibrivl.cli import app

RETRIEVAL_KEYS = {
    "r1", "r5", "r10", "medr", "mrr", "gallery", "chance_r10", "shuffled_r10", "shuffled_r10_sd", "seed",
}  # fmt: skip


def parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Parse a command's words as the command line would; return its name and the values."""
    command = typer.main.get_command(app)
    name = []
    while hasattr(command, "commands"):
        command = command.commands[words[0]]
        name.append(words[0])
        words = words[1:]
    return " ".join(name), command.make_context(name[-1], list(words)).params


@pytest.mark.slow
def test_the_whole_way(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def commands(config: DemoConfig, recipe: object, root: Path) -> dict[str, list[str]]:
        shards, run = str(root / "shards"), str(root / "run")
        options = ["--epochs", "1", "--batch-size", "4", "--val-share", "0.2"]
        tower = ["--set", "clip_s=1", "--set", "num_mels=32", "--set", "hop=706"]
        return {
            "ingest": ["ingest", str(corpus / "list.csv"), shards, "--media-dir", str(corpus / "media")],
            "train": ["train", shards, "--out", run, "--seed", str(config.seed), *options, *tower],
            "index": ["index", run, shards, "--out", str(root / "index")],
        }

    monkeypatch.setattr(demo, "_commands", commands)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    reported: list[tuple[str, float, str]] = []
    config = DemoConfig(sample="stamps", out=tmp_path / "demo", seed=7)
    summary = run_demo(config, lambda *step: reported.append(step))
    stored = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert stored == json.loads(json.dumps(summary))
    assert list(summary["steps"]) == ["ingest", "train", "index", "retrieval"]
    assert all(seconds > 0 for seconds in summary["steps"].values())
    assert [(name, round(s, 2)) for name, s, _ in reported] == list(summary["steps"].items())
    assert set(summary["retrieval"]) == {"audio_to_image", "image_to_audio"}
    for figures in summary["retrieval"].values():
        assert set(figures) >= RETRIEVAL_KEYS
        assert figures["seed"] == 7 and figures["gallery"] == 6
        assert 0 <= figures["r1"] <= figures["r5"] <= figures["r10"] <= 1
    assert {type(figures["gallery"]) for figures in summary["retrieval"].values()} == {int}
    page = Path(summary["page"])
    assert page == tmp_path / "demo" / "stamps" / "page.html"
    assert page.read_text().count("true answer at rank") == 6
    assert [parse(shlex.split(command)[1:])[0] for command in summary["commands"]] == ["ingest", "train", "index"]


def test_a_step_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    missing = str(tmp_path / "missing list.csv")
    words = ["ingest", missing, str(tmp_path / "shards"), "--media-dir", str(tmp_path)]
    monkeypatch.setattr(demo, "_commands", lambda *_: {"ingest": words, "train": ["never"]})
    reported = []
    with pytest.raises(BenchError, match=r"step ingest failed with exit code 1: unibrivl ingest '.*missing list.csv'"):
        run_demo(DemoConfig(out=tmp_path), lambda *step: reported.append(step))
    assert reported == [] and not (tmp_path / "summary.json").exists()
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("error: ") and "missing list.csv" in err


def fake_steps(monkeypatch: pytest.MonkeyPatch, index: Path) -> None:
    """Make every command succeed at once and measure the index that is there."""
    monkeypatch.setattr(demo, "run_step", lambda name, words: 0.5)
    real = demo.RetrievalConfig

    def config(**fields: Any) -> object:
        return real(**(fields | {"index": index, "query_split": "test", "gallery_split": "test"}))

    monkeypatch.setattr(demo, "RetrievalConfig", config)


@pytest.mark.parametrize("sample", list(RECIPES))
def test_every_command_of_a_recipe_parses(
    sample: str, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_steps(monkeypatch, index)
    (tmp_path / sample).mkdir()
    reported: list[tuple[str, float, str]] = []
    summary = run_demo(DemoConfig(sample=sample, out=tmp_path, seed=3, setup_s=1.0), lambda *s: reported.append(s))
    assert list(summary["steps"]) == ["setup", "sample", "ingest", "train", "index", "retrieval"]
    parsed = [parse(shlex.split(command)[1:]) for name, _, command in reported if name != "setup"]
    assert [name for name, _ in parsed] == ["sample", "ingest", "train", "index", "bench retrieval"]
    assert [shlex.split(command)[1:] for command in summary["commands"]] == [
        shlex.split(command)[1:] for _, _, command in reported[1:-1]
    ]
    assert parsed[2][1]["seed"] == 3
    # who types the last command gets the figures of the page
    recipe = RECIPES[sample]
    found = parsed[-1][1]
    assert (found["query_split"], found["gallery_split"], found["seed"]) == (
        recipe.query_split, recipe.gallery_split, 3
    )  # fmt: skip


def test_the_steps_hand_on_their_folders() -> None:
    commands = demo._commands(DemoConfig(), RECIPES["stamps"], Path("demo/stamps"))
    values = {name: parse(words)[1] for name, words in commands.items()}
    sample = values["sample"]["directory"]
    assert values["ingest"]["list_path"] == sample / "list.csv"
    assert values["ingest"]["media_dir"] == sample / "media"
    assert values["ingest"]["out"] == values["train"]["shards"] == values["index"]["shards"]
    assert values["train"]["out"] == values["index"]["run"]
    assert values["index"]["out"] == Path("demo/stamps/index")


def test_an_unknown_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="sample is 'music', want stamps or film"):
        DemoConfig(sample="music")
