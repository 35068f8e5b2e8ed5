"""Queries: the clip that was asked for comes first, and what does not belong together is refused."""

import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors import safe_open

from unibrivl.index import engine as module
from unibrivl.index.answers import QueryResult
from unibrivl.index.encoders import open_encoder
from unibrivl.index.errors import IndexMismatchError, IndexStoreError, QueryError
from unibrivl.index.query import Asked, QueryConfig, asked_of, run_query
from unibrivl.index.snapshot import open_snapshot, publish, read_manifest
from unibrivl.ingest.mux import write_video
from unibrivl.model.checkpoint import CHECKPOINT_FILE
from unibrivl.model.embed import Encoder
from unibrivl.model.errors import CheckpointError
from unibrivl.model.sealed import SEAL, write_sealed
from unibrivl.shards import ClipShards


@pytest.fixture
def stored(shards: Path, tmp_path: Path) -> tuple[dict[str, Any], Path, Path]:
    """Return one clip of the shards: its row, its picture and its sound as files without any loss."""
    with ClipShards(shards) as clips:
        sample, row = clips[11], clips.catalog.table.slice(11, 1).to_pylist()[0]
        Image.fromarray(sample.frame()).save(tmp_path / "question.png")
        soundfile.write(tmp_path / "question.wav", sample.audio(), 16_000, subtype="PCM_16")
    return row, tmp_path / "question.png", tmp_path / "question.wav"


def ask(index: Path, **options: Any) -> QueryResult:
    asked = {kind: (str(options.pop(kind)),) for kind in ("audio", "image", "text", "item") if kind in options}
    return run_query(QueryConfig(index=index, asked=asked_of(asked, {}), **options))


def test_a_stored_picture_finds_itself(index: Path, stored, one_encoder: Encoder) -> None:
    row, picture, _ = stored
    result = ask(index, image=picture, to="image", k=3)
    assert list(result.results) == ["image"]
    first, second, third = result.results["image"]
    assert (first.key, first.item_id, first.modality) == (row["key"], f"{row['key']}/image", "image")
    assert first.score == pytest.approx(1, abs=2e-3)
    assert first.score > second.score >= third.score
    assert [answer.rank for answer in (first, second, third)] == [1, 2, 3]
    for name in ("caption", "labels", "language", "split", "start_ms", "end_ms"):
        assert getattr(first, name) == row[name]
    part = {"modality": "image", "name": str(picture), "weight": 1.0, "minus": False}
    assert result.query == {
        "parts": [part], "to": "image", "k": 3, "fuse": "sum", "exact": False, "distinct": True, "near": None,
        "where": None,
    }  # fmt: skip


def test_a_clip_can_be_cut_out_of_its_shard(index: Path, stored, one_encoder: Encoder) -> None:
    answer = ask(index, image=stored[1], to="image", k=1).results["image"][0]
    assert answer.clip is not None and answer.duration_s == pytest.approx((answer.end_ms - answer.start_ms) / 1000)
    with Path(answer.clip["tar"]).open("rb") as file:
        file.seek(answer.clip["offset"])
        stretch = file.read(answer.clip["length"])
    with tarfile.open(fileobj=io.BytesIO(stretch)) as tar:
        assert tar.getnames() == [f"{answer.key}.{kind}" for kind in ("flac", "jpg", "json")]
        picture = tar.extractfile(f"{answer.key}.jpg")
        assert picture is not None
        assert hashlib.sha256(picture.read()).hexdigest() == stored[0]["frame_sha256"]


def test_a_stored_sound_finds_itself(index: Path, stored, one_encoder: Encoder) -> None:
    row, _, sound = stored
    result = ask(index, audio=sound, to="audio", k=2)
    assert result.results["audio"][0].key == row["key"]
    assert result.results["audio"][0].score == pytest.approx(1, abs=2e-3)
    assert [part["name"] for part in result.query["parts"]] == [str(sound)]


def test_both_modalities_are_searched_in_lists_of_their_own(index: Path, stored, one_encoder: Encoder) -> None:
    result = ask(index, audio=stored[2], k=100)
    assert set(result.results) == {"audio", "image"}
    for modality, answers in result.results.items():
        assert len(answers) == 24 and {answer.modality for answer in answers} == {modality}
        assert len({answer.key for answer in answers}) == 24
        scores = [answer.score for answer in answers]
        assert scores == sorted(scores, reverse=True)


