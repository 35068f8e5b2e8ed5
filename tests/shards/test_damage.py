"""Damages a real set at random and at every boundary: verification finds all of it, and no reader gives other bytes."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unibrivl.shards import ClipShards, ShardError, read_commit
from unibrivl.shards.catalog import compact, write_dataset
from unibrivl.shards.commit import COMMIT_SUFFIX, SUFFIXES, Commit
from unibrivl.shards.salvage import salvage
from unibrivl.shards.tarindex import BLOCK, find_members, parse_members, read_index
from unibrivl.shards.verify import LEVELS, verify

Members = dict[str, bytes]
SEED = 3
NAME = "as-train-000000"


class Shard:
    """A set of one shard; a test changes one file at a time and puts it back."""

    def __init__(self, root: Path, write_shard: Callable[..., Commit]) -> None:
        self.root = root
        directory = root / "shards" / "train"
        directory.mkdir(parents=True)
        write_dataset(root, {"seed": 0, "frame": {"sizes_px": [16]}})
        write_shard(directory, [0, 1, 2, 3])
        self.path = {suffix: directory / f"{NAME}{suffix}" for suffix in (*SUFFIXES, COMMIT_SUFFIX)}
        self.path["dataset"] = root / "dataset.json"
        self.bytes = {suffix: path.read_bytes() for suffix, path in self.path.items()}
        self.samples = read_all(root)

    def damaged(self, suffix: str, data: bytes) -> Iterator[None]:
        assert data != self.bytes[suffix]
        self.path[suffix].write_bytes(data)
        yield
        self.path[suffix].write_bytes(self.bytes[suffix])


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory, write_shard: Callable[..., Commit]) -> Shard:
    return Shard(tmp_path_factory.mktemp("damage") / "set", write_shard)


def read_all(root: Path) -> dict[str, Members]:
    with ClipShards(root) as shards:
        return {sample.key: dict(sample.members) for sample in shards}


def read_each(root: Path) -> Iterator[tuple[str, Members] | None]:
    """Yield every clip that a reader gives, and None for each that it refuses."""
    try:
        shards = ClipShards(root)
    except ShardError as e:
        assert "\n" not in str(e)
        yield None
        return
    with shards:
        for position in range(len(shards)):
            try:
                sample = shards[position]
            except ShardError as e:
                assert "\n" not in str(e)
                yield None
            else:
                yield sample.key, dict(sample.members)


def assert_found(shard: Shard, suffix: str, level: str = "hash") -> None:
    """Verification finds the damage, and names the file; every clip that is read is the one that was written."""
    report = verify(shard.root, level=level)
    assert not report.is_whole
    assert [damage.path for damage in report.damaged] == [shard.path[suffix]]
    assert report.ok == (suffix == "dataset")
    for found in read_each(shard.root):
        assert found is None or shard.samples[found[0]] == found[1]


def boundaries(shard: Shard) -> list[int]:
    """Return where each member of the tar begins, where its data begin and end, and the two blocks at the end."""
    data, found = shard.bytes[".tar"], {0}
    offsets = read_index(shard.path[".tar.idx"]).tolist()
    ends = [*offsets[1:-1], offsets[-1] - 2 * BLOCK]
    for begin, end in zip(offsets[:-1], ends, strict=True):
        for place in find_members(data[begin:end], "here")[1].values():
            found |= {begin + place.start - BLOCK, begin + place.start, begin + place.stop}
        found.add(end)
    return sorted(found | {len(data) - BLOCK})


def test_members_are_bounded_where_they_should_be(shard: Shard) -> None:
    assert len(boundaries(shard)) >= 3 * len(shard.samples) + 2
    keys = [name for b in boundaries(shard) if (name := shard.bytes[".tar"][b : b + 3]) == b"as_"]
    assert len(keys) == 3 * len(shard.samples)


def cuts(shard: Shard) -> list[int]:
    rng = random.Random(SEED)
    return [*boundaries(shard), *(rng.randrange(len(shard.bytes[".tar"])) for _ in range(300))]


def test_a_tar_cut_anywhere_is_found_by_its_size_and_its_whole_clips_are_salvaged(shard: Shard) -> None:
    data = shard.bytes[".tar"]
    offsets = read_index(shard.path[".tar.idx"]).tolist()
    for cut in cuts(shard):
        for _ in shard.damaged(".tar", data[:cut]):
            for level in ("size", "hash"):
                assert [damage.path for damage in verify(shard.root, level=level).damaged] == [shard.path[".tar"]]
            with pytest.raises(ShardError, match=rf"{NAME}\.tar has {cut} bytes"):
                ClipShards(shard.root)
            found = salvage(shard.path[".tar"].parent, NAME)
            whole = [end <= cut for end in (*offsets[1:-1], offsets[-1] - 2 * BLOCK)]
            assert list(found) == [key for key, is_whole in zip(shard.samples, whole, strict=True) if is_whole]
            assert all(parse_members(span(), key) == shard.samples[key] for key, (span, _) in found.items())
    assert verify(shard.root, level="deep").is_whole


def test_a_tar_whose_end_is_blank_but_as_long_as_before_is_found_by_its_hash(shard: Shard) -> None:
    """As a crashed file system leaves it; a tail that was blank before is no loss."""
    data = shard.bytes[".tar"]
    for cut in cuts(shard):
        changed = data[:cut] + bytes(len(data) - cut)
        if changed == data:
            assert cut >= len(data) - 3 * BLOCK
            continue
        for _ in shard.damaged(".tar", changed):
            assert_found(shard, ".tar", "hash")
            assert verify(shard.root, level="size").is_whole  # which looks at nothing else


def flips(shard: Shard, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield a file and its bytes with one flipped bit; small files get as many as large ones."""
    rng = random.Random(SEED)
    names = list(shard.bytes)
    for number in range(count):
        suffix = names[number % len(names)]
        data = bytearray(shard.bytes[suffix])
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        yield suffix, bytes(data)


