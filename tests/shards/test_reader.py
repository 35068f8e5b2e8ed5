"""Checks that every clip comes back as it was written, and that other bytes are refused or skipped."""

import io
import json
import logging
import os
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unibrivl.shards import (
    FORMAT_VERSION,
    SAMPLE_RATE,
    ClipShards,
    Sample,
    ShardError,
    ShardWriter,
    epoch_order,
    read_commit,
    tars,
)  # fmt: skip
from unibrivl.shards.atomic import write_json
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
        with pytest.raises(ShardError, match=rf"as-test-000000.tar: {key}: the bytes do not fit their checksum"):
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
    decode = {"flac": Sample.audio, "jpg": Sample.frame, "json": Sample.info}[member]
    for verify in (True, False):
        with ClipShards(shard_set, split="test", verify=verify) as shards, pytest.raises(ShardError) as caught:
            decode(shards[0])
        assert "\n" not in str(caught.value)
        assert make_clip(7)[0] in str(caught.value)


def test_a_shard_that_goes_while_it_is_read_is_reported(shard_set: Path) -> None:
    with ClipShards(shard_set, split="test") as shards:
        (shard_set / "shards" / "test" / "as-test-000000.tar").unlink()
        with pytest.raises(ShardError, match=r"as-test-000000\.tar: as_xa_b0000007_000007000: cannot be read"):
            shards[0]


def tar_of(root: Path, split: str = "test", number: int = 0) -> Path:
    return root / "shards" / split / f"as-{split}-{number:06d}.tar"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, write_shard: Callable[..., object]) -> Iterator[ClipShards]:
    root = tmp_path_factory.mktemp("three")
    (root / "shards" / "train").mkdir(parents=True)
    write_json(root / "dataset.json", {"format": FORMAT_VERSION})
    write_shard(root / "shards" / "train", [0, 1, 2])
    with ClipShards(root) as shards:
        yield shards


