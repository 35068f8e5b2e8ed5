"""Checks the reading of text lists: AudioSet's dialects and general CSV, and which line of a bad list is blamed."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.ingest.clips import Clip, clips_of
from unibrivl.ingest.errors import ListError
from unibrivl.ingest.lists import ClipList, read_list

OFFICIAL = """\
# Segments csv created Sun Mar  5 10:54:25 2017
# num_ytids=4, num_segs=4, num_unique_labels=4, num_positive_labels=6
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_,/m/0bt9lr,/m/0jbk"
_a_b-c_d_e-, 20.500, 30.250, "/m/03l9g"
a1234567890, 30.000, 31.000, "/m/03l9g"
"""


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., ClipList]:
    """Return a function that writes a list and reads it."""

    def write_and_read(text: str | bytes, name: str = "list.csv", split: str | None = None) -> ClipList:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_list(path, split=split)

    return write_and_read


def clips_in(found: ClipList) -> tuple[Clip, ...]:
    return tuple(clips_of(found.table))


def bad_lines(found: ClipList) -> list[int]:
    return [row.line for row in found.bad]


def test_the_official_dialect(read: Callable[..., ClipList]) -> None:
    found = read(OFFICIAL)
    assert (found.dialect, found.rows, found.bad) == ("audioset", 3, ())
    assert clips_in(found) == (
        Clip(
            corpus="as", media_id="--4gqARaEJE", start_ms=0, end_ms=10_000,
            labels=("/m/068hy", "/m/07q6cd_", "/m/0bt9lr", "/m/0jbk"),
        ),
        Clip(corpus="as", media_id="_a_b-c_d_e-", start_ms=20_500, end_ms=30_250, labels=("/m/03l9g",)),
        Clip(corpus="as", media_id="a1234567890", start_ms=30_000, end_ms=31_000, labels=("/m/03l9g",)),
    )  # fmt: skip
    assert [clip.key for clip in clips_in(found)][:2] == ["as_--4gqARaEJE_000000000", "as__a_b-c_d_e-_000020500"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(", ", ","),
        lambda text: "".join(text.splitlines(keepends=True)[3:]),
        lambda text: "YTID,start_seconds,end_seconds,positive_labels\n" + text.replace(", ", ",").split("labels\n")[1],
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace('bk"\n', 'bk",,\n'),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", "\r\r\n"),
        lambda text: text.replace("\n", "\r\n", 4).replace('9g"\n', '9g"\r', 1),
        lambda text: text.replace(", ", ",   ").replace('"/m/03l9g"', "/m/03l9g"),
        lambda text: text.replace(",/m/", ", /m/").replace(", ", "\t, "),
    ],
    ids=[
        "no spaces",
        "no comments",
        "header",
        "mark",
        "windows",
        "blank lines",
        "no last newline",
        "empty columns",
        "old mac",
        "twice converted",
        "mixed line ends",
        "more spaces, fewer quotes",
        "blanks at odd places",
    ],
)
def test_variants_of_the_official_dialect_say_the_same(
    read: Callable[..., ClipList], change: Callable[[str], str]
) -> None:
    found = read(change(OFFICIAL))
    assert found == read(OFFICIAL)


def test_lines_of_blanks_are_no_rows(read: Callable[..., ClipList]) -> None:
    assert read(OFFICIAL + "   \n\t\n") == read(OFFICIAL)


def test_each_bad_line_is_named_and_the_others_are_read(read: Callable[..., ClipList]) -> None:
    lines = {
        4: '--4gqARaEJE, 0.000, 10.000, "/m/068hy"',
        5: '#NAME?, 30.000, 40.000, "/m/068hy"',  # what a spreadsheet makes of an id that begins with -
        6: '_a_b-c_d_e-, 20.500, 30.250, "/m/03l9g"',
        7: '--4gqARaEJE, 0.000, 10.000, "/m/068hy"',  # the same clip again
        8: 'b1234567890, 0.000, 10.000, "/m/068hy',  # a stray quote
        9: 'c1234567890, 0.000, 10.000, "/m/068hy",,,',
        10: 'd1234567890, 10.000, 0.000, "/m/068hy"',
        11: 'e1234567890, -1, 9, "/m/068hy"',
        12: 'f1234567890, nan, 9, "/m/068hy"',
        13: 'g1234567890, 0, inf, "/m/068hy"',
        14: 'short, 0, 9, "/m/068hy"',
        15: 'h1234567890, 0, ten, "/m/068hy"',
        16: 'i1234567890, 0, 10, "/m/068hy", "/m/03l9g"',
        17: "j1234567890; 0; 10; /m/068hy",
        18: 'k/234567890, 0, 10, "/m/068hy"',
        19: 'l1234567890, 0, 10000000, "/m/068hy"',
        20: 'm1234567890, 0.000, 10.000, "/m/068hy"',
        21: "n1234567890, 0.0",  # cut off
    }
    found = read("# one\n# two\n# three\n" + "\n".join(lines.values()))
    assert [clip.media_id[0] for clip in clips_in(found)] == ["-", "_", "c", "m"]
    assert found.rows == 18
    reasons = {row.line: row.reason for row in found.bad}
    assert list(reasons) == [5, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21]
    assert reasons[5] == "'#NAME?' is no YouTube id of 11 letters, digits, - and _"
    assert reasons[7] == "the same clip as line 4"
    assert reasons[8] == "quotes do not match"
    assert reasons[10] == "start 10.000 and end 0.000 are no span of time"
    assert reasons[15] == "start '0' or end 'ten' is no number of seconds"
    assert reasons[16] == "5 columns, want id, start, end, labels"
    assert reasons[21] == "2 columns, want id, start, end, labels"


def test_a_clip_of_no_length_is_bad(read: Callable[..., ClipList]) -> None:
    """Regression: both ends round to the same millisecond, and nothing can be measured of an empty sound."""
    found = read("id,start,end\na,0,1\nb,0.0001,0.0004\nc,5,5\n")
    assert bad_lines(found) == [3, 4]


@pytest.mark.parametrize("number", ["1_0", "0x10", "1,5", "", " ", "1e400"])
def test_what_other_programs_take_for_no_number_is_none(read: Callable[..., ClipList], number: str) -> None:
    found = read(f'id,start,end\na,0,20\nb,0,"{number}"\n')
    assert bad_lines(found) == [3]


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        ("eval_segments.csv", None, "eval"),
        ("balanced_train_segments.csv", None, "train"),
        ("list.csv", None, "train"),
        ("eval_segments.csv", "test", "test"),
    ],
)
def test_the_split_of_a_list_without_splits(
    read: Callable[..., ClipList], name: str, split: str | None, expected: str
) -> None:
    assert {clip.split for clip in clips_in(read(OFFICIAL, name, split))} == {expected}


@pytest.mark.parametrize("split", ["../elsewhere", "Train", "a b", "a/b", "train\n"])
@pytest.mark.parametrize("text", [OFFICIAL, "id,start,end\na,0,1\n"], ids=["audioset", "general"])
def test_a_split_that_is_no_name_of_a_folder_is_refused(read: Callable[..., ClipList], text: str, split: str) -> None:
    with pytest.raises((ListError, ValueError), match="split"):
        read(text, split=split)


def test_the_general_dialect(read: Callable[..., ClipList]) -> None:
    found = read(
        "id,path,start,end,labels,caption,split,group,language,license\n"
        'a-_1,sub/a.mp4,0.5,1.25,"one;two, three",A «name»,test,g1,fr,CC0-1.0\n'
        ",b.mp4,0,1,,,,,,\n"
        "c,,0,1,,,,,,\n"
    )
    assert (found.dialect, found.rows, found.bad) == ("general", 3, ())
    first, second, third = clips_in(found)
    assert first == Clip(
        corpus="gen", media_id="a-_1", source="sub/a.mp4", start_ms=500, end_ms=1250, split="test", group="g1",
        labels=("one", "two, three"), caption="A «name»", language="fr", license="CC0-1.0",
    )  # fmt: skip
    assert (second.source, second.split, second.labels) == ("b.mp4", "train", ())
    assert (third.media_id, third.source) == ("c", "")
    assert second.key.startswith("gen_") and second.media_id != third.media_id


def test_columns_come_in_any_order_and_case(read: Callable[..., ClipList]) -> None:
    found = read("End, START , Id,,\n1,0,a,,\n2,0,b\n")
    assert [(clip.media_id, clip.end_ms) for clip in clips_in(found)] == [("a", 1000), ("b", 2000)]


def test_a_path_without_id_always_gets_the_same_one(read: Callable[..., ClipList]) -> None:
    text = "path,start,end\nsub/Ünï.mp4,0,1\nsub/Ünï.mp4,1,2\nother.mp4,0,1\n"
    first, second, other = (clip.media_id for clip in clips_in(read(text)))
    assert first == second != other
    assert [clip.media_id for clip in clips_in(read(text))] == [first, second, other]


@pytest.mark.parametrize(
    "path", ["../a.mp4", "/etc/passwd", "sub/../../a.mp4", "..", "sub/..", "//a.mp4", "a/b/../../../c.mp4"]
)
def test_a_path_out_of_the_media_folder_is_bad(read: Callable[..., ClipList], path: str) -> None:
    found = read(f"id,path,start,end\na,a.mp4,0,1\nb,{path},0,1\n")
    assert found.bad[0].line == 3
    assert found.bad[0].reason == f"path {path!r} leaves the media folder"


def test_bad_lines_of_a_general_list(read: Callable[..., ClipList]) -> None:
    found = read(
        "id,path,start,end,split\n"
        "a,a.mp4,0,1,train\n"
        "b b,a.mp4,0,1,train\n"
        "c,a.mp4,0,1,Train\n"
        "d,a.mp4,0,1,train,more\n"
        "e,a.mp4,0\n"
        'f,"a.mp4,0,1,train\n'
        "a,other.mp4,0,2,train\n"
        ",,0,1,train\n"
        "g,a.mp4,0,1,\n"
    )
    assert bad_lines(found) == [3, 4, 5, 6, 7, 8, 9]
    assert [clip.media_id for clip in clips_in(found)] == ["a", "g"]
    assert found.bad[-1].reason == "no id, path or url"


@pytest.mark.parametrize("row", ["#NAME?,b.mp4,0,1", "#12,b.mp4,0,1"])
def test_an_id_that_begins_like_a_comment_spoils_one_row(read: Callable[..., ClipList], row: str) -> None:
    """Regression: the whole list was taken for AudioSet's dialect, and no row of it could be read."""
    found = read(f"id,path,start,end\na,a.mp4,0,1\n{row}\nc,c.mp4,0,1\n")
    assert found.dialect == "general"
    assert bad_lines(found) == [3]
    assert [clip.media_id for clip in clips_in(found)] == ["a", "c"]


