"""WebDataset tars made by others, indexed in place and read by position.

`index_foreign` scans each tar once and writes, beside the tars, which they leave as they are:

    X.tar.idx          where each sample starts, then the tar's size, as in our own shards
    foreign.parquet    one row a sample: key, tar, place, members, checksum; and what was found wrong

Samples are grouped as webdataset does: the key is the path up to the first dot of its last part. What webdataset
reads in silence as half a sample (a tar cut between two members, the members of a key apart, a key there twice) is
found here and named.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import xxhash

from .atomic import write_file
from .errors import ShardError
from .sample import Sample
from .tarindex import read_index, write_index
from .tarscan import ScannedSample, TarScan, scan_tar

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers

INDEX_FILE = "foreign.parquet"
INDEX_VERSION = 1
MEMBER_TYPE = pa.struct([("name", pa.string()), ("offset", pa.int64()), ("length", pa.int64())])
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("tar", pa.string()),  # relative to the index
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("members", pa.list_(MEMBER_TYPE)),  # extension; place of the data in the tar
        ("sample_xxh3", pa.uint64()),  # of the whole span
        ("tar_bytes", pa.int64()),
        ("tar_mtime_ns", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something wrong with a tar, and what became of it."""

    tar: str
    """Relative to the index."""
    reason: str

    def __str__(self) -> str:
        """Return tar and reason as one line."""
        return f"{self.tar}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignReport:
    """What a scan found."""

    path: Path
    """The index that was written."""
    tars: int
    samples: int
    members: dict[str, int] = field(default_factory=dict)
    """Samples by member extension; one with fewer than `samples` is missing somewhere."""
    ignored: int = 0
    """Files that belong to no sample, such as a README."""
    problems: tuple[Problem, ...] = ()
    """What is wrong; the samples concerned are left out."""


def index_foreign(
    tars: Path | Sequence[Path], *, on_error: Literal["raise", "skip"] = "raise", into: Path | None = None
) -> ForeignReport:
    """Scan tars, and write `X.tar.idx` beside each and `foreign.parquet`.

    Args:
        tars: a folder, searched with its subfolders, or uncompressed tars.
        on_error: at something wrong `raise`, or `skip` the samples concerned and list it in the report. Of a cut tar
            the last sample is left out, since nobody knows whether it is whole; a tar with anything wrong gets no
            `X.tar.idx`, since that has no way to say so.
        into: folder for `foreign.parquet`, at or above every tar; by default the given folder, or that of the tars.

    Raises:
        ShardError: there is no tar, or something is wrong with one and `on_error` is `raise`.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}, want raise or skip")
    paths, root = _find_tars(tars, into)
    problems: list[Problem] = []
    members: dict[str, int] = {}
    samples = ignored = 0

    def write(file: Any) -> None:
        nonlocal samples, ignored
        with pq.ParquetWriter(file, INDEX_SCHEMA, compression="zstd") as writer:
            for path in paths:
                name = path.relative_to(root).as_posix()
                scan = scan_tar(path)
                problems.extend(Problem(tar=name, reason=reason) for reason in scan.problems)
                if problems and on_error == "raise":
                    raise ShardError(f"{path}: {problems[0].reason}; mend it, or pass on_error='skip'")
                writer.write_table(_rows(path, name, scan))
                _write_offsets(path, scan)
                samples += len(scan.samples)
                ignored += scan.ignored
                _count(scan.samples, members)
            header = {"version": INDEX_VERSION, "problems": [asdict(problem) for problem in problems]}
            writer.add_key_value_metadata({"unibrivl.foreign": json.dumps(header)})

    write_file(root / INDEX_FILE, write)
    return ForeignReport(
        path=root / INDEX_FILE, tars=len(paths), samples=samples, members=dict(sorted(members.items())),
        ignored=ignored, problems=tuple(problems),
    )  # fmt: skip


class ForeignShards:
    """The samples of indexed foreign tars as a sequence; close it, or use it as a context manager.

    It may be pickled and carried over a fork: the other process opens its own files.
    """

    def __init__(self, directory: Path, *, members: Iterable[str] = (), verify: bool = True) -> None:
        """Open the index in `directory`.

        Args:
            directory: that holds `foreign.parquet`.
            members: extensions that every sample must have.
            verify: compare every sample with its checksum as it is read.

        Raises:
            ShardError: there is no index, it is damaged, a tar has changed since, or a sample lacks a member.
        """
        self.directory = directory
        self.verify = verify
        self.table, self.problems = _read_index_table(directory)
        self._files: dict[str, int] = {}
        for name, size, mtime_ns in _tars_of(self.table):
            _check_tar(directory / name, size, mtime_ns)
        self._require(tuple(members))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.table)

    def __getitem__(self, position: int) -> Sample:
        """Return a sample with all its members, as stored.

        Raises:
            IndexError: there is no such position.
            ShardError: the tar was changed or cannot be read.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"sample {position} of {len(self)}")
        row = {name: self.table[name][position].as_py() for name in ("key", "tar", "offset", "length", "sample_xxh3")}
        span = self._read(row["tar"], row["offset"], row["length"])
        is_same = len(span) == row["length"]
        if not is_same or (self.verify and xxhash.xxh3_64_intdigest(span) != row["sample_xxh3"]):
            raise _changed(self.directory / row["tar"], f"the bytes of {row['key']} are others")
        members = {}
        for member in self.table["members"][position].as_py():
            start = member["offset"] - row["offset"]
            members[member["name"]] = span[start : start + member["length"]]
        return Sample(row["key"], members)

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the open tars."""
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay in their process."""
        return self.__dict__ | {"_files": {}}

    def close(self) -> None:
        """Close the open tars; reading opens them again."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    @property
    def keys(self) -> list[str]:
        """Keys in order; the same may stand in several tars."""
        return self.table["key"].to_pylist()

    def _read(self, tar: str, offset: int, length: int) -> bytes:
        try:
            if tar not in self._files:
                self._files[tar] = os.open(self.directory / tar, os.O_RDONLY)
            return os.pread(self._files[tar], length, offset)
        except OSError as e:
            raise ShardError(f"{self.directory / tar}: cannot be read ({e})") from e

    def _require(self, members: tuple[str, ...]) -> None:
        if not members:
            return
        for position, found in enumerate(self.table["members"].to_pylist()):
            if missing := set(members) - {member["name"] for member in found}:
                key, tar = self.table["key"][position].as_py(), self.table["tar"][position].as_py()
                raise ShardError(f"{self.directory / tar}: {key} has no {', '.join(sorted(missing))}")


def _find_tars(tars: Path | Sequence[Path], into: Path | None) -> tuple[list[Path], Path]:
    """Return the tars and the folder of their index."""
    if isinstance(tars, Path):
        if not tars.is_dir():
            raise ShardError(f"{tars}: want a folder of tars")
        paths, root = sorted(path for path in tars.rglob("*.tar") if path.is_file()), into or tars
    else:
        paths = sorted(tars)
        root = into or Path(os.path.commonpath([path.parent for path in paths]) if paths else ".")
    if not paths:
        raise ShardError(f"{root}: holds no .tar (compressed ones must be unpacked to .tar first: no index fits them)")
    if outside := [path for path in paths if not path.is_relative_to(root)]:
        raise ShardError(f"{outside[0]}: lies outside {root}, where the index goes")
    return paths, root


def _rows(path: Path, name: str, scan: TarScan) -> pa.Table:
    samples = scan.samples
    return pa.Table.from_pydict(
        {
            "key": [sample.key for sample in samples],
            "tar": [name] * len(samples),
            "offset": [sample.offset for sample in samples],
            "length": [sample.length for sample in samples],
            "members": [
                [{"name": m.name, "offset": m.offset, "length": m.length} for m in sample.members] for sample in samples
            ],
            "sample_xxh3": [sample.xxh3 for sample in samples],
            "tar_bytes": [scan.size] * len(samples),
            "tar_mtime_ns": [scan.mtime_ns] * len(samples),
        },
        schema=INDEX_SCHEMA,
    )


def _write_offsets(path: Path, scan: TarScan) -> None:
    """Write `X.tar.idx`, unless one that says the same is there: Energon's has another last entry only."""
    target = path.with_name(f"{path.name}.idx")
    offsets = [sample.offset for sample in scan.samples]
    if scan.problems or not offsets:
        return
    try:
        if target.exists() and read_index(target).tolist()[:-1] == offsets:
            return
    except ShardError:
        pass  # it is none of these: ours takes its place
    write_index(target, [*offsets, scan.size])


