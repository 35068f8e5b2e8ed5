"""Checks tar bytes against Python's own reader, and the index beside them."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.shards import ShardError
from unibrivl.shards.tarindex import BLOCK, END_OF_TAR, member_bytes, parse_members, read_index, write_index

DATA = st.binary(max_size=2000)


@given(data=DATA)
def test_python_reads_our_members(data: bytes) -> None:
    content = member_bytes("as_-a_b_000000001.flac", data) + member_bytes("as_-a_b_000000001.jpg", b"x") + END_OF_TAR
    assert len(content) % BLOCK == 0
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert tar.getnames() == ["as_-a_b_000000001.flac", "as_-a_b_000000001.jpg"]
        info = tar.getmembers()[0]
        file = tar.extractfile(info)
        assert file is not None and file.read() == data
        assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) == (0, 0, 0, "", "", 0o644)
        assert info.isreg()


def test_equal_members_have_equal_bytes() -> None:
    assert member_bytes("a.json", b"{}") == member_bytes("a.json", b"{}")
    header = member_bytes("a.json", b"{}")[:BLOCK]
    assert header[257:263] == b"ustar\0"


@given(members=st.dictionaries(st.sampled_from(["flac", "wav", "jpg", "json"]), DATA, min_size=1))
def test_members_come_back(members: dict[str, bytes]) -> None:
    span = b"".join(member_bytes(f"as_a_000000001.{extension}", data) for extension, data in members.items())
    assert parse_members(span, "here") == members


def test_any_cut_is_noticed() -> None:
    members = {"flac": b"f" * 700, "json": b"{}"}
    span = b"".join(member_bytes(f"a.{extension}", data) for extension, data in members.items())
    whole = BLOCK + 700
    boundary = BLOCK + 1024
    for length in range(0, len(span), 37):
        if whole <= length <= boundary:
            continue  # only padding is gone, or the cut falls between two members: the reader checks the fields
        if length >= boundary + BLOCK + 2:
            assert parse_members(span[:length], "here") == members
            continue
        with pytest.raises(ShardError, match="here: "):
            parse_members(span[:length], "here")


@pytest.mark.parametrize("position", [0, 50, 130, 151, 200, 511])
def test_a_flipped_bit_in_a_header_is_noticed(position: int) -> None:
    span = bytearray(member_bytes("a.json", b"{}"))
    span[position] ^= 0x10
    with pytest.raises(ShardError, match="here: damaged tar header"):
        parse_members(bytes(span), "here")


@pytest.mark.parametrize("span", [b"", bytes(BLOCK), b"\xff" * 2000, member_bytes("a.json", b"") + bytes(BLOCK)])
def test_what_is_no_sample_is_refused(span: bytes) -> None:
    with pytest.raises(ShardError, match="here: "):
        parse_members(span, "here")


def test_two_samples_in_one_span_are_refused() -> None:
    span = member_bytes("a.json", b"{}") + member_bytes("b.json", b"{}")
    with pytest.raises(ShardError, match="want one sample, found 2"):
        parse_members(span, "here")


@given(steps=st.lists(st.integers(1, 2**40), max_size=50))
def test_an_index_comes_back(tmp_path_factory: pytest.TempPathFactory, steps: list[int]) -> None:
    path = tmp_path_factory.mktemp("index") / "a.tar.idx"
    offsets = np.cumsum([0, *steps]).tolist()
    write_index(path, offsets)
    assert read_index(path).tolist() == offsets
    assert path.read_bytes() == b"".join(n.to_bytes(8, "little") for n in offsets)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "0 bytes are no index"),
        (b"\0" * 7, "7 bytes are no index"),
        (b"\0" * 17, "17 bytes are no index"),
        (bytes(16), "do not rise"),
        (np.array([0, 1024, 512], "<u8").tobytes(), "do not rise"),
        (np.array([0, 512, 2**64 - 1], "<u8").tobytes(), "do not rise"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "a.tar.idx"
    path.write_bytes(data)
    with pytest.raises(ShardError, match=match):
        read_index(path)
