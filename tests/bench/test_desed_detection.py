"""The whole of `bench desed` on a made-up set: ceiling, baseline, chance; nothing measured chooses; rows in files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from unibrivl.bench import desed_detection as module
from unibrivl.bench.desed import CLASSES, PARTS, read_part
from unibrivl.bench.desed_detection import DesedConfig, drawn_tenth, measure_desed
from unibrivl.bench.encoders import open_encoder
from unibrivl.bench.errors import BenchError, NeedsError
from unibrivl.bench.probes import Probe, Recipe, Samples, fit_probe
from unibrivl.bench.protocol import Result

from .conftest import Call
from .desed_folder import FILES, SAMPLE_RATE, write_desed, write_part

SMALL = Recipe(hidden=((32,),), lrs=(1e-2,), batch_size=16, epochs=40, patience=20)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that trains in a tenth of a second."""
    monkeypatch.setitem(module.PROBES, "l3", SMALL)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_desed(tmp_path_factory.mktemp("desed") / "DESED")


def measure(data: Path, tower: str = "oracle", **changes: Any) -> Result:
    return measure_desed(DesedConfig(data=data, **changes), open_encoder(tower))


@pytest.mark.parametrize("subset", ["synth21-val", "real-val", "public-eval"])
def test_ceiling_baseline_and_chance(data: Path, subset: str) -> None:
    """The oracle reaches the ceiling up to what its probe confuses; log-mel hears tones in noise; random hears none."""
    rows = {tower: measure(data, tower, subset=subset) for tower in ("oracle", "logmel", "random")}
    reached = {tower: row.metrics["macro_f1"] for tower, row in rows.items()}
    assert reached["oracle"] > 0.95 and rows["oracle"].oracle["macro_f1"] == 1
    assert reached["random"] + 0.2 < reached["logmel"] < reached["oracle"]
    chance = rows["random"].chance
    assert reached["random"] == pytest.approx(chance["macro_f1"], abs=0.12)  # 60 windows, some 9 hits a class
    assert rows["random"].metrics["map"] == pytest.approx(chance["map"], abs=0.1)
    assert chance["macro_f1"] < 0.3 and chance["macro_f1_everything"] == pytest.approx(0.21, abs=0.06)
    for row in rows.values():
        low, high = row.interval["macro_f1"]
        assert low <= row.metrics["macro_f1"] <= high and row.status == "partial"
        assert row.protocol.startswith(f"{subset}, windows of 1 s, probe l3 on frozen embeddings, strong labels")
        assert row.coverage["clips"] == row.coverage["listed"] == 12 and row.coverage["without_events"] == 1
        assert row.predictions is not None
        for figure in ("macro_f1", "micro_f1"):
            mean = float(row.predictions[figure].to_numpy().mean())
            assert mean == pytest.approx(row.metrics[figure], abs=1e-6)


def test_words_alone_find_what_the_oracle_knows(data: Path) -> None:
    """Every figure is at the ceiling where the events lie on the grid."""
    row = measure(data, probe="zero-shot")
    for figure in ("macro_f1", "micro_f1", "event_macro_f1", "event_micro_f1", "psds1", "psds2", "map", "auc"):
        assert row.metrics[figure] == row.oracle[figure] == 1, figure
    assert row.config["recipe"] == {"texts": ["This is a sound of {}."]}


def test_events_off_the_grid_cost_the_ceiling_of_events_but_not_of_segments(tmp_path: Path) -> None:
    """They begin 0.4 s into a window, and the collar is 0.2 s."""
    row = measure(write_desed(tmp_path, shift=0.4, media=False), probe="zero-shot")
    assert row.oracle["macro_f1"] == row.metrics["macro_f1"] == 1
    assert row.oracle["event_macro_f1"] == row.metrics["event_macro_f1"] == 0
    assert 0 < row.oracle["psds1"] < 1


def test_labels_of_whole_files_train_a_probe_too(data: Path) -> None:
    strong, weak = (measure(data, "logmel", labels=labels) for labels in ("strong", "weak"))
    assert weak.metrics["macro_f1"] > weak.chance["macro_f1"] + 0.1
    assert weak.config["chosen"]["train_part"] == "weak" and weak.config["chosen"]["train_files"] == FILES["weak"]
    assert strong.config["chosen"]["train_part"] == "synth21-train"
    assert "weak labels" in weak.protocol


