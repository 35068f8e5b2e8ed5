"""Cached embeddings of the frozen tower: the same values as computed, never a wrong or damaged one."""

import errno
import logging
from pathlib import Path

import numpy as np
import pytest

from unibrivl.model import frozen
from unibrivl.model.frozen import FrozenImages, image_embeddings
from unibrivl.shards import ClipShards


class CountingTower:
    """Mean colour of each quarter; counts the pictures that it was given."""

    embed_dim = 12

    def __init__(self, fingerprint: str = "f" * 64) -> None:
        self.fingerprint = fingerprint
        self.pictures = 0

    def embed(self, frames_BHWC: np.ndarray, rngs: list[np.random.Generator] | None = None) -> np.ndarray:
        self.pictures += len(frames_BHWC)
        size = frames_BHWC.shape[1] // 2
        quarters = frames_BHWC.reshape(len(frames_BHWC), 2, size, 2, size, 3).mean(axis=(2, 4))
        changes = np.stack([rng.normal(0, 30, 12) for rng in rngs]) if rngs else 0
        return (quarters.reshape(len(frames_BHWC), 12) + changes).astype(np.float32)


def embed(shards: Path, tower: CountingTower, split: str | None = None) -> np.ndarray:
    with ClipShards(shards, split=split) as clips:
        return image_embeddings(clips, tower)


def cached(shards: Path) -> list[Path]:
    return sorted((shards / "frozen").rglob("*.npy"))


def test_embeddings_come_in_catalog_order_and_with_unit_norm(shards_copy: Path) -> None:
    tower, counted = CountingTower(), []
    with ClipShards(shards_copy) as clips:
        found = image_embeddings(clips, tower, counted.append)
        expected = np.concatenate([tower.embed(clips[i].frame()[None]) for i in range(len(clips))])
    assert found.dtype == np.float32
    assert found == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=1e-6)
    assert sum(counted) == 24 and len(counted) == len(cached(shards_copy)) == 4


def test_a_second_time_the_tower_is_not_asked(shards_copy: Path) -> None:
    first, second = CountingTower(), CountingTower()
    expected = embed(shards_copy, first)
    assert first.pictures == 24
    assert np.array_equal(embed(shards_copy, second), expected)
    assert second.pictures == 0
    # a split reads the files of its own shards
    assert len(embed(shards_copy, second, "test")) == 6 and second.pictures == 0


def test_another_tower_meets_no_old_embedding(shards_copy: Path) -> None:
    embed(shards_copy, CountingTower())
    other = CountingTower("0" * 64)
    embed(shards_copy, other)
    assert other.pictures == 24 and len(cached(shards_copy)) == 8


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    values = np.load(path)
    if how == "truncated":
        path.write_bytes(data[:-7])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "garbage":
        path.write_bytes(b"garbage" * 100)
    elif how == "header":
        data[20] ^= 0xFF
        path.write_bytes(data)
    elif how == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif how == "zip":
        path.write_bytes(b"PK\x03\x04" + bytes(40))
    elif how == "bit":
        data[-20] ^= 1  # within the numbers
        path.write_bytes(data)
    elif how == "nan":
        values[2, 3] = np.nan
        np.save(path, values)
    elif how == "rows":
        np.save(path, values[:-1])
    else:
        np.save(path, values.astype(np.float64))


@pytest.mark.parametrize(
    "how", ["truncated", "empty", "garbage", "bit", "header", "pickle", "zip", "nan", "rows", "dtype"]
)  # fmt: skip
def test_a_damaged_file_is_made_again(shards_copy: Path, how: str) -> None:
    expected = embed(shards_copy, CountingTower())
    whole = cached(shards_copy)[1].read_bytes()
    damage(cached(shards_copy)[1], how)
    tower = CountingTower()
    assert np.array_equal(embed(shards_copy, tower), expected)
    assert 0 < tower.pictures <= 8  # of that shard only
    assert cached(shards_copy)[1].read_bytes() == whole


def test_equal_pictures_are_embedded_once(shards_copy: Path) -> None:
    with ClipShards(shards_copy) as clips:
        table = clips.catalog.table
        column = table.schema.get_field_index("frame_sha256")
        hashes = table["frame_sha256"].to_pylist()
        object.__setattr__(
            clips.catalog, "table", table.set_column(column, "frame_sha256", [[hashes[0]] * 8 + hashes[8:]])
        )
        tower = CountingTower()
        found = image_embeddings(clips, tower)
    first_shard = int(np.sum(clips.catalog.table["shard"].to_numpy() == 0))
    assert tower.pictures == 24 - (min(8, first_shard) - 1) - (max(0, 8 - first_shard - 1) if first_shard < 8 else 0)
    assert (found[: min(8, first_shard)] == found[0]).all()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_that_cannot_be_written_only_warns(
    shards_copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    expected = embed(shards_copy, CountingTower("1" * 64))

    def refuse(*_: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(frozen, "write_bytes", refuse)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(embed(shards_copy, CountingTower()), expected)
    assert "cannot be written, so the pictures will be embedded again" in caplog.text


def test_a_full_disk_is_no_warning(shards_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(frozen, "write_bytes", refuse)
    with pytest.raises(OSError, match="full"):
        embed(shards_copy, CountingTower())


def test_draws_differ_and_are_kept(shards_copy: Path) -> None:
    tower = CountingTower()
    with ClipShards(shards_copy) as clips:
        images = FrozenImages(clips, tower, seed=3, num_draws=2)
        images.make(lambda number: None)
        assert tower.pictures == 3 * 24 and len(cached(shards_copy)) == 3 * 4
        epochs = [images.of_epoch(epoch) for epoch in range(4)]
        assert tower.pictures == 3 * 24
        other = FrozenImages(clips, tower, seed=4, num_draws=2).of_epoch(0)
    assert all(abs(float(e.norm(dim=1).mean()) - 1) < 1e-6 for e in epochs)
    assert epochs[0].equal(epochs[2]) and epochs[1].equal(epochs[3])
    for found in (epochs[1], images.plain, other):
        assert not (epochs[0] == found).all(dim=1).any()


def test_a_draw_belongs_to_the_picture_and_not_to_the_choice_of_clips(shards_copy: Path) -> None:
    with ClipShards(shards_copy) as clips, ClipShards(shards_copy, split="test") as some:
        everything = FrozenImages(clips, CountingTower(), num_draws=1)
        part = FrozenImages(some, CountingTower("0" * 64), num_draws=1).of_epoch(0)
        places = [position for position, split in enumerate(clips.catalog.column("split")) if split == "test"]
    assert len(part) == 6 and part.equal(everything.of_epoch(0)[places])


def test_processes_share_the_shards_among_them(shards_copy: Path) -> None:
    towers = [CountingTower() for _ in range(3)]
    with ClipShards(shards_copy) as clips:
        for part, tower in enumerate(towers):
            FrozenImages(clips, tower).make(lambda number: None, part=part, num_parts=3)
        assert sum(tower.pictures for tower in towers) == 24 and all(tower.pictures for tower in towers)
        last = CountingTower()
        image_embeddings(clips, last)
    assert last.pictures == 0
