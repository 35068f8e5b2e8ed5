"""The SpeechLM towers: what they take, what of them trains, where their weights come from, and a run with one."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from unibrivl.model import towers
from unibrivl.model.checkpoint import CHECKPOINT_FILE, load_model
from unibrivl.model.errors import CheckpointError, TrainError
from unibrivl.model.imported import load_imported, read_imported
from unibrivl.model.library import fingerprint
from unibrivl.model.speechlm import SPEECHLM_BASE, SPEECHLM_LARGE, SpeechLM, SpeechLMConfig
from unibrivl.model.speechlm_tower import SpeechlmTower, SpeechlmTowerConfig
from unibrivl.model.towers import language_options, language_tower
from unibrivl.model.train import train
from unibrivl.model.train_config import TrainConfig
from unibrivl.model.unibrivl import UniBriVL

TINY: dict[str, Any] = {
    "conv_layers": [[8, 10, 5], [8, 3, 2], [8, 2, 2], [8, 8, 8]], "dim": 16, "ffn_dim": 24, "heads": 2,
    "speech_layers": 2, "shared_layers": 2, "conv_pos": 4, "conv_pos_groups": 2, "max_distance": 5, "positions": 99,
    "vocabulary": 12, "final_dim": 4, "label_classes": [12], "dropout": 0.0, "attention_dropout": 0.0,
    "input_dropout": 0.0, "layerdrop": 0.0,
}  # fmt: skip
LARGE = TINY | {"conv_norm": "layer", "pre_norm": True, "normalize": True}
OPTIONS: dict[str, Any] = {"clip_s": 1.0, "network": TINY, "head_layers": 1, "hidden_dim": 8}


def tiny(**changes: Any) -> SpeechlmTower:
    torch.manual_seed(0)
    return SpeechlmTower(SpeechlmTowerConfig(**(OPTIONS | changes))).eval()


def sound(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 16_000, generator=torch.Generator().manual_seed(seed)) - 0.5


UNITS = torch.tensor([[4, 4, 5, 6, 6, 7], [8, 8, 9, 9, 1, 1]])


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """Return a folder as an import writes it."""
    torch.manual_seed(7)
    config = SpeechLMConfig(**LARGE)
    folder = tmp_path / "imported"
    folder.mkdir()
    state = SpeechLM(config).state_dict()
    mark = fingerprint({"network": "speechlm", "config": config.as_dict()}, state)
    value = {"format": 1, "kind": "speechlm", "config": config.as_dict(), "fingerprint": mark, "source": {}}
    (folder / "config.json").write_text(json.dumps(value), encoding="utf-8")
    save_file(state, folder / "weights.safetensors")
    return folder


@pytest.mark.parametrize("network", [TINY, LARGE], ids=["post-norm", "pre-norm"])
@torch.inference_mode()
def test_sound_text_and_both_have_embeddings(network: dict[str, Any]) -> None:
    tower = tiny(network=network)
    assert (tower.num_samples, tower.embed_dim) == (16_000, 512)
    heard, read = tower(sound()), tower.encode_text(UNITS)
    assert torch.equal(heard, tower.encode(tower.features(sound())))
    both = tower.encode_both(tower.features(sound()), UNITS)
    assert heard.shape == read.shape == both.shape == (2, 512)
    torch.testing.assert_close(both, (normalize(heard, dim=1) + normalize(read, dim=1)) / 2)
    assert not torch.allclose(heard[0], heard[1], atol=1e-4) and not torch.allclose(read[0], read[1], atol=1e-4)
    torch.testing.assert_close(tower.encode_text(UNITS[1:, :4]), read[1:], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_padding_is_passed_on() -> None:
    tower = tiny(network=LARGE)
    padding = torch.zeros(2, 16_000, dtype=torch.bool)
    padding[0, 8000:] = True
    other = torch.where(padding, sound(1), sound())
    silent = torch.where(padding, 0, sound())
    torch.testing.assert_close(tower(other, padding), tower(silent, padding), rtol=0, atol=1e-5)
    assert not torch.allclose(tower(silent, padding)[0], tower(silent)[0], atol=1e-3)


@torch.inference_mode()
def test_the_loudness_does_not_matter_where_the_network_normalises() -> None:
    torch.testing.assert_close(tiny(network=LARGE)(sound()), tiny(network=LARGE)(sound() * 3), rtol=0, atol=1e-3)
    assert tiny(network=LARGE).features(sound()).var(dim=1) == pytest.approx(1, abs=1e-3)


GROUPS = ["front end", "input", "speech layer 0", "speech layer 1", "between", "shared layer 0", "shared layer 1",
          "head"]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"freeze_extractor": False}, GROUPS),
        ({}, GROUPS[1:]),
        ({"trained_layers": 4, "freeze_extractor": False}, GROUPS[2:]),
        ({"trained_layers": 3}, GROUPS[3:]),
        ({"trained_layers": 2}, GROUPS[5:]),
        ({"trained_layers": 1}, GROUPS[6:]),
        ({"trained_layers": 0}, GROUPS[7:]),
    ],
)
@pytest.mark.parametrize("network", [TINY, LARGE], ids=["post-norm", "pre-norm"])
def test_what_trains_is_listed_by_depth_and_gets_gradients(
    network: dict[str, Any], changes: dict[str, Any], names: list[str]
) -> None:
    tower = tiny(network=network, **changes).train()
    groups = tower.layers()
    assert [name for name, _ in groups] == names
    listed = [id(parameter) for _, parameters in groups for parameter in parameters]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in tower.parameters() if p.requires_grad}
    assert tower.network.mask_emb.requires_grad == ("input" in names)
    tower.encode(tower.features(sound())).square().sum().backward()
    assert {id(p) for p in tower.parameters() if p.grad is not None} == set(listed)


def test_without_masks_their_embedding_does_not_train() -> None:
    tower = tiny(network=TINY | {"mask_prob": 0}).train()
    tower.head.eval()  # its dropout aside
    assert not tower.network.mask_emb.requires_grad
    assert torch.equal(tower(sound()), tower(sound()))


def test_frozen_layers_neither_drop_nor_mask() -> None:
    network = TINY | {"dropout": 0.5, "layerdrop": 0.5}
    frozen, half = tiny(network=network, trained_layers=0).train(), tiny(network=network, trained_layers=2).train()
    assert frozen.head.training and not any(module.training for module in frozen.network.modules())
    speech, shared = half.network.encoder.layers, half.network.unit_encoder.layers
    assert not any(module.training for layer in speech for module in layer.modules())
    assert all(layer.training for layer in shared) and half.network.training
    assert all(layer.training for layer in half.eval().train().network.unit_encoder.layers)


def test_training_steps_are_random_by_torchs_generator() -> None:
    tower = tiny(network=TINY | {"layerdrop": 0.2}).train()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(tower.encode(tower.features(sound())))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_the_towers_are_known_by_name() -> None:
    assert language_options("speechlm-base", {})["network"] == SPEECHLM_BASE.as_dict()
    large = language_options("speechlm-large", {"trained_layers": 6})
    assert large["network"] == SPEECHLM_LARGE.as_dict() and (large["clip_s"], large["trained_layers"]) == (10.0, 6)
    assert json.loads(json.dumps(large)) == large == language_options("speechlm-large", large)
    with torch.device("meta"):
        tower = language_tower("speechlm-large", {})
    assert isinstance(tower, SpeechlmTower) and tower.head.mixture.logits.shape == (24,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": "huge"}, "size is 'huge', want 'base' or 'large'"),
        ({"clip_s": 0.01}, r"clip_s is 0.01, want 0.025 to 60"),
        ({"clip_s": 61}, "clip_s is 61"),
        ({"clip_s": "10"}, "clip_s is '10'"),
        ({"trained_layers": 13}, "trained_layers is 13, want a whole number from -1 to 12"),
        ({"trained_layers": -2}, "trained_layers is -2"),
        ({"head_layers": 0}, "head_layers is 0"),
        ({"head_heads": 5}, "head_heads is 5, want a divisor of the network's width, 768"),
        ({"hidden_dim": 0}, "hidden_dim is 0"),
        ({"network": {"width": 3}}, "network has no option 'width'; it has conv_layers, "),
        ({"network": {"heads": 7}}, "heads is 7, want a divisor of dim, 768"),
        ({"weight": "x"}, "weight"),
    ],
)
def test_options_that_make_no_tower_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=f"speechlm-base: .*{words}"):
        language_options("speechlm-base", options)


def load_network(folder: Path) -> SpeechLM:
    """Return an imported network."""
    network = SpeechLM(SpeechLMConfig(**read_imported(folder, "speechlm").config)).eval()
    load_imported(network, "speechlm", folder)
    return network


def test_imported_weights_are_where_training_starts(imported: Path) -> None:
    config = SpeechlmTowerConfig(**(OPTIONS | {"weights": str(imported), "network": LARGE | {"mask_prob": 0.3}}))
    assert config.network["mask_prob"] == 0.3 and config.network["normalize"] is True
    tower = SpeechlmTower(config)
    wanted = load_file(imported / "weights.safetensors")
    assert not torch.equal(tower.network.state_dict()["mask_emb"], wanted["mask_emb"])
    towers.load_pretrained(tower)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in tower.network.state_dict().items())
    network = load_network(imported)
    assert not network.training and torch.equal(network.mask_emb, wanted["mask_emb"])
    assert network.config == SpeechLMConfig(**LARGE)


def test_what_the_folder_says_is_stored_with_the_options(imported: Path) -> None:
    """A network of another normalisation than the size's preset; afterwards the folder may go."""
    sizes = {name: LARGE[name] for name in ("dim", "speech_layers", "shared_layers", "pre_norm", "heads",
                                            "conv_pos_groups")}  # fmt: skip
    options = language_options("speechlm-base", {"weights": str(imported), "network": sizes, "head_layers": 1})
    assert options["network"] == SpeechLMConfig(**LARGE).as_dict()
    shutil.rmtree(imported)
    assert language_options("speechlm-base", options) == options
    assert isinstance(language_tower("speechlm-base", options), SpeechlmTower)


