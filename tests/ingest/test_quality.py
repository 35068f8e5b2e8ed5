"""Checks measures of sound and picture on signals whose values are known."""

import io
import math
import os
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from unibrivl.ingest.quality import FLAGS, audio_fp, flags, frame_dhash, measure_audio, measure_frame
from unibrivl.shards.schema import SIDECAR_SCHEMA

RATE = 16_000


def sine(scale: float, seconds: float = 1.0) -> np.ndarray:
    return np.round(scale * 32767 * np.sin(2 * np.pi * 440 * np.arange(int(RATE * seconds)) / RATE)).astype(np.int16)


def test_silence() -> None:
    assert measure_audio(np.zeros(RATE, np.int16)) == {
        "rms_dbfs": -120.0,
        "peak_dbfs": -120.0,
        "silent_ratio": 1.0,
        "clip_ratio": 0.0,
        "audio_fp": 0,
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
    found = measure_frame(np.full((16, 16, 3), colour, np.uint8))
    assert found["frame_luma_mean"] == pytest.approx(luma, abs=1e-9)
    assert found["frame_luma_std"] == pytest.approx(0, abs=1e-3)


def test_black_and_white_halves() -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:8] = 255
    found = measure_frame(picture)
    assert (found["frame_luma_mean"], found["frame_luma_std"]) == pytest.approx((127.5, 127.5))


# --- hashes


def chatter(seed: int, seconds: float = 10.0) -> np.ndarray:
    """Return something that rises, falls and changes its pitch as speech does, float64 (samples,) in [-0.7, 0.7]."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(int(RATE * seconds)) / RATE
    level = np.interp(time_s, np.linspace(0, seconds, 40), rng.random(40) ** 2)
    pitch = np.interp(time_s, np.linspace(0, seconds, 20), rng.uniform(100, 3000, 20))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = level * sum(np.sin(k * phase) / k for k in (1, 2, 3)) + 0.02 * rng.standard_normal(len(time_s))
    return 0.7 * voice / np.abs(voice).max()


def rounded(sound: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(sound * 32767), -32768, 32767).astype(np.int16)


def distance(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def through_aac(samples: np.ndarray) -> np.ndarray:
    """Encode at 64 kbit/s, decode again, and drop what the encoder put in front."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        stream.bit_rate = 64_000
        block = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        block.sample_rate, block.pts = RATE, 0
        for part in av.AudioResampler(format="fltp", layout="mono", rate=RATE).resample(block):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer) as container:
        return rounded(np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])[: len(samples)])


@pytest.mark.parametrize("seed", range(6))
def test_the_hash_of_a_sound_outlives_level_noise_and_codec(seed: int) -> None:
    sound = chatter(seed)
    expected = audio_fp(rounded(sound))
    assert distance(audio_fp(rounded(0.5 * sound)), expected) <= 2
    assert distance(audio_fp(rounded(0.1 * sound)), expected) <= 6
    noise = 0.003 * np.random.default_rng(99).standard_normal(len(sound))
    assert distance(audio_fp(rounded(sound + noise)), expected) <= 6
    assert distance(audio_fp(through_aac(rounded(sound))), expected) <= 6


def test_different_sounds_have_different_hashes() -> None:
    hashes = [audio_fp(rounded(chatter(seed))) for seed in range(30)]
    distances = [distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) >= 12 and 26 < np.mean(distances) < 36
    tones = [audio_fp(rounded(0.5 * np.sin(2 * np.pi * f * np.arange(RATE) / RATE))) for f in (200, 300, 440, 1000)]
    assert len(set(tones)) == 4


def test_no_bit_of_the_hash_is_the_same_for_all_sounds() -> None:
    hashes = [audio_fp(rounded(chatter(seed))) for seed in range(40)]
    assert all(0 < sum(h >> bit & 1 for h in hashes) < 40 for bit in range(64))


