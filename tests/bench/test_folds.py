"""Frozen embeddings on official folds: ceiling and chance, folds kept apart, words without training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from unibrivl.bench import folds as module
from unibrivl.bench.encoders import open_encoder
from unibrivl.bench.errors import BenchError, NeedsError
from unibrivl.bench.esc50 import list_esc50
from unibrivl.bench.folds import FoldedSounds, FrozenConfig, check_folds, measure_frozen
from unibrivl.bench.probes import Point, Probe, Recipe, Samples, fit_probe
from unibrivl.bench.urbansound8k import list_urbansound8k

from .esc_folder import write_set
from .table_sets import write_urbansound8k

SMALL = Recipe(hidden=((16,),), lrs=(1e-2,), batch_size=16, epochs=60, patience=20, grid_on_first_split=True)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that trains in a tenth of a second."""
    monkeypatch.setitem(module.PROBES, "l3", SMALL)


@pytest.fixture(scope="module")
def esc(tmp_path_factory: pytest.TempPathFactory) -> FoldedSounds:
    return list_esc50(write_set(tmp_path_factory.mktemp("esc") / "esc"))


@pytest.fixture(scope="module")
def us8k(tmp_path_factory: pytest.TempPathFactory) -> FoldedSounds:
    return list_urbansound8k(write_urbansound8k(tmp_path_factory.mktemp("us8k") / "us8k"))


def test_urbansound8k_is_read_in_its_layout(us8k: FoldedSounds) -> None:
    assert us8k.names == ("air_conditioner", "dog_bark") and us8k.official == tuple(range(1, 11))
    assert np.bincount(us8k.folds).tolist() == [0, *[4] * 10] and us8k.listed == 40
    assert us8k.load(0, 16_000).shape == (8000,) and us8k.load(0, 8000).shape == (4000,)
    assert len(set(us8k.groups)) == 40


@pytest.mark.parametrize("name", ["esc", "us8k"])
@pytest.mark.parametrize(("tower", "least", "most"), [("oracle", 1, 1), ("logmel", 0.95, 1), ("random", 0.2, 0.8)])
def test_ceiling_baseline_and_chance(
    name: str, tower: str, least: float, most: float, request: pytest.FixtureRequest
) -> None:
    """Forty coins lie between 0.2 and 0.8 but once in ten thousand."""
    data: FoldedSounds = request.getfixturevalue(name)
    result = measure_frozen(name, data, open_encoder(tower), data.official, FrozenConfig())
    assert least <= result.metrics["accuracy"] <= most
    assert result.status == "ok" and result.chance["accuracy"] == 0.5 and result.oracle == {"accuracy": 1.0}
    assert result.predictions is not None and result.predictions["accuracy"].to_numpy().mean() == pytest.approx(
        result.metrics["accuracy"], abs=1e-4
    )
    assert result.coverage == {"clips": 40, "listed": 40, "folds": list(data.official)}


def test_the_measured_fold_trains_and_chooses_nothing(esc: FoldedSounds, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[int], set[int], Any]] = []

    def watched(recipe: Recipe, train: Samples, valid: Samples, classes: int, **rest: Any) -> Probe:
        of = [{int(x) for x in held.features_ND[:, 0]} for held in (train, valid)]
        seen.append((of[0], of[1], rest["points"]))
        return fit_probe(recipe, train, valid, classes, **rest)

    monkeypatch.setattr(module, "fit_probe", watched)
    monkeypatch.setattr(module, "embed_items", lambda *a: np.stack([esc.folds, esc.targets], axis=1).astype(np.float32))
    measure_frozen("esc50", esc, open_encoder("logmel"), esc.official, FrozenConfig())
    assert [(train, valid) for train, valid, _ in seen] == [
        ({3, 4, 5}, {2}), ({1, 4, 5}, {3}), ({1, 2, 5}, {4}), ({1, 2, 3}, {5}), ({2, 3, 4}, {1}),
    ]  # fmt: skip
    assert seen[0][2] is None and seen[1][2] == [Point(hidden=(16,), lr=1e-2, init="xavier_uniform")]


