"""Checks the commit file: what it says comes back, and what does not fit it is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.shards import ShardError, read_commit, verify_commit
from unibrivl.shards.atomic import canonical_json, write_json
from unibrivl.shards.commit import (
    COMMIT_SUFFIX,
    SUFFIXES,
    Commit,
    DamageError,
    committed_shards,
    describe_file,
    parse_commit,
    write_commit,
)
from unibrivl.shards.seal import seal

MEND = r"; mend it with `unibrivl shards repair .*`$"


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
    with pytest.raises(ShardError, match=rf"{commit.name}{suffix} is missing, its commit says \d+ bytes{MEND}"):
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
    with pytest.raises(ShardError, match=f"{commit.name}{suffix} is damaged: SHA-256 differs from its commit{MEND}"):
        verify_commit(read)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"commit"', "{}", '{"format": 1}', "\0\0\0"])
def test_a_damaged_commit_is_refused(commit: Commit, text: str) -> None:
    commit_path(commit).write_text(text)
    with pytest.raises(ShardError, match=r"as-train-000000\.commit\.json is no readable commit file \(.*\)" + MEND):
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
        ({"format": True}, "shard format True, this program reads 1"),
        ({"surprise": 1}, "want the fields"),
        ({"name": "as-train-000001"}, "name is 'as-train-000001'"),
        ({"name": "../../x"}, "name is '../../x'"),
        ({"name": None}, "name is None"),
        ({"split": "../x"}, "split is"),
        ({"split": 3}, "split is"),
        ({"plan_sha256": "abc"}, "plan_sha256 is"),
        ({"planned": 5}, "planned is 5, ok and errors together are not"),
        ({"planned": 4.0}, r"planned is 4\.0"),
        ({"planned": True}, "planned is True"),
        ({"ok": -1}, "ok is -1"),
        ({"errors": []}, "errors is"),
        ({"errors": {"media.no_audio": "1"}}, "errors is"),
        ({"files": {}}, "files is"),
        ({"files": {".tar": {}}}, "files is"),
        ({"files": None}, "files is"),
    ],
)
def test_a_commit_that_says_something_else_is_refused(commit: Commit, change: dict[str, Any], match: str) -> None:
    path = commit_path(commit)
    path.write_bytes(canonical_json(seal(json.loads(path.read_text()) | change)))
    with pytest.raises(ShardError, match=match):
        read_commit(path)


def test_a_commit_without_one_of_its_fields_is_refused(commit: Commit) -> None:
    path = commit_path(commit)
    value = json.loads(path.read_text())
    for name in value:
        path.write_bytes(canonical_json(seal({n: v for n, v in value.items() if n != name})))
        if name == "seal":  # which was put back
            assert read_commit(path) == commit
            write_json(path, {n: v for n, v in value.items() if n != "seal"})
        with pytest.raises(ShardError, match="no readable commit file"):
            read_commit(path)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        {"bytes": 1},
        {"sha256": "0" * 64},
        {"bytes": -1, "sha256": "0" * 64},
        {"bytes": True, "sha256": "0" * 64},
        {"bytes": 1, "sha256": "0" * 63},
        {"bytes": 1, "sha256": 0},
        {"bytes": 1, "sha256": "0" * 64, "more": 1},
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_described_otherwise_is_refused(commit: Commit, suffix: str, entry: Any) -> None:
    write_commit(replace(commit, files=commit.files | {suffix: entry}))
    with pytest.raises(ShardError, match=r"no readable commit file \(files is"):
        parse_commit(commit_path(commit))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
FIELDS = ("format", "name", "split", "plan_sha256", "planned", "ok", "errors", "files", "seal")


@given(value=JSON | st.dictionaries(st.sampled_from(FIELDS), JSON), is_sealed=st.booleans())
def test_any_other_json_is_refused(tmp_path_factory: pytest.TempPathFactory, value: Any, is_sealed: bool) -> None:
    path = tmp_path_factory.mktemp("commit") / "as-train-000000.commit.json"
    path.write_bytes(canonical_json(seal(value) if is_sealed and isinstance(value, dict) else value))
    with pytest.raises(ShardError, match=r"as-train-000000\.commit\.json"):
        read_commit(path)


@given(change=st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=2))
def test_any_other_field_is_refused_or_believed_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, change: dict[str, Any]
) -> None:
    """A sealed file with other values is read only if they are of the right kind, and never leads elsewhere."""
    directory = tmp_path_factory.mktemp("commit")
    files = {suffix: {"bytes": 0, "sha256": "0" * 64} for suffix in SUFFIXES}
    commit = Commit(
        name="as-train-000000", split="train", plan_sha256="0" * 64, planned=0, ok=0, errors={}, files=files,
        directory=directory,
    )  # fmt: skip
    path = commit_path(commit)
    path.write_bytes(canonical_json(seal(commit.stored() | change)))
    try:
        read = parse_commit(path)
    except ShardError:
        return
    assert {commit.path(s) for s in SUFFIXES} == {read.path(s) for s in SUFFIXES}
    assert read.planned == read.ok + sum(read.errors.values()) >= 0


@pytest.mark.parametrize(
    "data", [b"[" * 200_000, b'{"a":' * 200_000, b'{"format": 1' + b"0" * 9999 + b"}", b"\xff\xfe{}"]
)
def test_json_that_parsers_choke_on_is_refused(commit: Commit, data: bytes) -> None:
    commit_path(commit).write_bytes(data)
    with pytest.raises(ShardError, match=r"no readable commit file|shard format"):
        read_commit(commit_path(commit))


def test_a_flipped_bit_in_any_byte_of_a_commit_is_seen(commit: Commit) -> None:
    path = commit_path(commit)
    data = path.read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(ShardError):
            parse_commit(path)
    path.write_bytes(data)
    assert parse_commit(path) == commit


def test_other_white_space_is_seen(commit: Commit) -> None:
    path = commit_path(commit)
    data = path.read_bytes()
    for other in (data[:-1], data + b"\n", b" " + data, data.replace(b": ", b":"), data.replace(b"\n", b"\r\n")):
        path.write_bytes(other)
        with pytest.raises(ShardError, match="its seal does not fit"):
            read_commit(path)


def test_a_mirror_needs_no_tars(commit: Commit) -> None:
    commit.path(".tar").unlink()
    commit.path(".tar.idx").unlink()
    assert read_commit(commit_path(commit), tars=False) == commit
    with pytest.raises(ShardError, match=r"as-train-000000\.tar is missing"):
        read_commit(commit_path(commit))
    commit.path(".parquet").write_bytes(b"short")
    with pytest.raises(ShardError, match=r"as-train-000000\.parquet has 5 bytes"):
        read_commit(commit_path(commit), tars=False)


def test_a_shard_in_the_folder_of_another_split_is_refused(shard_set: Path) -> None:
    for suffix in (*SUFFIXES, COMMIT_SUFFIX):
        source = shard_set / "shards" / "test" / f"as-test-000000{suffix}"
        source.rename(shard_set / "shards" / "train" / source.name)
    with pytest.raises(DamageError, match="belongs to split test, yet lies in the folder train") as caught:
        committed_shards(shard_set)
    assert f"`unibrivl shards repair {shard_set}`" in str(caught.value)
    assert caught.value.damage.shard == "as-test-000000"