def test_weights_of_another_size_are_refused(imported: Path) -> None:
    with pytest.raises(
        CheckpointError, match="holds a network with dim 16, but this tower's has 768; choose the tower"
    ):
        language_options("speechlm-base", {"weights": str(imported)})


def spoil(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "kind 'speechlm' of format 2, this program reads .*; import"),
        ({"kind": "brivl"}, "describes no imported network"),
        ({"config": {"width": 1}}, "describes no imported network .*width"),
        ({"config": LARGE | {"heads": 5}}, "describes no imported network .*heads is 5"),
        ({"config": None}, "describes no imported network"),
        ({"config": LARGE | {"heads": 4}}, r"norm_k\.\w+ \(\d+,\), want "),
        ({"config": LARGE | {"mask_length": 7}}, r"not the weights that config\.json was written for; import"),
        ({"fingerprint": "f" * 64}, r"not the weights that config\.json was written for"),
        ({"config": LARGE | {"ffn_dim": 25}}, r"encoder\.layers\.0\.fc1\.\w+ \(24"),
        ({"config": LARGE | {"vocabulary": 0}}, r"1 superfluous: unit_embed_tokens\.weight"),
        ({"config": LARGE | {"vocabulary": 1 << 24}}, r"1 of another shape: unit_embed_tokens\.weight"),
        (
            {"config": LARGE | {"dim": 1 << 16, "ffn_dim": 1 << 16}},
            "of another shape",
        ),  # many times the memory there is
        ({"config": LARGE | {"shared_layers": 3}}, r"18 missing: unit_encoder\.layers\.2\."),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(imported: Path, change: dict[str, Any], words: str) -> None:
    spoil(imported, change)
    with pytest.raises(CheckpointError, match=words) as error:
        load_network(imported)
    assert "\n" not in str(error.value)


