"""Files of questions: every line has its answer or its error, in its place, whatever stands in the others."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from unibrivl.index.batchfile import PASS, BatchResult, run_batch, write_batch
from unibrivl.index.errors import QueryError
from unibrivl.index.query import Asked, QueryConfig, run_query
from unibrivl.model.embed import Encoder
from unibrivl.shards import ClipShards


@pytest.fixture
def folder(shards: Path, tmp_path: Path) -> Path:
    """Return a folder with a picture and a sound of the index."""
    with ClipShards(shards) as clips:
        Image.fromarray(clips[11].frame()).save(tmp_path / "picture.png")
        soundfile.write(tmp_path / "sound.wav", clips[11].audio(), 16_000, subtype="PCM_16")
    return tmp_path


def answer(index: Path, path: Path, text: str, **options: Any) -> tuple[BatchResult, list[dict[str, Any]]]:
    path.write_text(text, encoding="utf-8")
    out = io.StringIO()
    result = run_batch(QueryConfig(index=index, **options), path, out)
    return result, [json.loads(line) for line in out.getvalue().splitlines()]


def untimed(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in ("id", "timings_ms")}


def test_each_question_is_answered_as_if_asked_alone(index: Path, folder: Path, one_encoder: Encoder) -> None:
    rows = [
        {"image": "picture.png", "k": 2},
        {"id": "mixed", "audio": "sound.wav", "minus_image": ["picture.png"], "weights": {"minus_image": 0.25}},
        {
            "image": str(folder / "picture.png"),
            "to": "image",
            "where": {"not": "split=test"},
            "fuse": "rrf",
            "near": 0.9,
        },
    ]
    result, told = answer(index, folder / "q.jsonl", "".join(json.dumps(row) + "\n" for row in rows), k=3)
    assert result == BatchResult(3, 0) and [one["id"] for one in told] == [1, "mixed", 3]
    picture, sound = str(folder / "picture.png"), str(folder / "sound.wav")
    alone = [
        QueryConfig(index=index, asked=(Asked(kind="image", value=picture),), k=2),
        QueryConfig(
            index=index, k=3,
            asked=(Asked(kind="audio", value=sound), Asked(kind="image", value=picture, weight=0.25, minus=True)),
        ),
        QueryConfig(
            index=index, asked=(Asked(kind="image", value=picture),), k=3, to="image", where={"not": "split=test"},
            fuse="rrf", near=0.9,
        ),
    ]  # fmt: skip
    for one, config in zip(told, alone, strict=True):
        expected = json.loads(json.dumps(run_query(config).as_dict()))
        assert one["query"] == expected["query"]
        for target, found in expected["results"].items():
            assert [a["item_id"] for a in one["results"][target]] == [a["item_id"] for a in found]
            # one pass of the encoder over several questions rounds otherwise than over one
            assert [a["score"] for a in one["results"][target]] == pytest.approx([a["score"] for a in found], abs=1e-4)


def test_a_csv_asks_the_same_as_json(index: Path, folder: Path, one_encoder: Encoder) -> None:
    row = {
        "id": "a",
        "image": "picture.png",
        "to": "image",
        "k": "2",
        "exact": "true",
        "near": "0.95",
        "where": "split=test",
    }
    out = io.StringIO()
    writer = csv.DictWriter(out, [*row, "audio"])
    writer.writeheader()
    writer.writerow(row)
    _, from_csv = answer(index, folder / "q.csv", out.getvalue())
    _, from_json = answer(index, folder / "q.jsonl", json.dumps(row | {"k": 2, "exact": True, "near": 0.95}))
    assert from_csv[0]["id"] == "a" and untimed(from_csv[0]) == untimed(from_json[0])
    assert len(from_csv[0]["results"]["image"]) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "no JSON"), ("[1]", "no object"), ("{}", "give something to search with"),
        ('{"audoi": "a"}', "there is no field 'audoi'; did you mean audio?"),
        ('{"image": 3}', "image is 3, want a text"),
        ('{"image": "gone.png"}', "gone.png: there is no such file"), ('{"image": "picture.png", "k": 0}', "k is 0"),
        ('{"image": "picture.png", "k": "many"}', 'k is "many", want a number'),
        ('{"image": "picture.png", "to": 7}', "to is 7"), ('{"text": "a dog"}', "reads no text"),
        ('{"image": "picture.png", "where": "labels=tnoe"}', "did you mean 'tone'"),
        ('{"image": "picture.png", "where": 7}', "filter 7"),
        ('{"image": "picture.png", "weights": 3}', "weights are by"),
        ('{"image": "picture.png", "weights": {"image": "x"}}', "could not convert"),
        ('{"item": "nothing"}', "nothing"), ("[" * 100_000, "no JSON"),
        ('{"image": "picture.png", "k": 1e999}', "k is Infinity, want a number"),
        ('{"image": "picture.png", "k": 2.7}', "k is 2.7, want a whole number"),
        ('{"image": "picture.png", "k": true}', "k is true, want a whole number"),
        ('{"image": "picture.png", "exact": [1]}', "exact is [1], want true or false"),
        ('{"image": "picture.png", "id": "\\ud800"}', "half of a surrogate pair"),
        ('{"audio": "%s"}' % ("a" * 5000), "cannot be read (File name too long)"),
        ('{"image": "picture.png", "weights": {"image": 1%s}}' % ("0" * 400), "too large"),
    ],
    ids=lambda value: value[:40],
)  # fmt: skip
def test_a_bad_line_costs_only_itself(
    index: Path, folder: Path, one_encoder: Encoder, line: str, words: str
) -> None:  # fmt: skip
    good = '{"image": "picture.png", "to": "image", "k": 1}\n'
    result, told = answer(index, folder / "q.jsonl", f"{good}{line}\n{good}")
    assert result == BatchResult(3, 1) and len(told) == 3
    assert set(told[1]) == {"id", "error"} and words in told[1]["error"] and "\n" not in told[1]["error"]
    assert untimed(told[0]) == untimed(told[2]) and told[0]["results"]["image"][0]["score"] > 0.99


def test_empty_lines_are_no_questions(index: Path, folder: Path, one_encoder: Encoder) -> None:
    line = '{"image": "picture.png", "to": "image", "k": 1}'
    result, told = answer(index, folder / "q.jsonl", f"\n{line}\n\n   \n{line}\n\n")
    assert result == BatchResult(2, 0) and [one["id"] for one in told] == [1, 2]
    assert list(told[0]["timings_ms"]) == ["decode", "encode", "search", "refine", "metadata"]


def test_more_questions_than_a_pass_come_in_their_order(index: Path, one_encoder: Encoder, tmp_path: Path) -> None:
    with ClipShards(index.parent / "shards") as clips:
        keys = [clips[n % 24].key for n in range(2 * PASS + 3)]
    text = "".join(json.dumps({"item": f"{key}/image", "to": "image", "k": 1}) + "\n" for key in keys)
    result, told = answer(index, tmp_path / "q.jsonl", text)
    assert result.questions == len(keys)
    assert [one["results"]["image"][0]["key"] for one in told] == keys
    assert [one["id"] for one in told] == list(range(1, len(keys) + 1))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("q.txt", b"", "ends in .jsonl or .csv"), ("q.jsonl", None, "cannot be read"),
        ("q.jsonl", b"\xff\xfe{}", "cannot be read"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_of_questions_is_named(
    index: Path, tmp_path: Path, one_encoder: Encoder, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(QueryError, match=f"{tmp_path / name}: .*{words}"):
        run_batch(QueryConfig(index=index), tmp_path / name, io.StringIO())
    with pytest.raises(QueryError):
        write_batch(QueryConfig(index=index), tmp_path / name, tmp_path / "out.jsonl", lambda done, total, text: None)
    assert not [path for path in tmp_path.iterdir() if path.name != name]


def test_the_output_appears_whole(index: Path, folder: Path, one_encoder: Encoder) -> None:
    (folder / "q.jsonl").write_text('{"image": "picture.png"}\n')
    seen = []
    write_batch(QueryConfig(index=index), folder / "q.jsonl", folder / "out.jsonl", lambda *told: seen.append(told))
    assert [json.loads(line)["id"] for line in (folder / "out.jsonl").read_text().splitlines()] == [1]
    assert seen == [(1, 1, "questions, 0 without an answer")]
    assert np.all([not path.name.startswith(".") for path in folder.iterdir()])
