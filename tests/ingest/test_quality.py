"""Checks measures of sound and picture on signals whose values are known."""

import math

import numpy as np
import pytest

from unibrivl.ingest.quality import measure_audio, measure_frame

RATE = 16_000


def sine(scale: float, seconds: float = 1.0) -> np.ndarray:
    return np.round(scale * 32767 * np.sin(2 * np.pi * 440 * np.arange(int(RATE * seconds)) / RATE)).astype(np.int16)


def test_silence() -> None:
    assert measure_audio(np.zeros(RATE, np.int16)) == {
        "rms_dbfs": -120.0,
        "peak_dbfs": -120.0,
        "silent_ratio": 1.0,
        "clip_ratio": 0.0,
    }


def test_a_square_wave_at_full_scale() -> None:
    wave = np.where(np.arange(RATE) // 40 % 2, 32767, -32768).astype(np.int16)
    found = measure_audio(wave)
    assert found["rms_dbfs"] == pytest.approx(0, abs=0.001)
    assert (found["peak_dbfs"], found["silent_ratio"], found["clip_ratio"]) == (0.0, 0.0, 1.0)


def test_the_lowest_sample_is_no_overflow() -> None:
    assert measure_audio(np.full(RATE, -32768, np.int16))["peak_dbfs"] == 0.0


def test_a_sine_at_half_scale() -> None:
    found = measure_audio(sine(0.5))
    assert found["peak_dbfs"] == pytest.approx(20 * math.log10(0.5), abs=0.01)  # -6.02
    assert found["rms_dbfs"] == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=0.01)  # -9.03
    assert (found["silent_ratio"], found["clip_ratio"]) == (0.0, 0.0)


def test_shares_of_silence_and_clipping() -> None:
    half = np.concatenate([sine(0.5, 0.5), np.zeros(RATE // 2, np.int16)])
    assert measure_audio(half)["silent_ratio"] == 0.5
    quarter = np.zeros(RATE, np.int16)
    quarter[: RATE // 4] = 32767
    assert measure_audio(quarter)["clip_ratio"] == 0.25


@pytest.mark.parametrize(("level", "silent"), [(32, 1.0), (33, 0.0)])
def test_silence_ends_at_60_db_below_full_scale(level: int, silent: float) -> None:
    """32768 / 1000 lies between 32 and 33."""
    assert measure_audio(np.full(RATE, level, np.int16))["silent_ratio"] == silent


@pytest.mark.parametrize("num_samples", [1, 16, 1599, 1600, 1601])
def test_short_sounds(num_samples: int) -> None:
    found = measure_audio(np.full(num_samples, 16384, np.int16))
    assert found["rms_dbfs"] == found["peak_dbfs"] == pytest.approx(-6.0206, abs=0.001)
    assert found["silent_ratio"] == 0.0


def test_a_long_loud_sound_does_not_overflow() -> None:
    assert measure_audio(np.full(600 * RATE, -32768, np.int16))["rms_dbfs"] == 0.0


def test_the_figures_are_those_of_exact_sums() -> None:
    """Sums of floats would differ in their last digits from machine to machine, and so would the shards."""
    samples = np.random.default_rng(0).integers(-32768, 32768, RATE + 7, np.int16)
    exact = sum(int(x) ** 2 for x in samples)
    assert measure_audio(samples)["rms_dbfs"] == 20 * math.log10(math.sqrt(exact / len(samples)) / 32768)
    picture = np.random.default_rng(1).integers(0, 256, (33, 31, 3), np.uint8)
    luma = [299 * int(r) + 587 * int(g) + 114 * int(b) for r, g, b in picture.reshape(-1, 3)]
    mean = sum(luma) / len(luma)
    found = measure_frame(picture)
    assert found["frame_luma_mean"] == mean / 1000
    assert found["frame_luma_std"] == math.sqrt(sum(x * x for x in luma) / len(luma) - mean**2) / 1000


def test_the_figures_do_not_depend_on_where_the_samples_lie() -> None:
    rng = np.random.default_rng(0)
    samples = rng.integers(-20_000, 20_000, RATE + 7, np.int16)
    expected = measure_audio(samples)
    for shift in range(1, 8):
        moved = np.zeros(len(samples) + 16, np.int16)[shift : shift + len(samples)]
        moved[:] = samples
        assert measure_audio(moved) == expected
    picture = rng.integers(0, 256, (48, 48, 3), np.uint8)
    wide = np.zeros((48, 96, 3), np.uint8)
    wide[:, ::2] = picture
    assert measure_frame(wide[:, ::2]) == measure_frame(picture)


@pytest.mark.parametrize(
    ("colour", "luma"),
    [((0, 0, 0), 0.0), ((255, 255, 255), 255.0), ((255, 0, 0), 76.245), ((0, 255, 0), 149.685), ((0, 0, 255), 29.07)],
)
def test_one_colour(colour: tuple[int, int, int], luma: float) -> None:
    found = measure_frame(np.full((8, 8, 3), colour, np.uint8))
    assert found["frame_luma_mean"] == pytest.approx(luma, abs=1e-9)
    assert found["frame_luma_std"] == pytest.approx(0, abs=1e-3)


def test_black_and_white_halves() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4] = 255
    assert measure_frame(picture) == pytest.approx({"frame_luma_mean": 127.5, "frame_luma_std": 127.5})
