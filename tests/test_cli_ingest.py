"""Checks `unibrivl ingest` as a user meets it: through the real command, with every input that can be wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from unibrivl.cli import app
from unibrivl.ingest.mux import write_video

GOOD_LIST = "id,start,end\na,0,1\n"


def unibrivl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unibrivl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the message of a run that failed as it should: exit code 1 and one line that says why."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of everything below a folder."""
    found = {p: p.lstat() for p in [root, *root.rglob("*")]}
    return {str(p): (stat.st_size, stat.st_mtime_ns) for p, stat in found.items()}


@pytest.fixture
def media(tmp_path: Path, corpus: Path) -> Path:
    """Return a folder with one good video, `a.mp4`, of one second."""
    folder = tmp_path / "media"
    folder.mkdir()
    shutil.copyfile(corpus / "media" / "clip-_00.mp4", folder / "a.mp4")
    return folder


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, r"list\.csv: there is no such list"),
        (b"", r"list\.csv: the list is empty"),
        (b"id,start,end\n", r"list\.csv: the list has a header but no row"),
        (b"name,from,to\na,0,1\n", r"list\.csv: unknown column 'name'; known are id, path, url, start, end"),
    ],
    ids=["missing", "empty", "header only", "unknown columns"],
)
def test_a_bad_list_is_one_line_and_writes_nothing(
    tmp_path: Path, media: Path, content: bytes | None, match: str
) -> None:
    list_path = tmp_path / "list.csv"
    if content is not None:
        list_path.write_bytes(content)
    before = tree(tmp_path)
    message = error_line(unibrivl("ingest", list_path, tmp_path / "out", "--media-dir", media))
    assert re.search(match, message)
    assert tree(tmp_path) == before


