"""One table from Python, with an encoder of one's own; and the examples of docs/bench.md, which are run."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unibrivl.bench import folds
from unibrivl.bench.doctor import DATASETS
from unibrivl.bench.encoders import open_encoder
from unibrivl.bench.errors import BenchError, NeedsError
from unibrivl.bench.folds import FrozenConfig, measure_frozen
from unibrivl.bench.registry import REGISTRY, TableConfig, measure_table
from unibrivl.bench.urbansound8k import FOLDS, list_urbansound8k

from .conftest import SMALL
from .esc_folder import write_set
from .table_sets import write_urbansound8k, write_vggsound
from .test_mteb_model import classification_task

EXAMPLES = re.findall(
    r"^```python\n(.*?)^```$",
    (Path(__file__).parents[2] / "docs" / "bench.md").read_text(encoding="utf-8"),
    flags=re.DOTALL | re.MULTILINE,
)


class Crossings:
    """Somebody's own encoder: how often a sound crosses zero, and how dark a picture is."""

    name, fingerprint, sample_rate = "crossings", "v1", 8000

    def embed_audio(self, sounds: list[np.ndarray], sample_rate: int) -> np.ndarray:
        assert sample_rate == 8000
        return np.array([[10 * np.abs(np.diff(np.sign(sound))).mean(), 1.0] for sound in sounds])

    def embed_image(self, pictures: list[np.ndarray]) -> np.ndarray:
        return np.array([[float(picture[:, :, 2].mean()), float(picture.mean())] for picture in pictures])


def test_a_whole_table_is_measured_with_ones_own_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(folds.PROBES, "l3", SMALL)
    seen: list[str] = []
    result = measure_table(
        "urbansound8k", write_urbansound8k(tmp_path / "us8k"), Crossings(), TableConfig(cache=tmp_path / "kept"),
        lambda done, total, text: seen.append(text),
    )  # fmt: skip
    assert (result.tower, result.bench, result.status) == ("crossings", "urbansound8k", "ok")
    assert result.metrics["accuracy"] > 0.9 and len(result.metrics["accuracy_by_fold"]) == 10
    assert result.predictions is not None and len(result.predictions) == 40
    assert {"audio", "fold 10"} <= set(seen) and list((tmp_path / "kept").rglob("*.npy"))


def test_pictures_and_sounds_of_ones_own_object_are_ranked(tmp_path: Path) -> None:
    result = measure_table("vggsound-retrieval", write_vggsound(tmp_path / "vgg", clips=2), Crossings())
    assert result.coverage["clips"] == 6 and 0 < result.metrics["audio_to_image"]["instance"]["mrr"] <= 1


def test_the_registry_measures_what_the_commands_do(tmp_path: Path) -> None:
    data, encoder = write_urbansound8k(tmp_path / "us8k"), open_encoder("oracle", seed=3)
    config = TableConfig(probe="zero-shot", seed=3)
    own = measure_frozen(
        "urbansound8k", list_urbansound8k(data), encoder, FOLDS, FrozenConfig(probe="zero-shot", seed=3)
    )
    assert measure_table("urbansound8k", data, encoder, config).as_dict() == own.as_dict()


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="there is no table 'mnist'; want one of esc50, esc10, "):
        measure_table("mnist", tmp_path, Crossings())
    with pytest.raises(NeedsError, match="want ESC-50's folder"):
        measure_table("esc50", tmp_path, Crossings())
    with pytest.raises(ValueError, match="probe is 'svm'"):
        TableConfig(probe="svm")
    with pytest.raises(ValueError, match="seed is -1, want 0 to"):
        TableConfig(seed=-1)


def test_every_table_has_a_data_set_that_the_doctor_knows() -> None:
    names = [entry.name for entry in REGISTRY]
    assert len(set(names)) == len(names)
    known = {dataset.name: dataset.bench for dataset in DATASETS}
    for entry in REGISTRY:
        assert (entry.bench or entry.name) in known[entry.dataset] and entry.place.name == entry.dataset


def example(word: str) -> str:
    (text,) = [text for text in EXAMPLES if word in text]
    return text


def test_the_example_of_an_own_encoder_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(folds.PROBES, "l3", SMALL)
    write_set(tmp_path / "ESC-50", table="meta/esc50.csv")
    told: dict[str, Any] = {}
    exec(example("measure_table"), told)
    assert told["result"].tower == "loudness" and str(told["result"].metrics["accuracy"]) in capsys.readouterr().out
    assert (tmp_path / "loudness.json").is_file()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_example_of_mteb_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its task is one made in memory, under the name by which MTEB would fetch another."""
    import mteb

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mteb, "get_tasks", lambda tasks: [classification_task()])
    text = example("MtebModel")
    assert len(text.splitlines()) <= 12
    exec(text, told := {})  # type: ignore[var-annotated]
    assert told["model"].mteb_model_meta.name == "lab/baseline" and "ToneClasses 1.0" in capsys.readouterr().out
