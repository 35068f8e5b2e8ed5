import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unibrivl.shards import ShardError
from unibrivl.shards.foreign import ForeignShards, index_foreign
from unibrivl.shards.tarindex import read_index
from unibrivl.shards.tarscan import scan_tar

Files = list[tuple[str, bytes]]
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def write_tar(path: Path, files: Files, *, format: int = tarfile.GNU_FORMAT) -> None:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def samples(count: int, *, prefix: str = "") -> Files:
    """Return files as img2dataset names them, of sizes on and off a block's border."""
    files = []
    for number in range(count):
        rng = np.random.default_rng(number)
        stem = f"{prefix}{number:09d}"
        files += [(f"{stem}.{ext}", rng.bytes(512 * (number % 3) + k)) for k, ext in enumerate(("jpg", "json", "txt"))]
    return files


def as_webdataset_reads(path: Path) -> list[tuple[str, dict[str, bytes]]]:
    with path.open("rb") as stream:  # webdataset itself leaves it open
        read = wds.tariterators.group_by_keys(
            wds.tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
        )
        return [(s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")}) for s in read]


def read_all(directory: Path) -> list[tuple[str, dict[str, bytes]]]:
    with ForeignShards(directory) as shards:
        return [(sample.key, dict(sample.members)) for sample in shards]


@pytest.mark.parametrize("format", FORMATS)
def test_tars_of_every_make_read_as_webdataset_reads_them(tmp_path: Path, format: str) -> None:
    files = [
        *samples(7, prefix="a/b.c/"),
        ("README", b"no sample"),
        ("__meta__.json", b"{}"),
        ("nested/x.Seg.PNG", b"one"),
        ("nested/x.json", b"two"),
    ]
    if format != "ustar":
        files += [("long/" + "y" * 150 + ".jpg", b"three"), ("grüße.jpg", b"four")]
    write_tar(tmp_path / "0.tar", files, format=FORMATS[format])
    report = index_foreign(tmp_path)
    assert read_all(tmp_path) == as_webdataset_reads(tmp_path / "0.tar")
    assert (report.tars, report.ignored, report.problems) == (1, 1, ())
    assert report.members["seg.png"] == 1
    assert report.samples == len(read_all(tmp_path))


def test_the_offsets_are_those_of_each_first_header_and_the_file_size(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    write_tar(path, [("z" * 120 + ".jpg", b"1"), *samples(3)])
    index_foreign(tmp_path)
    offsets = read_index(tmp_path / "0.tar.idx")
    assert offsets[0] == 0  # the long name's own header belongs to the sample
    assert offsets[-1] == path.stat().st_size
    with tarfile.open(path) as tar:
        expected = [info.offset for info in tar if info.name.endswith("jpg")]
    assert offsets[:-1].tolist() == expected


def test_an_index_by_another_program_that_says_the_same_stays(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", samples(3))
    index_foreign(tmp_path)
    theirs = read_index(tmp_path / "0.tar.idx").copy()
    theirs[-1] -= 1024
    (tmp_path / "0.tar.idx").write_bytes(theirs.tobytes())
    index_foreign(tmp_path)
    assert read_index(tmp_path / "0.tar.idx")[-1] == theirs[-1]
    (tmp_path / "0.tar.idx").write_bytes(theirs[1:].tobytes())
    index_foreign(tmp_path)
    assert len(read_index(tmp_path / "0.tar.idx")) == 4


def test_several_tars_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write_tar(tmp_path / "sub" / "1.tar", samples(2, prefix="one"))
    write_tar(tmp_path / "0.tar", samples(2, prefix="zero"))
    index_foreign(tmp_path)
    assert [key[:3] for key, _ in read_all(tmp_path)] == ["zer", "zer", "one", "one"]
    index_foreign([tmp_path / "sub" / "1.tar"])
    assert len(read_all(tmp_path / "sub")) == 2
    with pytest.raises(ShardError, match="lies outside"):
        index_foreign([tmp_path / "0.tar"], into=tmp_path / "sub")


def ends_of_members(path: Path) -> list[int]:
    with tarfile.open(path) as tar:
        return [info.offset_data + -(-info.size // 512) * 512 for info in tar]


def test_a_tar_cut_anywhere_is_found_and_loses_no_more_than_its_end(tmp_path: Path) -> None:
    whole = tmp_path / "whole" / "0.tar"
    cut = tmp_path / "cut" / "0.tar"
    whole.parent.mkdir()
    cut.parent.mkdir()
    write_tar(whole, samples(8))
    index_foreign(whole.parent)
    expected, data = read_all(whole.parent), whole.read_bytes()
    ends = ends_of_members(whole)
    last = ends[-1] + 1024
    points = np.random.default_rng(0).integers(1, last, 150).tolist()
    for point in [*ends, *(end + 512 for end in ends), last - 1, *points]:
        cut.write_bytes(data[:point])
        with pytest.raises(ShardError, match=r"cut/0\.tar: .*cut"):
            index_foreign(cut.parent)
        report = index_foreign(cut.parent, on_error="skip")
        found = read_all(cut.parent)
        assert found == expected[: len(found)]
        assert report.problems
        starts = sum(end <= point for end in ends) // 3
        assert starts - 1 <= len(found) <= starts
        assert not (cut.parent / "0.tar.idx").exists()


def test_a_damaged_header_is_not_the_end_of_the_tar(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    write_tar(path, samples(5))
    data = bytearray(path.read_bytes())
    begin = ends_of_members(path)[7]
    data[begin + 3] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(ShardError, match=rf"0\.tar: has a damaged header at byte {begin}"):
        index_foreign(tmp_path)
    index_foreign(tmp_path, on_error="skip")
    assert [key for key, _ in read_all(tmp_path)] == ["000000000", "000000001"]
    with ForeignShards(tmp_path) as shards:
        assert "damaged header" in str(shards.problems[0])


def test_two_tars_in_one_file_are_found(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", samples(2))
    data = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(data + data)
    with pytest.raises(ShardError, match="goes on behind the end"):
        index_foreign(tmp_path)


FILES = {
    "interleaved": ([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"3"), ("b.txt", b"4")], "of a lie apart"),
    "twice in a row": ([("a.jpg", b"1"), ("a.jpg", b"2")], r"a is there twice \(members jpg\)"),
    "twice": ([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3")], r"a is there twice \(members jpg\)"),
    "differs in case only": ([("a.jpg", b"1"), ("a.JPG", b"2")], "a is there twice"),
}


@pytest.mark.parametrize("case", FILES)
def test_samples_that_are_not_there_once_and_whole_are_named_and_left_out(tmp_path: Path, case: str) -> None:
    files, message = FILES[case]
    write_tar(tmp_path / "0.tar", [*files, ("good.jpg", b"5")])
    with pytest.raises(ShardError, match=rf"0\.tar: .*{message}"):
        index_foreign(tmp_path)
    report = index_foreign(tmp_path, on_error="skip")
    kept = [key for key, _ in read_all(tmp_path)]
    assert "a" not in kept
    assert "good" in kept
    assert any("a" in str(problem) for problem in report.problems)


def test_a_link_is_no_member(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("a.txt"))
        tar.addfile(tarfile.TarInfo("b.txt"))
    with pytest.raises(ShardError, match=r"a\.jpg is a link"):
        index_foreign(tmp_path)
    index_foreign(tmp_path, on_error="skip")
    assert [key for key, _ in read_all(tmp_path)] == ["b"]


@pytest.mark.parametrize("data", [b"", b"\x1f\x8bgzip", b"<html>" * 200, bytes(100)])
def test_a_file_that_is_no_tar_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(ShardError, match=r"0\.tar"):
        index_foreign(tmp_path)
    assert index_foreign(tmp_path, on_error="skip").samples == 0


def test_a_folder_without_tars_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"holds no \.tar"):
        index_foreign(tmp_path)
    with pytest.raises(ShardError, match="make one with index_foreign"):
        ForeignShards(tmp_path)
    with pytest.raises(ShardError, match="want a folder"):
        index_foreign(tmp_path / "gone")


def grow(path: Path) -> None:
    with path.open("ab") as f:
        f.write(b"x")


def touch(path: Path) -> None:
    os.utime(path)


@pytest.mark.parametrize("change", [grow, touch, Path.unlink])
def test_a_tar_that_changed_since_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    write_tar(tmp_path / "0.tar", samples(3))
    os.utime(tmp_path / "0.tar", ns=(1, 1))
    index_foreign(tmp_path)
    change(tmp_path / "0.tar")
    with pytest.raises(ShardError, match=r"0\.tar: (changed since|is in the index, but)"):
        ForeignShards(tmp_path)


def test_bytes_that_changed_behind_the_clock_are_refused_when_read(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    write_tar(path, samples(3))
    index_foreign(tmp_path)
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[ends_of_members(path)[2] + 600] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with ForeignShards(tmp_path) as shards:
        assert shards[0].key == "000000000"
        with pytest.raises(ShardError, match=r"0\.tar: changed since.*000000001"):
            shards[1]
    with ForeignShards(tmp_path, verify=False) as shards:
        assert shards[1].key == "000000001"


def test_a_sample_without_a_wanted_member_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [*samples(2), ("half.jpg", b"1")])
    assert index_foreign(tmp_path).members == {"jpg": 3, "json": 2, "txt": 2}
    ForeignShards(tmp_path, members=("jpg",)).close()
    with pytest.raises(ShardError, match=r"0\.tar: half has no json, txt"):
        ForeignShards(tmp_path, members=("jpg", "txt", "json"))


def test_an_index_that_leads_out_of_its_tars_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", samples(2))
    path = index_foreign(tmp_path).path
    table = pq.read_table(path)
    for column, value in (("tar", "../0.tar"), ("offset", -512), ("length", 1 << 60)):
        values = table[column].to_pylist()
        values[1] = value
        wrong = table.set_column(table.schema.get_field_index(column), table.schema.field(column), [values])
        pq.write_table(wrong, path)
        with pytest.raises(ShardError, match="no readable index"):
            ForeignShards(tmp_path)
    path.write_bytes(b"PAR1")
    with pytest.raises(ShardError, match="no readable index"):
        ForeignShards(tmp_path)


def test_the_same_tars_give_the_same_index(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", samples(4))
    first = index_foreign(tmp_path).path.read_bytes()
    assert index_foreign(tmp_path).path.read_bytes() == first


def test_a_reader_travels_to_another_process(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", samples(2))
    index_foreign(tmp_path)
    with ForeignShards(tmp_path) as shards:
        assert shards[1].members == pickle.loads(pickle.dumps(shards))[1].members
        assert shards.keys == ["000000000", "000000001"]
        with pytest.raises(IndexError):
            shards[2]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 7)), min_size=1, max_size=3))
def test_flipped_bits_never_crash_the_scan(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    path = tmp_path / "0.tar"
    write_tar(path, [("w" * 130 + ".jpg", b"1"), *samples(3)], format=tarfile.PAX_FORMAT)
    data = bytearray(path.read_bytes())
    for place, bit in flips:
        data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    scan = scan_tar(path)
    assert all(0 <= s.offset < s.offset + s.length <= len(data) for s in scan.samples)