def test_answers_are_those_of_a_scan_by_hand(index: Path, stored, encoder: Encoder, one_encoder: Encoder) -> None:
    found = ask(index, audio=stored[2], to="image", k=5).results["image"]
    segment = open_snapshot(index).items("image")
    sound = soundfile.read(stored[2], dtype="float32")[0]
    cosines = segment.vectors_ND.astype(np.float32) @ encoder.audio([sound])[0]
    best = np.argsort(-cosines)[:5]
    assert [answer.score for answer in found] == pytest.approx(cosines[best].tolist(), abs=2e-3)
    assert {answer.key for answer in found} == {segment.rows["key"][int(row)].as_py() for row in best}


def test_json_holds_plain_values(index: Path, stored, one_encoder: Encoder) -> None:
    result = ask(index, image=stored[1], k=2)
    value = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert set(value) == {
        "index", "snapshot", "encoder", "other_encoder", "query", "mode", "params", "recall", "recall_note", "recorded",
        "timings_ms", "partial", "filter", "calibration", "results", "merged",
    }  # fmt: skip
    assert (value["mode"], value["recall"], value["index"]) == ("exact", 1.0, str(index))
    assert value["snapshot"] == open_snapshot(index).id
    assert set(value["encoder"]) == {"audio", "image"}
    assert list(value["timings_ms"]) == ["open", "decode", "encode", "search", "refine", "metadata"]
    assert set(value["filter"]) == {"matched", "strategy"}
    assert all(ms >= 0 for ms in value["timings_ms"].values())
    assert set(value["results"]["audio"][0]) == {
        "rank", "item_id", "modality", "score", "calibrated", "percentile", "parts", "fused", "key", "caption",
        "labels", "language", "split", "group", "media_id", "start_ms", "end_ms", "duration_s", "shard", "clip",
        "same_content", "similar", "duplicate_of",
    }  # fmt: skip
    assert isinstance(value["results"]["audio"][0]["labels"], list)