def test_a_comment_above_a_general_list_does_not_make_it_another_dialect(read: Callable[..., ClipList]) -> None:
    found = read("# made by hand\nid,start,end\na,0,1\n")
    assert (found.dialect, found.rows, found.bad) == ("general", 1, ())


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "the list is empty"),
        (b"\n\n\r\n", "the list is empty"),
        (b"\xef\xbb\xbf", "the list is empty"),
        (b"id,path,start,end\n", "a header but no row"),
        (b"YTID,start_seconds,end_seconds,positive_labels\n", "a header but no row"),
        (b"# YTID, start_seconds, end_seconds, positive_labels\n", "a header but no row"),
        (b"id,start,end,colour\na,0,1,red\n", "unknown column 'colour'; known are id, path, url, start"),
        (b"id,start,end,id\na,0,1,a\n", "a column stands twice"),
        (b"id,path\na,a.mp4\n", "has no column start, end"),
        (b"start,end\n0,1\n", "has no column id, path or url"),
        (b"id,start,end\na,x,y\nb,0,-1\n", "none of 2 rows can be read; line 2: start 'x' or end 'y'"),
        (b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n", "unknown column '<!doctype html>'"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", r"not a UTF-8 text file \(byte 0\)"),
        ("id,start,end\na,0,1\n".encode("utf-16"), "not a UTF-8 text file"),
        ("id,start,end,caption\na,0,1,caf\u00e9\n".encode("latin-1"), r"not a UTF-8 text file \(byte 30\)"),
        (bytes(2000), "unknown column"),
    ],
)  # fmt: skip
def test_what_is_no_list_is_refused(read: Callable[..., ClipList], content: bytes, match: str) -> None:
    with pytest.raises(ListError, match=match) as caught:
        read(content)
    assert "list.csv: " in str(caught.value) and "\n" not in str(caught.value)


