"""Encoders behind one adapter: ours, the baseline, chance and ceiling; what they lack, and what was kept of them."""

import json
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
import torch

from unibrivl.bench.encoders import (
    Items,
    KnownEncoder,
    content_key,
    embed,
    embed_items,
    embeds,
    open_encoder,
    unit,
)
from unibrivl.bench.errors import BenchError, NeedsError
from unibrivl.model.embed import load_encoder
from unibrivl.model.library import LITE0
from unibrivl.model.towers import image_tower

from ..conftest import picture
from .esc_folder import tone


class Counting:
    """An adapter of somebody's own: it counts what it is asked for."""

    name, fingerprint, sample_rate = "counting", "v1", 8000

    def __init__(self) -> None:
        self.asked = 0

    def embed_audio(self, sounds: list[np.ndarray], sample_rate: int) -> np.ndarray:
        assert sample_rate == 8000
        self.asked += len(sounds)
        return np.array([[sound.sum(), 1.0] for sound in sounds])


def items(count: int, changed: int | None = None) -> Items:
    sounds = [np.full(4, n + (0.5 if n == changed else 0), np.float32) for n in range(count)]
    keys = [content_key(sound) for sound in sounds]
    return Items(keys, lambda number: sounds[number], np.zeros(count, int), np.arange(count), "as it is")


def test_any_object_with_a_method_is_an_encoder(tmp_path: Path) -> None:
    encoder = Counting()
    assert embeds(encoder, "audio") and not embeds(encoder, "text")
    found = embed_items(encoder, "audio", items(70))
    assert found.dtype == np.float32 and found[:, 0].tolist() == [4 * n for n in range(70)]
    with pytest.raises(BenchError, match="counting embeds no text; it embeds audio"):
        embed(encoder, "text", ["a dog"])


@pytest.mark.parametrize("made", [np.zeros((1, 4)), np.zeros(2), np.full((2, 4), np.nan)])
def test_what_is_no_embedding_is_refused(made: np.ndarray) -> None:
    class Broken(Counting):
        def embed_audio(self, sounds: list[np.ndarray], sample_rate: int) -> np.ndarray:
            return made

    with pytest.raises(BenchError, match=r"counting returned audio .*, want \(2, D\), all finite"):
        embed(Broken(), "audio", [np.zeros(2), np.zeros(2)])


def test_what_was_kept_is_not_made_again(tmp_path: Path) -> None:
    encoder = Counting()
    first = embed_items(encoder, "audio", items(70), tmp_path)
    assert encoder.asked == 70
    assert np.array_equal(embed_items(encoder, "audio", items(70), tmp_path), first) and encoder.asked == 70
    embed_items(encoder, "audio", items(70, changed=69), tmp_path)
    assert encoder.asked == 76  # of blocks of 32, the last has six
    encoder.fingerprint = "v2"
    embed_items(encoder, "audio", items(70), tmp_path)
    assert encoder.asked == 146


def test_a_killed_run_goes_on_and_damage_is_seen(tmp_path: Path) -> None:
    encoder = Counting()
    first = embed_items(encoder, "audio", items(64), tmp_path)
    about, array = sorted(tmp_path.rglob("*.json")), sorted(tmp_path.rglob("*.npy"))
    about[0].unlink()  # as if killed between the two files
    assert np.array_equal(embed_items(encoder, "audio", items(64), tmp_path), first) and encoder.asked == 96
    array[1].write_bytes(array[1].read_bytes()[:-4] + b"\0\0\1\0")
    with pytest.raises(BenchError, match=r"npy: not the bytes that were written; delete it and its \.json"):
        embed_items(encoder, "audio", items(64), tmp_path)


def test_a_run_and_its_index_embed_as_they_always_do(run: Path, index: Path) -> None:
    sounds, pictures = [tone(300, 1), tone(500, 2)[:4000]], [picture(1), picture(2, 64)]
    plain = load_encoder(run)
    for place in (run, index):
        encoder = open_encoder(str(place))
        assert encoder.name == place.name and encoder.sample_rate == 16_000
        assert np.array_equal(embed(encoder, "audio", sounds), plain.audio(sounds))
        assert np.array_equal(embed(encoder, "image", pictures), plain.image(pictures))
        assert not embeds(encoder, "text")
    assert open_encoder(str(run)).fingerprint == open_encoder(str(index)).fingerprint


def test_the_baseline_is_mean_and_deviation_of_the_spectrum() -> None:
    encoder = open_encoder("logmel")
    short, long = embed(encoder, "audio", [tone(300, 1)[:100], tone(300, 1)])
    assert short.shape == long.shape == (128,)
    assert long[:64].argmax() < 10  # 300 Hz lies in the lowest bands