def test_the_hash_tells_the_order_of_the_parts() -> None:
    """The same sound from its middle on, then its first half: of one spectrum, but not one course."""
    sound = rounded(chatter(0))[: 156 * 1024]
    turned = np.roll(sound, len(sound) // 2)
    whole = 0xFFFF << 48  # the bits of the whole sound
    assert audio_fp(sound) & whole == audio_fp(turned) & whole
    assert distance(audio_fp(sound) & ~whole, audio_fp(turned) & ~whole) >= 10


def test_a_constant_difference_between_bands_sets_no_bit_of_the_course() -> None:
    """A steady sound rises and falls nowhere."""
    steady = np.tile(rounded(0.1 * chatter(1, 0.064))[:1024], 200)
    assert audio_fp(steady) & ((1 << 48) - 1) == 0 and audio_fp(steady) > 0


@pytest.mark.parametrize("num_samples", [0, 1, 500, 1024, 4095, 4096, 4097])
def test_every_sound_has_a_hash_of_64_bits(num_samples: int) -> None:
    samples = np.random.default_rng(0).integers(-9000, 9000, num_samples, np.int16)
    assert 0 <= audio_fp(samples) < 1 << 64
    assert audio_fp(np.zeros(num_samples, np.int16)) == 0


def test_the_hash_is_the_same_without_the_vector_instructions_of_this_machine() -> None:
    """Sums of floats go another way round there."""
    code = (
        "import numpy as np; from unibrivl.ingest.quality import audio_fp; rng = np.random.default_rng(3);"
        "print([audio_fp(rng.integers(-i, i, 160_000).astype(np.int16)) for i in (3, 400, 32000)])"
    )
    features = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    env = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(features)}
    plain, other = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=e).stdout
        for e in (os.environ, env)
    )
    assert plain == other and plain.count(",") == 2


def blocks(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)


def test_the_hash_of_a_picture_outlives_size_light_and_codec() -> None:
    picture = blocks(0)
    expected = frame_dhash(picture)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=60)
    assert distance(frame_dhash(np.asarray(Image.open(buffer))), expected) <= 3
    assert distance(frame_dhash((picture * 0.6 + 20).astype(np.uint8)), expected) <= 3
    larger = np.asarray(Image.fromarray(picture).resize((384, 384), Image.Resampling.BICUBIC))
    assert distance(frame_dhash(larger), expected) <= 6
    others = [distance(frame_dhash(blocks(seed)), expected) for seed in range(1, 20)]
    assert min(others) > 10


def test_the_hash_of_a_picture_by_hand() -> None:
    rising = np.repeat(np.linspace(0, 255, 90).astype(np.uint8)[None, :, None], 80, 0).repeat(3, 2)
    assert frame_dhash(rising) == (1 << 64) - 1
    assert frame_dhash(rising[:, ::-1]) == 0
    step = np.zeros((16, 18, 3), np.uint8)
    step[:2, 2:] = 9  # the first row of means rises once, from the first to the second
    assert frame_dhash(step) == 1 << 63


def test_the_hashes_fit_their_columns() -> None:
    for name in ("audio_fp", "frame_dhash"):
        assert str(SIDECAR_SCHEMA.field(name).type) == "uint64"


# --- flags


def measured(samples: np.ndarray, picture: np.ndarray) -> list[str]:
    return flags(measure_audio(samples) | measure_frame(picture))


def test_an_ordinary_clip_has_no_flags() -> None:
    assert measured(sine(0.5), blocks(0)) == []


@pytest.mark.parametrize(("loud_s", "expected"), [(0.0, ["silent"]), (0.4, ["silent"]), (0.6, [])])
def test_a_silent_clip_is_flagged(loud_s: float, expected: list[str]) -> None:
    samples = np.zeros(10 * RATE, np.int16)
    samples[: int(loud_s * RATE)] = sine(0.5, loud_s)
    assert measured(samples, blocks(0)) == expected


@pytest.mark.parametrize(("scale", "expected"), [(0.99, []), (2.0, ["clipped"])])
def test_a_clipped_clip_is_flagged(scale: float, expected: list[str]) -> None:
    loud = rounded(scale * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE))
    assert measured(loud, blocks(0)) == expected


@pytest.mark.parametrize(
    ("level", "noise", "expected"),
    [
        (0, 0, ["black_frame", "flat_frame"]), (4, 4, ["black_frame", "flat_frame"]), (4, 16, ["black_frame"]),
        (128, 0, ["flat_frame"]), (255, 0, ["flat_frame"]), (128, 60, []),
    ],
)  # fmt: skip
def test_a_black_picture_and_one_of_one_colour_are_flagged(level: int, noise: int, expected: list[str]) -> None:
    grey = level + np.random.default_rng(0).integers(-noise, noise + 1, (64, 64, 1))
    picture = np.clip(grey, 0, 255).astype(np.uint8).repeat(3, 2)
    assert measured(sine(0.5), picture) == expected


def test_flags_have_names_in_one_order() -> None:
    everything = {"silent_ratio": 1.0, "clip_ratio": 1.0, "frame_luma_mean": 0.0, "frame_luma_std": 0.0}
    assert flags(everything) == list(FLAGS)
