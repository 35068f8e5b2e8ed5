"""The volume study: its gate sees whether gain is heard at all, its arms isolate what they are named for."""

import json
from pathlib import Path

import numpy as np
import pytest

from unibrivl.bench import volume_page
from unibrivl.bench.errors import BenchError
from unibrivl.bench.tiny_pipeline import TinyPipelineConfig, make_tiny_pipeline
from unibrivl.bench.volume import (
    COLUMNS,
    GAINS_DB,
    KEPT,
    REMOVED,
    Embed,
    Listener,
    VolumeConfig,
    measure_volume,
    rows,
    study,
    summary,
)
from unibrivl.index.page import render
from unibrivl.model.embed import Encoder, load_encoder

from ..conftest import tone


@pytest.fixture(scope="module")
def encoder(run: Path) -> Encoder:
    return load_encoder(run)


@pytest.fixture(scope="module")
def masters() -> list[np.ndarray]:
    """Return four tones in a little noise, each of another pitch and level."""
    rng = np.random.default_rng(0)
    return [
        (tone(1.0, 220 * 2**number, 16_000) * 0.2 * (number + 1) + rng.normal(0, 0.01, 16_000)).astype(np.float32)
        for number in range(4)
    ]


def listen(embed: Embed, encoder: Encoder, **changes: np.ndarray) -> Listener:
    rng = np.random.default_rng(1)
    pool = rng.normal(size=(6, encoder.dim)).astype(np.float32)
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    return Listener(embed, pool, changes.get("direction_D"))


def test_a_front_end_that_removes_gain_is_caught(encoder: Encoder, masters: list[np.ndarray]) -> None:
    """The same network behind a front end that brings every sound to one level; as it is, it hears gain."""

    def levelled(sounds: list[np.ndarray]) -> np.ndarray:
        return encoder.audio_with_norm([sound / np.sqrt((sound**2).mean()) * np.float32(0.1) for sound in sounds])

    removed = study(listen(levelled, encoder), masters).told()
    assert removed["verdict"] == REMOVED and "trend" not in removed["metrics"] and not removed["interval"]
    assert removed["gate"]["removes_gain"] and removed["metrics"]["gate"]["share"] < 1e-3
    assert summary(removed)[0].startswith("front end removes gain") and len(summary(removed)) == 2
    heard = study(listen(encoder.audio_with_norm, encoder), masters).told()
    assert heard["verdict"] == KEPT and not heard["gate"]["removes_gain"] and heard["metrics"]["gate"]["share"] > 0.01
    assert {arm: set(told) for arm, told in heard["metrics"]["trend"].items()} == {
        "as_saved": {"score"}, "peak_safe": {"score"},
    }  # fmt: skip


def test_arms_isolate_what_they_are_named_for(encoder: Encoder, masters: list[np.ndarray]) -> None:
    arms = study(listen(encoder.audio_with_norm, encoder), masters).more["arms"]
    levels = {name: {point["level_db"]: point for point in points} for name, points in arms.items()}
    for name in ("as_saved", "peak_safe", "int16"):
        zero = levels[name][0.0]
        assert zero["cosine"]["mean"] == pytest.approx(1, abs=1e-4) and zero["norm"] == pytest.approx(1, abs=1e-3)
        assert zero["score_moved"] == pytest.approx(0, abs=1e-3) and zero["same_first"] == 1
    assert all(point["clipped"] == 0 for point in levels["peak_safe"].values())
    assert levels["as_saved"][12.0]["clipped"] > 0.05 and levels["as_saved"][12.0]["peak"] <= 1
    for name in ("as_saved", "peak_safe"):
        lufs = [levels[name][gain]["lufs"] for gain in (-12.0, -6.0)]
        assert lufs[1] - lufs[0] == pytest.approx(6, abs=0.01)
    assert levels["int16"][-30.0]["lufs"] == pytest.approx(levels["int16"][0.0]["lufs"], abs=0.2)
    cosines = [levels["noise"][snr]["cosine"]["mean"] for snr in (0.0, 20.0, 40.0)]
    assert cosines == sorted(cosines)


def test_gain_along_a_direction_is_a_trend(masters: list[np.ndarray], encoder: Encoder) -> None:
    """A listener whose embedding leans to `large` with the level: its rank correlation with gain is 1."""

    def leaning(sounds: list[np.ndarray]) -> np.ndarray:
        found = np.zeros((len(sounds), encoder.dim), np.float32)
        for number, sound in enumerate(sounds):
            found[number, 1 + int(np.abs(np.fft.rfft(sound[:4000])).argmax() % 50)] = 1
            found[number, 0] = 20 * np.sqrt((sound**2).mean())
        return found

    direction = np.eye(encoder.dim, dtype=np.float32)[0]
    told = study(listen(leaning, encoder, direction_D=direction), masters).told()
    assert told["metrics"]["trend"]["peak_safe"]["text"] == pytest.approx(1)
    assert told["interval"]["trend"]["peak_safe"]["text"] == pytest.approx([1, 1])
    assert "size in words, peak safe: +1.00" in " ".join(summary(told))


def test_a_model_that_tells_no_sounds_apart_is_refused(encoder: Encoder, masters: list[np.ndarray]) -> None:
    with pytest.raises(BenchError, match="gives all sounds one embedding"):
        study(listen(lambda sounds: np.ones((len(sounds), encoder.dim), np.float32), encoder), masters)


def test_an_index_is_studied(index: Path, tmp_path: Path) -> None:
    tiny = make_tiny_pipeline(TinyPipelineConfig(out=tmp_path / "tiny"))
    config = VolumeConfig(index=index, sounds=3, pictures=4, pipeline=str(tiny), seeds=3)
    result = measure_volume(config).as_dict()
    assert result["noise_floor"]["sd"] > 0 and result["noise_floor"]["seeds"] == 3
    assert result["noise_floor"]["same_chosen"]["0"] == 1
    assert result["text"]["large"] is None and "reads no text" in result["text"]["reason"]
    text = json.dumps(result, allow_nan=False)
    assert str(index.parent) not in text and str(tmp_path) not in text
    assert [point["level_db"] for point in result["arms"]["as_saved"]] == list(GAINS_DB)
    assert all(len(row) == len(COLUMNS) for row in rows(result))
    page = render(volume_page.volume_page(result))
    assert page.count("<polyline") == (0 if result["verdict"] == REMOVED else 2)
    assert result["verdict"][1:] in page and "over 3 seeds" in page
    with pytest.raises(BenchError, match="6 sounds in split test, want 20"):
        measure_volume(VolumeConfig(index=index))
