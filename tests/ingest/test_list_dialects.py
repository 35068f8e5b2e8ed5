"""Checks the lists of AudioSet and VGGSound, and that the quick and the careful way of reading them agree."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unibrivl.ingest.clips import Clip, Event, clips_of
from unibrivl.ingest.errors import ListError
from unibrivl.ingest.list_dialects import AUDIOSET, DIALECTS, STRONG, VGGSOUND, VGGSOUND_FILES, Dialect, read_quickly
from unibrivl.ingest.list_rows import Lines
from unibrivl.ingest.lists import ClipList, read_list

STRONG_LIST = """\
segment_id\tstart_time_seconds\tend_time_seconds\tlabel
-_a_b-c_d_-_30000\t0.000\t1.250\t/m/09x0r
-_a_b-c_d_-_30000\t5.1\t10.000\t/m/05zppz
b0123456789_0\t0.000\t0.500\t/m/09x0r
-_a_b-c_d_-_30000\t2.000\t3.000\t/m/09x0r
"""
VGGSOUND_LIST = """\
---g-f_I2yQ,1,people marching,test
_0_8-g2rof7,49,"heart sounds, heartbeat",train
---g-f_I2yQ,30,people marching,test
"""
VGGSOUND_FILE_LIST = """\
glLQrEijrKg_000300.mp4,playing hammond organ
0_8-g2rof7E_000049.mp4,"heart sounds, heartbeat"
-_XxUW9gW6__000060.mp4,wind rustling leaves
"""


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., ClipList]:
    """Return a function that writes a list and reads it."""

    def write_and_read(text: str, name: str = "list.csv", split: str | None = None) -> ClipList:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return read_list(path, split=split)

    return write_and_read


def test_strong_labels_become_one_clip_a_segment(read: Callable[..., ClipList]) -> None:
    found = read(STRONG_LIST)
    assert (found.dialect, found.rows, found.bad) == ("audioset strong", 4, ())
    assert tuple(clips_of(found.table)) == (
        Clip(
            corpus="as", media_id="-_a_b-c_d_-", start_ms=30_000, end_ms=40_000, labels=("/m/05zppz", "/m/09x0r"),
            events=(Event(0, 1250, "/m/09x0r"), Event(2000, 3000, "/m/09x0r"), Event(5100, 10_000, "/m/05zppz")),
        ),
        Clip(
            corpus="as", media_id="b0123456789", start_ms=0, end_ms=10_000, labels=("/m/09x0r",),
            events=(Event(0, 500, "/m/09x0r"),),
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.partition("\n")[2],
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
        lambda text: text.replace("\t/m", '\t"/m').replace("r\n", 'r"\n').replace("z\n", 'z"\n'),
        lambda text: text.rstrip("\n"),
        lambda text: "# made on Sunday\n" + text,
    ],
    ids=["no header", "windows", "quotes", "no last newline", "comment"],
)
def test_variants_of_strong_labels_say_the_same(read: Callable[..., ClipList], change: Callable[[str], str]) -> None:
    assert read(change(STRONG_LIST)) == read(STRONG_LIST)


def test_bad_rows_of_strong_labels(read: Callable[..., ClipList]) -> None:
    more = {
        6: "b0123456789_0\t0.000\t0.500\t/m/09x0r",
        7: "b0123456789_0\t9.000\t10.500\t/m/09x0r",
        8: "b0123456789_0\t1.000\t1.000\t/m/09x0r",
        9: "b0123456789\t1.000\t2.000\t/m/09x0r",
        10: "1.23E+10_0\t1.000\t2.000\t/m/09x0r",
        11: "#NAME?\t1.000\t2.000\t/m/09x0r",
        12: "b0123456789_0\t1.000\t2.000\t",
        13: "b0123456789_0\t1.000\t2",
    }
    found = read(STRONG_LIST + "\n".join(more.values()))
    assert {row.line: row.reason for row in found.bad} == {
        6: "the same event as line 4",
        7: "end 10.500 is behind the segment's end, 10 s",
        8: "start 1.000 and end 1.000 are no span of time",
        9: "'b0123456789' does not end in _ and a start in ms",
        10: "'1.23E+10' is no YouTube id of 11 letters, digits, - and _",
        11: "'#NAME?' does not end in _ and a start in ms",
        12: "no label",
        13: "3 columns, want segment_id, start_time_seconds, end_time_seconds, label",
    }
    assert found.table == read(STRONG_LIST).table
    assert found.rows == 12


def test_the_list_of_vggsound(read: Callable[..., ClipList]) -> None:
    found = read(VGGSOUND_LIST, "vggsound.csv")
    assert (found.dialect, found.rows, found.bad) == ("vggsound", 3, ())
    first, second, third = clips_of(found.table)
    assert first == Clip(
        corpus="vgg", media_id="---g-f_I2yQ", start_ms=1000, end_ms=11_000, split="test", labels=("people marching",)
    )
    assert (second.split, second.labels) == ("train", ("heart sounds, heartbeat",))
    assert third.key == "vgg_---g-f_I2yQ_000030000"


def test_bad_rows_of_vggsound(read: Callable[..., ClipList]) -> None:
    more = {
        4: "#NAME?,30,people marching,test",
        5: "a0123456789,30,heart sounds, heartbeat,test",
        6: "a0123456789,30,people marching,tes",
        7: "a0123456789,1e9,people marching,test",
        8: "a0123456789,,people marching,test",
        9: "a0123456789,3,,test",
        10: "---g-f_I2yQ,30.0,other,train",
        11: "b0123456789,3,people marching,test,,,",
        12: "c0123456789,30,peop",
    }
    found = read(VGGSOUND_LIST + "\n".join(more.values()))
    reasons = {row.line: row.reason for row in found.bad}
    assert list(reasons) == [4, 5, 6, 7, 8, 9, 10, 12]
    assert reasons[5] == "5 columns, want id, start, label, train or test"
    assert reasons[6] == "split 'tes' is neither train nor test"
    assert reasons[10] == "the same clip as line 3"
    assert [clip.media_id[0] for clip in clips_of(found.table)] == ["-", "_", "-", "b"]


@pytest.mark.parametrize("bad", ["#NAME?,30,a,test", "1.23E+10,30,a,test", "#NAME?,a", "-x_000001.mp4,a,b"])
@pytest.mark.parametrize("text", [VGGSOUND_LIST, VGGSOUND_FILE_LIST], ids=["vggsound", "files"])
def test_a_bad_first_row_does_not_change_the_dialect(read: Callable[..., ClipList], bad: str, text: str) -> None:
    found = read(f"{bad}\n{text}")
    assert found.table == read(text).table
    assert [row.line for row in found.bad] == [1]


def test_the_list_of_vggsounds_files(read: Callable[..., ClipList]) -> None:
    found = read(VGGSOUND_FILE_LIST, "test.csv")
    assert (found.dialect, found.rows, found.bad) == ("vggsound files", 3, ())
    assert tuple(clips_of(found.table))[1:] == (
        Clip(
            corpus="vgg", media_id="0_8-g2rof7E", start_ms=49_000, end_ms=59_000, split="test",
            labels=("heart sounds, heartbeat",),
        ),
        Clip(
            corpus="vgg", media_id="-_XxUW9gW6_", start_ms=60_000, end_ms=70_000, split="test",
            labels=("wind rustling leaves",),
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [("test.csv", None, "test"), ("list.csv", None, "test"), ("train.csv", None, "train"), ("train.csv", "dev", "dev")],
)
def test_the_split_of_vggsounds_files(
    read: Callable[..., ClipList], name: str, split: str | None, expected: str
) -> None:
    assert {clip.split for clip in clips_of(read(VGGSOUND_FILE_LIST, name, split).table)} == {expected}


@pytest.mark.parametrize(
    ("name", "split"), [("audioset_eval_strong.tsv", "eval"), ("audioset_train_strong.tsv", "train")]
)
def test_the_split_of_strong_labels(read: Callable[..., ClipList], name: str, split: str) -> None:
    assert {clip.split for clip in clips_of(read(STRONG_LIST, name).table)} == {split}


def test_bad_rows_of_vggsounds_files(read: Callable[..., ClipList]) -> None:
    more = {
        4: "a0123456789_30.mp4,people marching",
        5: "a0123456789_000030.webm,people marching",
        6: "a0123456789_000030.mp4,heart sounds, heartbeat",
        7: "a0123456789_000030.mp4",
        8: "a012345678_000030.mp4,people marching",
        9: 'a0123456789_000030.mp4,"heart sounds',
        10: "a0123456789_000030.mp4,",
    }
    found = read(VGGSOUND_FILE_LIST + "\n".join(more.values()))
    assert [row.line for row in found.bad] == list(more)
    assert found.bad[0].reason == ("'a0123456789_30.mp4' is no ID_START.mp4 with a start of six digits, in seconds")


@pytest.mark.parametrize(
    ("end", "num_bad"),
    [
        ("a0123456789_000030.mp4,playing hammond", 1),
        ("a0123456789_000030.mp4,playing hammond\n", 0),  # a whole line: perhaps an odd label, but one that was written
        ("a0123456789_000030.mp4,playing harp", 0),
        ("a0123456789_000030.mp4,playing hammond organ", 0),
    ],
)
def test_a_label_that_is_cut_with_the_file_is_not_read(read: Callable[..., ClipList], end: str, num_bad: int) -> None:
    """Nothing else shows the cut: the row has all its columns."""
    found = read(VGGSOUND_FILE_LIST + end)
    assert len(found.bad) == num_bad
    assert len(found.table) == 4 - num_bad
    if num_bad:
        assert found.bad[0].line == 4 and found.bad[0].reason.startswith("the line is cut off: 'playing hammond'")


def test_a_list_of_bad_rows_only_is_refused(read: Callable[..., ClipList]) -> None:
    header = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
    with pytest.raises(ListError, match=r"none of 1 rows can be read; line 2: 1 columns, want segment_id"):
        read(header + "x")


OFTEN = st.sampled_from(
    [
        *STRONG_LIST.splitlines(), *VGGSOUND_LIST.splitlines(), *VGGSOUND_FILE_LIST.splitlines(),
        '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_"', "a1234567890,30,31.5,/m/03l9g", "abcdefghijk,0,0.0004,x",
    ]
)  # fmt: skip
PIECES = st.sampled_from(
    [",", ", ", '"', "\t", " ", "_", "-", ".", "0", "1e3", "999999", "999989.9", "\u0660", "\u00a0", "\x0b", "ä", "#"]
)  # fmt: skip


@st.composite
def damaged_lines(draw: st.DrawFn) -> str:
    """Draw a line of a list in which some places were written over."""
    line = draw(OFTEN)
    for _ in range(draw(st.integers(0, 3))):
        first = draw(st.integers(0, len(line)))
        last = draw(st.integers(first, min(first + 2, len(line))))
        line = line[:first] + draw(PIECES) + line[last:]
    return line


@pytest.mark.parametrize("dialect", DIALECTS, ids=[dialect.name for dialect in DIALECTS])
@settings(deadline=None, max_examples=150)
@given(lines=st.lists(damaged_lines(), min_size=1, max_size=8))
@example(lines=["a1234567890, 0.0005, 0.0015, x", "a1234567890, 1.0005, 1.0025, x", "a1234567890_0\t0\t10.0004\tx"])
def test_what_is_read_quickly_is_what_is_read_with_care(dialect: Dialect, lines: list[str]) -> None:
    text = Lines("\n".join(lines).encode())
    table, is_quick = read_quickly(dialect, text.array(0, len(text)), "dev")
    assert list(clips_of(table)) == [dialect.clip(text[i], "dev") for i in is_quick.nonzero()[0]]


@pytest.mark.parametrize(
    ("dialect", "text", "expected"),
    [
        (AUDIOSET, '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_"\na1234567890,30.5,31,/m/x\n', 2),
        (STRONG, STRONG_LIST, 4),
        (VGGSOUND, VGGSOUND_LIST, 3),
        (VGGSOUND_FILES, VGGSOUND_FILE_LIST, 3),
    ],
    ids=lambda value: value.name if isinstance(value, Dialect) else "",
)
def test_well_formed_lines_are_read_quickly(dialect: Dialect, text: str, expected: int) -> None:
    lines = Lines(text.encode())
    table, is_quick = read_quickly(dialect, lines.array(0, len(lines)), "dev")
    assert (len(table), is_quick.sum()) == (expected, expected)


def test_a_well_formed_list_is_planned_without_pandas(tmp_path: Path) -> None:
    """It takes longer to import than AudioSet's evaluation list to read, and Arrow imports it at many a call."""
    path = tmp_path / "list.csv"
    path.write_text(VGGSOUND_LIST)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from unibrivl.ingest.lists import read_list\nfrom unibrivl.ingest.plan import make_plan\n"
        "before = 'pandas' in sys.modules\n"
        f"make_plan(read_list(Path({str(path)!r})).table, seed=0, shard_clips=2)\n"
        "print(before, 'pandas' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_vggsounds_real_test_list(folder: Callable[[str], Path]) -> None:
    found = read_list(folder("data") / "vggsound" / "test.csv")
    clips = list(clips_of(found.table))
    assert (found.dialect, found.rows, found.bad, len(clips)) == ("vggsound files", 15_446, (), 15_446)
    assert len({clip.media_id for clip in clips}) == 14_851
    assert {clip.corpus for clip in clips} == {"vgg"} and {clip.split for clip in clips} == {"test"}
    assert all(len(clip.labels) == 1 for clip in clips)
    assert len({clip.labels for clip in clips}) == 309
    assert sum("," in clip.labels[0] for clip in clips) == 1150
