"""A study of the human test is frozen: what it holds, what it hides, what it refuses."""

import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from unibrivl.bench.errors import BenchError
from unibrivl.bench.human import StudyConfig, freeze, open_study
from unibrivl.bench.human_trials import make_trials

from .human_folder import CLASSES, SECRET, SYSTEMS, draw, make_generated, make_media, make_study, write_list


def test_classes_and_foils_are_balanced_within_each_system(tmp_path: Path) -> None:
    study = make_study(tmp_path, systems=2)
    assert (len(study.rated), len(study.catches), study.systems) == (12, 2, ("ours", "theirs"))
    for system in SYSTEMS:
        trials = [trial for trial in study.rated if trial.system == system]
        assert Counter(trial.category for trial in trials) == Counter(trial.foil_category for trial in trials)
        assert set(Counter(trial.category for trial in trials).values()) == {2}
        pictures = Counter(study.medium(trial.picture).read_bytes() for trial in trials)
        assert pictures == Counter(study.medium(trial.foil).read_bytes() for trial in trials)
        assert all(trial.category != trial.foil_category for trial in trials)
    assert len({trial.item for trial in study.rated}) == 6  # both systems are asked the same sounds
    assert all(trial.category != trial.foil_category for trial in study.catches)


def test_fewer_trials_are_the_same_sounds_for_both_systems(tmp_path: Path) -> None:
    study = make_study(tmp_path, systems=2, per_class=3)
    config, trials = make_trials(tmp_path / "list.csv", tmp_path / "photos", StudyConfig(per_class=2, primary="ours"))
    assert config.per_class == 2 and study.config.per_class == 3
    heard = [{one.audio for one in trials if one.system == system} for system in SYSTEMS]
    assert heard[0] == heard[1] and len(heard[0]) == 6


def test_folders_of_generate_make_the_same_study_as_a_list(tmp_path: Path) -> None:
    root = make_generated(tmp_path)
    config, trials = make_trials(root, tmp_path / "photos", StudyConfig(primary="theirs", catches=3))
    study = freeze(config, trials, tmp_path / "study")
    assert Counter(trial.system for trial in study.trials) == {"ours": 6, "theirs": 6, "photo": 3}
    assert study.systems == ("theirs", "ours") and {trial.category for trial in study.rated} == set(CLASSES)
    (tmp_path / "dog-0.wav").unlink()
    with pytest.raises(BenchError, match=r"its sound .* is not there"):
        make_trials(root, tmp_path / "photos", config)


