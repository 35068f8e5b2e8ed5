"""Questions in words are measured by captions, and where there are none an index says what stands in."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from unibrivl.index.build import IndexConfig, build_index
from unibrivl.index.captions import CAPTIONS, embed_captions, sample_texts
from unibrivl.index.changes import compact
from unibrivl.index.engine import Engine
from unibrivl.index.plan import SearchConfig
from unibrivl.index.question import Part, Question
from unibrivl.index.segment import Draft
from unibrivl.index.snapshot import open_snapshot
from unibrivl.model.embed import Encoder
from unibrivl.model.errors import TextError

FACTORY = SearchConfig(factory="IVF2,SQ8")


@dataclass
class Reader:
    """Reads text that has letters, in place of an encoder."""

    has_text: bool = True
    asked: list[str] = field(default_factory=list)

    def text(self, texts: list[str]) -> np.ndarray:
        if not all(any(map(str.isalpha, text)) for text in texts):
            raise TextError("no word")
        self.asked += texts
        return np.tile(np.float32([1, 0, 0, 0]), (len(texts), 1))


def draft(captions: list[str], labels: list[list[str]] | None = None) -> Draft:
    columns = {"caption": captions, "labels": labels or [[] for _ in captions]}
    rows = pa.table(columns, schema=pa.schema([("caption", pa.string()), ("labels", pa.list_(pa.string()))]))
    return Draft(Path("none"), "image", np.zeros((len(captions), 4), np.float16), rows)


def embed(reader: Reader, drafts: list[Draft], search: SearchConfig = FACTORY) -> dict[str, np.ndarray]:
    return embed_captions(reader, drafts, search, lambda done, total, text: None)  # type: ignore[arg-type]


def test_each_text_is_taken_once_and_labels_stand_in_for_captions() -> None:
    some = draft(["A dog", " A dog ", "", "", ""], [["Cat"], [], ["Dog", "Bark"], ["Dog", "Bark"], []])
    assert sorted(sample_texts([some, some], 0)) == ["A dog", "Dog, Bark"]
    many = draft([f"Caption {n}" for n in range(30_000)])
    texts = sample_texts([many], 1)
    assert len(set(texts)) == len(texts) == 2000 and texts == sample_texts([many], 1) != sample_texts([many], 2)


def test_what_cannot_be_read_is_left_out() -> None:
    reader, captions = Reader(), [f"Caption {n}" for n in range(40)] + ["17", "!"]
    found = embed(reader, [draft(captions)])
    assert found["text"].shape == (40, 4) and sorted(reader.asked) == sorted(captions[:40])


def test_nothing_is_read_where_nothing_is_measured() -> None:
    captions = [f"Caption {n}" for n in range(40)]
    for reader, search in ((Reader(has_text=False), FACTORY), (Reader(), SearchConfig())):
        assert embed(reader, [draft(captions)], search) == {} and reader.asked == []
    assert embed(Reader(), [draft(captions[:19])]) == {}


@pytest.fixture
def reading(one_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    """Make the encoder read texts: each is some vector of its own."""

    def text(self: Encoder, texts: list[str]) -> np.ndarray:
        seeds = [np.random.default_rng(list(text.encode())) for text in texts]
        found = np.stack([seed.standard_normal(self.dim) for seed in seeds]).astype(np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    plain = Encoder.fingerprints
    monkeypatch.setattr(Encoder, "has_text", True)
    monkeypatch.setattr(Encoder, "text", text)
    monkeypatch.setattr(Encoder, "fingerprints", lambda self: plain(self) | {"text": "t" * 64})
    return one_encoder


def ask(index: Path, encoder: Encoder) -> Any:
    monkey = Question(parts=(Part("text", "a monkey"),), to="image", k=3, distinct=False)
    return Engine(open_snapshot(index), encoder).ask(monkey)


def test_a_build_measures_words_and_compacting_says_what_stands_in(
    run: Path, shards: Path, tmp_path: Path, reading: Encoder
) -> None:
    out = tmp_path / "index"
    build_index(IndexConfig(run=run, shards=shards, out=out, search=FACTORY))
    evaluation = open_snapshot(out).evaluation
    for target in ("image", "audio"):
        told = evaluation["directions"][f"text>{target}"]
        assert (told["source"], told["queries"]) == (CAPTIONS, 12)  # half of the 24 captions verify
    assert "not_measured" not in evaluation
    assert open_snapshot(out).manifest["search"]["image"]["params"].keys() == {"audio", "image", "text"}
    answer = ask(out, reading)
    assert (answer.mode, answer.recall_note, answer.recall) == ("ann", "text>image, 10 answers", 1.0)
    compact(out, FACTORY)
    stands_in = "parameters of audio and image, the most thorough"
    assert open_snapshot(out).evaluation["not_measured"] == {"text>audio": stands_in, "text>image": stands_in}
    answer = ask(out, reading)
    assert answer.recall is None
    assert answer.recall_note == f"no text>image question was measured; it is searched with {stands_in}"
