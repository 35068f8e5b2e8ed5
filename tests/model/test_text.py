"""The text side of a run: words in the image tower's space, through CLIP's own side or SpeechLM's units."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from unibrivl.model.clip import clip_tower
from unibrivl.model.embed import Encoder
from unibrivl.model.errors import TextError
from unibrivl.model.text import ClipText, SpeechlmText, text_side
from unibrivl.model.unibrivl import UniBriVL
from unibrivl.model.units import Lexicon, Vocabulary, text_to_units

from .test_clip import clip_folder, copy  # noqa: F401
from .test_speechlm_tower import OPTIONS, TINY
from .tiny import TINY_IMAGE_DIM, TinyImageTower

PHONES = ["SIL", "SPN_S", "AH0_S", "D_B", "AO1_I", "G_E"]
LEXICON = "A  AH0\nDOG  D AO1 G\n"
UNITS = len(PHONES) + 5
"""With the four special symbols and the mask."""


class ListedImages(TinyImageTower):
    """Takes pictures as a list, as real towers do."""

    def embed(self, frames: Any, rngs: Any = None) -> np.ndarray:
        return super().embed(np.stack(frames), rngs)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a folder of a run with its vocabulary and lexicon."""
    (tmp_path / "dict.txt").write_text("".join(f"{phone} 1\n" for phone in PHONES))
    (tmp_path / "lexicon.txt").write_text(LEXICON)
    return tmp_path


@pytest.fixture
def model() -> UniBriVL:
    torch.manual_seed(0)
    return UniBriVL("speechlm-base", OPTIONS | {"network": TINY | {"vocabulary": UNITS}}, TINY_IMAGE_DIM).eval()


def side(run: Path, model: UniBriVL, images: Any = None) -> Any:
    return text_side(run, model, images or TinyImageTower())  # type: ignore[arg-type]


def test_speechlm_reads_text_as_units(run: Path, model: UniBriVL) -> None:
    words = side(run, model)
    assert isinstance(words, SpeechlmText)
    found = words.embed(["A dog", "dog dog"])
    assert found.shape == (2, TINY_IMAGE_DIM) and found.dtype == np.float32
    units = text_to_units("A dog", Lexicon.read(run / "lexicon.txt"), Vocabulary.read(run / "dict.txt")).units
    with torch.inference_mode():
        expected = normalize(model.g(model.language.encode_text(torch.tensor([units]))), dim=1)[0].numpy()
    assert found[0] == pytest.approx(expected, abs=1e-6)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert words.embed(["dog dog", "A dog"])[::-1] == pytest.approx(found, abs=1e-6)


def test_the_lexicon_is_in_the_fingerprint(run: Path, model: UniBriVL) -> None:
    before = side(run, model).fingerprint
    assert side(run, model).fingerprint == before
    (run / "lexicon.txt").write_text(LEXICON + "CAT  D AO1 G\n")
    assert side(run, model).fingerprint != before


def test_a_run_without_files_or_units_reads_no_text(run: Path, model: UniBriVL, tmp_path: Path) -> None:
    assert side(tmp_path / "elsewhere", model) is None
    without = UniBriVL("speechlm-base", OPTIONS | {"network": TINY | {"vocabulary": 0}}, TINY_IMAGE_DIM)
    assert side(run, without) is None
    (run / "lexicon.txt").unlink()
    assert side(run, model) is None


def test_a_vocabulary_of_another_network_is_refused(run: Path) -> None:
    other = UniBriVL("speechlm-base", OPTIONS | {"network": TINY | {"vocabulary": 99}}, TINY_IMAGE_DIM)
    with pytest.raises(TextError, match=rf"dict\.txt: {UNITS} units with the special ones, the network has 99"):
        side(run, other)


def test_clip_reads_text_by_its_own_side(clip_folder: Path, tmp_path: Path, model: UniBriVL) -> None:  # noqa: F811
    tower = clip_tower(str(clip_folder))
    words = side(tmp_path, model, tower)
    assert isinstance(words, ClipText) and words.fingerprint == tower.fingerprint
    texts = ["a dog", "zebra"]
    raw = tower.embed_text(texts)
    assert words.embed(texts) == pytest.approx(raw / np.linalg.norm(raw, axis=1, keepdims=True), abs=1e-6)
    with pytest.raises(TextError, match="holds no word"):
        words.embed(["a dog", "  "])
    bare = copy(clip_folder, tmp_path / "bare")
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (bare / name).unlink(missing_ok=True)
    assert side(tmp_path, model, clip_tower(str(bare))) is None


def test_an_encoder_with_text_tells_its_fingerprint_and_a_canary(run: Path, model: UniBriVL) -> None:
    images: Any = ListedImages()
    state: Any = None  # embedding needs none
    encoder = Encoder(run, model, images, state, side(run, model))
    assert encoder.has_text and set(encoder.fingerprints()) == set(encoder.canaries()) == {"audio", "image", "text"}
    assert encoder.text(["a dog"])[0] @ encoder.text(["A DOG!"])[0] == pytest.approx(1, abs=1e-5)
    silent = Encoder(run, model, images, state)
    assert not silent.has_text and set(silent.canaries()) == {"audio", "image"}
    with pytest.raises(TextError, match="reads no text: want an image tower with a text side"):
        silent.text(["a dog"])
