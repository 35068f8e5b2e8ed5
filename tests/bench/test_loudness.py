"""Levels of sounds: known loudness, gain, clipping, rounding and noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.bench.loudness import amplify, as_int16, clip, measure_loudness, spearman, with_noise

from ..conftest import tone


def test_a_sine_has_the_loudness_that_the_standard_gives_it() -> None:
    """BS.1770: 997 Hz at full scale in one channel is -3.01 LUFS; the filters, meant for 48 kHz, are 0.1 off at 16."""
    sine = tone(2.0, 997, 16_000) * 2
    full = measure_loudness(sine)
    assert full.lufs == pytest.approx(-3.01, abs=0.1) and full.peak == pytest.approx(1, abs=1e-3)
    soft = measure_loudness(amplify(sine, -20))
    assert soft.lufs == pytest.approx(full.lufs - 20, abs=1e-3) and soft.peak == pytest.approx(0.1, abs=1e-3)
    assert measure_loudness(sine[:4000]).lufs is None, "shorter than a block"
    assert measure_loudness(np.zeros(16_000, np.float32)).lufs is None


def test_clipping_is_counted() -> None:
    """A sine 6.02 dB above full scale lies beyond it where |sin| > 1/2: two thirds of the time."""
    loud = amplify(tone(1.0, 997, 16_000) * 2, 20 * np.log10(2))
    assert measure_loudness(clip(loud)).clipped == pytest.approx(2 / 3, abs=0.01)
    assert measure_loudness(clip(loud)).peak == 1


@given(st.floats(-0.9, 0.9), st.floats(-30, 0))
def test_16_bits_round_by_half_a_step_at_most(value: float, gain_db: float) -> None:
    sound = amplify(np.array([value], np.float32), gain_db)
    assert np.abs(as_int16(sound) - sound).max() <= 0.5 / 32767 + 1e-7


def test_noise_is_as_far_below_the_sound_as_asked() -> None:
    sound = tone(4.0, 440, 16_000)
    noise = with_noise(sound, 20, seed=3) - sound
    assert 10 * np.log10((sound**2).mean() / (noise**2).mean()) == pytest.approx(20, abs=0.1)
    assert np.array_equal(with_noise(sound, 20, 3), with_noise(sound, 20, 3))


def test_rank_correlation() -> None:
    rising = np.arange(5.0)
    assert spearman(rising, np.exp(rising)) == pytest.approx(1) and spearman(rising, -(rising**3)) == pytest.approx(-1)
    # by hand: ranks 0, 1.5, 1.5, 3 against 0, 2, 1, 3
    assert spearman(np.array([1, 2, 2, 3]), np.array([1, 3, 2, 4])) == pytest.approx(0.948683, abs=1e-6)
    assert spearman(rising, np.ones(5)) == 0
