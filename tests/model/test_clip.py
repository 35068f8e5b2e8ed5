"""Towers of the CLIP family: tiny random models saved in the test, pictures and texts in one space."""

import json
import sys
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
import torch

from unibrivl.model.clip import ClipTower, clip_tower
from unibrivl.model.errors import CheckpointError
from unibrivl.model.towers import image_tower

transformers = pytest.importorskip("transformers")

SIDE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = SIDE | {"image_size": 32, "patch_size": 8}
WORDS = ["<|startoftext|>", "<|endoftext|>", *ascii_lowercase, *(f"{letter}</w>" for letter in ascii_lowercase)]


@pytest.fixture(scope="module", autouse=True)
def _offline() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        transformers.utils.logging.disable_progress_bar()
        yield
        transformers.utils.logging.enable_progress_bar()


def make_clip() -> Any:
    text = SIDE | {
        "vocab_size": len(WORDS), "max_position_embeddings": 20,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=12))


def make_siglip() -> Any:
    text = SIDE | {"vocab_size": len(WORDS), "max_position_embeddings": 20, "projection_size": 16}
    torch.manual_seed(0)
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION))


def save_tokenizer(folder: Path) -> None:
    transformers.CLIPTokenizer(vocab={word: n for n, word in enumerate(WORDS)}, merges=[]).save_pretrained(folder)


