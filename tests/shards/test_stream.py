import gzip
import http.server
import io
import shlex
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds

from unibrivl.shards import ClipShards, Commit, ShardError, ShardWriter
from unibrivl.shards.schema import shard_name
from unibrivl.shards.stream import as_webdataset, stream

Read = list[tuple[str, dict[str, bytes]]]


def read_stream(*urls: str | Path, **options: Any) -> Read:
    return [(sample.key, dict(sample.members)) for sample in stream(urls, **options)]


def ends_of_members(path: Path) -> list[int]:
    with tarfile.open(path) as tar:
        return [info.offset_data + -(-info.size // 512) * 512 for info in tar]


@pytest.fixture
def tar(shard_set: Path) -> Path:
    return shard_set / "shards" / "train" / "as-train-000000.tar"


@pytest.fixture
def expected(shard_set: Path) -> Read:
    with ClipShards(shard_set, split="train") as shards:
        return [(sample.key, dict(sample.members)) for sample in shards][:4]


@pytest.fixture
def server(shard_set: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(shard_set))) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_stream_gives_what_the_reader_gives(tar: Path, expected: Read, server: str) -> None:
    assert read_stream(tar) == expected
    assert read_stream(f"pipe:cat {shlex.quote(str(tar))}") == expected
    assert read_stream(f"{server}/shards/train/as-train-000000.tar") == expected  # this server knows no ranges
    zipped = tar.with_suffix(".tar.gz")
    zipped.write_bytes(gzip.compress(tar.read_bytes()))
    assert read_stream(zipped) == expected
    assert len(list(stream(tar))) == 4


@pytest.mark.slow  # a process that imports webdataset, which imports torch
def test_standard_input_is_a_stream(tar: Path, expected: Read) -> None:
    code = "from unibrivl.shards.stream import stream; print(*(sample.key for sample in stream('-')))"
    with tar.open("rb") as f:
        done = subprocess.run([sys.executable, "-c", code], stdin=f, capture_output=True, check=True)
    assert done.stdout.decode().split() == [key for key, _ in expected]


def test_tars_follow_each_other_and_keys_may_come_again_in_the_next(tar: Path, expected: Read) -> None:
    assert read_stream(tar, tar) == expected + expected


def test_every_cut_is_an_error_and_no_half_sample_is_handed_out(tar: Path, expected: Read, tmp_path: Path) -> None:
    data, cut = tar.read_bytes(), tmp_path / "cut.tar"
    ends = ends_of_members(tar)
    points = np.random.default_rng(0).integers(0, ends[-1] + 1023, 150).tolist()
    for point in [0, 511, 512, *ends, *(end + 512 for end in ends), *points]:
        cut.write_bytes(data[:point])
        read = stream(cut)
        found = []
        with pytest.raises(ShardError, match=r"cut\.tar"):
            found.extend((sample.key, dict(sample.members)) for sample in read)
        assert found == expected[: len(found)]


def test_webdataset_alone_would_not_have_noticed(tar: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(tar.read_bytes()[: ends_of_members(tar)[4]])
    with cut.open("rb") as f:
        half = list(wds.tariterators.group_by_keys(wds.tariterators.tar_file_expander([{"url": "", "stream": f}])))
    assert "json" not in half[-1]


@pytest.mark.parametrize("place", [3, 500_000])
def test_a_damaged_header_is_an_error(tar: Path, place: int) -> None:
    data = bytearray(tar.read_bytes())
    begin = [0, *ends_of_members(tar)][min(place, 7)]
    data[begin + 5] ^= 4
    tar.write_bytes(data)
    with pytest.raises(ShardError, match=rf"000000\.tar: has a damaged header at byte {begin}"):
        read_stream(tar)


def test_something_behind_the_end_is_an_error(tar: Path) -> None:
    tar.write_bytes(tar.read_bytes() * 2)
    with pytest.raises(ShardError, match="behind the end of its archive"):
        read_stream(tar)


def test_zeros_behind_the_end_are_what_tar_programs_write(tar: Path, expected: Read) -> None:
    tar.write_bytes(tar.read_bytes() + bytes(10240))
    assert read_stream(tar) == expected


def write_tar(path: Path, names: list[str], *, format: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=format) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_either_make_are_followed(tmp_path: Path, format: int) -> None:
    write_tar(tmp_path / "x.tar", ["d/" + "y" * 200 + ".jpg", "grüße.jpg", "z.jpg"], format=format)
    assert [key for key, _ in read_stream(tmp_path / "x.tar")] == ["d/" + "y" * 200, "grüße", "z"]


@pytest.mark.parametrize("names", [["a.x", "b.x", "a.y"], ["a.x", "a.x"], ["a.x", "b.x", "a.x"]])
def test_members_apart_or_twice_are_an_error(tmp_path: Path, names: list[str]) -> None:
    write_tar(tmp_path / "x.tar", names)
    with pytest.raises(ShardError, match=r"x\.tar: .*a"):
        read_stream(tmp_path / "x.tar")


@pytest.mark.parametrize("data", [b"", b"<html>" * 200, b"\x1f\x8b" + bytes(2000), bytes(512)])
def test_what_is_no_tar_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(ShardError, match=r"x\.tar"):
        read_stream(tmp_path / "x.tar")


@pytest.mark.parametrize(
    "url", ["/nowhere/x.tar", "pipe:exit 3", "nonsense://x.tar", "http://127.0.0.1:9/x.tar", "{server}/gone.tar"]
)
def test_an_address_that_cannot_be_read_is_named(url: str, server: str) -> None:
    url = url.format(server=server)
    with pytest.raises(ShardError) as caught:
        read_stream(url)
    assert str(caught.value).startswith(url)
    assert "\n" not in str(caught.value)


def test_a_pipe_whose_command_fails_behind_the_end_is_an_error(tar: Path) -> None:
    with pytest.raises(ShardError, match="exit 3"):
        read_stream(f"pipe:cat {shlex.quote(str(tar))}; exit 3")


def test_whoever_stops_reading_a_pipe_hears_nothing_of_its_command(tar: Path) -> None:
    command = f"import shutil, sys; shutil.copyfileobj(open({str(tar)!r}, 'rb'), sys.stdout.buffer); sys.exit(3)"
    reading = stream(f"pipe:exec {sys.executable} -c {shlex.quote(command)}")
    next(reading)
    reading.close()  # type: ignore[attr-defined]


def test_a_cut_gzip_is_an_error(tar: Path) -> None:
    zipped = tar.with_suffix(".tar.gz")
    zipped.write_bytes(gzip.compress(tar.read_bytes())[:-2000])
    with pytest.raises(ShardError, match=r"000000\.tar\.gz"):
        read_stream(zipped)


def test_with_a_report_the_stream_goes_on_behind_a_bad_tar(tar: Path, expected: Read, tmp_path: Path) -> None:
    bad = tmp_path / "bad.tar"
    bad.write_bytes(tar.read_bytes()[: ends_of_members(tar)[5]])
    errors: list[ShardError] = []
    assert read_stream(bad, tar, report=errors.append) == expected[:1] + expected
    assert [str(e).partition(": ")[0] for e in errors] == [str(bad)]


def test_names_of_tars_are_never_run_as_commands(tmp_path: Path, tar: Path, expected: Read) -> None:
    odd = tmp_path / "x; touch owned; $(touch owned).tar"
    odd.write_bytes(tar.read_bytes())
    assert read_stream(odd) == expected
    assert not list(Path.cwd().glob("owned"))


def test_committed_tars_are_given_as_plain_paths(shard_set: Path, expected: Read) -> None:
    assert [Path(path).name for path in as_webdataset(shard_set, "train")] == [
        "as-train-000000.tar",
        "as-train-000001.tar",
    ]
    assert len(as_webdataset(shard_set)) == 3
    (shard_set / "shards/train/as-train-000000.commit.json").unlink()
    assert [Path(path).name for path in as_webdataset(shard_set, "train")] == ["as-train-000001.tar"]


def test_a_clip_in_two_shards_is_not_given_twice_in_silence(
    shard_set: Path, make_clip: Callable[[int], tuple[str, dict[str, bytes]]], write_shard: Callable[..., Commit]
) -> None:
    with ShardWriter(shard_set / "shards" / "train", shard_name("as", "train", 0, retry=1)) as writer:
        key, members = make_clip(2)
        row = {"key": key, "split": "train", "status": "ok"} | writer.add(key, members)
        writer.commit(split="train", plan_sha256="0" * 64, rows=[row])
    with pytest.raises(ShardError, match="1 times a clip lies in a second shard"):
        as_webdataset(shard_set)
