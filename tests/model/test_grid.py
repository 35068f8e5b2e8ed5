"""Grids: every combination once, finished ones skipped, one table, and what cannot be a grid refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from unibrivl.model import towers
from unibrivl.model import train as train_module
from unibrivl.model.curves import PAGE_FILE
from unibrivl.model.errors import LostProcessError, TrainError
from unibrivl.model.grid import GRID_FILE, Point, read_grid, run_grid
from unibrivl.model.journal import METRICS_FILE
from unibrivl.model.train import train
from unibrivl.model.train_config import TrainConfig

from .tiny import TinyImageTower


@pytest.fixture
def config(shards_copy: Path, tmp_path: Path, tiny_tower: str, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setitem(towers.IMAGE_TOWERS, "colours", TinyImageTower)
    monkeypatch.setattr(train_module, "write_curves", lambda out, described: (out / PAGE_FILE).touch())
    return TrainConfig(
        shards=shards_copy, out=tmp_path / "grid", language_tower=tiny_tower, image_tower="colours", epochs=2,
        batch_size=4, val_share=0.2, validate_every=1,
    )  # fmt: skip


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_lists_are_combined_in_order(tmp_path: Path) -> None:
    expected = [{"lr": lr, "loss.temperature": temperature} for lr in (1e-3, 3e-4) for temperature in (0.05, 0.07, 0.1)]
    toml = write(tmp_path / "grid.toml", "lr = [1e-3, 3e-4]\nloss.temperature = [0.05, 0.07, 0.1]\n")
    text = json.dumps({"lr": [1e-3, 3e-4], "loss.temperature": [0.05, 0.07, 0.1]})
    assert read_grid(toml) == read_grid(write(tmp_path / "grid.json", text)) == expected


def test_points_may_be_listed(tmp_path: Path) -> None:
    toml = write(tmp_path / "g.toml", "[[points]]\nlr = 1e-3\n[[points]]\nlr = 1e-4\nloss.queue_size = 64\n")
    assert read_grid(toml) == [{"lr": 1e-3}, {"lr": 1e-4, "loss.queue_size": 64}]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("g.json", "{", "is no JSON"), ("g.toml", "= 3", "is no TOML"), ("g.json", "[]", "want settings with lists"),
        ("g.json", "{}", "want settings with lists"), ("g.json", "[" * 100_000, "is no JSON"),
        ("g.json", '{"lr": [1e-3], "lr": [1e-4]}', "is no JSON.*lr stands there twice"),
        ("g.toml", "a = " + "[" * 100_000, "is no TOML"),
        ("g.json", '{"lr": 1e-3}', r"lr is 0.001, want a list of values"),
        ("g.json", '{"lr": []}', "want a list of values"), ("g.json", '{"points": [3]}', "`points` must be a list"),
        ("g.json", json.dumps({name: list(range(30)) for name in "abc"}), "27,000 combinations, more than"),
    ],
)  # fmt: skip
def test_what_is_no_grid_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(TrainError, match=words):
        read_grid(write(tmp_path / name, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"nowhere\.json: cannot be read"):
        read_grid(tmp_path / "nowhere.json")


def test_every_point_is_a_run_and_the_best_comes_first(config: TrainConfig) -> None:
    points = [{"lr": 1e-2}, {"lr": 1e-5, "loss.temperature": 0.1}]
    seen: list[Point] = []
    found = run_grid(config, points, train, report=seen.append)
    assert [point.settings for point in seen] == points and all(point.state == "done" for point in found)
    assert found[0].figure("mrr") >= found[1].figure("mrr") > found[1].figure("chance_mrr") / 2
    assert sorted(p.name for p in config.out.iterdir()) == [
        "000-lr-0.01", "001-lr-1e-05_temperature-0.1", GRID_FILE,
    ]  # fmt: skip
    stored = json.loads((config.out / GRID_FILE).read_text())
    assert stored["format"] == 1 and stored["points"] == [dataclasses.asdict(point) for point in seen]


def test_a_grid_goes_on_where_it_was(config: TrainConfig) -> None:
    points: list[dict[str, Any]] = [{"lr": lr} for lr in (1e-2, 1e-3, 1e-4)]

    def stop_at_second(one: TrainConfig) -> object:
        if one.lr == 1e-3:
            raise KeyboardInterrupt
        return train(one)

    with pytest.raises(KeyboardInterrupt):
        run_grid(config, points, stop_at_second)
    assert [p["state"] for p in json.loads((config.out / GRID_FILE).read_text())["points"]] == [
        "done",
        "to do",
        "to do",
    ]
    again: list[float] = []

    def count(one: TrainConfig) -> object:
        again.append(one.lr)
        return train(one)

    found = run_grid(config, points, count)
    assert again == [1e-3, 1e-4] and {point.state for point in found} == {"done"}
    assert run_grid(config, points, count) == found and len(again) == 2


def test_a_finished_run_without_its_log_is_done_all_the_same(config: TrainConfig) -> None:
    points: list[dict[str, Any]] = [{"lr": 1e-3}]
    (found,) = run_grid(config, points, train)
    assert found.validation is not None
    (config.out / found.name / METRICS_FILE).write_text("damaged\n")
    (again,) = run_grid(config, points, train)
    assert (again.state, again.step, again.steps, again.validation) == ("done", found.step, found.steps, None)


def test_a_run_that_fails_does_not_stop_the_others(config: TrainConfig) -> None:
    found = run_grid(config, [{"batch_size": 64}, {"lr": 1e-3}], train)
    assert [point.state for point in found] == ["done", "failed"]
    assert "fewer than a batch of 64" in found[1].reason and found[1].validation is None


def test_a_lost_process_ends_the_grid_and_no_point_has_failed(config: TrainConfig) -> None:
    def lose(one: TrainConfig) -> None:
        raise LostProcessError("gone")

    with pytest.raises(LostProcessError):
        run_grid(config, [{"lr": 1e-3}, {"lr": 1e-2}], lose)
    assert [point["state"] for point in json.loads((config.out / GRID_FILE).read_text())["points"]] == ["to do"] * 2


def test_a_setting_that_cannot_be_meant_stops_before_anything_is_trained(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="point 1 of the grid: there is no option 'rate'"):
        run_grid(config, [{"lr": 1e-3}, {"rate": 3}], train)
    assert not config.out.exists()


def test_another_grid_or_a_foreign_folder_is_refused(config: TrainConfig) -> None:
    run_grid(config, [{"batch_size": 64}], train)
    with pytest.raises(TrainError, match="holds another grid, of 1 points"):
        run_grid(config, [{"batch_size": 65}], train)
    (config.out / GRID_FILE).unlink()
    (config.out / "thesis.txt").write_text("three years")
    with pytest.raises(TrainError, match="is not empty and no grid"):
        run_grid(config, [{"batch_size": 64}], train)
