"""Checks tar bytes against Python's own reader, and the index beside them."""

import contextlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.shards import ShardError
from unibrivl.shards.tarindex import (
    BLOCK,
    END_OF_TAR,
    find_members,
    member_bytes,
    parse_members,
    read_index,
    write_index,
)

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


@given(members=st.dictionaries(st.sampled_from(["flac", "wav", "jpg", "384.jpg", "json"]), DATA, min_size=1))
def test_members_are_found_without_copying(members: dict[str, bytes]) -> None:
    span = b"".join(member_bytes(f"as_a_000000001.{extension}", data) for extension, data in members.items())
    for given_span in (span, memoryview(span)):
        key, found = find_members(given_span, "here")
        assert key == "as_a_000000001"
        assert list(found) == list(members)
        assert {name: bytes(given_span[place]) for name, place in found.items()} == members
        assert parse_members(given_span, "here") == members


def test_any_cut_is_noticed_but_one_between_two_members() -> None:
    """There the reader, which knows the length and the hash of each span, sees it."""
    members = {"flac": b"f" * 700, "json": b"{}"}
    span = b"".join(member_bytes(f"a.{extension}", data) for extension, data in members.items())
    boundary = BLOCK + 1024
    for length in range(len(span)):
        if length == boundary:
            continue
        with pytest.raises(ShardError, match="here: "):
            parse_members(span[:length], "here")


def test_the_same_member_twice_is_refused() -> None:
    span = member_bytes("a.json", b"{}") + member_bytes("a.jpg", b"x") + member_bytes("a.json", b"[]")
    with pytest.raises(ShardError, match="here: two members json"):
        parse_members(span, "here")


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_members_that_are_no_files_are_refused(kind: bytes) -> None:
    info = tarfile.TarInfo("a.json")
    info.type = kind
    with pytest.raises(ShardError, match="here: damaged tar header"):
        parse_members(info.tobuf(tarfile.USTAR_FORMAT), "here")


@given(span=st.binary(max_size=1100), at=st.integers(0, 1100))
def test_any_bytes_are_a_sample_or_refused(span: bytes, at: int) -> None:
    whole = member_bytes("a.json", b"{}")
    for data in (span, whole[:at] + span, (whole[: min(at, 512)] + span + whole)[: len(whole)]):
        try:
            members = parse_members(data, "here")
        except ShardError as e:
            assert str(e).startswith("here: ")
            continue
        assert members and sum(map(len, members.values())) <= len(data)


def test_any_flipped_bit_of_a_header_is_noticed_or_changes_nothing() -> None:
    """In the checksum's own eight bytes a zero may become a blank, which is as good."""
    span = member_bytes("a.json", b"{}")
    for bit in range(8 * BLOCK):
        flipped = bytearray(span)
        flipped[bit // 8] ^= 1 << bit % 8
        if 148 <= bit // 8 < 156:
            with contextlib.suppress(ShardError):
                assert parse_members(bytes(flipped), "here") == {"json": b"{}"}
            continue
        with pytest.raises(ShardError, match="here: "):
            parse_members(bytes(flipped), "here")


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


@pytest.mark.parametrize("size", [b"-0000000001", b"-0000002000", b"          -1"[:11]])
def test_a_negative_size_is_refused_and_no_endless_loop(size: bytes) -> None:
    header = bytearray(member_bytes("a.json", b""))
    header[124:135] = size
    header[148:154] = b"%06o" % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    with pytest.raises(ShardError, match="here: damaged tar header"):
        parse_members(bytes(header), "here")
