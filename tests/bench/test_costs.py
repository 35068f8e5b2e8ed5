"""Costs come from result files or are measured here; a plan multiplies them and says what it does not know."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from unibrivl.bench.costs import COSTS, CostsConfig, measure_costs, read_costs
from unibrivl.bench.errors import BenchError
from unibrivl.bench.scale_plan import ScaleConfig, as_dict, plan_scale

from .conftest import Call

RESULTS: dict[str, dict[str, Any]] = {
    "ingest": {"clips_per_s_per_core": {"unibrivl": 50.0}, "memory": {"max_rss_mb": 170.0}},
    "reader": {"set": {"mean_sample_bytes": 100_000}},
    "index": {
        "config": {"dim": 8},
        "engines": {
            "unibrivl": {
                "rows": 1000, "bytes_per_vector": 20.0, "build_cpu_s": 10.0, "peak_rss_mb": 50.0,
                "qps_ood_at_095_single": 100.0,
            },
        },
    },
}  # fmt: skip


def write_results(folder: Path) -> dict[str, Path]:
    paths = {name: folder / f"{name}.json" for name in RESULTS}
    for name, path in paths.items():
        path.write_text(json.dumps(RESULTS[name]), encoding="utf-8")
    return paths


def test_costs_are_those_of_the_files_and_of_this_machine(tmp_path: Path) -> None:
    config = CostsConfig(**write_results(tmp_path), towers=("wav2clip",), clip_s=1.0, batch=2, repeats=1)
    costs = measure_costs(config)
    assert costs["ingest"] == {"core_s_a_clip": 0.02, "worker_mb": 170.0, "from": "ingest.json"}
    assert costs["shards"]["bytes_a_clip"] == 100_000
    assert (costs["index"]["core_s_a_vector"], costs["index"]["query_core_s"]) == (0.01, 0.01)
    tower = costs["towers"]["wav2clip"]
    assert 0 < tower["embed_core_s_a_clip"] < tower["train_core_s_a_clip"]
    assert str(tmp_path) not in json.dumps(costs)


def test_a_plan_is_in_proportion_and_says_where_it_leaves_what_was_measured() -> None:
    costs = {
        "clip_s": 10.0, "ingest": {"core_s_a_clip": 0.02, "worker_mb": 170.0, "from": "i"},
        "shards": {"bytes_a_clip": 1e5}, "image_tower": {"core_s_a_clip": 0.03, "from": "t"},
        "towers": {"a": {"embed_core_s_a_clip": 0.1, "train_core_s_a_clip": 0.4}, "from": "t"},
        "index": {
            "rows": 1000, "core_s_a_vector": 0.01, "bytes_a_vector": 20.0, "peak_mb": 50.0, "query_core_s": 0.01,
            "from": "x",
        },
        "environment": {},
    }  # fmt: skip
    few = {step.name: step for step in plan_scale(ScaleConfig(clips=500, tower="a", epochs=3), costs)}
    many = {step.name: step for step in plan_scale(ScaleConfig(clips=5000, tower="a", epochs=3), costs)}
    assert few["ingest"].core_hours * 3600 == pytest.approx(10) and few["ingest"].disk_gb == pytest.approx(0.05)
    assert few["train a, 3 epochs"].core_hours * 3600 == pytest.approx(600)
    assert few["build the index"].core_hours * 3600 == pytest.approx(10) and not few["build the index"].note
    assert many["embed sounds"].core_hours == pytest.approx(10 * few["embed sounds"].core_hours)
    assert "extrapolated" in many["build the index"].note and many["build the index"].memory_mb == pytest.approx(500)
    assert all(step.gpu_hours is None and step.cells(64)[3] == "not measured" for step in few.values())
    told = as_dict(ScaleConfig(clips=500, tower="a"), list(few.values()), costs)
    assert told["core_hours"] == pytest.approx(sum(step.core_hours for step in few.values()))


def test_the_costs_of_the_release_plan_for_every_tower(call: Call) -> None:
    for tower in ("wav2clip", "speechlm-base", "speechlm-large"):
        steps = plan_scale(ScaleConfig(clips=2_000_000, tower=tower), read_costs(COSTS))
        assert all(step.core_hours > 0 for step in steps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ingest": {}}, "has no 'clips_per_s_per_core'"),
        ({"ingest": {"clips_per_s_per_core": {"unibrivl": None}}}, "has no figure clips_per_s_per_core unibrivl"),
        ({"index": {"engines": {}}}, "has no figure engines unibrivl"),
    ],
)
def test_results_that_lack_a_figure_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    paths = write_results(tmp_path)
    for name, told in changes.items():
        paths[name].write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(BenchError, match=message):
        measure_costs(CostsConfig(**paths, towers=("wav2clip",)))


def test_bad_words_are_usage_and_bad_files_are_one_line(tmp_path: Path, call: Call) -> None:
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    paths = write_results(tmp_path)
    words = [word for name, path in paths.items() for word in (f"--{name}", path)]
    code, _, err = call("costs", *words, "--towers", "gpt")
    assert code == 2 and "--towers" in err
    code, _, err = call("costs", *words, "--index", tmp_path / "bad.json")
    assert code == 1 and err.count("\n") == 1 and "bad.json: not readable as a result file" in err
    with pytest.raises(ValueError, match="clips is 0, want 1 to"):
        ScaleConfig(clips=0)
    with pytest.raises(BenchError, match="know no tower 'tdnn'"):
        plan_scale(ScaleConfig(clips=1, tower="tdnn"), read_costs(COSTS))


def test_the_page_holds_the_figures_of_the_release() -> None:
    text, costs = (COSTS.parent.parent / "docs" / "scale.md").read_text(encoding="utf-8"), read_costs(COSTS)
    for clips, tower in re.findall(r"<!-- plan (\d+) (\S+) -->", text):
        for step in plan_scale(ScaleConfig(clips=int(clips), tower=tower), costs):
            name, hours, days, _, disk, memory, _ = step.cells(64)
            assert f"| {name} | {hours} | {days} | {disk} | {memory} |" in text
    for name, told in costs["towers"].items():
        if name != "from":
            figures = f"{told['embed_core_s_a_clip']:g}, {told['train_core_s_a_clip']:g} core-seconds"
            assert f"a step of training: {name} | {figures}" in text
    assert text.count("<!-- plan") == 2 and f"| {costs['ingest']['core_s_a_clip']:g} core-seconds |" in text
