"""Training: what resumes is bit for bit what was never disturbed, and what cannot be trained is refused."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unibrivl.model import towers
from unibrivl.model import train as train_module
from unibrivl.model.checkpoint import BEST_FILE, CHECKPOINT_FILE, load_model, read_state
from unibrivl.model.curves import PAGE_FILE
from unibrivl.model.errors import CheckpointError, TrainError
from unibrivl.model.journal import METRICS_FILE
from unibrivl.model.loss import LossConfig, LossTerms
from unibrivl.model.train import train
from unibrivl.model.train_config import TrainConfig
from unibrivl.model.validation import mean_figure
from unibrivl.shards.atomic import hold_directory

from .tiny import TinyImageTower, assert_same_run, metrics


class StopError(Exception):
    """What a disturbed run dies of."""


@pytest.fixture
def tiny_config(shards_copy: Path, tmp_path: Path, tiny_tower: str, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """Return a configuration that trains in a second, on towers made for it."""
    monkeypatch.setitem(towers.IMAGE_TOWERS, "colours", TinyImageTower)
    # nine tenths of the time of such a run; test_curves draws
    monkeypatch.setattr(train_module, "write_curves", lambda out, described: (out / PAGE_FILE).touch())
    return TrainConfig(
        shards=shards_copy, out=tmp_path / "run", language_tower=tiny_tower, image_tower="colours", epochs=5,
        batch_size=4, val_share=0.2, validate_every=1, checkpoint_every=2, warmup_steps=2,
    )  # fmt: skip


def stopper(after: int):
    """Return a progress callback that raises at step `after`."""

    def progress(done: int, total: int, text: str) -> None:
        if text.startswith("loss") and done == after:
            raise StopError

    return progress


@pytest.mark.slow
def test_a_run_that_was_stopped_is_bit_for_bit_an_undisturbed_one(
    run: Path, run_config: TrainConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(run_config, out=tmp_path / "run")
    with pytest.raises(StopError):
        train(config, stopper(3))
    assert read_state(config.out).step == 2  # the last checkpoint; step 3 was logged and is made again
    assert metrics(config.out)[-1]["step"] == 3
    with pytest.raises(StopError):
        train(config, stopper(5))
    train(config)
    assert read_state(config.out).step == read_state(run).steps >= 6
    assert_same_run(config.out, run)


@pytest.mark.slow
def test_a_run_that_was_killed_is_bit_for_bit_an_undisturbed_one(
    run: Path, run_config: TrainConfig, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = [
        "train",
        str(run_config.shards),
        "--out",
        str(out),
        "--epochs",
        str(run_config.epochs),
        "--batch-size",
        "4",
    ]
    words += ["--val-share", "0.2", "--checkpoint-every", "2"]
    words += [word for name, value in run_config.tower_options.items() for word in ("--set", f"{name}={value}")]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-m", "unibrivl", *words], env=environment)
    deadline = time.monotonic() + 200
    while not (out / "metrics.jsonl").exists() or '"step": 3' not in (out / "metrics.jsonl").read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 2 <= read_state(out).step < read_state(run).steps
    train(dataclasses.replace(run_config, out=out))
    assert_same_run(out, run)


@pytest.mark.parametrize("stops", [(1,), (2,), (5, 6), (4, 5, 7, 8, 9)])
@pytest.mark.parametrize("how", ["plain", "everything"])
def test_wherever_it_stops_it_goes_on(
    tiny_config: TrainConfig, tmp_path: Path, stops: tuple[int, ...], how: str
) -> None:
    if how == "everything":
        tiny_config = dataclasses.replace(
            tiny_config, batch_size=2, accumulate=2, loss=LossConfig(queue_size=7), weight_decay=0.1, image_draws=2,
            layer_decay=0.5, precision="bf16",
        )  # fmt: skip
    undisturbed = dataclasses.replace(tiny_config, out=tmp_path / "undisturbed")
    assert train(undisturbed).steps > max(stops)
    for after in stops:
        with pytest.raises(StopError):
            train(tiny_config, stopper(after))
    train(tiny_config)
    assert_same_run(tiny_config.out, undisturbed.out)


@pytest.mark.parametrize("cut", [1, 20, -1, -2, -5])
def test_a_torn_last_line_of_the_log_does_not_stop_a_run(tiny_config: TrainConfig, tmp_path: Path, cut: int) -> None:
    """A power cut may leave any beginning of a line, also one that ends with a brace."""
    undisturbed = dataclasses.replace(tiny_config, out=tmp_path / "undisturbed")
    train(undisturbed)
    with pytest.raises(StopError):
        train(tiny_config, stopper(5))
    line = next(entry for entry in metrics(undisturbed.out) if "validation" in entry)
    with (tiny_config.out / "metrics.jsonl").open("a") as f:
        f.write(json.dumps(line)[:cut])
    train(tiny_config)
    assert_same_run(tiny_config.out, undisturbed.out)


def test_a_complete_run_is_left_as_it_is(tiny_config: TrainConfig) -> None:
    first = train(tiny_config)
    before = {path.name: path.read_bytes() for path in tiny_config.out.iterdir()}
    written = {path.name: path.stat().st_mtime_ns for path in tiny_config.out.iterdir()}
    second = train(tiny_config, stopper(first.steps))
    assert {path.name: path.read_bytes() for path in tiny_config.out.iterdir()} == before
    assert {path.name: path.stat().st_mtime_ns for path in tiny_config.out.iterdir()} == written
    assert (second.steps, second.validation) == (first.steps, first.validation)
    assert set(before) == {CHECKPOINT_FILE, BEST_FILE, METRICS_FILE, PAGE_FILE}


def test_what_a_killed_run_left_half_written_is_cleared(tiny_config: TrainConfig) -> None:
    with pytest.raises(StopError):
        train(tiny_config, stopper(3))
    (tiny_config.out / f".{CHECKPOINT_FILE}.tmp-99999-abcdef01").write_bytes(bytes(1000))
    train(tiny_config)
    assert [path.name for path in tiny_config.out.iterdir() if path.name.startswith(".")] == []


def test_a_run_that_lost_its_log_goes_on(tiny_config: TrainConfig) -> None:
    with pytest.raises(StopError):
        train(tiny_config, stopper(3))
    (tiny_config.out / METRICS_FILE).unlink()
    steps = train(tiny_config).steps
    assert [entry["step"] for entry in metrics(tiny_config.out) if "loss" in entry] == list(range(3, steps + 1))


@pytest.mark.parametrize("content", [b"", b"x", None])
def test_a_damaged_checkpoint_stops_and_nothing_is_touched(tiny_config: TrainConfig, content: bytes | None) -> None:
    train(tiny_config)
    path = tiny_config.out / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    before = {path.name: path.read_bytes() for path in tiny_config.out.iterdir()}
    with pytest.raises(
        CheckpointError, match=r"checkpoint\.safetensors: damaged .*; put a copy in its place, or delete"
    ):
        train(tiny_config)
    assert {path.name: path.read_bytes() for path in tiny_config.out.iterdir()} == before
    path.unlink()
    train(tiny_config)


def test_a_file_in_the_place_of_the_run_is_refused(tiny_config: TrainConfig) -> None:
    tiny_config.out.write_text("three years")
    with pytest.raises(TrainError, match="choose another --out"):
        train(tiny_config)
    assert tiny_config.out.read_text() == "three years"


def test_a_second_writer_is_refused(tiny_config: TrainConfig) -> None:
    tiny_config.out.mkdir()
    with hold_directory(tiny_config.out, wait=False) as ours, pytest.raises(TrainError, match="another process"):
        assert ours
        train(tiny_config)


def test_a_foreign_folder_is_refused_and_left_alone(tiny_config: TrainConfig) -> None:
    tiny_config.out.mkdir()
    (tiny_config.out / "thesis.txt").write_text("three years")
    with pytest.raises(TrainError, match="is not empty and no run; choose another --out"):
        train(tiny_config)
    assert [path.name for path in tiny_config.out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 4}, "epochs 5, not 4"),
        ({"lr": 2e-3}, r"lr 0\.001, not 0\.002"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"tower_options": {"width": 16}}, r"language\.width 8, not 16"),
        ({"split": "test", "batch_size": 2}, "split train, not test, batch_size 4, not 2"),
        ({"loss": LossConfig(queue_size=8)}, r"loss\.queue_size 0, not 8"),
        ({"accumulate": 2, "batch_size": 2}, "batch_size 4, not 2, accumulate 1, not 2"),
        ({"precision": "bf16"}, "precision fp32, not bf16"),
    ],
)
def test_other_options_into_the_same_folder_are_refused(
    tiny_config: TrainConfig, change: dict[str, object], words: str
) -> None:
    train(tiny_config)
    before = (tiny_config.out / CHECKPOINT_FILE).read_bytes()
    with pytest.raises(TrainError, match=f"holds a run with .*{words}; give the same options"):
        train(dataclasses.replace(tiny_config, **change))
    assert (tiny_config.out / CHECKPOINT_FILE).read_bytes() == before


def test_other_shards_or_another_image_tower_into_the_same_folder_are_refused(
    tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_config)
    monkeypatch.setattr(TinyImageTower, "fingerprint", "d" * 64)
    with pytest.raises(TrainError, match=r"image_fingerprint c{64}, not d{64}"):
        train(tiny_config)


def test_a_run_whose_batch_was_of_each_of_its_processes_is_refused(
    tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints of earlier versions: what they call a batch is another thing."""
    train(tiny_config)
    state = read_state(tiny_config.out)
    for processes in (1, 2):
        old = dataclasses.replace(state, facts=state.facts | {"processes": processes})
        monkeypatch.setattr(train_module, "read_state", lambda out, old=old: old)
        if processes == 1:
            train(tiny_config)
    with pytest.raises(TrainError, match="begun by 2 processes of an earlier version, with a batch_size for each"):
        train(tiny_config)