def test_a_clip_is_what_its_windows_are_on_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two windows lean to one class and the third is sure of the other: more windows are wrong, the mean is right."""
    table = write_set(tmp_path / "esc")
    for path in sorted((table / "audio").iterdir()):
        sound, rate = soundfile.read(path)
        soundfile.write(path, np.tile(sound, 5), rate)  # 2.5 s: three windows
    data = list_esc50(table)
    windows = data.windows()
    assert windows.counts.tolist() == [3] * 40 and (np.bincount(windows.files) == 3).all()
    own = data.targets[windows.files]
    sure = np.tile([0.4, 0.4, 0.9], 40)
    scores = np.where(np.arange(2) == own[:, None], sure[:, None], 1 - sure[:, None])
    seen: list[int] = []

    class AsGiven:
        point = Point(hidden=(), lr=0, init="")

        def predict(self, features: np.ndarray) -> np.ndarray:
            return features

        def as_dict(self) -> dict[str, object]:
            return {}

    monkeypatch.setattr(module, "embed_items", lambda *a: scores.astype(np.float32))
    monkeypatch.setattr(
        module, "fit_probe", lambda r, train, valid, *a, **k: seen.append(len(valid.targets)) or AsGiven()
    )
    result = measure_frozen("esc50", data, open_encoder("logmel"), data.official, FrozenConfig(frames=True))
    assert (scores.argmax(axis=1) == own).mean() < 0.5 and result.metrics["accuracy"] == 1
    assert seen == [24] * 5 and result.config["frames"] and "windows of 1 s" in result.protocol


def test_windows_of_a_clip_train_a_probe(us8k: FoldedSounds, tmp_path: Path) -> None:
    """Kept apart from embeddings of whole clips."""
    for frames in (True, False):
        config = FrozenConfig(frames=frames, cache=tmp_path)
        result = measure_frozen("urbansound8k", us8k, open_encoder("logmel"), us8k.official, config)
        assert result.metrics["accuracy"] >= 0.95
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match="frames are for a probe"):
        FrozenConfig(probe="zero-shot", frames=True)


class Words:
    """Knows a low tone from a high one, and what they are called."""

    name, fingerprint, sample_rate = "words", "words", 16_000

    def __init__(self) -> None:
        self.told: list[str] = []

    def embed_audio(self, sounds: list[np.ndarray], sample_rate: int) -> np.ndarray:
        crossings = [(np.diff(np.sign(sound)) != 0).mean() for sound in sounds]
        return np.array([[1.0, 0.0] if share < 0.2 else [0.0, 1.0] for share in crossings])

    def embed_text(self, texts: list[str]) -> np.ndarray:
        self.told += texts
        return np.array([[1.0, 0.0] if "low" in text else [0.0, 1.0] for text in texts])


def test_zero_shot_asks_with_recorded_words(esc: FoldedSounds) -> None:
    encoder = Words()
    result = measure_frozen("esc50", esc, encoder, esc.official, FrozenConfig(probe="zero-shot", template="ensemble"))
    assert result.metrics["accuracy"] == result.metrics["accuracy_bare"] == result.metrics["accuracy_laion"] == 1
    assert {"low", "This is a sound of high.", "low can be heard"} <= set(encoder.told)
    assert result.config["templates"]["laion"] == ["This is a sound of {}."]
    assert "template ensemble" in result.protocol
    for tower, least, most in (("oracle", 1, 1), ("random", 0.1, 0.9)):
        known = measure_frozen("esc50", esc, open_encoder(tower), esc.official, FrozenConfig(probe="zero-shot"))
        assert least <= known.metrics["accuracy"] <= most


def test_a_tower_without_words_is_told_so(esc: FoldedSounds) -> None:
    with pytest.raises(BenchError, match="logmel embeds no text; it embeds audio"):
        measure_frozen("esc50", esc, open_encoder("logmel"), esc.official, FrozenConfig(probe="zero-shot"))


def test_what_is_not_offered_is_refused() -> None:
    """A random split among them: there is no way to ask for one."""
    with pytest.raises(ValueError, match="probe is 'svm', want one of l3, hear, zero-shot"):
        FrozenConfig(probe="svm")
    with pytest.raises(ValueError, match="template is 'x'"):
        FrozenConfig(template="x")
    with pytest.raises(ValueError, match="folds are"):
        check_folds((11,), tuple(range(1, 11)))
    assert not {name for name in FrozenConfig.__dataclass_fields__ if "split" in name or "share" in name}


def test_part_of_the_folds_or_files_is_partial(tmp_path: Path) -> None:
    root = write_urbansound8k(tmp_path / "us8k")
    next((root / "audio" / "fold2").iterdir()).unlink()
    data = list_urbansound8k(root)
    result = measure_frozen("urbansound8k", data, open_encoder("oracle"), (1, 2), FrozenConfig())
    assert result.status == "partial" and result.coverage == {"clips": 39, "listed": 40, "folds": [1, 2]}
    assert len(data.absent) == 1 and data.absent[0].startswith("audio/fold2/")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.wav,1,x,0,dog", "fold 'x', classID '0', want whole numbers"),
        ("../a.wav,1,1,0,dog", r"slice_file_name '\.\./a\.wav', want a plain file name"),
    ],
)
def test_a_table_that_is_not_the_official_one_is_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "metadata").mkdir()
    table = tmp_path / "metadata" / "UrbanSound8K.csv"
    table.write_text(f"slice_file_name,fsID,fold,classID,class\n{line}\n", encoding="utf-8")
    with pytest.raises(BenchError, match=message):
        list_urbansound8k(tmp_path)
    table.unlink()
    with pytest.raises(NeedsError, match=r"has no metadata/UrbanSound8K\.csv") as caught:
        list_urbansound8k(tmp_path)
    assert caught.value.status == "needs-data"


def test_embeddings_are_shared_by_tables_and_probes(esc: FoldedSounds, tmp_path: Path) -> None:
    class Counting(Words):
        def embed_audio(self, sounds: list[np.ndarray], sample_rate: int) -> np.ndarray:
            self.told += ["sound"] * len(sounds)
            return super().embed_audio(sounds, sample_rate)

    encoder = Counting()
    for probe in ("l3", "zero-shot"):
        measure_frozen("esc50", esc, encoder, esc.official, FrozenConfig(probe=probe, cache=tmp_path))
    assert encoder.told.count("sound") == 40


def test_the_real_esc10_beats_chance_by_its_spectrum_alone(folder: Callable[[str], Path]) -> None:
    """With a small probe on every fifth clip; the figure of the full protocol is in bench/results."""
    whole = list_esc50(folder("data") / "esc10")
    assert whole.dataset == "ESC-10" and len(set(whole.groups)) < 400 and not whole.absent
    some = np.arange(0, 400, 5)
    data = replace(
        whole, paths=tuple(whole.paths[n] for n in some), targets=whole.targets[some], folds=whole.folds[some],
        groups=tuple(whole.groups[n] for n in some),
    )  # fmt: skip
    result = measure_frozen("esc50", data, open_encoder("logmel"), data.official, FrozenConfig())
    assert result.metrics["accuracy"] > 0.2 and result.chance["accuracy"] == 0.1
    assert result.status == "partial" and result.coverage["clips"] == 80