def test_a_list_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ListError, match=r"none\.csv: there is no such list"):
        read_list(tmp_path / "none.csv")
    with pytest.raises(ListError, match=": a folder, want a file"):
        read_list(tmp_path)


TEXT = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20)
LABELS = st.lists(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters=";"), min_size=1), max_size=3)
CLIPS = st.builds(
    lambda media_id, source, span, split, labels, caption, group: Clip(
        corpus="gen", media_id=media_id, source=source, start_ms=span[0], end_ms=span[0] + span[1], split=split,
        labels=tuple(labels), caption=caption, group=group,
    ),
    st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    st.sampled_from(["", "a.mp4", "sub/ä, b.webm", 'q"uote.mkv', "-.mp4"]),
    st.tuples(st.integers(0, 999_000_000), st.integers(1, 900_000)),
    st.from_regex(r"[a-z][a-z0-9]{0,31}", fullmatch=True),
    LABELS,
    TEXT,
    TEXT,
)  # fmt: skip


@settings(deadline=None)
@given(clips=st.lists(CLIPS, min_size=1, max_size=8, unique_by=lambda clip: clip.key))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, clips: list[Clip]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["id", "path", "start", "end", "split", "labels", "caption", "group"])
    for clip in clips:
        start, end = (f"{ms // 1000}.{ms % 1000:03d}" for ms in (clip.start_ms, clip.end_ms))
        labels = ";".join(clip.labels)
        writer.writerow([clip.media_id, clip.source, start, end, clip.split, labels, clip.caption, clip.group])
    path = tmp_path_factory.mktemp("list") / "list.csv"
    path.write_text(buffer.getvalue(), encoding="utf-8", newline="")
    found = read_list(path)
    assert found.bad == ()
    assert clips_in(found) == tuple(clips)


