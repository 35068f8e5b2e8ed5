"""ESC-50's protocol: the official folds and nothing else, on the real ESC-10 and on made-up folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from unibrivl.bench.errors import BenchError
from unibrivl.bench.esc50 import Esc50Config, measure_esc50, read_esc50
from unibrivl.bench.supervised import SoundClassifier, SupervisedConfig, train_classifier
from unibrivl.model.wav2clip import Wav2clipConfig

from .esc_folder import SAMPLE_RATE, tone, write_set

QUICK = SupervisedConfig(clip_s=0.5, num_mels=16, hop=706, epochs=6, batch_size=8, mixup=0.0)


@pytest.mark.parametrize("table", ["meta.csv", "meta/esc50.csv"])
def test_a_folder_in_the_official_layout_is_read(tmp_path: Path, table: str) -> None:
    data = read_esc50(write_set(tmp_path / "esc", table=table))
    assert data.names == ("low", "high") and data.listed == len(data.sounds) == 40
    assert np.bincount(data.folds).tolist() == [0, 8, 8, 8, 8, 8]
    assert np.bincount(data.targets).tolist() == [20, 20]
    assert all(sound.dtype == np.float32 and len(sound) == SAMPLE_RATE // 2 for sound in data.sounds)


def test_the_real_esc10_is_read_whole(folder: Callable[[str], Path]) -> None:
    data = read_esc50(folder("data") / "esc10")
    assert data.listed == len(data.sounds) == 400 and len(data.names) == 10
    assert np.bincount(data.folds).tolist() == [0, 80, 80, 80, 80, 80]
    assert np.bincount(data.targets).tolist() == [40] * 10
    assert sum(abs(len(sound) / 80_000 - 1) < 0.02 for sound in data.sounds) > 380  # a few were cut shorter


def test_each_fold_is_measured_with_a_tower_that_met_the_others_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def watched(sounds: Any, *rest: Any) -> SoundClassifier:
        seen.append(len(sounds))
        return train_classifier(sounds, *rest)

    monkeypatch.setattr("unibrivl.bench.esc50.train_classifier", watched)
    steps: list[tuple[int, int]] = []
    config = Esc50Config(data=write_set(tmp_path / "esc"), classifier=QUICK)
    result = measure_esc50(config, lambda done, total, text: steps.append((done, total))).as_dict()
    assert seen == [32] * 5
    assert steps[-1] == (120, 120) and [done for done, _ in steps] == list(range(1, 121))
    assert result["metrics"]["accuracy"] > 0.9  # two tones, three octaves apart
    assert result["metrics"]["accuracy"] == pytest.approx(np.mean(list(result["metrics"]["accuracy_by_fold"].values())))
    low, high = result["interval"]["accuracy"]
    assert 0 < low <= result["metrics"]["accuracy"] <= high <= 1
    assert result["chance"] == {"accuracy": 0.5} and result["status"] == "ok"
    assert json.loads(json.dumps(result)) == result


def test_fewer_folds_and_missing_clips_are_said(tmp_path: Path) -> None:
    data = write_set(tmp_path / "esc")
    next((data / "audio").glob("1-*")).unlink()
    result = measure_esc50(Esc50Config(data=data, folds=(2,), classifier=QUICK)).as_dict()
    assert result["status"] == "partial"
    assert result["coverage"] == {"clips": 39, "listed": 40, "folds": [2]}
    assert list(result["metrics"]["accuracy_by_fold"]) == ["2"] and result["metrics"]["accuracy_sd"] is None


def test_labels_that_tell_nothing_give_chance(tmp_path: Path) -> None:
    """A protocol that leaked the measured fold would score above it."""
    data = write_set(tmp_path / "esc")
    for number, path in enumerate(sorted((data / "audio").iterdir())):
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(SAMPLE_RATE // 2), SAMPLE_RATE)
    result = measure_esc50(Esc50Config(data=data, classifier=QUICK)).as_dict()
    assert 0.2 <= result["metrics"]["accuracy"] <= 0.8  # 40 coins: beyond 3.8 deviations on either side


def test_the_same_seed_trains_the_same_tower() -> None:
    sounds = [tone(300 + 200 * n, n) for n in range(9)]
    classes = np.arange(9) % 3
    config = SupervisedConfig(clip_s=0.5, num_mels=16, hop=706, epochs=1, batch_size=4)
    first, second = (train_classifier(sounds, classes, 3, config).predict(sounds, 4) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.shape == (9, 3) and first.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_a_batch_may_be_a_single_clip_in_measuring() -> None:
    model = SoundClassifier(Wav2clipConfig(clip_s=0.5, num_mels=16), 4)
    assert model.predict([tone(400, 0)], 1).shape == (1, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({3: {"fold": "x"}}, r"meta\.csv:5: fold 'x' and target '0', want whole numbers"),
        ({0: {"filename": "../a.wav"}}, r"meta\.csv:2: filename '\.\./a\.wav', want a plain file name"),
        ({n: {"fold": "1"} for n in range(40)}, "no clip of fold 2 is there; want the five official folds"),
    ],
)
def test_a_table_that_is_not_the_official_one_is_refused(
    tmp_path: Path, changes: dict[int, dict[str, str]], message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        read_esc50(write_set(tmp_path / "esc", changes=changes))


def test_a_folder_without_a_table_or_with_a_broken_sound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"has neither meta/esc50\.csv nor meta\.csv; want ESC-50's folder"):
        read_esc50(tmp_path)
    data = write_set(tmp_path / "esc")
    broken = next((data / "audio").iterdir())
    broken.write_bytes(b"RIFF")
    with pytest.raises(BenchError, match=f"{broken.name}: not readable as sound"):
        read_esc50(data)
    (data / "meta.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(BenchError, match="want the columns filename, fold, target, category"):
        read_esc50(data)


@pytest.mark.parametrize("folds", [(), (0,), (1, 1), (6,)])
def test_only_official_folds_can_be_asked_for(tmp_path: Path, folds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="folds are"):
        Esc50Config(data=tmp_path, folds=folds)
