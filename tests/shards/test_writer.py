"""Checks that a shard appears whole or not at all, with the same bytes for the same samples."""

import errno
import os
import resource
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from webdataset.tariterators import group_by_keys, tar_file_expander

from unibrivl.shards import ClipShards, ShardError, ShardWriter, make_key, open_catalog
from unibrivl.shards import commit as commit_module
from unibrivl.shards import writer as writer_module
from unibrivl.shards.atomic import remove_leftovers, write_json
from unibrivl.shards.catalog import committed_shards
from unibrivl.shards.commit import Commit
from unibrivl.shards.tarindex import END_OF_TAR, read_index

Members = dict[str, bytes]
NUMBERS = [0, 1, 2, 3]


class Killed(BaseException):
    """Stands for the end of the process."""


def contents(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(directory.iterdir())}


def make_root(root: Path) -> Path:
    (root / "shards" / "train").mkdir(parents=True)
    write_json(root / "dataset.json", {"format": 1})
    return root


def test_a_shard_is_four_files(tmp_path: Path, write_shard: Callable[..., Commit]) -> None:
    write_shard(tmp_path, NUMBERS)
    assert list(contents(tmp_path)) == [f"as-train-000000{s}" for s in (".commit.json", ".parquet", ".tar", ".tar.idx")]


def test_the_same_samples_give_the_same_bytes(tmp_path: Path, write_shard: Callable[..., Commit]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name, NUMBERS)
        os.utime(tmp_path / name, (0, 0))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_index_points_at_every_sample(
    tmp_path: Path, write_shard: Callable[..., Commit], make_clip: Callable[[int], tuple[str, Members]]
) -> None:
    commit = write_shard(tmp_path, NUMBERS)
    data = commit.path(".tar").read_bytes()
    offsets = read_index(commit.path(".tar.idx")).tolist()
    assert len(offsets) == len(NUMBERS) + 1
    assert offsets[0] == 0 and offsets[-1] == len(data)
    assert data.endswith(END_OF_TAR)
    for number, offset in zip(NUMBERS, offsets, strict=False):
        assert data[offset:].startswith(make_clip(number)[0].encode() + b".flac\0")


def test_tarfile_and_webdataset_read_what_was_written(
    tmp_path: Path, write_shard: Callable[..., Commit], make_clip: Callable[[int], tuple[str, Members]]
) -> None:
    path = write_shard(tmp_path, NUMBERS).path(".tar")
    clips = [make_clip(n) for n in NUMBERS]
    with tarfile.open(path) as tar:
        assert tar.getnames() == [f"{key}.{ext}" for key, members in clips for ext in members]
    with path.open("rb") as stream:
        samples = list(group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])))
    read = [(s["__key__"], {name: s[name] for name in s if not name.startswith("__")}) for s in samples]
    assert [key for key, _ in read] == [key for key, _ in clips]
    assert read == clips
    assert [list(members) for _, members in read] == [["flac", "jpg", "json"]] * len(NUMBERS)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_inside_leaves_nothing(
    tmp_path: Path, make_clip: Callable[[int], tuple[str, Members]], error: type[BaseException]
) -> None:
    with pytest.raises(error), ShardWriter(tmp_path, "as-train-000000") as writer:
        for number in NUMBERS:
            writer.add(*make_clip(number))
        assert [p.name.startswith(".") for p in tmp_path.iterdir()] == [True]
        raise error
    assert contents(tmp_path) == {}


def test_leaving_without_a_commit_leaves_nothing(
    tmp_path: Path, make_clip: Callable[[int], tuple[str, Members]]
) -> None:
    with ShardWriter(tmp_path, "as-train-000000") as writer:
        writer.add(*make_clip(0))
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("key", ["", "a.b", "as_a_1", "../as_a_000000001"])
def test_a_key_that_readers_would_refuse_is_not_written(tmp_path: Path, key: str) -> None:
    with (
        pytest.raises(ValueError, match="is no clip key"),
        ShardWriter(tmp_path, "as-train-000000") as writer,
    ):
        writer.add(key, {"json": b"{}"})
    assert contents(tmp_path) == {}


# every step between the last sample and the commit file, as (module, name)
STEPS = [
    (os, "fsync"),
    (Path, "replace"),
    (writer_module, "write_index"),
    (writer_module, "write_file"),
    (writer_module.pq, "write_table"),
    (writer_module, "sync_directory"),
    (writer_module, "read_index"),
    (writer_module, "describe_file"),
    (writer_module, "write_commit"),
    (commit_module, "write_json"),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
def test_a_shard_does_not_exist_before_its_commit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_shard: Callable[..., Commit],
    owner: Any,
    name: str,
    when: str,
) -> None:
    """Stop at a step, once as an exception would and once as the end of the process would, and go on from there."""
    (tmp_path / "undisturbed").mkdir()
    write_shard(tmp_path / "undisturbed", NUMBERS)
    root = make_root(tmp_path / "set")
    step = getattr(owner, name)
    done = []

    def stop(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            step(*args, **kwargs)
        if not done:
            done.append(name)
            monkeypatch.undo()
            shutil.copytree(root, tmp_path / "killed")  # what a process that ends here would leave on the disk
        raise Killed

    monkeypatch.setattr(owner, name, stop)
    with pytest.raises(Killed):
        write_shard(root / "shards" / "train", NUMBERS)
    assert done
    assert not [p for p in root.rglob(".*.tmp-*")]
    is_committed = when == "after" and name in ("write_commit", "write_json")
    for state in (root, tmp_path / "killed"):
        if is_committed:
            assert len(open_catalog(state)) == len(NUMBERS)
            continue
        assert committed_shards(state) == []
        with pytest.raises(ShardError, match="holds no clip"):
            open_catalog(state)
        remove_leftovers(state / "shards" / "train")
        write_shard(state / "shards" / "train", NUMBERS)
        assert contents(state / "shards" / "train") == contents(tmp_path / "undisturbed")


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """Return a function that lets no file of this process grow beyond a size, as a full disk would."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("size", [0, 1000, 20_000])
@pytest.mark.parametrize("num_bytes", [10, 700, 3000, 9000])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, full_disk: Callable[[int], None], size: int, num_bytes: int
) -> None:
    """Small samples fail while the file is closed, large ones while they are written."""
    full_disk(size)
    with pytest.raises(OSError) as caught, ShardWriter(tmp_path, "as-train-000000") as writer:
        for number in range(100):
            writer.add(make_key("as", "a", number), {"json": bytes(num_bytes)})
    full_disk(resource.RLIM_INFINITY)
    assert caught.value.errno == errno.EFBIG
    assert contents(tmp_path) == {}


def test_a_shard_made_again_replaces_the_old_one(tmp_path: Path, write_shard: Callable[..., Commit]) -> None:
    root = make_root(tmp_path)
    write_shard(root / "shards" / "train", [0, 1, 2, 3, 4])
    write_shard(root / "shards" / "train", [5, 6])
    with ClipShards(root) as shards:
        assert [shards[i].info()["labels"] for i in range(len(shards))] == [["label 5"], ["label 6"]]
