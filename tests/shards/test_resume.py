"""Checks that a shard left unfinished is gone on with behind its last whole sample, and ends as an undisturbed one."""

import gc
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unibrivl.shards import ShardWriter
from unibrivl.shards import writer as writer_module

Members = dict[str, bytes]
MakeClip = Callable[[int], tuple[str, Members]]
NAME, TOKEN, COUNT = "as-train-000000", "plan and options", 6


def make(directory: Path, make_clip: MakeClip, *, until: int = COUNT, token: str = TOKEN) -> list[str]:
    """Write clips up to `until`, committing after the last; return the keys that had to be written."""
    written = []
    with ShardWriter(directory, NAME, token=token) as writer:
        for number in range(len(writer.rows), until):
            key, members = make_clip(number)
            row: dict[str, Any] = {"key": key, "split": "train"}
            if number == 2:
                row |= {"status": "failed", "error_code": "media.no_audio", "error_detail": "no sound"}
            else:
                row |= {"status": "ok"} | writer.add(key, members)
            writer.note(row)
            written.append(key)
        if until == COUNT:
            writer.commit(split="train", plan_sha256="0" * 64)
    return written


def contents(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(directory.iterdir())}


@pytest.fixture
def undisturbed(tmp_path: Path, make_clip: MakeClip) -> dict[str, bytes]:
    (tmp_path / "undisturbed").mkdir()
    make(tmp_path / "undisturbed", make_clip)
    return contents(tmp_path / "undisturbed")


@pytest.fixture
def begun(tmp_path: Path, make_clip: MakeClip) -> Path:
    """Return a folder with a shard that was left after four of six clips."""
    directory = tmp_path / "begun"
    directory.mkdir()
    make(directory, make_clip, until=4)
    return directory


@pytest.mark.parametrize("until", range(COUNT))
def test_the_next_writer_goes_on_where_the_last_one_was(
    tmp_path: Path, make_clip: MakeClip, undisturbed: dict[str, bytes], until: int
) -> None:
    directory = tmp_path / "begun"
    directory.mkdir()
    first = make(directory, make_clip, until=until)
    second = make(directory, make_clip)
    assert first + second == [make_clip(n)[0] for n in range(COUNT)]
    assert contents(directory) == undisturbed


def test_an_unfinished_shard_is_hidden(begun: Path) -> None:
    assert sorted(contents(begun)) == [f".{NAME}.rows.part", f".{NAME}.tar.part"]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("file", ["rows", "tar"])
def test_what_a_power_cut_tore_is_made_again(
    begun: Path, make_clip: MakeClip, undisturbed: dict[str, bytes], seed: int, file: str
) -> None:
    """Cut, flip or zero the part at a random place: only clips before it may be kept."""
    rng = random.Random(seed)
    path = begun / f".{NAME}.{file}.part"
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    if seed % 3 == 0:
        del data[place:]
    elif seed % 3 == 1:
        data[place] ^= 1 << rng.randrange(8)
    else:
        data[place:] = bytes(len(data) - place)
    path.write_bytes(data)
    written = make(begun, make_clip)
    if file == "tar":
        assert written  # the samples from that place on were written anew
    assert contents(begun) == undisturbed


def test_a_shard_of_another_plan_is_begun_anew(begun: Path, make_clip: MakeClip, undisturbed: dict[str, bytes]) -> None:
    assert len(make(begun, make_clip, token="another plan")) == COUNT
    assert contents(begun) == undisturbed


@pytest.mark.parametrize("step", ["write_index", "write_file", "sync_directory", "describe_file", "write_commit"])
def test_a_shard_that_was_all_but_committed_is_not_made_again(
    begun: Path, make_clip: MakeClip, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writer_module, step, stop)
        make(begun, make_clip)
    assert make(begun, make_clip) == []
    assert contents(begun) == undisturbed


def test_a_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    """A worker of a killed run may live for a moment; two must never write one part."""
    import fcntl

    writer = ShardWriter(tmp_path, NAME, token=TOKEN)
    with (tmp_path / f".{NAME}.tar.part").open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    writer.__exit__(None, None, None)
    del writer
    gc.collect()
    with (tmp_path / f".{NAME}.tar.part").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_a_committed_shard_left_is_cleared_away(begun: Path, tmp_path: Path, make_clip: MakeClip) -> None:
    kept = contents(begun)
    make(begun, make_clip)
    finished = contents(begun)
    for name, data in kept.items():
        (begun / name.replace("000000", "000001")).write_bytes(data)
        (begun / name).write_bytes(data)
    writer_module.remove_finished_parts(begun)
    left = {name: data for name, data in contents(begun).items() if "000001" not in name}
    assert left == finished
    assert len(contents(begun)) == len(finished) + len(kept), "an unfinished shard is not touched"