def clip_processor() -> Any:
    return transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    make_clip().save_pretrained(folder)
    clip_processor().save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("siglip")
    make_siglip().save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a smooth picture, uint8 (height, width, 3)."""
    y, x = np.linspace(0, 3, height)[:, None, None], np.linspace(0, 2, width)[None, :, None]
    return (np.sin(x * np.array([1, 2, 3]) + y + seed) * 100 + 127).astype(np.uint8)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_pictures_are_embedded_as_transformers_does(clip_folder: Path, siglip_folder: Path, family: str) -> None:
    place, model = (clip_folder, make_clip()) if family == "clip" else (siglip_folder, make_siglip())
    tower = image_tower(f"clip:{place}")
    frames = [picture(48, 48), picture(70, 40, 1), picture(32, 32, 2)]
    processor = transformers.AutoImageProcessor.from_pretrained(place)
    pixels = torch.cat([processor(images=frame, return_tensors="pt")["pixel_values"] for frame in frames])
    # theirs rounds to whole levels of 255 after each of two passes; the deviation divides that by 0.26 to 0.5
    ours = tower.preprocessing.normalised(tower.preprocessing.resized(frames, tower.device))
    assert ours == pytest.approx(pixels, abs=2 / 255 / 0.26)
    with torch.inference_mode():
        expected = model.eval().get_image_features(pixel_values=ours).pooler_output.numpy()
    found = tower.embed(frames)
    assert isinstance(tower, ClipTower) and found.dtype == np.float32
    assert found.shape == (3, tower.embed_dim) == (3, 12 if family == "clip" else 16)
    assert found == pytest.approx(expected, abs=1e-5)
    assert tower.preprocessing.crop_share == (1 if family == "clip" else None)


def test_texts_are_embedded_as_transformers_does(clip_folder: Path) -> None:
    tower, model = clip_tower(str(clip_folder)), make_clip().eval()
    texts = ["a dog", "the cat sat", "zebra"]
    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip_folder)
    with torch.inference_mode():
        expected = [
            model.get_text_features(**tokenizer(text, return_tensors="pt")).pooler_output[0].numpy() for text in texts
        ]
    found = tower.embed_text(texts)
    assert found.shape == (3, 12) and found.dtype == np.float32
    assert found == pytest.approx(np.stack(expected), abs=1e-5)  # whatever fills the shorter ones
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert tower.embed_text([]).shape == (0, 12)


def test_many_and_long_texts(clip_folder: Path, siglip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (clip_folder, siglip_folder):
        tower = clip_tower(str(place))
        texts = [f"{'word ' * n}" for n in range(1, 8)]  # the model takes 20 tokens
        whole = tower.embed_text(texts)
        monkeypatch.setattr("unibrivl.model.clip.TEXT_BATCH", 3)
        assert tower.embed_text(texts) == pytest.approx(whole, abs=1e-5)
        assert np.isfinite(whole).all() and tower.embed_text(["word " * 50])[0] == pytest.approx(whole[-1], abs=1e-5)


def test_texts_of_siglip_are_filled_to_their_full_length(siglip_folder: Path) -> None:
    tower, model = clip_tower(str(siglip_folder)), make_siglip().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(siglip_folder)
    tokens = tokenizer(["a dog"], padding="max_length", max_length=20, return_tensors="pt")
    assert tokens["input_ids"].shape == (1, 20)
    with torch.inference_mode():
        expected = model.get_text_features(**tokens).pooler_output.numpy()
    assert tower.embed_text(["a dog"]) == pytest.approx(expected, abs=1e-5)


def test_it_is_frozen_and_found_again_elsewhere(clip_folder: Path, tmp_path: Path) -> None:
    tower = clip_tower(str(clip_folder))
    assert not any(m.training for m in tower.module.modules())
    assert not any(p.requires_grad for p in tower.module.parameters())
    moved = clip_tower(str(copy(clip_folder, tmp_path / "moved")))
    assert moved.fingerprint == tower.fingerprint
    assert str(tmp_path) not in json.dumps(moved.describe())
    config = json.loads((tmp_path / "moved/config.json").read_text())
    config["vision_config"]["hidden_act"] = "relu"
    (tmp_path / "moved/config.json").write_text(json.dumps(config))
    assert clip_tower(str(tmp_path / "moved")).fingerprint != tower.fingerprint


def test_nothing_is_printed(clip_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    transformers.utils.logging.enable_progress_bar()
    clip_tower(str(clip_folder))
    assert transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    clip_tower(str(clip_folder))
    assert not transformers.utils.logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")


def test_missing_transformers_is_one_line(monkeypatch: pytest.MonkeyPatch, clip_folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match=r"need transformers; install it with: pip install 'unibrivl\[clip\]'"):
        image_tower(f"clip:{clip_folder}")


def drop_weights(folder: Path) -> None:
    torch.save(make_clip().state_dict(), folder / "pytorch_model.bin")  # a pickle, which must not be read
    (folder / "model.safetensors").unlink()


def drop_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def add_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors") | {"extra.weight": torch.ones(1)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def ask_for_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "code.Model", "AutoConfig": "code.Config"}
    config["model_type"] = "of_its_own"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('ran')")


def other_pictures(folder: Path) -> None:
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 24})
    processor.save_pretrained(folder)


def other_model(folder: Path) -> None:
    config = transformers.ViTConfig(**VISION)
    transformers.ViTModel(config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"has no config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable by transformers"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "not readable by transformers"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "not readable by transformers"),
        (drop_weights, "not readable by transformers"),
        (drop_tensor, r"1 missing tensors, such as visual_projection\.weight"),
        (add_tensor, r"1 unexpected tensors, such as extra\.weight"),
        (ask_for_code, "not readable by transformers"),
        (other_pictures, "want one square"),
        (other_model, "holds ViTModel; want CLIP, SigLIP"),
    ],
)  # fmt: skip
def test_a_folder_of_something_else_is_refused(clip_folder: Path, tmp_path: Path, damage: Any, message: str) -> None:
    place = copy(clip_folder, tmp_path / "changed")
    damage(place)
    with pytest.raises(CheckpointError, match=message) as caught:
        image_tower(f"clip:{place}")
    assert str(caught.value).startswith(str(place)) and "\n" not in str(caught.value)


def test_a_name_of_the_hub_is_no_folder() -> None:
    with pytest.raises(CheckpointError, match="openai/clip-vit-base-patch32: there is no such folder"):
        image_tower("clip:openai/clip-vit-base-patch32")


def test_without_a_tokenizer_there_are_pictures_and_no_texts(clip_folder: Path, tmp_path: Path) -> None:
    place = copy(clip_folder, tmp_path / "pictures")
    for path in place.iterdir():
        if path.name.startswith(("tokenizer", "vocab", "merges")):
            path.unlink()
    tower = clip_tower(str(place))
    assert tower.embed([picture(32, 32)]).shape == (1, 12)
    with pytest.raises(CheckpointError, match="has no tokenizer, so texts cannot be embedded"):
        tower.embed_text(["a dog"])
    (place / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="its tokenizer is not readable"):
        tower.embed_text(["a dog"])