def test_missing_damaged_and_impossible_weights_are_refused(imported: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no imported network .*config\.json"):
        load_network(tmp_path)
    path = imported / "weights.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"mask_emb": tensors["mask_emb"] + 1}, path)
    with pytest.raises(CheckpointError, match=r"not the weights that config\.json was written for"):
        load_network(imported)
    save_file(tensors | {"mask_emb": torch.full_like(tensors["mask_emb"], float("nan"))}, path)
    with pytest.raises(CheckpointError, match=r"not the weights that config\.json was written for"):
        load_network(imported)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: missing or damaged"):
        load_network(imported)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: missing or damaged"):
        load_network(imported)
    (imported / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="describes no imported network"):
        load_network(imported)


class Colours:
    """Mean colours of the picture, as a frozen image tower."""

    name, embed_dim, fingerprint = "colours", 3, "c" * 64

    def embed(self, frames_BHWC: np.ndarray) -> np.ndarray:
        return frames_BHWC.mean(axis=(1, 2)).astype(np.float32) - 128


class StopError(Exception):
    """What a disturbed run dies of."""


@pytest.fixture
def run_of_two(shards_copy: Path, tmp_path: Path, imported: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """Return the configuration of a run of two steps that starts from imported weights."""
    monkeypatch.setitem(towers.IMAGE_TOWERS, "colours", Colours)
    network = LARGE | {"layerdrop": 0.5, "dropout": 0.1}
    options = OPTIONS | {"weights": str(imported), "network": network}
    return TrainConfig(
        shards=shards_copy, out=tmp_path / "run", language_tower="speechlm-base", tower_options=options, epochs=1,
        image_tower="colours", batch_size=5, val_share=0.2, checkpoint_every=1, warmup_steps=0,
    )  # fmt: skip


def test_a_run_trains_what_is_not_frozen_and_resumes_bit_for_bit(run_of_two: TrainConfig, imported: Path) -> None:
    assert train(run_of_two).steps == 2
    model, _ = load_model(run_of_two.out)
    start = load_file(imported / "weights.safetensors")
    assert isinstance(model.language, SpeechlmTower)
    after = model.language.network.state_dict()
    assert model.language.config.network["layerdrop"] == 0.5
    changed = {name for name, tensor in start.items() if not torch.equal(after[name], tensor)}
    assert "unit_encoder.layers.1.fc1.weight" in changed and "post_extract_proj.weight" in changed
    frozen = ("feature_extractor", "final_proj_list", "label_embs_list", "unit_embed_tokens", "unit_encoder.version")
    assert not [name for name in changed if name.startswith(frozen)]

    def stop(done: int, total: int, text: str) -> None:
        if text.startswith("loss") and done == 2:
            raise StopError

    again = dataclasses.replace(run_of_two, out=run_of_two.out.with_name("again"))
    with pytest.raises(StopError):
        train(again, stop)
    train(again)
    ours, theirs = (load_file(config.out / CHECKPOINT_FILE) for config in (again, run_of_two))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == [] and ours.keys() == theirs.keys()


def test_weights_may_move_between_two_calls_but_not_change(run_of_two: TrainConfig, imported: Path) -> None:
    def stop(done: int, total: int, text: str) -> None:
        if text.startswith("loss") and done == 2:
            raise StopError

    moved = imported.with_name("moved")
    with pytest.raises(StopError):
        train(run_of_two, stop)
    shutil.copytree(imported, moved)
    other = dataclasses.replace(run_of_two, tower_options=run_of_two.tower_options | {"weights": str(moved)})
    changed = load_file(moved / "weights.safetensors")
    changed["mask_emb"] += 1
    mark = fingerprint({"network": "speechlm", "config": SpeechLMConfig(**LARGE).as_dict()}, changed)
    save_file(changed, moved / "weights.safetensors")
    spoil(moved, {"fingerprint": mark})
    with pytest.raises(TrainError, match=rf"holds a run with language\.weights [0-9a-f]{{64}}, not {mark}; give"):
        train(other)
    shutil.copytree(imported, moved, dirs_exist_ok=True)
    shutil.rmtree(imported)
    assert train(other).steps == 2


def test_where_weights_lie_is_no_part_of_a_models_fingerprint(imported: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(imported, tmp_path / "moved")
    marks = set()
    for folder in (imported, moved):
        torch.manual_seed(1)
        options = OPTIONS | {"weights": str(folder), "network": LARGE}
        marks.add(UniBriVL("speechlm-base", options, 3).fingerprint())
    assert len(marks) == 1


def test_a_hostile_folder_takes_no_memory(imported: Path) -> None:
    """Options that the tower's size does not fix, each of terabytes."""
    for change in ({"vocabulary": 1 << 24}, {"positions": 1 << 24, "ffn_dim": 1 << 16}, {"final_dim": 1 << 16}):
        spoil(imported, {"config": LARGE | change})
        with pytest.raises(CheckpointError, match=r"does not fit the model \(\d+ of another shape: .*"):
            language_options("speechlm-base", {"weights": str(imported), "network": {"dim": 16}})
