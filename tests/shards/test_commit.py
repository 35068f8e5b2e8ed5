"""Checks the commit file: what it says comes back, and what does not fit it is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unibrivl.shards import ShardError, read_commit, verify_commit
from unibrivl.shards.commit import SUFFIXES, Commit, describe_file


@pytest.fixture
def commit(tmp_path: Path, write_shard: Callable[..., Commit]) -> Commit:
    return write_shard(tmp_path, [0, 1, 2])


def commit_path(commit: Commit) -> Path:
    return commit.path(".commit.json")


def test_what_was_written_is_read(commit: Commit) -> None:
    read = read_commit(commit_path(commit))
    assert read == commit
    assert (read.name, read.split, read.planned, read.ok) == ("as-train-000000", "train", 4, 3)
    assert read.errors == {"media.no_audio": 1}
    assert read.plan_sha256 == "0" * 64
    verify_commit(read)


def test_sizes_and_hashes_are_those_of_the_files(commit: Commit) -> None:
    assert list(commit.files) == list(SUFFIXES) == [".tar", ".tar.idx", ".parquet"]
    for suffix in SUFFIXES:
        assert commit.files[suffix] == describe_file(commit.path(suffix))
        assert commit.files[suffix]["bytes"] == len(commit.path(suffix).read_bytes()) > 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_file_is_named(commit: Commit, suffix: str) -> None:
    commit.path(suffix).unlink()
    with pytest.raises(ShardError, match=rf"{commit.name}{suffix} is missing, its commit says \d+ bytes; delete"):
        read_commit(commit_path(commit))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("change", [-1, 1, -512])
def test_a_file_of_another_size_is_named(commit: Commit, suffix: str, change: int) -> None:
    path = commit.path(suffix)
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + b"x")
    with pytest.raises(ShardError, match=rf"{commit.name}{suffix} has \d+ bytes, its commit says {len(data)} bytes"):
        read_commit(commit_path(commit))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_flipped_byte_is_found_by_verification(commit: Commit, suffix: str) -> None:
    path = commit.path(suffix)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    read = read_commit(commit_path(commit))
    with pytest.raises(ShardError, match=f"{commit.name}{suffix}: SHA-256 differs"):
        verify_commit(read)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"commit"', "{}", '{"format": 1}', "\0\0\0"])
def test_a_damaged_commit_is_refused(commit: Commit, text: str) -> None:
    commit_path(commit).write_text(text)
    with pytest.raises(ShardError, match=r"no readable commit file \(.*\); delete it and run the ingestion again"):
        read_commit(commit_path(commit))


def test_a_cut_commit_is_refused(commit: Commit) -> None:
    path = commit_path(commit)
    data = path.read_bytes()
    for length in range(0, len(data) - 2, 29):
        path.write_bytes(data[:length])
        with pytest.raises(ShardError, match="no readable commit file"):
            read_commit(path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": 2}, "shard format 2, this program reads 1"),
        ({"surprise": 1}, "no readable commit file"),
        ({"files": {}}, "no readable commit file"),
        ({"files": {".tar": {}}}, "no readable commit file"),
        ({"files": None}, "no readable commit file"),
    ],
)
def test_a_commit_that_says_something_else_is_refused(commit: Commit, change: dict[str, Any], match: str) -> None:
    path = commit_path(commit)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ShardError, match=match):
        read_commit(path)


def test_a_commit_without_one_of_its_fields_is_refused(commit: Commit) -> None:
    path = commit_path(commit)
    value = json.loads(path.read_text())
    for name in value:
        path.write_text(json.dumps({n: v for n, v in value.items() if n != name}))
        with pytest.raises(ShardError, match="no readable commit file"):
            read_commit(path)
