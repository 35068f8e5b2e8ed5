"""A run's one file: what goes in comes out, and what is not it is refused in one line."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from unibrivl.model.checkpoint import CHECKPOINT_FILE, RunState, load_model, read_state, restore, save_checkpoint
from unibrivl.model.errors import CheckpointError
from unibrivl.model.loss import LossConfig
from unibrivl.model.sealed import SEAL
from unibrivl.model.unibrivl import IN_BATCH_ONLY, TRAINING_ONLY, UniBriVL

IMAGE_DIM = 6
FACTS = {"image_dim": IMAGE_DIM, "image_fingerprint": "c" * 64}


QUEUED = LossConfig(queue_size=8, hidden=12, in_batch=False, topk=1)


def make_model(seed: int = 0, loss: LossConfig = IN_BATCH_ONLY) -> tuple[UniBriVL, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = UniBriVL("tiny", {}, IMAGE_DIM, loss)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    audio = torch.randn(5, 16_000)
    model.begin_step()
    features, ids = model.language.features(audio), torch.arange(5)
    model.loss(features, torch.randn(5, IMAGE_DIM), ids, lambda x, y: x[:, None] == y).total.backward()
    optimizer.step()
    model.end_step()
    return model, optimizer


@pytest.fixture
def saved(tmp_path: Path, tiny_tower: str) -> tuple[Path, UniBriVL, torch.optim.Optimizer]:
    model, optimizer = make_model()
    config = {"language_tower": {"name": tiny_tower, "options": {}}, "image_tower": "colours", "note": "Größe"}
    save_checkpoint(tmp_path, RunState(config, FACTS, 3, 9), model, optimizer)
    return tmp_path, model, optimizer


def save_queued(run: Path) -> tuple[UniBriVL, torch.optim.Optimizer]:
    """Write the checkpoint of a run with a queue."""
    model, optimizer = make_model(loss=QUEUED)
    config = {"language_tower": {"name": "tiny", "options": {}}, "loss": asdict(QUEUED)}
    save_checkpoint(run, RunState(config, FACTS, 3, 9), model, optimizer)
    return model, optimizer


def rewrite(run: Path, tensors: dict[str, torch.Tensor] | None = None, **metadata: str) -> None:
    """Write the checkpoint again with other metadata or other tensors, without a seal as earlier versions did."""
    path = run / CHECKPOINT_FILE
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    found = load_file(path)
    merged = {k: v for k, v in (header["__metadata__"] | metadata).items() if v and k != SEAL}
    save_file(found if tensors is None else tensors, path, metadata=merged)


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_is_seen_wherever_it_is(saved: tuple[Path, UniBriVL, torch.optim.Optimizer], seed: int) -> None:
    run, model, optimizer = saved
    path = run / CHECKPOINT_FILE
    data = bytearray(path.read_bytes())
    draws = np.random.default_rng(seed)
    data[draws.integers(len(data))] ^= 1 << draws.integers(8)
    path.write_bytes(data)
    for load in (lambda: load_model(run), lambda: (read_state(run), restore(run, model, optimizer))):
        with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors|run format"):
            load()


def test_a_seal_whose_name_is_damaged_is_no_file_of_an_earlier_version(
    saved: tuple[Path, UniBriVL, torch.optim.Optimizer],
) -> None:
    path = saved[0] / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes().replace(b'"seal"', b'"sdal"'))
    assert "has an entry 'sdal'" in refused(saved[0])


def test_the_same_state_gives_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    program = (
        "import sys, torch\nfrom pathlib import Path\nfrom unibrivl.model.sealed import write_sealed\n"
        "write_sealed(Path(sys.argv[1]), {'b': torch.ones(3), 'a': torch.zeros(2, 2)}, "
        "{name: name for name in ('format', 'config', 'facts', 'place', 'step', 'steps', 'größe')})\n"
    )
    written = set()
    for number in range(3):
        path = tmp_path / str(number)
        subprocess.run(
            [sys.executable, "-c", program, str(path)], check=True, env=os.environ | {"PYTHONHASHSEED": "random"}
        )
        written.add(path.read_bytes())
        assert load_file(path)["b"].tolist() == [1, 1, 1]
    assert len(written) == 1


def refused(run: Path) -> str:
    """Return the one line with which loading the run is refused."""
    with pytest.raises(CheckpointError) as caught:
        load_model(run)
    message = str(caught.value)
    assert "\n" not in message and str(run) in message
    return message


def test_what_goes_in_comes_out(saved: tuple[Path, UniBriVL, torch.optim.Optimizer]) -> None:
    run, model, optimizer = saved
    loaded, state = load_model(run)
    assert (state.step, state.steps, state.facts) == (3, 9, FACTS)
    assert state.config["note"] == "Größe"
    assert not loaded.training
    assert loaded.fingerprint() == model.fingerprint()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert [path.name for path in run.iterdir()] == [CHECKPOINT_FILE]
    other, fresh = make_model(1)
    restore(run, other, fresh)
    wanted, found = optimizer.state_dict()["state"], fresh.state_dict()["state"]
    assert wanted.keys() == found.keys() and len(wanted) > 5
    for number, values in wanted.items():
        assert values.keys() == found[number].keys()
        assert all(torch.equal(values[what], found[number][what]) for what in values)


def test_a_run_with_a_queue_goes_on_where_it_was(tmp_path: Path, tiny_tower: str) -> None:
    model, optimizer = save_queued(tmp_path)
    other, fresh = make_model(1, QUEUED)
    restore(tmp_path, other, fresh)
    assert int(other.queues.filled) == 5 and other.queues.ids[:5].tolist() == [0, 1, 2, 3, 4]
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    wanted, found = optimizer.state_dict()["state"], fresh.state_dict()["state"]
    assert wanted.keys() == found.keys() and len(wanted) == len([p for p in model.parameters() if p.requires_grad])


def test_inference_needs_neither_queue_nor_copies(tmp_path: Path, tiny_tower: str) -> None:
    model, _ = save_queued(tmp_path)
    loaded, _ = load_model(tmp_path)
    assert loaded.queues is None and not [name for name in loaded.state_dict() if name.startswith(TRAINING_ONLY)]
    assert loaded.fingerprint() == model.fingerprint()
    audio = torch.randn(3, 16_000)
    assert torch.equal(loaded.embed_audio(audio), model.eval().embed_audio(audio))
    tensors = load_file(tmp_path / CHECKPOINT_FILE)
    assert any(name.startswith("model.queues.") for name in tensors)
    rewrite(tmp_path, {k: v for k, v in tensors.items() if not k.removeprefix("model.").startswith(TRAINING_ONLY)})
    assert load_model(tmp_path)[0].fingerprint() == model.fingerprint()
    other, optimizer = make_model(1, QUEUED)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        restore(tmp_path, other, optimizer)  # going on needs them


@pytest.mark.parametrize("loss", ['{"hidden": 0}', '{"width": 3}', "[1]", '"sum"', '{"hidden": "12"}'])
def test_a_loss_that_is_none_is_refused(tmp_path: Path, tiny_tower: str, loss: str) -> None:
    save_queued(tmp_path)
    rewrite(tmp_path, config=f'{{"language_tower": {{"name": "tiny", "options": {{}}}}, "loss": {loss}}}')
    assert "not a checkpoint of unibrivl (loss: " in refused(tmp_path)


def test_the_fingerprint_of_a_model_ignores_what_no_sound_passes(tiny_tower: str) -> None:
    model, _ = make_model()
    before = model.fingerprint()
    with torch.no_grad():
        model.f[0].weight[0, 0] += 1
        model.log_scale[0] += 1
    assert model.fingerprint() == before
    with torch.no_grad():
        model.g[0].weight[0, 0] += 1e-3
    assert model.fingerprint() != before


def test_the_file_holds_a_header_and_tensors_and_no_pickle(run: Path) -> None:
    data = (run / CHECKPOINT_FILE).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert set(metadata) == {"format", "config", "facts", "place", "step", "steps", "seal"}
    places = sorted(entry["data_offsets"] for entry in header.values())
    assert [first for first, _ in places] == [0] + [last for _, last in places[:-1]]  # no gap
    assert 8 + length + places[-1][1] == len(data)  # and nothing behind
    assert {name.partition(".")[0] for name in header} == {"model", "optimizer"}
    for path in run.rglob("*"):
        assert path.suffix in (".safetensors", ".jsonl", ".png", ".html"), path


@pytest.mark.parametrize("kept", [0, 5, 8, 100, -1])
def test_a_truncated_file_is_refused(saved: tuple[Path, UniBriVL, torch.optim.Optimizer], kept: int) -> None:
    run = saved[0]
    path = run / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:kept])
    assert "damaged" in refused(run)


def test_another_format_is_refused(saved: tuple[Path, UniBriVL, torch.optim.Optimizer]) -> None:
    rewrite(saved[0], format="2")
    assert "run format 2, this program reads 1" in refused(saved[0])


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": ""}, {"config": ""}, {"config": "{"}, {"step": "many"}, {"config": "{}"}, {"config": "[]"},
        {"step": "-1"}, {"step": "10"}, {"step": "Infinity"}, {"config": "[" * 100_000},
        {"facts": '{"image_dim": 0}'}, {"facts": '{"image_dim": -1}'}, {"facts": '{"image_dim": 1e400}'},
        {"facts": '{"image_dim": 100000000000}'}, {"facts": "[6]"}, {"place": "5"}, {"place": '{"reader": 5}'},
        {"place": '{"best": 5}'}, {"place": '{"best": {"mrr": 1}}'}, {"place": '{"best": {"step": 1, "mrr": "x"}}'},
        {"facts": "{}"}, {"facts": '{"image_dim": [6], "image_fingerprint": "c"}'},
        {"config": '{"language_tower": {"name": "tiny"}, "image_tower": "colours"}'},
    ],
    ids=str,
)  # fmt: skip
def test_metadata_that_is_not_ours_is_refused(
    saved: tuple[Path, UniBriVL, torch.optim.Optimizer], metadata: dict[str, str]
) -> None:
    rewrite(saved[0], **metadata)
    assert "not a checkpoint" in refused(saved[0])


@pytest.mark.parametrize("change", ["shape", "missing", "superfluous"])
def test_tensors_that_do_not_fit_are_refused(saved: tuple[Path, UniBriVL, torch.optim.Optimizer], change: str) -> None:
    run = saved[0]
    tensors = load_file(run / CHECKPOINT_FILE)
    if change == "shape":
        tensors["model.g.0.weight"] = torch.zeros(3, 4)
    elif change == "missing":
        del tensors["model.g.0.weight"]
    else:
        tensors["model.extra"] = torch.zeros(2)
    rewrite(run, tensors)
    message = refused(run)
    assert "does not fit the model" in message and ("extra" if change == "superfluous" else "g.0.weight") in message


@pytest.mark.parametrize(
    "changed",
    [
        {"loss": {"hidden": 1 << 16}},
        {"language_tower": {"name": "tdnn", "options": {"width": 8192}}},
        {"language_tower": {"name": "speechlm-base", "options": {"network": {"dim": 1 << 16, "ffn_dim": 1 << 16}}}},
        {"language_tower": {"name": "speechlm-large", "options": {"network": {"vocabulary": 1 << 24}}}},
    ],
)
def test_a_configuration_that_claims_any_size_takes_no_memory(
    saved: tuple[Path, UniBriVL, torch.optim.Optimizer], changed: dict[str, Any]
) -> None:
    """Of the last two no machine has the memory; of all, none is taken."""
    run = saved[0]
    rewrite(run, config=json.dumps(read_state(run).config | changed))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "does not fit the model" in refused(run)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


def test_a_damaged_checkpoint_says_what_helps(saved: tuple[Path, UniBriVL, torch.optim.Optimizer]) -> None:
    """To train again alone would meet the same file."""
    (saved[0] / CHECKPOINT_FILE).write_bytes(b"x")
    assert refused(saved[0]).endswith("put a copy in its place, or delete it and train again")


def test_a_run_without_its_optimiser_does_not_go_on(saved: tuple[Path, UniBriVL, torch.optim.Optimizer]) -> None:
    run, model, optimizer = saved
    tensors = load_file(run / CHECKPOINT_FILE)
    del tensors["optimizer.g.0.weight.exp_avg"]
    rewrite(run, tensors)
    load_model(run)  # embedding needs none
    with pytest.raises(CheckpointError, match=r"optimiser's state of g\.0\.weight is missing"):
        restore(run, model, optimizer)


def test_an_optimisers_tensor_of_another_shape_is_refused(
    saved: tuple[Path, UniBriVL, torch.optim.Optimizer],
) -> None:
    run, model, optimizer = saved
    tensors = load_file(run / CHECKPOINT_FILE)
    tensors["optimizer.g.0.weight.exp_avg"] = torch.zeros(2, 2)
    rewrite(run, tensors)
    with pytest.raises(CheckpointError, match=r"g\.0\.weight"):
        restore(run, model, optimizer)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    assert "is no run" in refused(tmp_path) and "unibrivl train" in refused(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    refused(tmp_path / "file")
    (tmp_path / "run" / CHECKPOINT_FILE).mkdir(parents=True)
    with pytest.raises(CheckpointError, match="damaged"):
        read_state(tmp_path / "run")


def test_a_write_that_fails_leaves_the_old_checkpoint(
    saved: tuple[Path, UniBriVL, torch.optim.Optimizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, model, optimizer = saved
    before = (run / CHECKPOINT_FILE).read_bytes()

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unibrivl.shards.atomic.os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(run, read_state(run), model, optimizer)
    assert (run / CHECKPOINT_FILE).read_bytes() == before
    assert [path.name for path in run.iterdir()] == [CHECKPOINT_FILE]
