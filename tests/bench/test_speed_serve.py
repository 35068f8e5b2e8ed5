"""The server's bench: its figures are of answers that were checked, and add up."""

import json
from pathlib import Path

import pytest

from unibrivl.bench.errors import BenchError
from unibrivl.bench.speed_serve import COLUMNS, ServeSpeedConfig, _figures, measure_serve, rows


def test_a_short_run_gives_every_figure(index: Path) -> None:
    result = measure_serve(ServeSpeedConfig(index=index, clients=8, seconds=1.0, alone=8, rounds=2, max_waiting=4))
    alone, together = result["alone"], result["together"]
    assert alone["questions"] == alone["answers"] == 8 and alone["busy"] == 0
    assert together["answers"] + together["busy"] == together["questions"] and together["answers"] > 0
    assert together["busy"] > 0  # eight clients, four at once
    for told in (alone, together):
        assert 0 < told["p50_ms"] <= told["p95_ms"] <= told["p99_ms"] <= told["max_ms"]
    assert len(result["memory_mb"]) == 3 and min(result["memory_mb"]) > 100
    assert all(len(row) == len(COLUMNS) for row in rows(result))
    json.dumps(result, allow_nan=False)


def test_quantiles_are_of_answers_only() -> None:
    told = _figures([[(200, 0.1), (429, 0.001)], [(200, 0.3)]], seconds=2.0)
    assert told["busy"] == 1 and told["answers_per_s"] == 1.0
    assert told["p50_ms"] == pytest.approx(200) and told["max_ms"] == pytest.approx(300)


def test_a_server_that_does_not_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"the server did not start: .* is no index"):
        measure_serve(ServeSpeedConfig(index=tmp_path, quick=True))


def test_what_measures_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="clients is 0"):
        ServeSpeedConfig(index=Path("x"), clients=0)
    assert ServeSpeedConfig(index=Path("x")).seconds == 60
