"""Image towers by name, and how a run finds them again."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from unibrivl.model import embed
from unibrivl.model.embed import load_encoder
from unibrivl.model.errors import CheckpointError
from unibrivl.model.images import ImageTower
from unibrivl.model.library import LITE0
from unibrivl.model.towers import image_tower, image_tower_kind, stored_image_tower

SMALL = "test_vit"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_file(timm.create_model(SMALL, pretrained=False).state_dict(), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


@pytest.mark.parametrize("name", ["clip", "brivl-b5", "brivl-b7:", "timm"])
def test_a_name_without_its_weights_says_what_is_wanted(name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"image tower '{name}' names no weights; want {name.strip(':')}:"):
        image_tower(name)


@pytest.mark.parametrize("name", ["resnet", "brivl-b6:x", "", ":", f"{LITE0}:x"])
def test_an_unknown_name_lists_what_is_known(name: str) -> None:
    known = f"{LITE0}, brivl-b5:DIR, brivl-b7:DIR, timm:NAME:FILE, clip:DIR"
    with pytest.raises(CheckpointError, match=f"image tower '{name}' is unknown; known: {known}"):
        image_tower(name)


def test_a_tower_is_placed_where_asked(weights: Path) -> None:
    name = f"timm:{SMALL}:{weights}"
    assert not image_tower(name).bf16
    placed = image_tower(name, device="cpu", bf16=True)
    assert isinstance(placed, ImageTower) and placed.bf16 and placed.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "kind", "stored"),
    [
        (LITE0, LITE0, LITE0),
        ("brivl-b5:/a/b", "brivl-b5", "brivl-b5:/a/b"),
        ("clip:models/x", "clip", "clip:{cwd}/models/x"),
        ("clip:~/x", "clip", "clip:{home}/x"),
        ("timm:vit:w/x.pth", "timm:vit", "timm:vit:{cwd}/w/x.pth"),
        ("clip:/a:b/c", "clip", "clip:/a:b/c"),
        ("timm:vit:/a:b.pth", "timm:vit", "timm:vit:/a:b.pth"),
    ],
)
def test_a_run_keeps_where_the_weights_lay(
    name: str, kind: str, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert image_tower_kind(name) == kind
    assert stored_image_tower(name) == stored.format(cwd=tmp_path, home="/home/somebody")
    assert stored_image_tower(stored_image_tower(name)) == stored_image_tower(name)


def trained_against(run: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `run` one that was trained against another tower."""
    model, state = embed.load_model(run)
    facts = state.facts | {"image_fingerprint": image_tower(name).fingerprint}
    changed = dataclasses.replace(state, config=state.config | {"image_tower": name}, facts=facts)
    monkeypatch.setattr(embed, "load_model", lambda path, which: (model, changed))


def test_moved_weights_are_found_when_named(run: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"timm:{SMALL}:{weights}"
    trained_against(run, name, monkeypatch)
    fingerprint = load_encoder(run).images.fingerprint
    moved = shutil.move(weights, weights.with_name("moved.safetensors"))
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        load_encoder(run)
    assert f"if timm:{SMALL} {fingerprint[:12]} of {run} lies elsewhere now, name it with --image-tower" in str(
        caught.value
    )
    found = load_encoder(run, f"timm:{SMALL}:{moved}")
    assert found.images.fingerprint == fingerprint and found.images.name == f"timm:{SMALL}:{moved}"


def test_other_weights_in_the_same_place_are_refused(run: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_against(run, f"timm:{SMALL}:{weights}", monkeypatch)
    torch.manual_seed(1)
    save_file(timm.create_model(SMALL, pretrained=False).state_dict(), weights)
    with pytest.raises(
        CheckpointError, match=r"was trained against image tower .* name its weights with --image-tower"
    ):
        load_encoder(run)