def test_a_moved_shard_set_is_the_same(tiny_config: TrainConfig) -> None:
    with pytest.raises(StopError):
        train(tiny_config, stopper(3))
    moved = tiny_config.shards.rename(tiny_config.shards.with_name("moved"))
    result = train(dataclasses.replace(tiny_config, shards=moved))
    assert read_state(tiny_config.out).step == result.steps > 3


def test_a_batch_larger_than_the_data_is_refused(tiny_config: TrainConfig) -> None:
    with pytest.raises(TrainError, match=r"clips to train on, fewer than a batch of 64; pass a smaller --batch-size"):
        train(dataclasses.replace(tiny_config, batch_size=64))
    assert not (tiny_config.out / CHECKPOINT_FILE).exists()


def test_a_loss_that_is_no_number_stops_the_run(tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from unibrivl.model import unibrivl

    calls, real = [], unibrivl.cross_projection_loss

    def broken(*args: Any) -> LossTerms:
        calls.append(1)
        terms = real(*args)
        return dataclasses.replace(terms, total=terms.total * (math.nan if len(calls) == 4 else 1))

    monkeypatch.setattr(unibrivl, "cross_projection_loss", broken)
    with pytest.raises(TrainError, match=r"the loss became nan at step \d+; lower --lr"):
        train(tiny_config)
    assert read_state(tiny_config.out).step == 2  # the last good one
    weights = load_file(tiny_config.out / CHECKPOINT_FILE)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_a_model_beyond_numbers_is_one_line_in_validation_too(tiny_config: TrainConfig) -> None:
    """Loss and gradient of the last step are finite, and what it makes of the weights is not."""
    config = dataclasses.replace(tiny_config, lr=10.0, weight_decay=10.0, max_grad_norm=1e9, warmup_steps=0, epochs=50)
    with pytest.raises(TrainError, match=r"became nan.*; lower --lr and start again in another --out"):
        train(config)


@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"batch_size": 1}, {"lr": -1}, {"lr": math.nan}, {"val_share": 0.95}, {"checkpoint_every": 0},
     {"seed": -1}, {"validate_every": 0}, {"warmup_steps": -1}, {"weight_decay": -0.1}, {"accumulate": 0},
     {"precision": "fp8"}, {"schedule": "line"}, {"best_by": "loss"}, {"device": "tpu"}, {"workers": -1},
     {"layer_decay": 1.1}, {"image_draws": -1}, {"max_grad_norm": 0}],
    ids=str,
)  # fmt: skip
def test_values_that_cannot_be_meant_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} is .* want "):
        TrainConfig(shards=Path("s"), out=Path("o"), **change)


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_every_seed_that_is_accepted_trains(tiny_config: TrainConfig, seed: int) -> None:
    assert train(dataclasses.replace(tiny_config, seed=seed, epochs=1)).steps >= 1