def test_what_raters_get_tells_nothing(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    names = [name for trial in study.trials for name in (trial.trial, trial.sound, trial.picture, trial.foil)]
    assert len(set(names)) == len(names)
    for name in names:
        stem = name.partition(".")[0]
        assert len(stem) == 24 and int(stem, 16) >= 0
    for trial in study.trials:
        for name in (trial.picture, trial.foil):
            data = study.medium(name).read_bytes()
            assert SECRET.encode() not in data and not Image.open(io.BytesIO(data)).info
        samples, sample_rate = soundfile.read(study.medium(trial.sound))
        assert (sample_rate, len(samples), trial.sound_ms) == (44_100, 8820, 200)
    modified = {path.suffix for path in (study.root / "media").iterdir()}
    assert modified == {".png", ".wav"}  # a photo is told from a made picture by no ending


def test_pictures_are_upright_and_not_larger_than_needed(tmp_path: Path) -> None:
    rows = make_media(tmp_path)
    turned = Image.new("RGB", (2000, 500), "#112233")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    rows[0]["picture"] = "turned.jpg"
    sources = make_trials(write_list(tmp_path / "l.csv", rows), tmp_path / "photos", StudyConfig(primary="ours"))
    study = freeze(*sources, tmp_path / "study")
    (trial,) = [trial for trial in study.trials if trial.source == "ours-dog-0"]
    picture = Image.open(study.medium(trial.picture))
    assert picture.size == (256, 1024) and not picture.getexif()


def test_the_same_request_gives_the_same_hash_and_another_seed_another(tmp_path: Path) -> None:
    first, second, other = (make_study(tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert first.sha256 == second.sha256 != other.sha256
    assert (first.root / "study.json").read_bytes() == (second.root / "study.json").read_bytes()


def test_a_frozen_study_stays_as_it_is(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    with pytest.raises(BenchError, match="is there already"):
        make_study(tmp_path)
    told = json.loads((study.root / "study.json").read_text())
    told["config"]["raters"] = 2
    (study.root / "study.json").write_text(json.dumps(told))
    with pytest.raises(BenchError, match="was changed after it was frozen"):
        open_study(study.root)


def test_an_exchanged_picture_is_seen(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    draw(study.medium(study.trials[0].picture), "better", "#000000")
    with pytest.raises(BenchError, match="was changed after the study was frozen"):
        open_study(study.root)
    study.medium(study.trials[0].picture).unlink()
    with pytest.raises(BenchError, match="is missing"):
        open_study(study.root)
    with pytest.raises(BenchError, match="bench human prepare"):
        open_study(tmp_path)


def test_nothing_is_left_of_a_study_that_fails(tmp_path: Path) -> None:
    rows = make_media(tmp_path)
    (tmp_path / "rain-1.wav").write_bytes(b"no sound")
    config, trials = make_trials(
        write_list(tmp_path / "list.csv", rows), tmp_path / "photos", StudyConfig(primary="ours")
    )
    with pytest.raises(BenchError, match=r"rain-1\.wav: not readable as sound"):
        freeze(config, trials, tmp_path / "out" / "study")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"class": ""}, r"list\.csv:2: class is empty"),
        ({"catch": "maybe"}, r"list\.csv:2: catch is 'maybe'"),
        ({"catch": "1"}, "a catch trial needs its foil"),
        ({"foil": "ours/rain-0.png"}, "foil and foil_class belong together"),
        ({"foil": "ours/rain-0.png", "foil_class": "rain"}, "foils in all of them or in none"),
        ({"trial_id": "ours-rain-0"}, "trial ours-rain-0 is there twice"),
        ({"class": "cat"}, "theirs has no trial of class cat"),
        ({"picture": "nothing.png"}, "nothing.png: No such file"),
        ({"audio": "nothing.wav"}, "nothing.wav: No such file"),
    ],
)
def test_lists_are_checked(tmp_path: Path, change: dict[str, str], told: str) -> None:
    rows = make_media(tmp_path)
    rows[0] |= change
    with pytest.raises(BenchError, match=told):
        make_trials(write_list(tmp_path / "list.csv", rows), tmp_path / "photos", StudyConfig(primary="ours"))


def own_foils(rows: list[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        other = rows[(number + 4) % len(rows)]
        row |= {"foil": other["picture"], "foil_class": other["class"]}


def test_foils_of_the_list_are_kept_and_must_be_of_the_same_system(tmp_path: Path) -> None:
    rows = make_media(tmp_path)
    own_foils(rows)
    path = write_list(tmp_path / "list.csv", rows)
    trials = make_trials(path, tmp_path / "photos", StudyConfig(primary="ours"))[1]
    told = {row["trial_id"]: tmp_path / row["foil"] for row in rows}
    assert all(one.foil == told[one.trial_id] for one in trials if not one.is_catch)
    rows[0]["foil"] = "theirs/rain-0.png"
    with pytest.raises(BenchError, match="its foil was made by theirs, want one by ours"):
        make_trials(write_list(path, rows), tmp_path / "photos", StudyConfig(primary="ours"))
    rows[0] |= {"foil": "ours/dog-1.png", "foil_class": "dog"}
    with pytest.raises(BenchError, match="its foil is of class dog too"):
        make_trials(write_list(path, rows), tmp_path / "photos", StudyConfig(primary="ours"))


def test_what_makes_no_study_is_refused(tmp_path: Path) -> None:
    rows = make_media(tmp_path)
    path = write_list(tmp_path / "list.csv", rows)
    with pytest.raises(BenchError, match="primary is None, want one of ours, theirs"):
        make_trials(path, tmp_path / "photos", StudyConfig())
    with pytest.raises(BenchError, match="ours has 2 trials of class dog, want 5"):
        make_trials(path, tmp_path / "photos", StudyConfig(primary="ours", per_class=5))
    with pytest.raises(BenchError, match="no catch trials"):
        make_trials(path, None, StudyConfig(primary="ours"))
    with pytest.raises(BenchError, match="no catch trials"):
        make_trials(path, tmp_path / "photos", StudyConfig(primary="ours", catches=0))
    one = write_list(tmp_path / "one.csv", [row for row in rows if row["class"] == "dog"])
    with pytest.raises(BenchError, match="all trials are of class dog"):
        make_trials(one, tmp_path / "photos", StudyConfig(primary="ours"))
    with pytest.raises(BenchError, match="has no SYSTEM/CLASS/NAME"):
        make_trials(tmp_path / "photos", None, StudyConfig())
    (tmp_path / "empty.csv").write_text("a,b\n")
    with pytest.raises(BenchError, match="want rows with the columns"):
        make_trials(tmp_path / "empty.csv", None, StudyConfig())
    shutil.rmtree(tmp_path / "photos")
    draw(tmp_path / "photos" / "dog.png", "dog", "#000000")
    with pytest.raises(BenchError, match="has photos of 1 of the classes"):
        make_trials(path, tmp_path / "photos", StudyConfig(primary="ours"))


@pytest.mark.parametrize(
    "change", [{"raters": 1}, {"catch_pass": 1.5}, {"per_class": 0}, {"consent": " "}, {"title": ""}, {"seed": -1}]
)
def test_configurations_are_checked(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        StudyConfig(**change)


def test_catches_of_photos_ask_each_class_in_turn(tmp_path: Path) -> None:
    study = make_study(tmp_path, catches=7)
    counts = Counter(trial.category for trial in study.catches)
    assert sorted(counts.values()) == [2, 2, 3]
    photos = {np.asarray(Image.open(tmp_path / "photos" / f"{name}.png")).tobytes() for name in CLASSES}
    shown = {np.asarray(Image.open(study.medium(t.picture))).tobytes() for t in study.catches}
    assert shown == photos