@settings(max_examples=150, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_bit_that_flips_anywhere_in_a_sample_is_caught(three: ClipShards, share: float, bit: int) -> None:
    """Also where no decoder would notice: in padding, in a time of the tar, in the picture's pixels."""
    path = tar_of(three.catalog.root, "train")
    whole = path.read_bytes()
    _, second, end = three.catalog.column("tar_offset")
    place = int(share * end)
    damaged = bytearray(whole)
    damaged[place] ^= 1 << bit
    path.write_bytes(damaged)  # into the file that the reader holds open
    try:
        hit = int(place >= second)
        with pytest.raises(ShardError, match="do not fit their checksum"):
            three[hit]
        assert three[1 - hit].members and three[2].members
    finally:
        path.write_bytes(whole)


def test_without_verify_another_clip_at_the_place_is_still_refused(shard_set: Path) -> None:
    path = tar_of(shard_set)
    data = path.read_bytes()
    with ClipShards(shard_set, split="test", verify=False) as shards:
        assert shards[0].members
        path.write_bytes(data.replace(b"as_xa_b0000007", b"as_xa_b0000006"))
        with pytest.raises(ShardError, match="another clip lies there"):
            shards[0]
        path.write_bytes(bytes(len(data)))
        with pytest.raises(ShardError, match="another clip lies there"):
            shards[0]


def test_a_damaged_clip_is_replaced_by_the_next_intact_one(
    shard_set: Path, make_clip: MakeClip, caplog: pytest.LogCaptureFixture
) -> None:
    path = tar_of(shard_set)
    path.write_bytes(path.read_bytes()[:1000])  # the set opens although a tar is cut
    with ClipShards(shard_set, on_error="skip", max_skipped=0.5) as shards, caplog.at_level(logging.WARNING):
        assert len(shards) == 9
        assert shards[1].key == make_clip(ORDER[2])[0]
        assert list(shards.skipped) == [1]
        assert [sample.key for sample in shards] == [make_clip(n)[0] for n in (0, 0, 0, 1, 2, 3, 4, 5, 6)]
        assert list(shards.skipped) == [1, 0]
        skipped = shards.skipped[0]
        assert (skipped.key, skipped.position) == (make_clip(7)[0], 0)
        assert "as-test-000000.tar" in skipped.reason and "cut short" in skipped.reason
    assert caplog.text.count(f"skipping damaged clips of {path}") == 1
    with pytest.raises(ShardError, match=r"as-test-000000\.tar has 1000 bytes"):
        ClipShards(shard_set)


def test_the_last_clip_is_replaced_by_the_first(shard_set: Path, make_clip: MakeClip) -> None:
    with ClipShards(shard_set, split="train", on_error="skip") as shards:
        path = tar_of(shard_set, "train", 1)
        data = bytearray(path.read_bytes())
        data[-2000] ^= 1
        path.write_bytes(data)
        assert shards[6].key == make_clip(0)[0]


def test_too_much_damage_is_an_error_that_stays(shard_set: Path) -> None:
    tar_of(shard_set).unlink()
    with ClipShards(shard_set, on_error="skip", max_skipped=0.1) as shards:
        for _ in range(2):
            with pytest.raises(ShardError, match="2 of 9 clips are damaged, more than max_skipped allows; the last: "):
                shards[0]
    with (
        ClipShards(shard_set, split="test", on_error="skip", max_skipped=1) as shards,
        pytest.raises(ShardError, match="none of 2 clips is intact"),
    ):
        shards[0]


def num_read(root: Path, **options: Any) -> int:
    with ClipShards(root, on_error="skip", **options) as shards:
        return len(shards)


@pytest.mark.parametrize(
    ("cut", "gone"), [(".parquet", ""), ("", ".parquet"), (".commit.json", ""), (".commit.json", ".tar.idx")]
)
def test_clips_of_a_shard_that_is_left_out_count_as_skipped(
    shard_set: Path, caplog: pytest.LogCaptureFixture, cut: str, gone: str
) -> None:
    """The shard has 3 clips of 9; without commit and index it counts as much as the largest other, which has 4."""
    stem, lost = str(shard_set / "shards/train/as-train-000001"), 4 if cut and gone else 3
    if cut:
        Path(stem + cut).write_bytes(Path(stem + cut).read_bytes()[:-7])
    if gone:
        Path(stem + gone).unlink()
    counted = rf"{lost} of {6 + lost} clips are damaged \({lost} of them in shards left out\), more than"
    for share in (0.05, 0.3):
        with pytest.raises(ShardError, match=f"{counted} .*; the last: {re.escape(stem + (cut or gone))}"):
            num_read(shard_set, max_skipped=share)
    caplog.clear()
    assert num_read(shard_set, max_skipped=0.4) == 6
    assert caplog.text.count("leaving out a shard of") == caplog.text.count(f"of {lost} clips: {stem}") == 1
    assert num_read(shard_set, split="test") == 2, "another split has lost nothing"


def test_lost_shards_and_damaged_clips_count_together(shard_set: Path) -> None:
    (shard_set / "shards/train/as-train-000001.parquet").unlink()
    tar_of(shard_set).unlink()
    with ClipShards(shard_set, on_error="skip", max_skipped=0.45) as shards, pytest.raises(ShardError) as raised:
        shards[0]
    assert "5 of 9 clips are damaged (3 of them in shards left out), more than max_skipped allows" in str(raised.value)
    with ClipShards(shard_set, on_error="skip", max_skipped=0.6) as shards:
        assert len(list(shards)) == 6 and len(shards.skipped) == 2
    with (
        ClipShards(shard_set, on_error="skip", max_skipped=0.45, where=pc.field("split") == "test") as shards,
        pytest.raises(ShardError, match=r"of 3 clips are damaged \(1 of them"),
    ):
        shards[0]


def labelled_set(root: Path, make_clip: MakeClip, labels: list[list[str] | None]) -> Path:
    (root / "shards" / "train").mkdir(parents=True)
    write_json(root / "dataset.json", {"format": FORMAT_VERSION})
    with ShardWriter(root / "shards" / "train", "as-train-000000") as writer:
        rows = []
        for number, names in enumerate(labels):
            key, members = make_clip(number)
            row = {"key": key, "split": "train", "status": "ok", "labels": names, "silent_ratio": number / 10}
            rows.append(row | writer.add(key, members))
        writer.commit(split="train", plan_sha256="0" * 64, rows=rows)
    return root


LABELS = [["/m/dog", "/m/speech"], ["/m/bark"], [], None, ["/m/speech"], ["own words"]]


def chosen(root: Path, **selection: Any) -> list[int]:
    with ClipShards(root, **selection) as shards:
        assert [s.key for s in shards] == shards.catalog.column("key")
        return [int(key.rsplit("_", 1)[1]) // 1000 for key in shards.catalog.column("key")]


def test_labels_select_letter_by_letter_without_an_ontology(tmp_path: Path, make_clip: MakeClip) -> None:
    root = labelled_set(tmp_path / "set", make_clip, LABELS)
    assert chosen(root, labels=("/m/dog", "own words")) == [0, 5]
    assert chosen(root, exclude_labels=("/m/speech",)) == [1, 2, 3, 5]
    assert chosen(root, labels=("/m/dog", "/m/bark"), exclude_labels=("/m/speech",)) == [1]
    with pytest.raises(ShardError, match=r"no clip with .*it has 4 labels: /m/speech \(2\), /m/bark \(1\)"):
        chosen(root, labels=("/m/dog",), exclude_labels=("/m/speech",))
    for choice in ("labels", "exclude_labels"):
        with pytest.raises(ShardError, match=r"set: no clip has the label 'Dog'; did you mean '/m/dog'\?"):
            chosen(root, **{choice: ("/m/bark", "Dog")})


def test_labels_stand_for_all_below_them_with_an_ontology(tmp_path: Path, make_clip: MakeClip) -> None:
    root = labelled_set(tmp_path / "set", make_clip, [*LABELS[:-1], ["Bark", "own words"]])
    tree = [("/m/dog", "Dog", ["/m/bark"]), ("/m/bark", "Bark", []), ("/m/speech", "Speech", []), ("/m/x", "X", [])]
    ontology = [{"id": mid, "name": name, "child_ids": below, "restrictions": []} for mid, name, below in tree]
    (root / "ontology.json").write_text(json.dumps(ontology))
    assert chosen(root, labels=("Dog",)) == [0, 1, 5]
    assert chosen(root, labels=("/m/bark",)) == [1, 5]
    assert chosen(root, exclude_labels=("dog", "Speech")) == [2, 3]
    assert chosen(root, labels=("own words",)) == [5]
    with pytest.raises(ShardError, match="there is no class 'Dgo'"):
        chosen(root, labels=("Dgo",))
    with pytest.raises(ShardError, match="no clip with 'X'"):
        chosen(root, labels=("X",))


def test_a_column_selects(tmp_path: Path, make_clip: MakeClip) -> None:
    root = labelled_set(tmp_path / "set", make_clip, LABELS)
    assert chosen(root, where=pc.field("silent_ratio") > 0.25) == [3, 4, 5]
    assert chosen(root, where=pc.field("silent_ratio") > 0.25, labels=("/m/speech",)) == [4]
    with pytest.raises(ShardError, match="no clip of 6 fits where="):
        chosen(root, where=pc.field("silent_ratio") > 9)
    with pytest.raises(ShardError, match=r"where: .*volume.*the columns are key, corpus"):
        chosen(root, where=pc.field("volume") > 9)


def test_a_pickled_reader_reads_the_same(shard_set: Path) -> None:
    with ClipShards(shard_set, on_error="skip") as shards:
        before = list(shards)
        with pickle.loads(pickle.dumps(shards)) as other:
            assert list(other) == before
            assert pickle.loads(pickle.dumps(before)) == before


def test_threads_share_a_reader_that_keeps_few_files_open(
    shard_set: Path, make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tars, "MAX_OPEN", 1)
    wrong: list[object] = []
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ClipShards(shard_set) as shards:

        def read(seed: int) -> None:
            try:
                for position in np.random.default_rng(seed).integers(0, 9, 300).tolist():
                    if shards[position].key != make_clip(ORDER[position])[0]:
                        wrong.append(position)
            except Exception as e:
                wrong.append(e)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def jpeg(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), side, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_one_of_several_stored_sizes_is_read() -> None:
    sample = Sample("as_a_000000001", {"jpg": jpeg(64), "96.jpg": jpeg(96)})
    assert [sample.frame(size).shape[0] for size in (None, 64, 96)] == [64, 64, 96]
    with pytest.raises(ShardError, match="no picture of 32 pixels is stored, only 64, 96"):
        sample.frame(32)
    with pytest.raises(ShardError, match=r"as_a_000000001 has no flac, only jpg, 96\.jpg"):
        sample.audio()


def test_sound_stored_as_wav_is_the_same_sound() -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 4000, np.int16)
    sounds = {}
    for name in ("flac", "wav"):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, SAMPLE_RATE, format=name.upper(), subtype="PCM_16")
        sounds[name] = buffer.getvalue()
    assert np.array_equal(*(Sample("k", {name: data}).audio() for name, data in sounds.items()))
    assert Sample("k", {"wav": sounds["wav"]}).audio().dtype == np.float32
    for damaged in (sounds["wav"][:-3], sounds["wav"][:20], b"", b"RIFF" + bytes(60)):
        with pytest.raises(ShardError, match="k: its sound is damaged"):
            Sample("k", {"wav": damaged}).audio()


def test_wrong_arguments_are_refused(shard_set: Path) -> None:
    with pytest.raises(ValueError, match="on_error 'ignore': want raise or skip"):
        ClipShards(shard_set, on_error="ignore")
    for field in ("video", "frame:0", "frame:", "audio "):
        with pytest.raises(ValueError, match=f"field '{field}': want audio, frame"):
            ClipShards(shard_set, fields=(field,))
    with pytest.raises(ShardError, match="a remote set needs a cache"):
        ClipShards("memory://set")