def _count(samples: Sequence[ScannedSample], members: dict[str, int]) -> None:
    for sample in samples:
        for member in sample.members:
            members[member.name] = members.get(member.name, 0) + 1


def _read_index_table(directory: Path) -> tuple[pa.Table, tuple[Problem, ...]]:
    path = directory / INDEX_FILE
    try:
        with pq.ParquetFile(path) as file:
            header = json.loads(file.metadata.metadata[b"unibrivl.foreign"])
            if header["version"] != INDEX_VERSION:
                raise ShardError(f"{path}: version {header['version']}, this program reads {INDEX_VERSION}")
            table = file.read().select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
        problems = tuple(Problem(**problem) for problem in header["problems"])
        _check_rows(table)
    except FileNotFoundError:
        raise ShardError(f"{directory} has no {INDEX_FILE}: make one with index_foreign") from None
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as e:
        raise ShardError(f"{path}: no readable index ({e}); make it anew with index_foreign") from e
    return table.combine_chunks(), problems


def _check_rows(table: pa.Table) -> None:
    """Check that samples lie in their tars and members in their samples; ValueError if not."""
    offset, length, size = (table[name].to_numpy() for name in ("offset", "length", "tar_bytes"))
    if (offset < 0).any() or (length < 0).any() or (length > size).any() or (offset > size - length).any():
        raise ValueError("a sample lies outside its tar")
    flat = pc.list_flatten(table["members"])
    parent = pc.list_parent_indices(table["members"]).to_numpy()
    start, size = (pc.struct_field(flat, name).to_numpy() for name in ("offset", "length"))
    begin, end = offset[parent], (offset + length)[parent]
    if (size < 0).any() or (start < begin).any() or (start > end - size).any():
        raise ValueError("a member lies outside its sample")
    for name in pc.unique(table["tar"]).to_pylist():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{name} leads out of the folder")


def _tars_of(table: pa.Table) -> list[tuple[str, int, int]]:
    distinct = table.group_by(["tar", "tar_bytes", "tar_mtime_ns"]).aggregate([])
    return sorted(zip(*(distinct[name].to_pylist() for name in ("tar", "tar_bytes", "tar_mtime_ns")), strict=True))


def _check_tar(path: Path, size: int, mtime_ns: int) -> None:
    try:
        stat = path.stat()
    except OSError as e:
        raise ShardError(f"{path}: is in the index, but cannot be read ({e})") from e
    if stat.st_size != size:
        raise _changed(path, f"it has {stat.st_size} bytes, had {size}")
    if stat.st_mtime_ns != mtime_ns:
        raise _changed(path, "it was written to")


def _changed(path: Path, how: str) -> ShardError:
    return ShardError(f"{path}: changed since it was indexed ({how}); run index_foreign again")