@settings(deadline=None)
@given(content=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)), is_general=st.booleans())
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, is_general: bool
) -> None:
    path = tmp_path_factory.mktemp("list") / "list.csv"
    path.write_bytes((b"id,path,start,end\na,a.mp4,0,1\n" if is_general else b"") + content)
    try:
        found = read_list(path)
    except ListError:
        return
    assert len(found.table) + len(found.bad) == found.rows


def test_the_real_evaluation_list(folder: Callable[[str], Path]) -> None:
    found = read_list(folder("data") / "audioset" / "eval_segments.csv")
    assert (found.dialect, found.rows, found.bad) == ("audioset", 14_032, ())
    assert {clip.split for clip in clips_in(found)} == {"eval"}
    assert len({clip.key for clip in clips_in(found)}) == 14_032
    assert clips_in(found)[0].media_id == "--4gqARaEJE"
    assert sum(clip.media_id.startswith("-") for clip in clips_in(found)) > 100


@pytest.mark.parametrize("name", ["audioset/class_labels_indices.csv", "audioset/ontology.json", "esc10/meta.csv"])
def test_real_files_that_are_other_lists_are_refused_in_one_line(folder: Callable[[str], Path], name: str) -> None:
    with pytest.raises(ListError, match=r"unknown column|has no column") as caught:
        read_list(folder("data") / name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
