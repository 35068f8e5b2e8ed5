"""The bench of the index: real engines on few vectors, graded by us."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from unibrivl.bench.speed_index import COLUMNS, ENGINES, LIBRARIES, OURS, IndexSpeedConfig, rows
from unibrivl.bench.speed_index_drills import Drill, drill
from unibrivl.bench.speed_index_page import chart, index_page
from unibrivl.bench.speed_index_truth import Truth
from unibrivl.cli import app

NAMES = ("unibrivl", "usearch", "hnswlib")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict:
    out, page = (tmp_path_factory.mktemp("speed") / name for name in ("result.json", "page.html"))
    words = ["bench", "speed", "index", "--quick", "--rows", "3000", "--dim", "32", "--rounds", "2"]
    done = CliRunner().invoke(app, [*words, "--json", "--out", str(out), "--html", str(page)])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told == json.loads(out.read_text())
    assert page.read_text().count("data:image/svg+xml") == 1 and "chroma-hnswlib" not in page.read_text()
    return told


def test_every_engine_has_its_figures(result: dict) -> None:
    assert tuple(result["engines"]) == NAMES
    for told in result["engines"].values():
        assert told["qps_ood_at_095_batch"] > 0 and told["qps_ood_at_095_single"] > 0
        assert told["bytes_per_vector"] > 2 * 32 and told["build_s"] > 0 and told["rows"] == 3000
        assert told["qps"]["0.95"]["recall"] >= 0.95
        recalls = {point["effort"]: point["recall"] for point in told["curve"]}
        assert recalls[told["qps"]["0.95"]["effort"]] == told["qps"]["0.95"]["recall"]
        assert told["qps"]["0.95"]["batch"]["min"] <= told["qps_ood_at_095_batch"]
    assert result["engines"]["usearch"]["filter_recall_1pct"] is None  # it has no filters in Python
    assert set(result["engines"]["unibrivl"]["filter_recall"].values()) == {1.0}
    for name in ("read_bandwidth_gb_s", "sgemm_gflop_s", "exact_single_share", "exact_batch_share"):
        assert result[name] > 0
    ours, best = result["engines"]["unibrivl"], max(result["engines"][n]["qps_ood_at_095_batch"] for n in NAMES[1:])
    assert result["ratio_ood_at_095_batch"] == pytest.approx(ours["qps_ood_at_095_batch"] / best, rel=1e-3)


def test_the_table_and_the_page_show_them(result: dict) -> None:
    assert [row[0] for row in rows(result)] == list(NAMES) and all(len(row) == len(COLUMNS) for row in rows(result))
    drawn = chart(result).decode()
    assert drawn.count("<polyline") == 3 and "nan" not in drawn
    failed = result | {"engines": result["engines"] | {"faiss": {"error": "not <installed>"}}}
    assert len(index_page(failed).figures[1].table.rows) == 4  # type: ignore[union-attr]


def test_recall_counts_ties_filters_and_repeats() -> None:
    base = np.eye(12, dtype=np.float32)
    queries = np.full((1, 12), 12**-0.5, np.float32)  # all rows are equally near
    mask = np.zeros((1, 12), bool)
    mask[0, :3] = True
    truth = Truth(base, queries, mask)
    assert truth.recall(np.arange(2, 12)[None]) == 1.0
    assert truth.recall(np.array([[0] * 10])) == pytest.approx(0.1)
    assert truth.recall(np.array([[0, 1, 2] + [-1] * 7]), 0) == 1.0
    assert truth.recall(np.array([[0, 1, 5] + [-1] * 7]), 0) == pytest.approx(2 / 3)


@pytest.mark.slow
def test_ours_survives_what_is_done_to_every_engine(tmp_path: Path) -> None:
    from unibrivl.bench.speed_index import start

    survived = drill(Drill("unibrivl", None, tmp_path / "drill", 0, start))
    assert set(survived.kill_9) <= {"old", "new"} and sum(survived.kill_9.values()) == 5
    assert survived.flipped_block == "refused"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--engines", "annoy"], "engines is annoy, want some of unibrivl"),
        (["--dim", "30"], "dim is 30, want a multiple of 4"),
        (["--rows", "10"], "rows is 10"),
    ],
)
def test_what_cannot_be_measured_is_one_line(words: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["bench", "speed", "index", "--quick", *words])
    assert done.exit_code == 2 and told in " ".join(done.output.split())


def test_stores_are_measured_where_their_python_is_named(tmp_path: Path) -> None:
    without, with_stores = IndexSpeedConfig(), IndexSpeedConfig(peers_python=tmp_path / "python")
    assert without.engines == (OURS, *LIBRARIES) and without.queries == 1000
    assert with_stores.engines == ENGINES