@pytest.fixture(params=["pipe", "folder", "device"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """Return a place where something other than a file is, and what that is."""
    if request.param == "device":
        return Path("/dev/zero"), "device"
    path = tmp_path / "odd"
    path.mkdir() if request.param == "folder" else os.mkfifo(path)
    return path, request.param


def test_what_is_no_file_is_refused_at_once(tmp_path: Path, media: Path, no_file: tuple[Path, str]) -> None:
    """Nobody writes to the pipe, and the device never ends: reading either would hang until the time-out."""
    path, kind = no_file
    (tmp_path / "list.csv").write_text(GOOD_LIST)
    for words in (
        [path, tmp_path / "out", "--media-dir", media],
        [path, "--dry-run"],
        [tmp_path / "list.csv", tmp_path / "out", "--media-dir", media, "--ontology", path],
        [tmp_path / "list.csv", tmp_path / "out", "--youtube", "--cookies", path],
    ):
        assert error_line(unibrivl("ingest", *words)) == f"{path}: a {kind}, want a file"
    assert not list(tmp_path.rglob("*.tar*"))


def test_a_parquet_list_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "list.parquet")
    assert error_line(unibrivl("ingest", path, "--dry-run")) == f"{path}: a pipe, want a file"


def test_failures_are_json_too_where_that_is_asked_for(tmp_path: Path, media: Path) -> None:
    list_path, out = tmp_path / "list.csv", tmp_path / "out"
    done = unibrivl("ingest", list_path, out, "--media-dir", media, "--json")
    message = f"{list_path}: there is no such list"
    assert (done.returncode, done.stderr) == (1, f"error: {message}\n")
    assert json.loads(done.stdout) == {"error": message}

    list_path.write_text(f"{GOOD_LIST}b,0,1\n")
    done = unibrivl("ingest", list_path, out, "--media-dir", media, "--workers", "1", "--json")
    value = json.loads(done.stdout)
    assert done.returncode == 1 and done.stderr == f"error: {value['error']}\n"
    assert (value["planned"], value["ok"], value["errors"]) == (2, 1, {"local.missing_file": 1})
    assert value["error"].startswith(f"1 of 2 clips failed (1 local.missing_file), media in {media}: ")

    (sidecar,) = out.rglob("*-000000.parquet")
    sidecar.unlink()
    done = unibrivl("shards", "verify", out, "--json")
    value = json.loads(done.stdout)
    assert done.returncode == 1 and done.stderr == f"error: {value['error']}\n"
    assert value["damaged"][0]["path"] == str(sidecar) and (value["shards"], value["ok"]) == (1, 0)

    (out / "dataset.json").write_text("{")
    done = unibrivl("shards", "repair", out, "--json")
    assert done.returncode == 1 and list(json.loads(done.stdout)) == ["error"]


def html(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>Sign in to confirm</body></html>")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def silent(path: Path) -> None:
    write_video(path, frames=[np.zeros((64, 64, 3), np.uint8)] * 5, audio=None)


def blind(path: Path) -> None:
    write_video(path, frames=None, audio=np.zeros(44_100, np.float32))


def short(path: Path) -> None:
    write_video(path, frames=[np.zeros((64, 64, 3), np.uint8)] * 5, audio=np.zeros(44_100, np.float32))


@pytest.mark.parametrize(
    ("make", "end", "match"),
    [
        (
            html,
            1,
            r"1 of 2 clips failed \(1 media\.not_media\), media in .*/media: b\.mp4: a web page, .*; fetch it again",
        ),
        (empty, 1, r"\(1 local\.empty_file\), media in .*/media: b\.mp4: the file has 0 bytes; fetch it again"),
        (
            short,
            60,
            r"\(1 media\.out_of_range\), media in .*/media: b\.mp4: the clip from 0 to 60000 ms reaches .* 10\d\d ms",
        ),
        (silent, 1, r"\(1 media\.no_audio\), media in .*/media: b\.mp4: has no audio track"),
        (blind, 1, r"\(1 media\.no_video\), media in .*/media: b\.mp4: has no video track"),
        (None, 1, r"\(1 local\.missing_file\), media in .*/media: b\.mp4: no such media file"),
    ],
    ids=["html", "zero bytes", "past the end", "no audio", "no video", "missing"],
)
def test_a_bad_medium_is_one_line_that_names_it_and_the_reason(
    tmp_path: Path, media: Path, make: Callable[[Path], None] | None, end: int, match: str
) -> None:
    out = tmp_path / "out"
    if make is not None:
        make(media / "b.mp4")
    (tmp_path / "list.csv").write_text(f"{GOOD_LIST}b,0,{end}\n")
    message = error_line(unibrivl("ingest", tmp_path / "list.csv", out, "--media-dir", media, "--workers", "1"))
    assert re.search(match, message)
    assert message.endswith("to accept this, pass --max-failed 0.5")
    shard = sorted(p.name for p in (out / "shards" / "train").iterdir())
    assert shard == [f"gen-train-000000{suffix}" for suffix in (".commit.json", ".parquet", ".tar", ".tar.idx")]
    assert not [p for p in out.rglob("*") if ".tmp-" in p.name]


def test_media_that_are_not_there_are_told_before_anything_is_written(tmp_path: Path, media: Path) -> None:
    (tmp_path / "list.csv").write_text("id,start,end\ngone,0,1\n")
    before = tree(tmp_path)
    message = error_line(unibrivl("ingest", tmp_path / "list.csv", tmp_path / "out", "--media-dir", media))
    assert re.fullmatch(rf"none of 1 clips has its medium in {media}; the first: gone\.mp4: no such .*", message)
    message = error_line(unibrivl("ingest", tmp_path / "list.csv", tmp_path / "out", "--media-dir", media / "none"))
    assert "none: not a readable folder of media (No such file or directory); name one with --media-dir" in message
    assert tree(tmp_path) == before


@pytest.mark.parametrize("where", ["under a file", "in /proc", "no permission"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, media: Path, where: str) -> None:
    (tmp_path / "list.csv").write_text(GOOD_LIST)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "closed").mkdir(mode=0o500)
    if where == "no permission" and os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("this user may write everywhere")
    out = {
        "under a file": tmp_path / "file" / "out", "in /proc": Path("/proc/unibrivl"),
        "no permission": tmp_path / "closed",
    }[where]  # fmt: skip
    before = tree(tmp_path)
    message = error_line(unibrivl("ingest", tmp_path / "list.csv", out, "--media-dir", media))
    assert re.fullmatch(rf"{out}: cannot be written \(.*\)", message)
    assert tree(tmp_path) == before


def test_a_good_run_says_how_many_and_where(tmp_path: Path, media: Path) -> None:
    (tmp_path / "list.csv").write_text(f"{GOOD_LIST}a,x,y\n")
    out = tmp_path / "out"
    done = unibrivl("ingest", tmp_path / "list.csv", out, "--media-dir", media, "--workers", "1")
    assert (done.returncode, done.stdout) == (0, f"1 of 1 clips in 1 shards of {out} (1 new)\n")
    warning = f"{tmp_path}/list.csv: 1 of 2 rows are left out; line 3: start 'x' or end 'y' is no number of seconds"
    assert done.stderr == f"{warning} (--dry-run lists them all)\n"
    done = unibrivl("ingest", tmp_path / "list.csv", out, "--media-dir", media, "--json")
    value = json.loads(done.stdout)
    assert list(value) == ["planned", "ok", "errors", "shards", "made", "seconds"]
    assert (value["planned"], value["ok"], value["errors"], value["shards"], value["made"]) == (1, 1, {}, 1, 0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "LIST"),
        (["list.csv"], "OUT"),
        (["list.csv", "out"], "--media-dir"),
        (["list.csv", "out", "--media-dir", "media", "--frame-size", "0"], "--frame-size has 0, want 16 to 1024"),
        (["list.csv", "out", "--media-dir", "media", "--shard-clips", "0"], "--shard-clips is 0, want 1 to 1000000"),
        (["list.csv", "out", "--media-dir", "media", "--max-failed", "2"], "--max-failed is 2.0, want 0 to 1"),
        (["list.csv", "out", "--media-dir", "media", "--workers", "0"], "--workers is 0, want 1 to 1024"),
        (["list.csv", "out", "--media-dir", "media", "--workers", "two"], "--workers"),
        (["list.csv", "out", "--media-dir", "media", "--clip-timeout", "0"], "--clip-timeout is 0.0, want"),
        (["list.csv", "out", "--media-dir", "media", "--split", "../up"], "--split is '../up'"),
        (["list.csv", "out", "--media-dir", "media", "--media-holds", "all"], "--media-holds is 'all', want"),
        (["list.csv", "out", "--media-url", "file:///x"], "--media-url is 'file:///x', want an address"),
        (["list.csv", "out", "--media-dir", "media", "--drop", "loud"], "--drop has 'loud', want silent"),
        (["list.csv", "out", "--media-dir", "media", "--balance", "0"], "--balance is 0, want at least 1"),
        (["list.csv", "out", "--media-dir", "media", "--max-wait", "0"], "--max-wait is 0.0, want more than 0"),
        (["list.csv", "out", "--media-dir", "media", "--colour", "red"], "--colour"),
        (["list.csv", "out", "more", "--media-dir", "media"], "more"),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, list) else "",
)
def test_a_mistake_of_usage_is_exit_code_2_and_writes_nothing(
    tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], named: str
) -> None:
    (tmp_path / "list.csv").write_text(GOOD_LIST)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("unibrivl.ingest.run.ingest", lambda *_: pytest.fail("the run began"))
    before = tree(tmp_path)
    done = CliRunner().invoke(app, ["ingest", *arguments])
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert named in re.sub(r"[\s│]+", " ", done.stderr)
    assert tree(tmp_path) == before


