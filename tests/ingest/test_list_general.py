"""Checks general lists: addresses in CSV, a JSON object a line, and Parquet."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.ingest.clips import Clip, clips_of
from unibrivl.ingest.errors import ListError
from unibrivl.ingest.lists import ClipList, read_list

ROW: dict[str, Any] = {
    "id": "a-_1", "path": "sub/a.mp4", "start": 0.5, "end": 1.25, "labels": ["one", "two; three"],
    "caption": "A «name»", "split": "test", "group": "g1", "language": "fr", "license": "CC0-1.0",
}  # fmt: skip
CLIP = Clip(
    corpus="gen", media_id="a-_1", source="sub/a.mp4", start_ms=500, end_ms=1250, split="test", group="g1",
    labels=("one", "two; three"), caption="A «name»", language="fr", license="CC0-1.0",
)  # fmt: skip
MORE: list[dict[str, Any]] = [
    {"url": "https://host/b.mp4?x=1", "start": 0, "end": 10, "labels": "one; two;"},
    {"id": "c", "start": "1.5", "end": 2, "labels": None, "caption": None, "split": ""},
]


def clips_in(found: ClipList) -> tuple[Clip, ...]:
    return tuple(clips_of(found.table))


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    rows = [{name: row.get(name) for name in dict.fromkeys(n for row in rows for n in row)} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_addresses_in_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        "id,path,url,start,end\n"
        "a,,https://host/a.mp4,0,1\n"
        ",,s3://bucket/dir/b.mp4,0,1\n"
        ",,s3://bucket/dir/b.mp4,1,2\n"
        "c,c.mp4,,0,1\n"
        "d,d.mp4,https://host/d.mp4,0,1\n"
        "e,,host/e.mp4,0,1\n"
        "f,https://host/f.mp4,,0,1\n"
        "g,,https://host/g h.mp4,0,1\n"
        ",,,0,1\n"
    )
    found = read_list(path)
    assert [clip.source for clip in clips_in(found)] == [
        "https://host/a.mp4", "s3://bucket/dir/b.mp4", "s3://bucket/dir/b.mp4", "c.mp4"
    ]  # fmt: skip
    assert clips_in(found)[1].media_id == clips_in(found)[2].media_id != ""
    assert {row.line: row.reason for row in found.bad} == {
        6: "both path and url; give one of them",
        7: "url 'host/e.mp4' is no address, as in https://host/name.mp4",
        8: "path 'https://host/f.mp4' is an address; put it into a column url",
        9: "url 'https://host/g h.mp4' is no address, as in https://host/name.mp4",
        10: "no id, path or url",
    }


def test_json_lines(tmp_path: Path) -> None:
    found = read_list(write_jsonl(tmp_path / "list.jsonl", [ROW, *MORE]))
    assert (found.dialect, found.rows, found.bad) == ("jsonl", 3, ())
    first, second, third = clips_in(found)
    assert first == CLIP
    assert (second.source, second.labels, second.split) == ("https://host/b.mp4?x=1", ("one", "two"), "train")
    assert third == Clip(corpus="gen", media_id="c", start_ms=1500, end_ms=2000)
    assert {clip.split for clip in clips_in(read_list(tmp_path / "list.jsonl", split="dev"))} == {"test", "dev"}


def test_a_parquet_list_of_all_columns(tmp_path: Path) -> None:
    found = read_list(write_parquet(tmp_path / "list.parquet", [ROW, ROW | {"id": "b", "labels": []}]))
    assert (found.dialect, found.rows, found.bad) == ("parquet", 2, ())
    first, second = clips_in(found)
    assert first == CLIP
    assert (second.media_id, second.labels) == ("b", ())


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.large_string(), ["a", "b"]), (pa.string_view(), ["a", "b"]),
        (pa.dictionary(pa.int8(), pa.string()), ["a", "b"]),
    ],
    ids=str,
)  # fmt: skip
def test_ids_of_a_parquet_list_may_be_of_any_type_of_text(tmp_path: Path, kind: pa.DataType, values: list[str]) -> None:
    table = pa.table({"ID": pa.array(values, kind), "start": pa.array([0, 1], pa.int16()), "end": [1.0, 2.0]})
    pq.write_table(table, tmp_path / "list.parquet")
    assert [clip.media_id for clip in clips_in(read_list(tmp_path / "list.parquet"))] == values


BAD: list[tuple[str, str]] = [
    ("{", "no JSON object"),
    ("[1]", "no JSON object"),
    ('"a"', "no JSON object"),
    ("[" * 100_000, "no JSON object"),
    ('{"id": "b", "start": 0, "end": 1, "end": 2}', "field 'end' stands twice"),
    ('{"id": "b", "start": 0, "end": 1, "END": 2}', "field 'end' stands twice"),
    ('{"id": "b", "start": 0, "end": NaN}', "NaN is no value"),
    ('{"id": "b", "start": 0, "end": 1e999}', "start 0 and end inf are no span of time"),
    ('{"id": "b", "start": 0, "end": 1' + "0" * 400 + "}", "start '0' or end '1"),
    ('{"id": "b", "start": 0, "end": 1' + "0" * 5000 + "}", "Exceeds the limit"),
    ('{"id": "b", "start": false, "end": true}', "start 'False' or end 'True' is no number of seconds"),
    ('{"id": "b", "start": 0}', "start '0' or end '' is no number of seconds"),
    ('{"id": 12300000000, "start": 0, "end": 1}', "id 12300000000 is no text"),
    ('{"id": "1.23E+10", "start": 0, "end": 1}', "id '1.23E+10' has other characters"),
    ('{"id": "#NAME?", "start": 0, "end": 1}', "id '#NAME?' has other characters"),
    ('{"id": "b", "start": 0, "end": 1, "labels": [1]}', "label 1 is no text"),
    ('{"id": "b", "start": 0, "end": 1, "labels": {"a": 1}}', "labels {'a': 1} is no text"),
    ('{"id": "b", "start": 0, "end": 1, "caption": "\\ud800"}', "caption holds half a character"),
    ('{"id": "b", "start": 0, "end": 1, "labels": ["\\ud800"]}', "label holds half a character"),
    ('{"id": "b", "start": 0, "end": 1, "colour": "red"}', "unknown field 'colour'; known are id, path, url"),
    ('{"path": "../b.mp4", "start": 0, "end": 1}', "path '../b.mp4' leaves the media folder"),
    ('{"id": "a-_1", "start": 0.5, "end": 7}', "the same clip as line 1"),
    ('{"id": "b", "start": 0, "end": 1, "caption": "cut o', "no JSON object"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[line[:60] for line, _ in BAD])
def test_a_bad_line_of_json_is_named_and_the_others_are_read(tmp_path: Path, line: str, reason: str) -> None:
    path = write_jsonl(tmp_path / "list.jsonl", [ROW])
    path.write_text("\ufeff" + path.read_text(encoding="utf-8") + "\r\n" + line, encoding="utf-8")
    found = read_list(path)
    assert clips_in(found) == (CLIP,)
    ((number, said),) = ((row.line, row.reason) for row in found.bad)
    assert number == 3 and said.startswith(reason)
    assert "\n" not in said and len(said) < 300


def test_bad_rows_of_a_parquet_list_are_named_by_their_number(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "start": 0.0},
        {"id": None, "start": 1.0},
        {"id": "c"},
        {"id": "a", "start": 0.0},
        {"id": "x y"},
    ]
    rows = [{"start": 0.0 if n != 2 else None, "end": 5.0} | row for n, row in enumerate(rows)]
    found = read_list(write_parquet(tmp_path / "list.parquet", rows))
    assert {row.line: row.reason for row in found.bad} == {
        2: "no id, path or url",
        3: "start '' or end '5.0' is no number of seconds",
        4: "the same clip as line 1",
        5: "id 'x y' has other characters than letters, digits, - and _",
    }
    assert (found.rows, len(found.table)) == (5, 1)


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"id": ["a"], "start": [0], "end": [1], "colour": ["red"]}, "unknown column 'colour'"),
        ({"id": ["a"], "start": [0]}, "no column end"),
        ({"start": [0], "end": [1]}, "no column id, path or url"),
        ({"id": ["a"], "ID": ["a"], "start": [0], "end": [1]}, "a column stands twice"),
        ({"id": pa.array([], pa.string()), "start": [], "end": []}, "a header but no row"),
        ({"id": [5], "start": [0], "end": [1]}, "none of 1 rows can be read; line 1: id 5 is no text"),
    ],
)
def test_a_parquet_file_that_is_no_list_is_refused(tmp_path: Path, columns: dict[str, Any], match: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    with pytest.raises(ListError, match=match):
        read_list(tmp_path / "list.parquet")


def test_a_damaged_parquet_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    with pytest.raises(ListError, match="there is no such list"):
        read_list(path)
    whole = write_parquet(path, [ROW]).read_bytes()
    for data in (b"", b"id,start,end\n", whole[:-30], whole[:20] + bytes(200) + whole[220:]):
        path.write_bytes(data)
        with pytest.raises(ListError, match=r"list\.parquet: not a Parquet file that can be read") as caught:
            read_list(path)
        assert "\n" not in str(caught.value)


def test_texts_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    ids = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    pq.write_table(pa.table({"id": ids, "start": [0], "end": [1]}), tmp_path / "list.parquet")
    with pytest.raises(ListError, match="a text is not UTF-8"):
        read_list(tmp_path / "list.parquet")


@settings(deadline=None, max_examples=60)
@given(
    content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)),
    name=st.sampled_from(["jsonl", "parquet"]),
)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    path = tmp_path_factory.mktemp("list") / f"list.{name}"
    path.write_bytes(content)
    try:
        found = read_list(path)
    except ListError:
        return
    assert len(found.table) + len(found.bad) == found.rows


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_the_same_rows_are_the_same_clips(tmp_path: Path, write: Callable[[Path, list[dict[str, Any]]], Path]) -> None:
    rows = [ROW, ROW | {"id": "b", "labels": []}, ROW | {"id": None, "path": "x.mp4"}]
    found = read_list(write(tmp_path / f"list.{write.__name__.removeprefix('write_')}", rows))
    assert [clip.source for clip in clips_in(found)] == ["sub/a.mp4", "sub/a.mp4", "x.mp4"]
    assert found.bad == ()
