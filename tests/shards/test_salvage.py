"""Checks that what is whole in a damaged shard is taken, and not a byte more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from unibrivl.shards import ShardError, ShardWriter, read_commit, verify_commit
from unibrivl.shards.commit import COMMIT_SUFFIX, SUFFIXES, Commit, describe_file, write_commit
from unibrivl.shards.salvage import Salvage, salvage
from unibrivl.shards.schema import SIDECAR_SCHEMA
from unibrivl.shards.tarindex import parse_members

Members = dict[str, bytes]
MakeClip = Callable[[int], tuple[str, Members]]
NUMBERS = [0, 1, 2, 3, 4]
ALL = (*SUFFIXES, COMMIT_SUFFIX)


@pytest.fixture
def commit(tmp_path: Path, make_clip: MakeClip) -> Commit:
    """Write a shard of five clips, whose rows say what their descriptions say, and a failed one."""
    with ShardWriter(tmp_path, "as-train-000000") as writer:
        rows: list[dict[str, Any]] = [{"key": "as_gone_000000000", "status": "failed", "error_code": "media.no_audio"}]
        for number in NUMBERS:
            key, members = make_clip(number)
            rows.append({"key": key, "status": "ok", "labels": [f"label {number}"]} | writer.add(key, members))
        return writer.commit(split="train", plan_sha256="0" * 64, rows=rows)


def flip(path: Path, position: int, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


def samples(found: Salvage) -> dict[str, Members]:
    return {key: parse_members(span(), key) for key, (span, _) in found.items()}


def remade(commit: Commit, found: Salvage) -> dict[str, bytes]:
    """Write the shard anew of nothing but what was salvaged; return the bytes of its files."""
    assert not found.lost
    keys = pq.read_table(commit.path(".parquet"), columns=["key"])["key"].to_pylist()
    with ShardWriter(commit.directory, commit.name) as writer:
        rows = []
        for key in keys:
            if key in found:
                span, row = found[key]
                rows.append(row | writer.add_span(span()))
            else:
                rows.append(found.failed[key])
        writer.commit(split=commit.split, plan_sha256=commit.plan_sha256, rows=rows)
    return {suffix: commit.path(suffix).read_bytes() for suffix in ALL}


def test_all_of_a_sound_shard_is_whole(commit: Commit, make_clip: MakeClip) -> None:
    found = salvage(commit.directory, commit.name)
    assert found.commit == commit and found.lost == []
    assert list(found) == [make_clip(n)[0] for n in NUMBERS]
    assert samples(found) == dict(make_clip(n) for n in NUMBERS)
    rows = {row["key"]: row for row in pq.read_table(commit.path(".parquet")).to_pylist()}
    assert {key: row for key, (_, row) in found.items()} | found.failed == rows
    assert list(next(iter(found.values()))[1]) == SIDECAR_SCHEMA.names
    assert list(found.failed) == ["as_gone_000000000"]


@pytest.mark.parametrize(
    "damage", ["index gone", "index flipped", "end flipped", "end cut", "commit cut", "commit gone"]
)
def test_a_shard_whose_samples_are_whole_is_made_again_bit_for_bit_without_media(commit: Commit, damage: str) -> None:
    before = {suffix: commit.path(suffix).read_bytes() for suffix in ALL}
    tar, index, commit_file = (commit.path(s) for s in (".tar", ".tar.idx", COMMIT_SUFFIX))
    if damage == "index gone":
        index.unlink()
    elif damage == "index flipped":
        flip(index, 9)
    elif damage == "end flipped":
        flip(tar, -1)
    elif damage == "end cut":
        tar.write_bytes(before[".tar"][:-1024])
    elif damage == "commit cut":
        commit_file.write_bytes(before[COMMIT_SUFFIX][:-40])  # past the name of the sidecar's hash
    else:
        commit_file.unlink()
        found = salvage(commit.directory, commit.name)
        assert len(found) == len(NUMBERS) and found.commit is None
        assert found.failed == {}  # nothing vouches for rows without samples
        return
    assert remade(commit, salvage(commit.directory, commit.name)) == before
    verify_commit(read_commit(commit_file))


@pytest.mark.parametrize("place", ["header", "sound", "padding"])
def test_only_the_clip_that_was_hit_is_lost(commit: Commit, make_clip: MakeClip, place: str) -> None:
    keys = [make_clip(n)[0] for n in NUMBERS]
    data = commit.path(".tar").read_bytes()
    start = data.index(f"{keys[2]}.flac".encode())
    end = data.index(f"{keys[3]}.flac".encode())
    flip(commit.path(".tar"), {"header": start + 3, "sound": start + 1000, "padding": end - 1}[place])
    found = salvage(commit.directory, commit.name)
    assert found.lost == [keys[2]]
    assert samples(found) == {key: members for key, members in map(make_clip, NUMBERS) if key != keys[2]}
    assert list(found.failed) == ["as_gone_000000000"]


def test_what_lies_before_a_cut_is_whole(commit: Commit, make_clip: MakeClip) -> None:
    tar = commit.path(".tar")
    data = tar.read_bytes()
    rows = [row for row in pq.read_table(commit.path(".parquet")).to_pylist() if row["status"] == "ok"]
    for cut in range(0, len(data), 509):
        tar.write_bytes(data[:cut])
        found = salvage(commit.directory, commit.name)
        assert list(found) == [row["key"] for row in rows if row["tar_offset"] + row["tar_len"] <= cut]
        assert len(found) + len(found.lost) == len(NUMBERS)
    tar.unlink()
    found = salvage(commit.directory, commit.name)
    assert not found and len(found.lost) == len(NUMBERS)


def test_a_sidecar_that_its_commit_contradicts_is_worth_nothing(commit: Commit) -> None:
    path = commit.path(".parquet")
    data = path.read_bytes()
    for position in range(0, len(data), 997):
        flip(path, position)
        found = salvage(commit.directory, commit.name)
        assert (dict(found), found.failed, found.lost) == ({}, {}, [])
        path.write_bytes(data)
    path.unlink()
    assert not salvage(commit.directory, commit.name)


@pytest.mark.parametrize("harm", ["sidecar gone", "sidecar cut", "commit cut too"])
def test_a_tar_that_its_commit_names_is_whole_whatever_became_of_the_sidecar(
    commit: Commit, make_clip: MakeClip, harm: str
) -> None:
    path = commit.path(".parquet")
    path.write_bytes(path.read_bytes()[:-9])
    if harm == "sidecar gone":
        path.unlink()
    elif harm == "commit cut too":
        commit.path(COMMIT_SUFFIX).write_bytes(commit.path(COMMIT_SUFFIX).read_bytes()[:-40])
    found = salvage(commit.directory, commit.name)
    assert not found and found.failed == {}
    assert {key: parse_members(span(), key) for key, span in found.bare.items()} == dict(map(make_clip, NUMBERS))


@pytest.mark.parametrize("place", [3, 600, -1])
def test_a_tar_that_has_changed_has_no_sample_without_its_sidecar(commit: Commit, place: int) -> None:
    commit.path(".parquet").unlink()
    flip(commit.path(".tar"), place)
    assert salvage(commit.directory, commit.name).bare == {}


def test_media_are_known_of_lost_clips_only_from_a_sidecar_that_is_vouched_for(
    commit: Commit, make_clip: MakeClip
) -> None:
    rows = [row | {"src_sha256": "ab" * 32} for row in pq.read_table(commit.path(".parquet")).to_pylist()]
    table = pq.read_table(commit.path(".parquet")).from_pylist(rows, schema=SIDECAR_SCHEMA)
    pq.write_table(table, commit.path(".parquet"))
    commit.files[".parquet"] = describe_file(commit.path(".parquet"))
    write_commit(commit)
    lost = make_clip(2)[0]
    flip(commit.path(".tar"), commit.path(".tar").read_bytes().index(lost.encode()) + 700)
    assert salvage(commit.directory, commit.name).media == {lost: "ab" * 32}
    commit.path(COMMIT_SUFFIX).write_bytes(b"{")
    found = salvage(commit.directory, commit.name)
    assert (found.lost, found.media) == ([lost], {})


def test_a_damaged_commit_still_vouches_for_the_sidecar_that_it_names(commit: Commit) -> None:
    path = commit.path(COMMIT_SUFFIX)
    before = {suffix: commit.path(suffix).read_bytes() for suffix in ALL}
    name = path.read_bytes().index(commit.files[".parquet"]["sha256"].encode())
    for position in range(0, len(before[COMMIT_SUFFIX]), 31):
        if name <= position < name + 64:
            continue
        flip(path, position)
        found = salvage(commit.directory, commit.name)
        assert found.commit is None
        assert len(found) == len(NUMBERS) and list(found.failed) == ["as_gone_000000000"]
        path.write_bytes(before[COMMIT_SUFFIX])
    flip(path, name)
    found = salvage(commit.directory, commit.name)
    assert len(found) == len(NUMBERS) and found.failed == {}
    path.write_bytes(before[COMMIT_SUFFIX][:-40])
    assert remade(commit, salvage(commit.directory, commit.name)) == before


def change_row(commit: Commit, number: int, change: dict[str, Any]) -> None:
    """Write another sidecar, and no commit that knows it."""
    rows = pq.read_table(commit.path(".parquet")).to_pylist()
    rows[number] |= change
    pq.write_table(
        pq.read_table(commit.path(".parquet")).from_pylist(rows, schema=SIDECAR_SCHEMA), commit.path(".parquet")
    )
    commit.path(COMMIT_SUFFIX).write_bytes(b"{")


@pytest.mark.parametrize(
    "change",
    [
        {"key": "as_other_000000001"},
        {"key": "../x"},
        {"key": None},
        {"labels": ["another label"]},
        {"sample_xxh3": 7},
        {"sample_xxh3": None},
        {"tar_offset": 0},
        {"tar_offset": None},
        {"tar_offset": -512},
        {"tar_offset": 2**63 - 1},
        {"tar_len": 2**63 - 1},
        {"tar_len": -1},
        {"tar_len": None},
        {"status": "failed"},
    ],
)
def test_without_a_commit_a_row_that_its_sample_contradicts_is_not_believed(
    commit: Commit, make_clip: MakeClip, change: dict[str, Any]
) -> None:
    change_row(commit, 2, change)
    found = salvage(commit.directory, commit.name)
    assert samples(found) == dict(make_clip(n) for n in NUMBERS if n != 1)
    assert len(found.lost) == (change.get("status") != "failed")
    assert found.failed == {}


def test_a_commit_that_names_a_sidecar_without_places_gives_nothing(commit: Commit) -> None:
    rows = [row | {"tar_offset": None} for row in pq.read_table(commit.path(".parquet")).to_pylist()]
    table = pq.read_table(commit.path(".parquet")).from_pylist(rows, schema=SIDECAR_SCHEMA)
    pq.write_table(table, commit.path(".parquet"))
    commit.files[".parquet"] = describe_file(commit.path(".parquet"))
    write_commit(commit)
    assert not salvage(commit.directory, commit.name)


def test_a_tar_that_changes_afterwards_is_seen_by_the_reader_of_a_span(commit: Commit, make_clip: MakeClip) -> None:
    found = salvage(commit.directory, commit.name)
    span, _ = found[make_clip(1)[0]]
    flip(commit.path(".tar"), commit.path(".tar").read_bytes().index(make_clip(1)[0].encode()) + 600)
    with pytest.raises(ShardError, match=f"{commit.path('.tar')}: {make_clip(1)[0]} is damaged"):
        span()
    commit.path(".tar").write_bytes(b"")
    with pytest.raises(ShardError, match="lies outside the tar"):
        span()
    commit.path(".tar").unlink()
    with pytest.raises(ShardError, match="cannot be read"):
        span()


def test_a_shard_that_is_not_there_gives_nothing(tmp_path: Path) -> None:
    found = salvage(tmp_path, "as-train-000000")
    assert (dict(found), found.failed, found.lost, found.commit) == ({}, {}, [], None)
