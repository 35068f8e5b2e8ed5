"""Training sound: lengths, what augmentation may do, and that it depends on seed, epoch and clip alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.model.batches import (
    GAIN_DB,
    MAX_BAND_SHARE,
    MAX_TIME_SHARE,
    augment,
    clip_rng,
    fit,
    mask,
    training_audio,
)
from unibrivl.shards import ClipShards


@given(st.integers(0, 300), st.integers(1, 200))
def test_fit_takes_the_middle_or_fills_with_silence(length: int, wanted: int) -> None:
    sound = np.arange(1, length + 1, dtype=np.float32)
    found = fit(sound, wanted)
    assert found.shape == (wanted,) and found.dtype == np.float32
    if length <= wanted:
        assert np.array_equal(found[:length], sound) and not found[length:].any()
    else:
        before, after = found[0] - 1, length - found[-1]
        assert np.array_equal(np.diff(found), np.ones(wanted - 1)) and abs(before - after) <= 1


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(8, 200), st.integers(0, 2**31))
def test_augmented_sound_is_a_piece_of_the_sound_at_another_level(length: int, wanted: int, seed: int) -> None:
    sound = np.arange(1, length + 1, dtype=np.float32)
    found = augment(sound, wanted, np.random.default_rng(seed))
    assert found.shape == (wanted,) and found.dtype == np.float32
    heard = np.flatnonzero(found)
    assert len(heard) == min(length, wanted)  # what fits is whole
    assert np.array_equal(heard, np.arange(heard[0], heard[-1] + 1))
    piece = found[heard]
    gain = float(piece[-1] - piece[0]) / (len(piece) - 1) if len(piece) > 1 else None
    if gain is not None:
        assert 10 ** (-GAIN_DB / 20) * 0.99 <= gain <= 10 ** (GAIN_DB / 20) * 1.01
        assert piece / gain == pytest.approx(np.arange(len(piece)) + round(piece[0] / gain), rel=1e-4)


def test_augmentation_puts_a_sound_anywhere_and_changes_the_level_both_ways() -> None:
    sound = np.ones(80, np.float32)
    found = [augment(sound, 100, np.random.default_rng(seed)) for seed in range(60)]
    assert min(f.max() for f in found) < 0.7 and max(f.max() for f in found) > 1.4
    starts = [int(np.flatnonzero(f)[0]) for f in found]
    assert min(starts) == 0 and max(starts) == 20


def test_a_generator_belongs_to_seed_epoch_and_clip() -> None:
    draws = {
        (seed, epoch, clip): clip_rng(seed, epoch, clip).random()
        for seed in (0, 1, 2**63 - 1) for epoch in (0, 1, 70_000) for clip in (0, 1, 1 << 39)
    }  # fmt: skip
    assert len(set(draws.values())) == len(draws)
    assert clip_rng(1, 70_000, 1 << 39).random() == draws[1, 70_000, 1 << 39]


def test_training_sound_depends_on_seed_epoch_and_clip_alone(shards: Path) -> None:
    def sound(positions: list[int], **key: int) -> tuple[torch.Tensor, list[np.random.Generator]]:
        sounds = [clips[position].audio() for position in positions]
        return training_audio(sounds, np.array(positions), 8000, **key)

    with ClipShards(shards, split="train") as clips:
        first, rngs = sound([3, 1, 7], seed=5, epoch=2)
        again, _ = sound([3, 1, 7], seed=5, epoch=2)
        elsewhere, others = sound([7, 0], seed=5, epoch=2)
        next_epoch, _ = sound([3, 1, 7], seed=5, epoch=3)
        other_seed, _ = sound([3, 1, 7], seed=6, epoch=2)
    assert first.shape == (3, 8000) and first.dtype == torch.float32
    assert torch.equal(first, again)
    assert torch.equal(first[2], elsewhere[0])
    assert rngs[2].random() == others[0].random()  # what `mask` draws next
    for other in (next_epoch, other_seed):
        assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@settings(deadline=None)
@given(st.integers(5, 40), st.integers(6, 60), st.integers(0, 2**31))
def test_mask_changes_one_band_and_one_stretch_to_the_mean(bands: int, columns: int, seed: int) -> None:
    features = torch.randn(2, 1, bands, columns, generator=torch.Generator().manual_seed(seed))
    before = features.clone()
    found = mask(features, [np.random.default_rng(seed), np.random.default_rng(seed + 1)])
    assert found.shape == features.shape and torch.equal(features, before)
    for old, new in zip(features[:, 0], found[:, 0], strict=True):
        changed = (old != new).numpy()
        band, stretch = changed.all(axis=1), changed.all(axis=0)
        assert np.array_equal(changed, band[:, None] | stretch[None])
        for places, share in ((band, MAX_BAND_SHARE), (stretch, MAX_TIME_SHARE)):
            positions = np.flatnonzero(places)
            assert len(positions) <= len(places) * share
            assert len(positions) == 0 or np.array_equal(positions, np.arange(positions[0], positions[-1] + 1))
        assert new[changed].numpy() == pytest.approx(old.mean().item(), abs=1e-6)


def test_masks_are_drawn_and_not_always_empty() -> None:
    features = torch.randn(40, 1, 32, 46, generator=torch.Generator().manual_seed(0))
    found = mask(features, [np.random.default_rng(seed) for seed in range(40)])
    shares = (found != features).float().mean(dim=(1, 2, 3))
    assert shares.max() > 0.2 and len(set(shares.tolist())) > 20


def test_mask_leaves_waveforms_alone() -> None:
    audio = torch.rand(2, 500)
    assert torch.equal(mask(audio.clone(), [clip_rng(0, 0, number) for number in range(2)]), audio)
