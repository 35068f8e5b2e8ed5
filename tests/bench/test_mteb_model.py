"""A tower as a model of MTEB: its own evaluation runs on tasks made in memory, sounds at several rates."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from torch.utils.data import DataLoader

from unibrivl.bench.encoders import KnownEncoder, LogMelEncoder
from unibrivl.bench.errors import BenchError, NeedsError
from unibrivl.bench.mteb_model import MtebModel

from ..conftest import picture
from .esc_folder import SAMPLE_RATE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
WORDS = {"a low tone": 300.0, "a high tone": 3000.0}


class Ear:
    """Somebody's own encoder: where a sound's energy lies, and which of its words a text is."""

    name, fingerprint, sample_rate = "an ear: mine", "v1", 8000

    def embed_audio(self, sounds: list[np.ndarray], sample_rate: int) -> np.ndarray:
        assert sample_rate == 8000
        powers = [np.abs(np.fft.rfft(sound[:4000], 4000)) for sound in sounds]  # 2 Hz a bin
        return np.array([[power[:1000].sum(), power[1000:].sum()] for power in powers])

    def embed_text(self, texts: list[str]) -> np.ndarray:
        return np.array([[1.0, 0.2] if text == "a low tone" else [0.2, 1.0] for text in texts])


def wav(frequency: float, seed: int, sample_rate: int = SAMPLE_RATE) -> dict[str, Any]:
    """Return a sound as a data set stores it; at another rate it is another file of about the same sound."""
    data = io.BytesIO()
    time = np.arange(sample_rate // 2) / sample_rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    soundfile.write(data, 0.3 * np.sin(2 * np.pi * frequency * time) + 0.01 * noise, sample_rate, format="WAV")
    return {"bytes": data.getvalue(), "path": None}


def sounds(count: int) -> tuple[list[dict[str, Any]], list[int]]:
    labels = [number % 2 for number in range(count)]
    frequencies = list(WORDS.values())
    rates = (16_000, 22_050, 44_100)
    return [wav(frequencies[label], n, rates[n % 3]) for n, label in enumerate(labels)], labels


def metadata(name: str, kind: str, modalities: list[str], category: str, score: str = "accuracy") -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        type=kind, name=name, main_score=score, modalities=modalities, category=category, description="Made in memory.",
        reference=None, dataset={"path": "NA", "revision": "NA"}, eval_splits=["test"], eval_langs=["eng-Latn"],
        date=None, domains=None, task_subtypes=None, license=None, annotations_creators=None, dialect=None,
        sample_creation=None, bibtex_citation=None,
    )  # type: ignore[call-arg]  # fmt: skip


def zero_shot_task() -> Any:
    from datasets import Audio, Dataset, DatasetDict
    from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification

    class Tones(AbsTaskZeroShotClassification):
        metadata = metadata("Tones", "AudioZeroshotClassification", ["audio", "text"], "a2t")
        input_column_name = "audio"

        def load_data(self, **kwargs: Any) -> None:
            made, labels = sounds(12)
            data = Dataset.from_dict({"audio": made, "label": labels}).cast_column("audio", Audio())
            self.dataset, self.data_loaded = DatasetDict({"test": data}), True

        def get_candidate_labels(self) -> list[str]:
            return list(WORDS)

    return Tones()


def classification_task() -> Any:
    from datasets import Audio, Dataset, DatasetDict
    from mteb.abstasks.classification import AbsTaskClassification

    class ToneClasses(AbsTaskClassification):
        metadata = metadata("ToneClasses", "AudioClassification", ["audio"], "a2c")
        input_column_name = "audio"

        def load_data(self, **kwargs: Any) -> None:
            made, labels = sounds(24)
            data = Dataset.from_dict({"audio": made, "label": labels}).cast_column("audio", Audio())
            parts = {"train": data.select(range(16)), "test": data.select(range(16, 24))}
            self.dataset, self.data_loaded = DatasetDict(parts), True

    return ToneClasses()


def retrieval_task() -> Any:
    """Return a task in which each sound asks for one of four pictures."""
    from datasets import Audio, Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

    class Pictures(AbsTaskRetrieval):
        metadata = metadata("Pictures", "Any2AnyRetrieval", ["audio", "image"], "a2i", "ndcg_at_10")

        def load_data(self, **kwargs: Any) -> None:
            names = [f"q{n}" for n in range(4)]
            queries = Dataset.from_dict({"id": names, "audio": sounds(4)[0]}).cast_column("audio", Audio())
            pictures = [Image.fromarray(picture(n)) for n in range(4)]
            corpus = Dataset.from_dict({"id": [f"d{n}" for n in range(4)], "image": pictures})
            relevant = {f"q{n}": {f"d{n}": 1} for n in range(4)}
            split = RetrievalSplitData(queries=queries, corpus=corpus, relevant_docs=relevant, top_ranked=None)
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    return Pictures()


def scores(model: MtebModel, task: Any) -> dict[str, Any]:
    import mteb

    result = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    assert not result.exceptions
    return result.task_results[0].scores["test"][0]


def test_words_tell_sounds_apart_in_mteb() -> None:
    assert scores(MtebModel(Ear()), zero_shot_task())["accuracy"] == 1


def test_mteb_trains_a_classifier_on_the_baseline() -> None:
    assert scores(MtebModel("logmel"), classification_task())["accuracy"] == 1


def test_a_run_is_a_model_of_mteb(run: Path) -> None:
    model = MtebModel(str(run))
    found = scores(model, retrieval_task())
    assert 0.4 < found["ndcg_at_10"] <= 1  # four answers: at worst the fourth, 1 / log2(5) = 0.43
    assert model.mteb_model_meta.modalities[:2] == ["audio", "image"]


def test_mteb_takes_the_model_for_one_of_its_own() -> None:
    from mteb.models import ModelMeta
    from mteb.models.models_protocols import EncoderProtocol

    model = MtebModel(Ear())
    assert isinstance(model, EncoderProtocol)
    meta = model.mteb_model_meta
    assert ModelMeta.model_validate(meta.model_dump()) == meta
    assert (meta.name, meta.modalities) == ("unibrivl/an-ear-mine", ["audio", "text"])
    assert len(meta.revision or "") == 40 and meta.revision != MtebModel(LogMelEncoder()).mteb_model_meta.revision
    assert MtebModel(Ear(), name="lab/ear").mteb_model_meta.name == "lab/ear"
    ones = np.eye(2)
    assert model.similarity(ones, 3 * ones).tolist() == [[1, 0], [0, 1]]
    assert model.similarity_pairwise(ones, ones[::-1].copy()).tolist() == [0, 0]


def embedded(model: MtebModel, *batches: dict[str, Any], **options: Any) -> np.ndarray:
    class Task:
        name = "a task"

    return model.encode(DataLoader(list(batches), batch_size=None), task_metadata=Task, **options)


def test_a_sound_is_the_same_as_a_file_and_as_an_array(tmp_path: Path) -> None:
    stored = wav(300, 1, 22_050)
    (tmp_path / "a.wav").write_bytes(stored["bytes"])
    array, rate = soundfile.read(io.BytesIO(stored["bytes"]), dtype="float32")
    found = embedded(
        MtebModel(Ear()), {"audio": [stored]}, {"audio": [{"path": str(tmp_path / "a.wav"), "bytes": None}]},
        {"audio": [{"array": array, "sampling_rate": rate}]},
    )  # fmt: skip
    assert found.shape == (3, 2) and found.dtype == np.float32
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    (again,) = embedded(MtebModel(Ear()), {"audio": [wav(300, 1, 44_100)]})
    assert found[0][0] / found[0][1] > 2 and again[0] / again[1] > 2  # low, at every rate


def test_an_item_of_two_media_is_the_sum_of_both() -> None:
    item = {"audio": [wav(300, 1)], "text": ["a high tone"]}
    audio, text = (embedded(MtebModel(Ear()), {name: item[name]})[0] for name in ("audio", "text"))
    both = embedded(MtebModel(Ear()), item)[0]
    # float32 sums of two unit vectors
    assert np.allclose(both, audio / np.linalg.norm(audio) + text / np.linalg.norm(text), atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"image": [Image.new("RGB", (4, 4))]}, "an ear: mine embeds no image; it embeds audio and text"),
        ({"video": [0]}, "a task: its items are video; an ear: mine embeds audio and text"),
        ({"id": ["a"]}, "a task: its items are id; an ear"),
        ({"audio": [{"bytes": b"no sound", "path": "a.wav"}]}, "a task: a.wav: not readable as sound"),
        ({"audio": [wav(300, 1, 1) | {"path": "a.wav"}]}, "a task: a.wav: holds no sound"),
        ({"audio": [{"array": np.zeros((2, 9)), "sampling_rate": 9}]}, r"shape \(2, 9\), want \(samples,\)"),
    ],
)
def test_what_the_tower_does_not_take_is_one_line(batch: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=message) as caught:
        embedded(MtebModel(Ear()), batch)
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="precision is 'int8', want float32"):
        embedded(MtebModel(Ear()), {"text": ["a low tone"]}, precision="int8")
    with pytest.raises(BenchError, match="has no items to embed"):
        embedded(MtebModel(Ear()))
    with pytest.raises(BenchError, match="oracle is told the truth by our own tables"):
        MtebModel(KnownEncoder(name="oracle"))
    with pytest.raises(NeedsError, match="neither a run nor an index"):
        MtebModel(str(tmp_path))


def test_without_mteb_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(BenchError, match=r"mteb is not installed: run pip install 'unibrivl\[mteb\]'"):
        MtebModel(Ear())