def test_a_queue_smaller_than_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss\.queue_size is 32, smaller than the 64 clips of a step"):
        TrainConfig(shards=Path("s"), out=Path("o"), batch_size=16, accumulate=4, loss=LossConfig(queue_size=32))


def test_a_split_or_tower_that_does_not_exist_is_named(tiny_config: TrainConfig) -> None:
    from unibrivl.shards import ShardError

    with pytest.raises(ShardError, match="no clip of split 'val'; it has test, train"):
        train(dataclasses.replace(tiny_config, split="val"))
    with pytest.raises(CheckpointError, match="'resnet' is unknown"):
        train(dataclasses.replace(tiny_config, image_tower="resnet"))
    with pytest.raises(CheckpointError, match="'bert' is unknown"):
        train(dataclasses.replace(tiny_config, language_tower="bert"))
    assert not tiny_config.out.exists() or not list(tiny_config.out.iterdir())


def test_the_loss_falls_and_pictures_are_found(tiny_config: TrainConfig) -> None:
    config = dataclasses.replace(
        tiny_config, epochs=40, lr=1e-2, val_share=0, validate_every=40, checkpoint_every=10_000,
        tower_options={"width": 32},
    )  # fmt: skip
    result = train(config)
    losses = [entry["loss"] for entry in metrics(config.out) if "loss" in entry]
    assert np.mean(losses[:8]) > 2.2  # about 2 ln 4
    assert np.mean(losses[-8:]) < 0.6 * np.mean(losses[:8])
    assert result.validated_on == "training clips: no group could be held out"
    # 18 pictures that a mean of colours tells apart badly: single directions of four seeds gave 1.5 to 2.9 times chance
    assert mean_figure(result.validation, "mrr") > 1.8 * mean_figure(result.validation, "chance_mrr")
    assert mean_figure(result.validation, "r1") > 2.5 * mean_figure(result.validation, "chance_r1")