def test_a_flipped_bit_in_any_file_is_found_and_no_other_bytes_are_read(shard: Shard) -> None:
    hit = dict.fromkeys(shard.bytes, 0)
    for suffix, data in flips(shard, 300):
        hit[suffix] += 1
        for _ in shard.damaged(suffix, data):
            assert_found(shard, suffix)
    assert set(hit.values()) == {60}
    assert verify(shard.root, level="deep").is_whole


def test_a_flipped_bit_in_a_tar_costs_one_clip_at_most(shard: Shard) -> None:
    rng = random.Random(SEED + 1)
    data = shard.bytes[".tar"]
    for _ in range(300):
        bit = rng.randrange(8 * len(data))
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        for _ in shard.damaged(".tar", bytes(changed)):
            found = list(read_each(shard.root))
            is_in_end = bit // 8 >= len(data) - 2 * BLOCK
            assert sum(one is None for one in found) == (not is_in_end)
            assert all(one is None or shard.samples[one[0]] == one[1] for one in found)
            assert len(salvage(shard.path[".tar"].parent, NAME)) == len(found) - (not is_in_end)


def test_who_skips_damage_gets_whole_clips_and_is_told(shard: Shard, caplog: pytest.LogCaptureFixture) -> None:
    data = shard.bytes[".tar"]
    for cut in (len(data) // 2, len(data) - 3 * BLOCK):
        for _ in shard.damaged(".tar", data[:cut]):
            caplog.clear()
            with ClipShards(shard.root, on_error="skip", max_skipped=1.0) as shards:
                given = [shards[position] for position in range(len(shards))]
                assert shards.skipped
            assert all(dict(sample.members) == shard.samples[sample.key] for sample in given)
            assert NAME in caplog.text


def test_a_flipped_bit_of_the_cache_is_found_and_changes_nothing_that_is_read(shard: Shard, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(shard.root, root)
    compact(root)
    assert read_all(root) == shard.samples
    rng = random.Random(SEED + 2)
    for path in sorted(root.glob("catalog.*")):
        data = path.read_bytes()
        for _ in range(40):
            bit = rng.randrange(8 * len(data))
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            assert [damage.path for damage in verify(root).damaged] == [path]
            assert read_all(root) == shard.samples
        path.write_bytes(data)


@pytest.mark.parametrize("level", LEVELS)
def test_swapped_and_doubled_files_are_found(tmp_path: Path, write_shard: Callable[..., Commit], level: str) -> None:
    """A whole and sound file of another shard in the place of this one's."""
    root = tmp_path / "set"
    directory = root / "shards" / "train"
    directory.mkdir(parents=True)
    write_dataset(root, {"seed": 0})
    one, other = write_shard(directory, [0, 1]), write_shard(directory, [2, 3, 4], number=1)
    for suffix in SUFFIXES:
        data = one.path(suffix).read_bytes()
        one.path(suffix).write_bytes(other.path(suffix).read_bytes())
        report = verify(root, level=level)
        is_same_size = one.files[suffix]["bytes"] == other.files[suffix]["bytes"]
        if level != "size" or not is_same_size:
            assert one.path(suffix) in {damage.path for damage in report.damaged} and report.ok == 1
        one.path(suffix).write_bytes(data)
    commit_file = one.path(COMMIT_SUFFIX)
    commit_file.write_bytes(other.path(COMMIT_SUFFIX).read_bytes())
    assert [damage.path for damage in verify(root, level=level).damaged] == [commit_file]
    with pytest.raises(ShardError, match="name is 'as-train-000001'"):
        read_commit(commit_file)
