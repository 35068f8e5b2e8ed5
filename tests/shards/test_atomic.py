"""Checks that files appear whole or not at all, and that one process writes a folder."""

import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from unibrivl.shards import atomic
from unibrivl.shards.atomic import (
    canonical_json,
    hold_directory,
    is_foreign,
    remove_leftovers,
    temporary_path,
    write_bytes,
    write_file,
    write_json,
)

HOLDER = """
import sys
from pathlib import Path
from unibrivl.shards.atomic import hold_directory
with hold_directory(Path(sys.argv[1]), wait=False) as is_ours:
    print(is_ours, flush=True)
    sys.stdin.read()
"""
DIES_WHILE_WRITING = """
import os, sys
from pathlib import Path
from unibrivl.shards.atomic import write_file
def write(f):
    f.write(b"new" * 9999)
    os._exit(9)
write_file(Path(sys.argv[1]), write)
"""


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def write(f: BinaryIO) -> None:
        f.write(b"new")
        f.flush()
        assert target.read_bytes() == b"old"

    write_file(target, write)
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_exception_while_writing_changes_nothing(
    tmp_path: Path, error: type[BaseException], old: bytes | None
) -> None:
    target = tmp_path / "a.bin"
    if old is not None:
        target.write_bytes(old)

    def write(f: BinaryIO) -> None:
        f.write(b"new")
        raise error

    with pytest.raises(error):
        write_file(target, write)
    assert names(tmp_path) == ([] if old is None else ["a.bin"])
    assert old is None or target.read_bytes() == old


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(*((os, "fsync", fail) if step == "fsync" else (Path, "replace", fail)))
    with pytest.raises(OSError, match="Input/output error"):
        write_bytes(target, b"new")
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_the_bytes_are_on_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("sync"), sync(fd)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (steps.append("rename"), replace(a, b)))
    write_bytes(tmp_path / "a.bin", b"x")
    assert steps == ["sync", "rename", "sync"]


def test_a_killed_writer_leaves_a_hidden_file_that_is_cleared_away(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    (tmp_path / ".keep").touch()
    (tmp_path / "b.tmp-1").touch()
    done = subprocess.run([sys.executable, "-c", DIES_WHILE_WRITING, str(target)], check=False)
    assert done.returncode == 9
    assert target.read_bytes() == b"old"
    assert len(names(tmp_path)) == 4
    assert remove_leftovers(tmp_path) == 1
    assert names(tmp_path) == [".keep", "a.bin", "b.tmp-1"]
    assert remove_leftovers(tmp_path) == 0


def test_folders_of_killed_writers_are_cleared_away_and_links_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / ".a.tmp-1-ab" / "inner").mkdir(parents=True)
    (tmp_path / ".b.tmp-1-ab").symlink_to("kept")
    assert remove_leftovers(tmp_path) == 2
    assert names(tmp_path) == ["kept"] and names(tmp_path / "kept") == ["file"]


def test_an_error_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    def full(_: BinaryIO) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "folder").mkdir()
    for target, number, write in (("a.bin", 28, full), ("folder", 21, lambda f: f.write(b"x"))):
        with pytest.raises(OSError) as caught:
            write_file(tmp_path / target, write)
        assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / target))
    with pytest.raises(FileNotFoundError) as caught:
        write_file(tmp_path / "a.bin", lambda f: (tmp_path / "source").read_bytes())
    assert caught.value.filename == str(tmp_path / "source")  # another file's error stays its own
    assert names(tmp_path) == ["folder"]


def test_a_file_is_foreign_where_a_folder_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "list.csv").touch()
    assert is_foreign(tmp_path / "list.csv", "marker")


def test_temporary_names_are_hidden_beside_the_target_and_never_the_same(tmp_path: Path) -> None:
    target = tmp_path / "a.tar"
    found = {temporary_path(target) for _ in range(100)}
    assert len(found) == 100
    assert all(p.parent == tmp_path and p.name.startswith(".a.tar" + atomic.TEMPORARY_MARK) for p in found)


def test_json_is_the_same_whatever_the_order_of_its_keys(tmp_path: Path) -> None:
    assert canonical_json({"b": 1, "a": "é"}) == canonical_json({"a": "é", "b": 1})
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_bytes() == b'{\n  "a": "\xc3\xa9",\n  "b": 1\n}\n'


def test_json_that_other_programs_cannot_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert names(tmp_path) == []


def test_one_process_holds_a_directory_until_it_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "True\n"
        with hold_directory(tmp_path, wait=False) as is_ours:
            assert not is_ours
        child.kill()
        child.wait()
        with hold_directory(tmp_path, wait=True) as is_ours:
            assert is_ours
            second = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
            assert second.stdout == "False\n"
    with hold_directory(tmp_path, wait=False) as is_ours:
        assert is_ours
    assert names(tmp_path) == []


def test_an_exception_while_holding_lets_go(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="not ours"), hold_directory(tmp_path, wait=False):
        raise BlockingIOError("not ours")
    with hold_directory(tmp_path, wait=False) as is_ours:
        assert is_ours
