"""BriVL as an image tower: a folder of imported weights, checked against what the importer stored."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.transforms.v2 import functional as torchvision

from unibrivl.model.brivl import BrivlConfig, BrivlImageEncoder
from unibrivl.model.brivl_tower import BrivlTower, build_brivl
from unibrivl.model.errors import CheckpointError
from unibrivl.model.towers import image_tower

TINY: dict[str, Any] = {
    "backbone": "tf_efficientnet_b0", "channel_multiplier": 0.1, "depth_multiplier": 0.1, "num_classes": 10,
    "dim": 128, "layers": 2,
}  # fmt: skip
B5 = BrivlConfig(**TINY, image_px=64)
B7 = BrivlConfig(**TINY, image_px=96, grid=5, whole="first", conv=False)
CONFIGS = {"b5": B5, "b7": B7}


def weights(config: BrivlConfig, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return BrivlImageEncoder(config).state_dict()


def write(folder: Path, config: BrivlConfig, /, **change: Any) -> Path:
    """Write a folder as an importer does."""
    folder.mkdir()
    tensors = weights(config)
    save_file(tensors, folder / "weights.safetensors")
    fingerprint = build_brivl(config, tensors, folder).fingerprint
    stored = {"format": 1, "kind": "brivl", "config": asdict(config), "fingerprint": fingerprint, "source": "x.pth"}
    (folder / "config.json").write_text(json.dumps(stored | change))
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("brivl")
    return {form: write(root / form, config) for form, config in CONFIGS.items()}


def pictures(count: int, side: int) -> np.ndarray:
    blocks = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return blocks.repeat(side // 4, 1).repeat(side // 4, 2)


@pytest.mark.parametrize("form", ["b5", "b7"])
def test_the_embedding_is_the_encoders(places: dict[str, Path], form: str) -> None:
    config = CONFIGS[form]
    tower = image_tower(f"brivl-{form}:{places[form]}")
    frames = pictures(3, 120)
    encoder = BrivlImageEncoder(config).eval()
    encoder.load_state_dict(weights(config))
    with torch.inference_mode():
        x = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        x = torchvision.resize(x, [config.image_px, config.image_px], antialias=True)
        expected = encoder(torchvision.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])).numpy()
    found = tower.embed(frames)
    assert isinstance(tower, BrivlTower) and tower.name == f"brivl-{form}:{places[form]}"
    assert found.shape == (3, tower.embed_dim) == (3, 128) and found.dtype == np.float32
    # channels last and another order of preprocessing round float32 otherwise; outputs are of order 0.1 to 1
    assert found == pytest.approx(expected, abs=1e-5)
    assert tower.embed(frames[1:2])[0] == pytest.approx(expected[1], abs=1e-5)


def test_it_is_frozen_with_its_statistics(places: dict[str, Path]) -> None:
    tower = image_tower(f"brivl-b5:{places['b5']}")
    before = {name: tensor.clone() for name, tensor in tower.module.state_dict().items()}
    assert sum(name.endswith(("running_mean", "running_var")) for name in before) > 40
    first = tower.embed(pictures(4, 64))
    assert np.array_equal(tower.embed(pictures(4, 64)), first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tower.module.state_dict().items())
    assert not any(m.training for m in tower.module.modules())
    assert not any(p.requires_grad for p in tower.module.parameters())


def test_the_reference_weights_make_towers(folder: Callable[[str], Path], tmp_path: Path) -> None:
    fingerprints = set()
    for form, prefix, config in (
        ("b5", "imgencoder.", replace(B5, image_px=190)), ("b7", "learnable.imgencoder.", replace(B7, image_px=192)),
    ):  # fmt: skip
        tensors = load_file(folder("reference") / f"brivl_{form}_tiny.safetensors")
        state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        tower = build_brivl(config, state, tmp_path)
        with torch.inference_mode():
            found = tower.module(tensors["io.image_normalised"], tensors["io.patch_mask"])
        assert found == pytest.approx(tensors["io.embedding"], abs=1e-5)
        fingerprints.add(tower.fingerprint)
    assert len(fingerprints) == 2


def test_a_moved_folder_is_the_same_tower(places: dict[str, Path], tmp_path: Path) -> None:
    moved = write(tmp_path / "moved", B5)
    towers = [image_tower(f"brivl-b5:{place}") for place in (places["b5"], moved)]
    assert towers[0].fingerprint == towers[1].fingerprint
    assert str(tmp_path) not in json.dumps(towers[1].describe())


@pytest.mark.parametrize(
    "change", [{"image_px": 65}, {"antialias": False}, {"grid": 5}, {"whole": "first"}, {"heads": 2}]
)
def test_what_decides_the_function_decides_the_fingerprint(change: dict[str, Any], tmp_path: Path) -> None:
    tensors = weights(B5)
    assert (
        build_brivl(B5, tensors, tmp_path).fingerprint
        != build_brivl(replace(B5, **change), tensors, tmp_path).fingerprint
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2 of kind 'brivl', this program reads 1 of 'brivl'"),
        ({"kind": "speechlm"}, "format 1 of kind 'speechlm'"),
        ({"config": {"image_px": 64, "magic": 1}}, "no configuration of BriVL .*magic"),
        ({"config": {"image_px": "64"}}, "no configuration of BriVL .*image_px is '64'"),
        ({"config": [1]}, "lacks config or fingerprint"),
        ({"fingerprint": None}, "lacks config or fingerprint"),
        ({"fingerprint": "e" * 64}, "was imported as eeeeeeeeeeee and is now [0-9a-f]{12}; it was changed or damaged"),
        ({"config": asdict(replace(B5, dim=64))}, "dim is 64, tf_efficientnet_b0 has 128"),
        ({"config": asdict(replace(B5, layers=3))}, "does not fit the model .*12 missing: learnable.imgAtt.layers.2"),
        ({"config": asdict(B7)}, "holds brivl-b7, not brivl-b5; name it brivl-b7:"),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    place = write(tmp_path / "weights", B5, **change)
    with pytest.raises(CheckpointError, match=message) as caught:
        image_tower(f"brivl-b5:{place}")
    assert "\n" not in str(caught.value) and str(place) in str(caught.value)


@pytest.mark.parametrize("what", ["folder", "config", "weights", "json", "list", "bytes"])
def test_missing_and_damaged_files_are_named(tmp_path: Path, what: str) -> None:
    place = write(tmp_path / "weights", B5)
    if what == "folder":
        place = tmp_path / "nowhere"
    elif what in ("config", "weights"):
        (place / f"{what}.{'json' if what == 'config' else 'safetensors'}").unlink()
    elif what in ("json", "list"):
        (place / "config.json").write_text("{" if what == "json" else "[]")
    else:
        (place / "weights.safetensors").write_bytes(b"garbage" * 100)
    messages = {
        "folder": "nowhere: there is no such folder", "config": "has no config.json",
        "json": r"config\.json: not readable", "list": "format None of kind None",
        "weights": r"weights\.safetensors: cannot be read", "bytes": r"weights\.safetensors: is no checkpoint",
    }  # fmt: skip
    with pytest.raises(CheckpointError, match=messages[what]):
        image_tower(f"brivl-b5:{place}")


def test_a_changed_weight_is_noticed(tmp_path: Path) -> None:
    place = write(tmp_path / "weights", B5)
    tensors = load_file(place / "weights.safetensors")
    tensors["learnable.imgFC.fc2.bias"] += 1e-3
    save_file(tensors, place / "weights.safetensors")
    with pytest.raises(CheckpointError, match="was changed or damaged since, import the weights again"):
        image_tower(f"brivl-b5:{place}")
