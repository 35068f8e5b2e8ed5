"""The shape of a row: never a number where something is missing; intervals and paired comparisons that hold."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unibrivl.bench import protocol
from unibrivl.bench.errors import BenchError, NeedsError
from unibrivl.bench.protocol import (
    Result,
    bootstrap,
    compare,
    measured,
    predictions_path,
    resampled_means,
    write_result,
)

ROW = {"bench": "b", "protocol": "p", "tower": "t"}


def write_row(path: Path, values: np.ndarray, **changes: Any) -> Path:
    table: dict[str, Any] = {"item": [f"clip{n}" for n in range(len(values))], "accuracy": values}
    table |= {"group": changes.pop("groups")} if "groups" in changes else {}
    metrics = {"accuracy": float(values.mean())}
    write_result(path, Result(**(ROW | changes), metrics=metrics, predictions=pa.table(table)))
    return path


def test_a_row_has_the_shape_of_every_result_file(tmp_path: Path) -> None:
    path = write_row(tmp_path / "row.json", np.array([1.0, 0.0]))
    told = json.loads(path.read_text(encoding="utf-8"))
    assert set(told) == {
        "bench", "protocol", "tower", "metrics", "chance", "oracle", "coverage", "interval", "seed", "status",
        "config", "environment",
    }  # fmt: skip
    assert told["status"] == "ok" and told["environment"]["packages"]["numpy"]
    table = pq.read_table(predictions_path(path))
    assert table.column_names == ["item", "accuracy"]
    assert json.loads(table.schema.metadata[b"unibrivl"])["bench"] == "b"


def test_what_is_missing_is_told_in_place_of_a_number() -> None:
    def measure() -> Result:
        raise NeedsError("no weights", status="needs-weights", expected=("model.safetensors",))

    row = measured(measure, bench="esc50", protocol="p", tower="clap:music", seed=3)
    told = row.as_dict()
    assert (told["status"], told["expected"], told["reason"]) == ("needs-weights", ["model.safetensors"], "no weights")
    assert told["metrics"] == told["interval"] == told["chance"] == {} and told["seed"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "fine"}, "status is 'fine', want one of ok, partial, needs-weights, needs-data"),
        ({"status": "needs-data"}, "'needs-data' with 0 expected files"),
        ({"expected": ("a.csv",)}, "'ok' with 1 expected files"),
        ({"status": "needs-data", "expected": ("a.csv",), "metrics": {"r1": 1.0}}, "needs-data bears numbers"),
        ({"predictions": pa.table({"accuracy": [1.0]})}, "predictions have no column 'item'"),
    ],
)
def test_a_row_that_would_mislead_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Result(**(ROW | changes))


def test_intervals_do_not_depend_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(50)
    whole = resampled_means(values, 7)
    monkeypatch.setattr(protocol, "BLOCK_VALUES", 120)
    assert np.array_equal(resampled_means(values, 7), whole)


def test_an_interval_holds_the_mean_as_often_as_it_says() -> None:
    """95 % of 100 sets, each of 60 values: between 88 and 100 of them, 3 deviations of a binomial."""
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(100):
        low, high = bootstrap(rng.normal(0.5, 1, 60), seed)
        inside += low <= 0.5 <= high
    assert 88 <= inside <= 100


def test_clips_of_one_recording_are_drawn_together() -> None:
    values = np.repeat(np.random.default_rng(2).random(20), 10)
    alone, together = bootstrap(values, 0), bootstrap(values, 0, np.repeat(np.arange(20), 10))
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])  # sqrt(10) in the limit


def test_two_runs_are_compared_sample_by_sample(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    first = (rng.random(200) < 0.5).astype(float)
    second = np.where(rng.random(200) < 0.15, 1.0, first)
    paths = [write_row(tmp_path / f"{name}.json", values) for name, values in (("a", first), ("b", second))]
    found = compare(paths[0], paths[1])
    assert found.difference == pytest.approx(second.mean() - first.mean(), abs=1e-6)
    assert 0 < found.interval[0] <= found.difference <= found.interval[1] and found.p < 0.01
    assert (found.metric, found.samples, found.groups) == ("accuracy", 200, 200)
    same = compare(paths[0], paths[0])
    assert same.difference == 0 and same.p == 1
    back = compare(paths[1], paths[0])
    assert back.difference == -found.difference and back.p == found.p


def test_chance_differences_are_called_that(tmp_path: Path) -> None:
    """Under no difference p is uniform: of 40 comparisons 2 fall below 0.05, and 8 or more once in 1,500."""
    rng = np.random.default_rng(4)
    low = 0
    for number in range(40):
        paths = [write_row(tmp_path / f"{number}{name}.json", rng.random(60)) for name in "ab"]
        low += compare(paths[0], paths[1]).p < 0.05
    assert low < 8


def test_a_few_recordings_are_no_proof(tmp_path: Path) -> None:
    """300 clips that all got better, but of three recordings: a flip of three signs is no rare thing."""
    groups = np.repeat(["x", "y", "z"], 100)
    first = write_row(tmp_path / "a.json", np.zeros(300), groups=groups)
    second = write_row(tmp_path / "b.json", np.ones(300), groups=groups)
    found = compare(first, second)
    assert found.groups == 3 and found.p > 0.2


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    first = write_row(tmp_path / "a.json", np.zeros(5))
    other = write_row(tmp_path / "b.json", np.zeros(5), bench="c")
    fewer = write_row(tmp_path / "d.json", np.zeros(4))
    with pytest.raises(BenchError, match=r"is of bench b, .* of c; want the same"):
        compare(first, other)
    with pytest.raises(BenchError, match=r"measured other samples \(5 and 4\)"):
        compare(first, fewer)
    with pytest.raises(BenchError, match="have no 'map'; they have item, accuracy"):
        compare(first, fewer, "map")
    predictions_path(fewer).unlink()
    with pytest.raises(BenchError, match=r"d\.predictions\.parquet: there is no such file; measure again"):
        compare(first, fewer)
