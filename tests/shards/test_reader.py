"""Checks that every clip comes back as it was written, and that other bytes are refused."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.shards import SAMPLE_RATE, ClipShards, Sample, ShardError, epoch_order, read_commit
from unibrivl.shards.reader import read_sample
from unibrivl.shards.tarindex import read_index

Members = dict[str, bytes]
MakeClip = Callable[[int], tuple[str, Members]]
ORDER = (7, 8, 0, 1, 2, 3, 4, 5, 6)
"""The numbers of the set's clips: split `test` comes first."""


def test_every_clip_comes_back_in_any_order(shard_set: Path, make_clip: MakeClip) -> None:
    with ClipShards(shard_set) as shards:
        assert len(shards) == len(ORDER)
        for position in epoch_order(len(shards), seed=0, epoch=0).tolist():
            sample = shards[position]
            assert (sample.key, sample.members) == make_clip(ORDER[position])
            assert list(sample.members) == ["flac", "jpg", "json"]


def test_a_sequence_is_iterated_and_ends(shard_set: Path, make_clip: MakeClip) -> None:
    with ClipShards(shard_set, split="train") as shards:
        assert [sample.key for sample in shards] == [make_clip(n)[0] for n in range(7)]
        for position in (7, -1, 10**9):
            with pytest.raises(IndexError, match=f"clip {position} of 7"):
                shards[position]


def test_reading_goes_on_after_closing_and_closing_leaves_no_file_open(shard_set: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ClipShards(shard_set) as shards:
        first = shards[0]
        assert shards[8].members
        shards.close()
        assert shards[0] == first
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_sound_picture_and_text_are_decoded(shard_set: Path, make_clip: MakeClip) -> None:
    with ClipShards(shard_set, split="test") as shards:
        sample = shards[0]
    key, _ = make_clip(7)
    samples = np.random.default_rng(7).integers(-9000, 9000, SAMPLE_RATE // 10, np.int16)
    assert sample.audio().dtype == np.float32
    assert np.array_equal(sample.audio(), samples.astype(np.float32) / 32768)
    assert sample.frame().dtype == np.uint8 and sample.frame().shape == (16, 16, 3)
    assert sample.info() == {"key": key, "labels": ["label 7"]}


def test_sound_of_another_rate_is_refused(make_clip: MakeClip) -> None:
    for rate, shape in ((44_100, (100,)), (SAMPLE_RATE, (100, 2))):
        buffer = io.BytesIO()
        soundfile.write(buffer, np.zeros(shape, np.float32), rate, format="FLAC")
        with pytest.raises(ShardError, match=f"as_a_000000001: want mono sound at 16000 Hz, found {rate} Hz"):
            Sample("as_a_000000001", {"flac": buffer.getvalue()}).audio()


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory, write_shard: Callable[..., object]) -> Path:
    directory = tmp_path_factory.mktemp("tar")
    write_shard(directory, [0, 1, 2])
    return read_commit(directory / "as-train-000000.commit.json").path(".tar")


@pytest.mark.parametrize("shift", [-512, 512, 1, 1024])
def test_a_wrong_span_is_refused(tar: Path, make_clip: MakeClip, shift: int) -> None:
    offsets = read_index(Path(f"{tar}.idx")).tolist()
    fd = os.open(tar, os.O_RDONLY)
    try:
        key, members = make_clip(1)
        length = offsets[2] - offsets[1]
        assert read_sample(fd, tar, key, offsets[1], length).members == members
        with pytest.raises(ShardError, match=f"{tar}: {key}"):
            read_sample(fd, tar, key, offsets[1] + shift, length)
        for other in (offsets[0], offsets[1]):
            with pytest.raises(ShardError):
                read_sample(fd, tar, make_clip(2)[0], other, length)
        with pytest.raises(ShardError, match="want one sample, found 2"):
            read_sample(fd, tar, key, offsets[0], offsets[2])
        with pytest.raises(ShardError, match=r"found 0|cut short|damaged"):
            read_sample(fd, tar, key, offsets[-1] + 512, length)
    finally:
        os.close(fd)


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(1, 8000))
def test_a_sample_cut_anywhere_is_refused(tar: Path, make_clip: MakeClip, cut: int) -> None:
    """Other readers of tars give a sample with missing fields where the cut falls between two members."""
    offsets = read_index(Path(f"{tar}.idx")).tolist()
    key, members = make_clip(1)
    length = offsets[2] - offsets[1]
    fd = os.open(tar, os.O_RDONLY)
    try:
        if cut < length:
            try:
                sample = read_sample(fd, tar, key, offsets[1], length - cut)
            except ShardError:
                return
            assert sample.members == members  # only padding was cut
    finally:
        os.close(fd)


@pytest.mark.parametrize("member", ["flac", "jpg", "json"])
def test_a_damaged_header_is_refused(shard_set: Path, make_clip: MakeClip, member: str) -> None:
    path = read_commit(shard_set / "shards" / "test" / "as-test-000000.commit.json").path(".tar")
    data = bytearray(path.read_bytes())
    key, _ = make_clip(7)
    data[data.index(f"{key}.{member}".encode()) + 3] ^= 1
    path.write_bytes(data)
    with ClipShards(shard_set, split="test") as shards:
        with pytest.raises(ShardError, match=rf"as-test-000000.tar: {key}: damaged tar header"):
            shards[0]
        assert shards[1].key == make_clip(8)[0]


@pytest.mark.parametrize("member", ["flac", "jpg", "json"])
@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"{"])
def test_damaged_contents_are_refused_in_one_line(
    shard_set: Path, make_clip: MakeClip, member: str, fill: bytes
) -> None:
    path = read_commit(shard_set / "shards" / "test" / "as-test-000000.commit.json").path(".tar")
    data = path.read_bytes()
    _, members = make_clip(7)
    path.write_bytes(data.replace(members[member], fill * len(members[member])))
    with ClipShards(shard_set, split="test") as shards, pytest.raises(ShardError) as caught:
        {"flac": Sample.audio, "jpg": Sample.frame, "json": Sample.info}[member](shards[0])
    assert "\n" not in str(caught.value)
    assert make_clip(7)[0] in str(caught.value)


def test_a_shard_that_goes_while_it_is_read_is_reported(shard_set: Path) -> None:
    with ClipShards(shard_set, split="test") as shards:
        (shard_set / "shards" / "test" / "as-test-000000.tar").unlink()
        with pytest.raises((ShardError, FileNotFoundError), match=r"as-test-000000\.tar"):
            shards[0]