def test_ceiling_and_chance_look_at_no_media() -> None:
    classes, instances = np.arange(40) % 4, np.arange(40)
    oracle, chance = KnownEncoder(name="oracle"), KnownEncoder(name="random")
    audio, image = (oracle.embed_known(m, classes, instances) for m in ("audio", "image"))
    assert np.array_equal(audio, image)
    within = audio @ audio.T
    assert within[classes[:, None] == classes].min() > within[classes[:, None] != classes].max()
    text = oracle.embed_known("text", np.arange(4), np.full(4, -1))
    assert (audio @ text.T).argmax(axis=1).tolist() == classes.tolist()
    both = [chance.embed_known(m, classes, instances) for m in ("audio", "image")]
    assert abs((both[0] * both[1]).sum(axis=1)).max() < 0.2
    assert np.array_equal(both[0], KnownEncoder(name="random").embed_known("audio", classes, instances))
    assert not np.array_equal(both[0], KnownEncoder(name="random", seed=1).embed_known("audio", classes, instances))


def test_the_ceiling_takes_several_classes_at_once() -> None:
    truth = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1]], dtype=float)
    oracle = KnownEncoder(name="oracle")
    scores = (
        oracle.embed_known("audio", truth, np.arange(3)) @ oracle.embed_known("text", np.arange(3), -np.ones(3, int)).T
    )
    assert scores[truth > 0].min() > scores[truth == 0].max()


@pytest.mark.parametrize("name", ["clap:music", "clip:vit"])
def test_weights_that_are_not_there_are_named(tmp_path: Path, name: str) -> None:
    kind, _, folder = name.partition(":")
    with pytest.raises(NeedsError, match=f"{name}: no such weights") as caught:
        open_encoder(f"{kind}:{tmp_path / folder}")
    assert caught.value.status == "needs-weights"
    assert caught.value.expected[:2] == (f"{folder}/config.json", f"{folder}/model.safetensors")


def test_a_name_of_code_is_no_encoder(tmp_path: Path) -> None:
    for name in ("os:getcwd", str(tmp_path)):
        with pytest.raises(NeedsError, match="neither a run nor an index; want logmel, random, oracle"):
            open_encoder(name)


def test_vectors_of_nothing_stay() -> None:
    assert unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[np.float32(0.6), np.float32(0.8)], [0.0, 0.0]]


def save_clap(folder: Path) -> Any:
    """Write a CLAP model of random weights, a few hundred kB."""
    import transformers

    torch.manual_seed(0)
    words = ["<s>", "<pad>", "</s>", "<unk>", *ascii_lowercase, *(f"Ġ{letter}" for letter in ascii_lowercase)]
    text = {
        "vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 80, "projection_dim": 12,
    }  # fmt: skip
    audio = {
        "spec_size": 32, "num_mel_bins": 16, "patch_embeds_hidden_size": 8, "depths": [1, 1],
        "num_attention_heads": [2, 2], "window_size": 4, "hidden_size": 16, "projection_dim": 12, "patch_size": 4,
        "patch_stride": [4, 4], "enable_fusion": False, "num_classes": 4,
    }  # fmt: skip
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=12)
    model = transformers.ClapModel(config)
    model.save_pretrained(folder)
    transformers.ClapFeatureExtractor(
        feature_size=16, sampling_rate=16_000, max_length_s=1, fft_window_size=256, hop_length=500,
        truncation="rand_trunc", padding="repeatpad", frequency_max=8000,
    ).save_pretrained(folder)  # fmt: skip
    tokenizer = transformers.RobertaTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[])
    tokenizer.save_pretrained(folder)
    return model


def test_clap_is_read_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_clap(tmp_path / "clap")
    encoder = open_encoder(f"clap:{tmp_path / 'clap'}")
    assert (encoder.name, encoder.sample_rate) == ("clap:clap", 16_000)
    sounds = [tone(300, 1), np.tile(tone(700, 2), 5)]
    audio, text = embed(encoder, "audio", sounds), embed(encoder, "text", ["a dog", "rain falls"])
    assert audio.shape == text.shape == (2, 12) and not np.allclose(audio[0], audio[1])
    assert np.array_equal(embed(encoder, "audio", sounds), audio)  # long sounds are not cut at random
    config = json.loads((tmp_path / "clap" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "clap" / "config.json").write_text(json.dumps(config | {"note": "changed"}), encoding="utf-8")
    assert open_encoder(f"clap:{tmp_path / 'clap'}").fingerprint != encoder.fingerprint


def test_an_image_tower_is_an_encoder_by_itself() -> None:
    encoder = open_encoder(f"image:{LITE0}")
    pictures = [picture(number) for number in range(2)]
    assert embed(encoder, "image", pictures).shape[0] == 2 and encoder.name == f"image:{LITE0}"
    assert encoder.fingerprint == image_tower(LITE0).fingerprint and not embeds(encoder, "text")
    with pytest.raises(NeedsError, match="there is no /nowhere/b5"):
        open_encoder("image:brivl-b5:/nowhere/b5")


def test_chance_draws_anew_for_other_clips() -> None:
    """The same vectors for the first clips of two lists would let a probe remember the labels by their place."""
    encoder, classes = open_encoder("random"), np.arange(20) % 4
    first, other = (
        embed_items(encoder, "audio", Items([f"{name}{n}" for n in range(20)], None, classes, np.arange(20)))
        for name in ("train", "test")
    )
    assert abs((first * other).sum(axis=1)).max() < 0.2
