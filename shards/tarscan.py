"""Scans one tar of any make (USTAR, GNU, PAX) and says where its samples lie and what is wrong with it.

Python's `tarfile` reads the headers; it takes a damaged header, or the end of the file, for the end of the archive
without a word, so the end is checked here: two zero blocks, and nothing but zeros behind them.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import xxhash

from .tarindex import BLOCK, END_OF_TAR

MEMBER_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
"""Key and extension: the key is everything up to the first dot of the last part of the path."""
META_NAME = re.compile(r"__[^/]*__($|/)")
"""Names that webdataset leaves out."""
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a sample; `name` is its extension, in lower case as webdataset has it."""

    name: str
    offset: int
    """Of its data in the tar."""
    length: int


@dataclass(frozen=True, slots=True)
class ScannedSample:
    """One sample and its span of the tar."""

    key: str
    offset: int
    """Of the first header that belongs to it, extended ones included."""
    length: int
    members: tuple[Member, ...]
    xxh3: int


@dataclass(frozen=True, slots=True)
class TarScan:
    """What a tar holds."""

    size: int
    mtime_ns: int
    samples: tuple[ScannedSample, ...]
    """The good ones, in order."""
    ignored: int
    """Files that belong to no sample."""
    problems: tuple[str, ...]


@dataclass(slots=True)
class _Group:
    """Members of one key that lie together."""

    key: str
    offset: int
    end: int
    members: list[Member]


def scan_tar(path: Path) -> TarScan:
    """Scan a tar; what is wrong is told in `problems`, and the samples concerned are left out."""
    problems: list[str] = []
    try:
        with path.open("rb") as file:
            stat = path.stat()
            groups, ignored, is_whole = _group_members(file, stat.st_size, problems)
            if not is_whole and groups:
                problems.append(f"its last sample {groups[-1].key} may lack members and is left out")
                groups.pop()
            good = _distinct(groups, problems)
            samples = tuple(_hashed(file, group) for group in good)
    except OSError as e:
        return TarScan(0, 0, (), 0, (f"cannot be read ({e})",))
    return TarScan(stat.st_size, stat.st_mtime_ns, samples, ignored, tuple(problems))


def _group_members(file: BinaryIO, size: int, problems: list[str]) -> tuple[list[_Group], int, bool]:
    """Return groups of neighbours with one key, the number of other files, and whether the tar is whole."""
    groups: list[_Group] = []
    ignored = 0
    is_whole = True
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in _members(tar):
                end = tar.offset  # of the next header
                if end > size:
                    raise ValueError(f"{info.name} reaches beyond the end of the file")
                name = info.name.encode("utf-8", "backslashreplace").decode()
                match = MEMBER_NAME.fullmatch(name)
                if info.isdir() or META_NAME.match(name):
                    continue
                if match is None:
                    ignored += 1
                elif reason := _unusable(info, name):
                    problems.append(f"{name} {reason}; its sample is left out")
                    _add(groups, match[1], None, info.offset, end)
                else:
                    _add(groups, match[1], Member(match[2].lower(), info.offset_data, info.size), info.offset, end)
            problem = _check_end(file, tar.offset, size)
    except (tarfile.TarError, EOFError, ValueError) as e:
        problem = f"is cut short or no uncompressed tar ({e})"
    if problem:
        is_whole = False
        problems.append(problem)
    return groups, ignored, is_whole


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield members without letting `tarfile` keep them all."""
    while (info := tar.next()) is not None:
        yield info
        tar.members = []  # type: ignore[attr-defined]


def _unusable(info: tarfile.TarInfo, name: str) -> str | None:
    """Say why a member is no file whose data lie in the tar in one piece."""
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE) or info.issparse():
        return "is a link, a sparse file or a device"
    if name != info.name:
        return "has a name that is not UTF-8"
    return None


def _add(groups: list[_Group], key: str, member: Member | None, offset: int, end: int) -> None:
    if not groups or groups[-1].key != key:
        groups.append(_Group(key, offset, end, []))
    group = groups[-1]
    group.end = end
    group.members.append(member or Member("", 0, -1))


def _check_end(file: BinaryIO, end: int, size: int) -> str | None:
    """Say what is wrong with the end of an archive whose last member ends at `end`."""
    file.seek(end)
    tail = file.read(len(END_OF_TAR))
    if len(tail) < len(END_OF_TAR):
        return f"is cut at byte {size}: the two zero blocks that end a tar are missing"
    if tail[:BLOCK].strip(b"\0"):
        return f"has a damaged header at byte {end}"
    position = end
    while tail:
        if tail.strip(b"\0"):
            return f"goes on behind the end of its archive at byte {position}: two tars in one file, or damage"
        position += len(tail)
        tail = file.read(CHUNK_BYTES)
    return None


def _distinct(groups: list[_Group], problems: list[str]) -> list[_Group]:
    """Leave out, and name, every sample that is not there exactly once, in one piece, with distinct members."""
    by_key: dict[str, list[_Group]] = {}
    for group in groups:
        by_key.setdefault(group.key, []).append(group)
    bad = set()
    for key, parts in by_key.items():
        names = [member.name for part in parts for member in part.members]
        if any(member.length < 0 for part in parts for member in part.members):
            bad.add(key)  # already named
        elif len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            problems.append(f"{key} is there twice (members {', '.join(twice)}) and left out")
            bad.add(key)
        elif len(parts) > 1:
            problems.append(f"the members of {key} lie apart, with other samples between, and it is left out")
            bad.add(key)
    return [group for group in groups if group.key not in bad]


def _hashed(file: BinaryIO, group: _Group) -> ScannedSample:
    length = group.end - group.offset
    file.seek(group.offset)
    digest = xxhash.xxh3_64()
    left = length
    while left and (chunk := file.read(min(CHUNK_BYTES, left))):
        digest.update(chunk)
        left -= len(chunk)
    return ScannedSample(group.key, group.offset, length, tuple(group.members), digest.intdigest())