def test_the_command_itself_ends_with_2_too() -> None:
    done = unibrivl("ingest", "list.csv", "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert "give OUT and one of --media-dir, --media-url and --youtube, or" in re.sub(r"[\s│]+", " ", done.stderr)


AUDIOSET = """\
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_"
#NAME?, 0.000, 10.000, "/m/068hy"
_a_b-c_d_e-, 20.500, 30.250, "/m/03l9g"
short, 0, 10, "/m/03l9g"
"""


def test_a_dry_run_plans_and_touches_nothing(tmp_path: Path, media: Path) -> None:
    list_path = tmp_path / "eval_segments.csv"
    list_path.write_text(AUDIOSET)
    before = tree(tmp_path)
    places = [tmp_path / "out", "--media-dir", media]
    done = unibrivl("ingest", list_path, *places, "--dry-run", "--json", "--shard-clips", "1")
    assert (done.returncode, done.stderr) == (0, "")
    value = json.loads(done.stdout)
    assert list(value) == ["rows", "bad_rows", "bad_lines", "clips", "shards", "splits", "leaks"]
    assert value == {
        "rows": 4, "bad_rows": 2, "bad_lines": [3, 5], "clips": 2, "shards": 2, "splits": {"eval": 2}, "leaks": 0,
    }  # fmt: skip
    assert tree(tmp_path) == before


def test_a_dry_run_for_people_names_each_bad_line(tmp_path: Path) -> None:
    list_path = tmp_path / "list.csv"
    list_path.write_text(AUDIOSET)
    done = unibrivl("ingest", list_path, "--dry-run", "--split", "test")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "line 3: '#NAME?' is no YouTube id of 11 letters, digits, - and _",
        "line 5: 'short' is no YouTube id of 11 letters, digits, - and _",
        "2 clips (test 2) in 1 shards; 2 bad rows",
    ]


def test_a_dry_run_points_out_media_in_two_splits(tmp_path: Path) -> None:
    list_path = tmp_path / "list.csv"
    list_path.write_text("id,start,end,split\na,0,1,train\na,1,2,test\nb,0,1,train\nb,1,2,train\n")
    done = unibrivl("ingest", list_path, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [
        "1 media have clips in more than one split, so what is trained on leaks into tests"
    ]


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    done = unibrivl("--debug", "ingest", tmp_path / "none.csv", "--dry-run")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ListError" in done.stderr