def test_held_out_groups_are_never_trained_on(tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from unibrivl.model import train as module

    seen: set[int] = set()
    real = module.training_audio

    def watch(sounds, positions, *args, **options):
        seen.update(positions.tolist())
        return real(sounds, positions, *args, **options)

    monkeypatch.setattr(module, "training_audio", watch)
    result = train(dataclasses.replace(tiny_config, epochs=8))
    from unibrivl.shards import ClipShards

    with ClipShards(tiny_config.shards, split="train") as clips:
        groups = clips.catalog.column("group")
    trained = {groups[position] for position in seen}
    held = set(groups) - trained
    assert result.validated_on == "held-out groups" and held
    assert result.validation["audio_to_image"].queries == sum(group in held for group in groups)
    assert len(seen) == sum(group in trained for group in groups)  # every other clip was seen


def test_the_learning_rate_warms_up_and_comes_down(tiny_config: TrainConfig) -> None:
    train(dataclasses.replace(tiny_config, epochs=10))
    rates = [entry["lr"] for entry in metrics(tiny_config.out) if "lr" in entry]
    assert rates[:3] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert rates[2:] == sorted(rates[2:], reverse=True) and 0 < rates[-1] < 5e-5


@pytest.mark.slow
def test_training_leaves_the_image_tower_alone(
    run_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    from unibrivl.model import train as module

    def keep(name: str, **options: Any):
        built.append(towers.image_tower(name, **options))
        return built[-1]

    monkeypatch.setattr(module, "image_tower", keep)
    config = dataclasses.replace(run_config, out=tmp_path / "run", checkpoint_every=1000)
    with pytest.raises(StopError):
        train(config, stopper(2))
    after = built[0].module.state_dict()
    before = towers.image_tower(config.image_tower).module.state_dict()
    assert not built[0].module.training
    assert any(name.endswith("running_mean") for name in after)
    assert [name for name, tensor in before.items() if not torch.equal(after[name], tensor)] == []


def test_the_image_tower_is_no_part_of_the_checkpoint(run: Path) -> None:
    parts = {name.split(".")[1] for name in load_file(run / CHECKPOINT_FILE)}
    assert parts == {"language", "f", "g", "log_scale"}


def test_the_metrics_say_what_was_measured(run: Path) -> None:
    steps = [entry for entry in metrics(run) if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, read_state(run).steps + 1))
    for entry in steps:
        assert entry["loss"] == pytest.approx(entry["loss_audio_space"] + entry["loss_image_space"], abs=1e-5)
        assert len(entry["temperature"]) == 2 and entry["temperature"][0] == pytest.approx(0.07, abs=0.005)
    last = metrics(run)[-1]
    assert last["validated_on"] == "held-out groups" and set(last["validation"]) == {"audio_to_image", "image_to_audio"}


def test_the_run_says_how_it_was_made(run: Path, run_config: TrainConfig) -> None:
    model, state = load_model(run)
    assert state.config == run_config.stored()
    assert not {"shards", "out"} & set(state.config)
    assert state.facts["image_dim"] == 1280 and len(state.facts["image_fingerprint"]) == 64
    assert model.options == state.config["language_tower"]["options"]


def test_options_that_do_not_change_the_run_may_change(tiny_config: TrainConfig, tmp_path: Path) -> None:
    undisturbed = dataclasses.replace(tiny_config, out=tmp_path / "undisturbed")
    train(undisturbed)
    with pytest.raises(StopError):
        train(tiny_config, stopper(5))
    train(dataclasses.replace(tiny_config, workers=1, tensorboard=True, device="cpu"))
    assert_same_run(tiny_config.out, undisturbed.out)
    events = list((tiny_config.out / "tensorboard").glob("events.*"))
    assert len(events) == 1 and b"validation/audio_to_image/mrr" in events[0].read_bytes()


def test_tensorboard_that_is_not_installed_is_one_line(
    tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainError, match="--tensorboard needs the package tensorboard; install it"):
        train(dataclasses.replace(tiny_config, tensorboard=True))
    assert not tiny_config.out.exists()


def test_the_best_model_is_kept_beside_the_last(tiny_config: TrainConfig) -> None:
    result = train(dataclasses.replace(tiny_config, lr=0.05))
    looks = [entry for entry in metrics(tiny_config.out) if "validation" in entry]
    merits = [np.mean([scores["mrr"] for scores in look["validation"].values()]) for look in looks]
    best = looks[int(np.argmax(merits))]["step"]  # the first of equals
    assert result.best == {"step": best, "mrr": pytest.approx(max(merits))}
    model, state = load_model(tiny_config.out, "best")
    assert state.step == best and state.place["best"] == result.best
    assert {name.split(".")[1] for name in load_file(tiny_config.out / BEST_FILE)} == {
        "language", "f", "g", "log_scale",
    }  # fmt: skip
    assert read_state(tiny_config.out).step == result.steps
    if best != result.steps:
        assert model.fingerprint() != load_model(tiny_config.out)[0].fingerprint()


def test_accumulated_micro_batches_are_one_step(tiny_config: TrainConfig) -> None:
    """Without in-batch negatives, the queue's alone, two halves of a batch make the gradient of the whole."""
    queue = LossConfig(queue_size=12, in_batch=False, dropout=0.0)
    whole = dataclasses.replace(tiny_config, loss=queue, epochs=2, tower_options={"norm": False})
    halves = dataclasses.replace(whole, out=tiny_config.out.with_name("halves"), batch_size=2, accumulate=2)
    assert train(whole).steps == train(halves).steps
    first, second = (load_file(config.out / CHECKPOINT_FILE) for config in (whole, halves))
    for name in first:
        if name.startswith("model."):  # sums of other lengths round differently, and Adam divides by their square root
            assert torch.allclose(first[name].double(), second[name].double(), atol=2e-4), name


def test_the_metrics_know_of_queue_and_collapse(tiny_config: TrainConfig) -> None:
    train(dataclasses.replace(tiny_config, loss=LossConfig(queue_size=8)))
    steps = [entry for entry in metrics(tiny_config.out) if "loss" in entry]
    assert steps[0]["candidates"] == pytest.approx(4, abs=1.5)  # an empty queue; related pairs are no candidates
    assert 6 < steps[-1]["candidates"] <= 12
    assert all(entry["grad_norm"] > 0 for entry in steps)
    tensors = load_file(tiny_config.out / CHECKPOINT_FILE)
    assert tensors["model.queues.filled"] == 8
