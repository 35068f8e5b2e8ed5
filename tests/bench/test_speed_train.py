"""`bench speed train` in small, for real: no figure is judged here, only that they are what they say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.bench import speed_train
from unibrivl.bench.errors import BenchError
from unibrivl.bench.speed_train import (
    COLUMNS,
    GPU_FIGURES,
    MEANING,
    TrainSpeedConfig,
    gpu_figures,
    matmul_flops,
    measure_train,
    rows,
    step_flop,
    train_steps,
)
from unibrivl.bench.speed_train_work import _dense, _gathered, attention_step
from unibrivl.model.speechlm_layers import relative_index

TINY = {"clip_s": 1.0, "num_mels": 32, "hop": 706}


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3), heads=st.integers(1, 4), frames=st.integers(1, 20), layers=st.integers(1, 3),
    far=st.integers(1, 12), seed=st.integers(0, 99),
)  # fmt: skip
def test_both_forms_of_attention_are_one_function(
    batch: int, heads: int, frames: int, layers: int, far: int, seed: int
) -> None:
    """Values and gradients; tolerance: float64 in another order."""
    torch.manual_seed(seed)
    index = relative_index(frames, far)
    results = []
    for form in (_gathered, _dense):
        torch.manual_seed(seed)
        table = torch.randn(2 * far, 4, dtype=torch.float64, requires_grad=True)
        x = torch.randn(batch, frames, 4 * heads, dtype=torch.float64, requires_grad=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("unibrivl.bench.speed_train_work.SPEECHLM_BASE", Sizes(heads))
            y = form(x, table, index, heads, layers)
        y.square().sum().backward()
        results.append((y, x.grad, table.grad))
    for ours, theirs in zip(*results, strict=True):
        # the dense form takes its softmax in float32, as published
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


class Sizes:
    """A network's sizes, as far as attention asks for them."""

    attention_dropout = 0.0

    def __init__(self, heads: int) -> None:
        self.heads, self.dim = heads, 4 * heads


def test_the_forms_are_seen_to_differ_when_they_do() -> None:
    job = {"contender": "unibrivl", "seed": 0, "batch": 2, "frames": 40, "layers": 1}
    marks = {}
    for name in ("unibrivl", "dense"):
        torch.manual_seed(0)
        marks[name] = attention_step(job | {"contender": name}, torch.device("cpu"))()
    assert marks["unibrivl"] == pytest.approx(marks["dense"], rel=1e-4)
    bench = speed_train._Bench(TrainSpeedConfig(quick=True, device="cpu"), Path(), lambda *_: None)
    bench.prepared = {name: {"mark": 1.0} for name in MEANING} | {"dense": {"mark": 1.01}}
    with pytest.raises(BenchError, match=r"unibrivl and dense give 1 and 1\.01, want the same"):
        bench.compare()
    bench.prepared["dense"] = {"mark": float("nan")}
    with pytest.raises(BenchError, match="want the same"):
        bench.compare()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    work = tmp_path_factory.mktemp("work")
    config = TrainSpeedConfig(quick=True, device="cpu", work=work, frames=120, layers=1, repeats=2, seed=3)
    steps: list[tuple[int, int, str]] = []
    result = measure_train(config, lambda *step: steps.append(step))
    assert [done for done, _, _ in steps] == list(range(steps[-1][1] + 1))
    return result, work


@pytest.mark.slow
def test_every_figure_is_there_and_agrees_with_the_others(measured: tuple[dict[str, Any], Path]) -> None:
    result, work = measured
    assert json.loads(json.dumps(result)) == result and list(work.iterdir()) == []
    assert list(result["step_s"]) == list(MEANING) and all(s > 0 for s in result["step_s"].values())
    seconds, peak = result["step_s"], result["peak_mb"]
    for name, ours, theirs, values in (
        ("ratio_attention_time", "unibrivl", "dense", seconds), ("ratio_attention_memory", "unibrivl", "dense", peak),
        ("ratio_cached_step", "cached", "uncached", seconds),
    ):  # fmt: skip
        assert result[name] == pytest.approx(values[theirs] / values[ours], rel=2e-3)
    assert all(result[name] is None and "no GPU" in result["notes"][name] for name in GPU_FIGURES)
    for name, spread in result["spread"].items():
        assert spread["min"] <= spread["median"] <= spread["max"] and spread["median"] == seconds[name]
    assert result["seed"] == 3 and result["device"] == "cpu" and result["environment"]["gpu"] is None
    assert result["versions"]["torch"] and str(work) not in json.dumps(result)
    table = rows(result)
    assert [row[0] for row in table] == list(MEANING) and all(len(row) == len(COLUMNS) for row in table)


def test_what_a_gpu_would_measure_runs_on_a_cpu_too(tmp_path: Path) -> None:
    """The trainer's own lines are what the shares are made of."""
    options = {"language_tower": "wav2clip", "tower_options": TINY, "device": "cpu"}
    lines = train_steps(tmp_path, options, batch=4, steps=5, workers=0, seed=1)
    assert len(lines) == 4 and [line["step"] for line in lines] == [2, 3, 4, 5]
    flop = step_flop("wav2clip", 4, "cpu", TINY)
    assert step_flop("wav2clip", 8, "cpu", TINY) == pytest.approx(2 * flop, rel=1e-2)
    figures = gpu_figures(lines, flop, matmul_flops("cpu", side=64, repeats=2))
    assert tuple(figures) == GPU_FIGURES and all(value >= 0 for value in figures.values())
    assert 0 <= figures["data_wait_share"] <= 1


def test_shares_are_of_time_and_rate() -> None:
    lines = [{"step_s": 2.0, "data_wait_s": wait, "clips_per_s": 16.0} for wait in (0.0, 0.0, 0.6)]
    figures = gpu_figures(lines, flop=4e12, rate=8e12)
    assert (figures["mfu"], figures["data_wait_share"], figures["clips_per_s"]) == (0.25, 0.1, 16.0)
    assert (figures["matmul_tflops"], figures["step_tflop"]) == (8.0, 4.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"repeats": 0}, "repeats is 0"), ({"device": "tpu"}, "device is 'tpu'"), ({"frames": 1}, "frames is 1")],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainSpeedConfig(**options)


def test_a_contender_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_train._Bench, "job", lambda self, name: {"contender": name})
    with pytest.raises(BenchError, match=r"a step of training failed: unibrivl: KeyError"):
        measure_train(TrainSpeedConfig(quick=True, device="cpu", work=tmp_path))
    assert list(tmp_path.iterdir()) == []
