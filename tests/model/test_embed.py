"""Embedding with a trained run: one space, unit norm, the same every time."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from unibrivl.model import embed
from unibrivl.model.embed import Encoder, load_encoder
from unibrivl.model.errors import CheckpointError
from unibrivl.shards import ClipShards


@pytest.fixture(scope="module")
def encoder(run: Path) -> Encoder:
    return load_encoder(run)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(16_000 * seconds))).astype(np.float32)


def test_sounds_of_any_length_get_unit_vectors(encoder: Encoder) -> None:
    sounds = [noise(1.0), noise(0.3, 1), noise(7.5, 2), np.zeros(1, np.float32), np.zeros(0, np.float32)]
    found = encoder.audio(sounds)
    assert found.shape == (5, encoder.dim) == (5, 1280) and found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)


def test_of_a_longer_sound_the_middle_counts_and_a_shorter_one_is_filled(encoder: Encoder) -> None:
    sound = noise(1.0)
    longer = np.concatenate([noise(2.0, 1), sound, noise(2.0, 2)])
    assert encoder.audio([longer]) == pytest.approx(encoder.audio([sound]), abs=1e-5)
    short = sound[:5000]
    filled = np.concatenate([short, np.zeros(11_000, np.float32)])
    assert encoder.audio([short]) == pytest.approx(encoder.audio([filled]), abs=1e-5)
    assert np.abs(encoder.audio([short]) - encoder.audio([sound])).max() > 1e-4


def test_a_batch_does_not_change_an_embedding(encoder: Encoder) -> None:
    sounds = [noise(1.0, seed) for seed in range(5)]
    alone = np.concatenate([encoder.audio([sound]) for sound in sounds])
    assert encoder.audio(sounds) == pytest.approx(alone, abs=1e-5)


def test_pictures_get_unit_vectors(encoder: Encoder) -> None:
    frames = list(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8))
    found = encoder.image(frames)
    assert found.shape == (3, 1280) and np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)


def test_every_clip_is_embedded_in_catalog_order(
    encoder: Encoder, shards_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "BATCH", 7)  # 24 clips: the last batch is short
    with ClipShards(shards_copy) as clips:
        counts: dict[str, list[int]] = {"audio": [], "image": []}
        audio = encoder.all_audio(clips, counts["audio"].append)
        image = encoder.all_images(clips, counts["image"].append)
        assert audio.shape == image.shape == (24, 1280)
        assert sum(counts["audio"]) == sum(counts["image"]) == 24
        for position in (0, 6, 7, 23):
            assert audio[position] == pytest.approx(encoder.audio([clips[position].audio()])[0], abs=1e-5)
            assert image[position] == pytest.approx(encoder.image([clips[position].frame()])[0], abs=1e-4)


def test_canaries_are_the_same_in_another_process_of_mind(encoder: Encoder, run: Path) -> None:
    first, second = encoder.canaries(), load_encoder(run).canaries()
    assert set(first) == {"audio", "image"}
    for modality in first:
        assert first[modality].shape == (1280,)
        assert np.array_equal(first[modality], second[modality])
    assert load_encoder(run).fingerprints() == encoder.fingerprints()


def test_a_changed_weight_moves_fingerprint_and_canary(run: Path) -> None:
    changed = load_encoder(run)
    fingerprints, canaries = changed.fingerprints(), changed.canaries()
    with torch.no_grad():
        changed.model.g[3].weight.neg_()
    assert changed.fingerprints()["audio"] != fingerprints["audio"]
    assert changed.fingerprints()["image"] == fingerprints["image"]
    assert float(changed.canaries()["audio"] @ canaries["audio"]) < 0.9


def test_another_image_tower_than_the_runs_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, state = embed.load_model(run)
    old = dataclasses.replace(state, facts=state.facts | {"image_fingerprint": "e" * 64})
    monkeypatch.setattr(embed, "load_model", lambda path, which: (model, old))
    here = state.facts["image_fingerprint"][:12]
    with pytest.raises(CheckpointError, match=rf"{run} was trained against image tower e{{12}}, .* is here {here}"):
        load_encoder(run)


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no run"):
        load_encoder(tmp_path)