def test_the_same_content_is_one_answer(
    index: Path, stored, one_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six clips share the content of the answer; one is listed, the five others are counted."""
    snapshot = open_snapshot(index)
    segment = snapshot.of("image")[0]
    vectors = np.array(segment.vectors_ND)
    number = segment.rows["key"].to_pylist().index(stored[0]["key"])
    hashes = segment.rows["content_sha256"].to_pylist()
    for other in (0, 3, 5, 7, 20):
        assert other != number
        vectors[other], hashes[other] = vectors[number], hashes[number]
    column = segment.rows.schema.get_field_index("content_sha256")
    object.__setattr__(segment, "vectors_ND", vectors)
    object.__setattr__(segment, "rows", segment.rows.set_column(column, "content_sha256", [hashes]))
    monkeypatch.setattr(module, "open_snapshot", lambda root: snapshot)
    found = ask(index, image=stored[1], to="image", k=100).results["image"]
    assert len(found) == 19 and found[0].same_content == 5
    assert all(answer.same_content == 0 for answer in found[1:])
    assert ask(index, image=stored[1], to="image", k=1).results["image"][0].same_content == 5


SOUND = Asked(kind="audio", value="a")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 0}, "k is 0, want 1 to 10000"), ({"k": 10_001}, "k is 10001"),
        ({"near": 0.2}, "near is 0.2, want 0.5 to 1"),
        ({"to": "text"}, "to is 'text', want image or audio or both"), ({"fuse": "max"}, "fuse is 'max'"),
        ({"asked": (SOUND,) * 17}, "parts are 17, want 1 to 16"),
        ({"asked": (replace(SOUND, weight=-1.0),)}, "weight of part 1 is -1.0, want 0 or more"),
        ({"asked": (replace(SOUND, weight=float("nan")),)}, "weight of part 1 is nan"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        QueryConfig(index=Path("index"), **{"asked": (SOUND,)} | options)


def test_parts_that_only_take_away_are_no_question() -> None:
    with pytest.raises(QueryError, match="only take away"):
        QueryConfig(index=Path("index"), asked=(replace(SOUND, minus=True),))


def test_weights_go_to_the_parts_of_their_kind() -> None:
    asked = asked_of({"audio": ("a", "b", "c"), "minus_text": ("x",)}, {"audio": (2.0, 3.0), "minus_text": (0.5,)})
    assert [(a.kind, a.value, a.weight, a.minus) for a in asked] == [
        ("audio", "a", 2, False), ("audio", "b", 3, False), ("audio", "c", 3, False), ("text", "x", 0.5, True),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="give something to search with"):
        asked_of({}, {})
    with pytest.raises(ValueError, match="weight names 'image'"):
        asked_of({"audio": ("a",)}, {"image": (1.0,)})
    with pytest.raises(ValueError, match="weight has 2 numbers for 1 of audio"):
        asked_of({"audio": ("a",)}, {"audio": (1.0, 2.0)})


def test_files_that_are_no_query_are_named(index: Path, tmp_path: Path, one_encoder: Encoder) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not a sound")
    write_video(tmp_path / "mute.mp4", frames=[np.zeros((32, 32, 3), np.uint8)] * 3, audio=None)
    for name, words in {
        "missing.wav": "there is no such file", "empty.wav": "0 bytes", "text.wav": "not a readable sound",
        "mute.mp4": "has no sound",
    }.items():  # fmt: skip
        with pytest.raises(QueryError, match=f"{tmp_path / name}: .*{words}"):
            ask(index, audio=tmp_path / name)
    with pytest.raises(QueryError, match="not a readable picture"):
        ask(index, image=tmp_path / "text.wav")


def test_a_sound_of_no_numbers_is_named(index: Path, tmp_path: Path, one_encoder: Encoder) -> None:
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    with pytest.raises(QueryError, match=r"nan\.wav: .*finite"):
        ask(index, audio=tmp_path / "nan.wav")


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(IndexStoreError, match="is no index; make one with"):
        ask(tmp_path, audio=tmp_path / "a.wav")


@pytest.fixture
def other_run(run: Path, tmp_path: Path) -> Path:
    """Return a copy of the run with one weight changed, as another training would have it."""
    other = tmp_path / "other"
    other.mkdir()
    with safe_open(run / CHECKPOINT_FILE, framework="pt") as file:
        # embedding reads no optimiser state
        tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith("model.")}  # noqa: SIM118
        metadata = {name: value for name, value in file.metadata().items() if name != SEAL}
    tensors["model.g.3.bias"] = tensors["model.g.3.bias"] + torch.tensor(0.01)
    write_sealed(other / CHECKPOINT_FILE, tensors, metadata)
    return other


def test_an_index_of_another_model_is_refused_and_both_are_named(
    index: Path, run: Path, other_run: Path, stored, encoder: Encoder
) -> None:
    built = encoder.fingerprints()["audio"][:12]
    with pytest.raises(
        IndexMismatchError, match=rf"{index} was built by the audio model {built}, {other_run} holds [0-9a-f]{{12}};"
    ) as caught:
        ask(index, image=stored[1], run=other_run)
    assert str(caught.value).count(built) == 1


def test_an_encoder_that_computes_something_else_is_refused(
    index: Path, encoder: Encoder, one_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    canaries = encoder.canaries()
    turned = canaries | {"image": np.roll(canaries["image"], 1)}
    monkeypatch.setattr(Encoder, "canaries", lambda self: turned)
    with pytest.raises(IndexMismatchError, match=r"embeds the image canary of .* at cosine 0\.\d{4}, want 0\.999"):
        open_encoder(open_snapshot(index), None)


def test_a_moved_index_finds_its_run_by_option(index: Path, run: Path, stored, tmp_path: Path) -> None:
    moved = tmp_path / "deep" / "moved"
    shutil.copytree(index, moved)
    with pytest.raises(CheckpointError, match="is no run"):
        ask(moved, image=stored[1])
    assert ask(moved, image=stored[1], run=run).results["image"][0].key == stored[0]["key"]


def test_index_and_run_that_move_together_find_each_other(index: Path, run: Path, stored, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(index, home / "index")
    (home / "run").mkdir()
    (home / "run" / CHECKPOINT_FILE).hardlink_to(run / CHECKPOINT_FILE)
    assert ask(home / "index", image=stored[1]).results["image"][0].key == stored[0]["key"]


def test_an_index_reached_by_a_link_finds_its_run(index: Path, stored, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(index)
    assert ask(tmp_path / "link", image=stored[1]).results["image"][0].key == stored[0]["key"]


def test_an_index_without_the_wanted_modality_is_named(
    index: Path, stored, one_encoder: Encoder, tmp_path: Path
) -> None:
    shutil.copytree(index, tmp_path / "sounds")
    manifest = read_manifest(index)[1]
    publish(tmp_path / "sounds", manifest | {"segments": [e for e in manifest["segments"] if e["modality"] == "audio"]})
    with pytest.raises(IndexStoreError, match="holds no image embeddings"):
        ask(tmp_path / "sounds", image=stored[1], to="image")