def test_what_is_measured_neither_trains_nor_chooses(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are watched by their embedding: a number for each file's part."""
    seen: list[list[set[int]]] = []

    def watched(recipe: Recipe, train: Samples, valid: Samples, classes: int, **rest: Any) -> Probe:
        seen.append([{int(x) for x in held.features_ND[:, 0]} for held in (train, valid)])
        return fit_probe(recipe, train, valid, classes, **rest)

    def numbered(encoder: Any, modality: str, items: Any, *rest: Any) -> np.ndarray:
        parts = list(PARTS)
        own = [parts.index(key.split()[0]) * 1000 + int(key.split()[1].split("-")[-1][:-4]) for key in items.keys]
        return np.array(own, dtype=np.float32)[:, None]

    monkeypatch.setattr(module, "fit_probe", watched)
    monkeypatch.setattr(module, "embed_items", numbered)
    thresholds: list[int] = []
    monkeypatch.setattr(
        module, "best_thresholds", lambda scores, truth: thresholds.append(len(truth)) or np.full(len(CLASSES), 0.5)
    )
    measure(data)
    ((train, valid),) = seen
    place = list(PARTS).index("synth21-train")
    assert {number // 1000 for number in train | valid} == {place} and not train & valid
    assert len(train | valid) == FILES["synth21-train"] and len(valid) >= 3
    assert set(thresholds) == {5 * len(valid)}  # of the same windows, for chance too


def test_the_drawn_tenth_has_every_class(data: Path) -> None:
    whole = read_part(data, "synth21-train")
    for seed in range(5):
        train, valid = drawn_tenth(whole, seed)
        assert valid.labels().any(axis=0).all() and not set(train.names) & set(valid.names)
        assert 3 <= len(valid.names) <= 3 + len(CLASSES)
    with pytest.raises(BenchError, match=r"no file of synth21-train with .* is there; want the whole set"):
        drawn_tenth(whole.take([0, 1]), 0)
    every = tuple(event._replace(label=label) for label, event in zip(range(10), whole.events[0] * 4, strict=False))
    with pytest.raises(BenchError, match="1 files of synth21-train are too few"):
        drawn_tenth(replace(whole, names=("a.wav",), events=(every,)), 0)


def test_a_measured_sound_that_trains_is_refused(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "copy")
    paths = [read_part(tmp_path / "copy", part).paths[0] for part in ("synth21-val", "synth21-train")]
    shutil.copy(*paths)
    with pytest.raises(BenchError, match=r"synth21-train-0\.wav: the same sound as .*synth21-val-0\.wav"):
        measure(tmp_path / "copy", "logmel")


def test_files_that_are_missing_are_counted_and_none_is_a_row_without_a_number(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "copy")
    paths = read_part(tmp_path / "copy", "real-val").paths
    for path in paths[1:]:
        path.unlink()
    row = measure(tmp_path / "copy", "logmel", subset="real-val")
    assert row.status == "partial" and (row.coverage["clips"], row.coverage["listed"]) == (1, 12)
    assert len(row.coverage["missing_classes"]) == 7 and row.coverage["classes"] == 3
    paths[0].unlink()
    with pytest.raises(NeedsError, match=r"not one of the 12 files of metadata/validation/validation\.tsv") as caught:
        measure(tmp_path / "copy", "logmel", subset="real-val")
    assert caught.value.expected[0] == "audio/validation/validation/real-val-0.wav"
    assert measure(tmp_path / "copy", "oracle", subset="real-val").coverage["clips"] == 12  # it looks at none
    shutil.copy(data / paths[-1].relative_to(tmp_path / "copy"), paths[-1])
    with pytest.raises(BenchError, match="not one event is in the files of real-val that are there"):
        measure(tmp_path / "copy", "logmel", subset="real-val")


def test_a_row_is_whole_only_with_all_that_trains_and_chooses(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the sets published as small as ours; a file cut off before its last event counts as missing, too."""
    for part, files in FILES.items():
        monkeypatch.setitem(PARTS, part, replace(PARTS[part], official=files))
    assert measure(data).status == measure(data, labels="weak").status == "ok"
    shutil.copytree(data, tmp_path / "copy")
    listings = {part: read_part(tmp_path / "copy", part) for part in ("weak", "synth21-train", "synth21-val")}
    listings["weak"].paths[0].unlink()
    row = measure(tmp_path / "copy", "logmel", labels="weak")
    assert row.status == "partial" and (row.coverage["weak"], row.coverage["weak_listed"]) == (19, 20)
    assert measure(tmp_path / "copy", "logmel").status == "ok"  # weak labels are not asked for
    path = listings["synth21-val"].paths[0]
    soundfile.write(path, soundfile.read(path)[0][: SAMPLE_RATE // 2], SAMPLE_RATE)
    row = measure(tmp_path / "copy", "logmel")
    assert row.status == "partial" and row.coverage["events_beyond_end"] > 0
    shutil.copy(data / path.relative_to(tmp_path / "copy"), path)
    listings["synth21-train"].paths[0].unlink()
    assert measure(tmp_path / "copy", "logmel").status == "partial"


class Words:
    """Hears how loud a window is, and knows what it was asked."""

    name, fingerprint, sample_rate = "words", "words", SAMPLE_RATE

    def __init__(self) -> None:
        self.sounds, self.texts = 0, []

    def embed_audio(self, sounds: list[np.ndarray], sample_rate: int) -> np.ndarray:
        self.sounds += len(sounds)
        return np.array([[sound.std(), 1.0] for sound in sounds])

    def embed_text(self, texts: list[str]) -> np.ndarray:
        self.texts += texts
        return np.ones((len(texts), 2))


def test_embeddings_are_kept_and_classes_asked_by_their_words(data: Path, tmp_path: Path) -> None:
    encoder = Words()
    for _ in range(2):
        measure_desed(DesedConfig(data=data, probe="zero-shot", template="bare", cache=tmp_path), encoder)
    kept = encoder.sounds
    assert kept == 5 * (FILES["synth21-val"] + len(drawn_tenth(read_part(data, "synth21-train"), 0)[1].names))
    assert "Alarm bell ringing" in encoder.texts
    measure_desed(DesedConfig(data=data, cache=tmp_path), encoder)
    assert encoder.sounds > kept  # what trains was not embedded yet
    with pytest.raises(BenchError, match="logmel embeds no text"):
        measure(data, "logmel", probe="zero-shot")


def test_what_is_not_offered_is_refused(data: Path) -> None:
    for change, message in (
        ({"subset": "train"}, "subset is 'train', want one of synth21-val, real-val, public-eval"),
        ({"labels": "some"}, "labels is 'some', want one of strong, weak"),
        ({"probe": "svm"}, "probe is 'svm'"),
        ({"seed": -1}, "seed is -1, want 0 to"),
    ):
        with pytest.raises(ValueError, match=message):
            DesedConfig(data=data, **change)
    assert not {name for name in DesedConfig.__dataclass_fields__ if "threshold" in name}


def test_a_run_is_written_told_and_compared(data: Path, tmp_path: Path, run_bench: Call) -> None:
    files = {tower: tmp_path / f"{tower}.json" for tower in ("random", "oracle")}
    for tower, out in files.items():
        code, told, _ = run_bench("desed", "--data", data, "--tower", tower, "--out", out, "--subset", "real-val")
        assert code == 0 and "macro_f1_without_missed" in told and "status: partial" in told
    row = json.loads(files["oracle"].read_text(encoding="utf-8"))
    assert set(row["config"]["chosen"]["thresholds"]) == set(CLASSES) == set(row["by_class"])
    assert str(tmp_path) not in files["oracle"].read_text(encoding="utf-8")
    assert str(data) not in files["oracle"].read_text(encoding="utf-8")
    code, told, _ = run_bench("compare", files["random"], files["oracle"], "--json")
    found = json.loads(told)
    assert code == 0 and found["metric"] == "macro_f1" and found["difference"] > 0.3 and found["p"] < 0.01
    assert "| oracle | macro_f1 |" in run_bench("table", files["oracle"])[1]


def test_damage_and_absence_end_in_a_line(data: Path, tmp_path: Path, run_bench: Call) -> None:
    code, told, _ = run_bench("desed", "--data", tmp_path / "nothing", "--tower", "logmel", "--json")
    assert code == 1 and json.loads(told)["status"] == "needs-data" and json.loads(told)["metrics"] == {}
    code, told, _ = run_bench("desed", "--data", data, "--tower", f"clap:{tmp_path}/music")
    assert code == 1 and "needs-weights" in told and str(tmp_path) not in told.splitlines()[0]
    assert run_bench("desed", "--data", data, "--tower", "logmel", "--subset", "all")[0] == 2
    (tmp_path / "secret.wav").touch()
    write_part(tmp_path / "set", "synth21-val")
    table = tmp_path / "set" / PARTS["synth21-val"].table
    table.write_text(
        table.read_text(encoding="utf-8").replace("synth21-val-3.wav", "../../secret.wav"), encoding="utf-8"
    )
    code, told, err = run_bench("desed", "--data", tmp_path / "set", "--tower", "logmel")
    assert code == 1 and "want a plain file name" in err and len(err.strip().splitlines()) == 1 and not told


def test_a_truncated_sound_is_named(data: Path, tmp_path: Path, run_bench: Call) -> None:
    shutil.copytree(data, tmp_path / "copy")
    path = read_part(tmp_path / "copy", "synth21-val").paths[2]
    path.write_bytes(path.read_bytes()[:20])
    code, _, err = run_bench("desed", "--data", tmp_path / "copy", "--tower", "logmel")
    assert code == 1 and "synth21-val-2.wav: not readable as sound" in err and len(err.strip().splitlines()) == 1
    soundfile.write(path, np.zeros(0), SAMPLE_RATE)
    assert "holds 0 s of sound" in run_bench("desed", "--data", tmp_path / "copy", "--tower", "logmel")[2]
