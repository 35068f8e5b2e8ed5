"""Writes one shard: samples go to a hidden tar, and the shard appears when it is whole.

Order: hidden tar, flushed; checked; renamed; index; sidecar; commit file last. A process that dies anywhere before the
last step leaves no shard, and the same samples give the same bytes.

A writer with a `token` also keeps a journal of the rows beside the hidden tar. A later writer with the same token goes
on behind the last sample whose bytes are all there, so that a killed run costs one clip and not a shard of them.
"""

import contextlib
import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from .atomic import sync_directory, temporary_path, write_file
from .commit import COMMIT_SUFFIX, SUFFIXES, Commit, describe_file, write_commit
from .errors import ShardError
from .schema import KEY_PATTERN, SIDECAR_SCHEMA
from .tarindex import BLOCK, END_OF_TAR, read_index, sample_bytes, write_index

PART_SUFFIX, JOURNAL_SUFFIX = ".tar.part", ".rows.part"


class ShardWriter:
    """Context manager for one shard; what an exception leaves behind is removed, or kept to go on from with `token`."""

    def __init__(self, directory: Path, name: str, *, token: str = "") -> None:
        """Open the hidden tar of shard `name` in `directory`, which must exist.

        Args:
            directory: of the shard.
            name: the stem of its files.
            token: names what the shard is made from and how; empty: nothing is kept if the shard is left unfinished.
        """
        self.directory = directory
        self.name = name
        self.rows: list[dict[str, Any]] = []
        """Sidecar rows noted so far; a writer that goes on begins with those of the one before."""
        self._keep = bool(token)
        self._journal: BinaryIO | None = None
        self._size = 0
        if self._keep:
            self._temporary, journal = _part(directory, name)
            self._file, self._journal = _open_shared(self._temporary), _open_shared(journal)
            self._resume(token)
        else:
            self._temporary = temporary_path(directory / f"{name}.tar")
            self._file = self._temporary.open("xb")
        self._offsets = [row["tar_offset"] for row in self.rows if row["status"] == "ok"]

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the hidden files; remove them unless they are to be gone on with."""
        for file in (self._file, self._journal):
            with contextlib.suppress(OSError):  # closing flushes, which a full disk refuses once more
                if file is not None:
                    file.close()
        if not self._keep:
            self._temporary.unlink(missing_ok=True)

    def add(self, key: str, members: dict[str, bytes]) -> dict[str, int]:
        """Append one sample; `members` maps file extension to data, in storage order.

        Returns:
            The sidecar's columns about its place: `tar_offset` and `tar_len` in bytes, and `sample_xxh3`.
        """
        if not KEY_PATTERN.fullmatch(key):
            raise ValueError(f"{key!r} is no clip key")
        return self.add_span(sample_bytes(key, members))

    def add_span(self, span: bytes) -> dict[str, int]:
        """Append one sample as it lies in another tar; return what `add` does."""
        self._file.write(span)
        offset = self._size
        self._offsets.append(offset)
        self._size += len(span)
        return {"tar_offset": offset, "tar_len": len(span), "sample_xxh3": xxhash.xxh3_64_intdigest(span)}

    def note(self, row: dict[str, Any]) -> None:
        """Take the sidecar row of a clip; its sample, if it has one, was added just before."""
        self.rows.append(row)
        if self._journal is not None:
            self._file.flush()  # the sample's bytes first: a row in the journal vouches for them
            self._journal.write(_journal_line(row))
            self._journal.flush()

    def commit(self, *, split: str, plan_sha256: str, rows: list[dict[str, Any]] | None = None) -> Commit:
        """Put the shard in place; `rows` are its sidecar rows, by default those noted: one for every planned clip."""
        rows = self.rows if rows is None else rows
        self._finish_tar()
        target = {suffix: self.directory / f"{self.name}{suffix}" for suffix in SUFFIXES}
        if _commit_path(target[".tar"]).exists():  # of a damaged shard: its journal must outlive its commit
            _commit_path(target[".tar"]).unlink()
            sync_directory(self.directory)
        self._temporary.replace(target[".tar"])
        write_index(target[".tar.idx"], [*self._offsets, self._size])
        table = pa.Table.from_pylist(rows, schema=SIDECAR_SCHEMA)
        write_file(target[".parquet"], lambda f: pq.write_table(table, f, compression="zstd"))
        sync_directory(self.directory)
        if len(read_index(target[".tar.idx"])) != len(self._offsets) + 1:
            raise ShardError(f"{target['.tar.idx']}: read back another number of samples than was written")
        errors = [row["error_code"] for row in rows if row["status"] != "ok"]
        commit = Commit(
            name=self.name,
            split=split,
            plan_sha256=plan_sha256,
            planned=len(rows),
            ok=len(self._offsets),
            errors={code: errors.count(code) for code in sorted(set(errors))},
            files={suffix: describe_file(path) for suffix, path in target.items()},
            directory=self.directory,
        )
        write_commit(commit)
        _remove_part(self.directory, self.name)
        return commit

    def abandon(self) -> None:
        """Give the shard up: leave nothing to go on from, and whatever stood there before as it is."""
        self._keep = False
        if self._journal is not None:
            _part(self.directory, self.name)[1].unlink(missing_ok=True)

    def _finish_tar(self) -> None:
        self._file.write(END_OF_TAR)
        self._size += len(END_OF_TAR)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._temporary.stat().st_size != self._size or self._size % BLOCK:
            raise ShardError(f"{self._temporary}: the disk holds another number of bytes than was written")

    def _resume(self, token: str) -> None:
        """Take over the rows whose samples are whole, and cut both files behind them."""
        assert self._journal is not None
        target = self.directory / f"{self.name}.tar"
        head = _journal_line({"token": token})
        journal_size = 0
        if self._journal.readline() == head:
            if not os.fstat(self._file.fileno()).st_size and target.exists() and not _commit_path(target).exists():
                target.replace(self._temporary)  # it died between the tar's new name and the commit file
                self._file.close()
                self._file = _open_shared(self._temporary)
            journal_size = len(head)
            for line in self._journal:
                row = _whole_row(line)
                if row is None or not self._vouches(row):
                    break
                self.rows.append(row)
                self._size += row.get("tar_len") or 0
                journal_size += len(line)
        self._journal.truncate(journal_size)
        self._journal.seek(journal_size)
        if not journal_size:
            self._journal.write(head)
            self._journal.flush()
        self._file.truncate(self._size)
        self._file.seek(self._size)

    def _vouches(self, row: dict[str, Any]) -> bool:
        """Tell whether the tar holds the sample that the row speaks of, right behind the one before."""
        if row["status"] != "ok":
            return True
        if row["tar_offset"] != self._size:
            return False
        self._file.seek(self._size)
        return xxhash.xxh3_64_intdigest(self._file.read(row["tar_len"])) == row["sample_xxh3"]


def remove_finished_parts(directory: Path) -> None:
    """Delete what was kept to go on from and is of no use: it died between the commit and the end of its shard."""
    for path in directory.glob(f".*{JOURNAL_SUFFIX}"):
        name = path.name[1 : -len(JOURNAL_SUFFIX)]
        if _commit_path(directory / f"{name}.tar").exists():
            _remove_part(directory, name)


def _remove_part(directory: Path, name: str) -> None:
    for path in _part(directory, name):
        path.unlink(missing_ok=True)


def _part(directory: Path, name: str) -> tuple[Path, Path]:
    return directory / f".{name}{PART_SUFFIX}", directory / f".{name}{JOURNAL_SUFFIX}"


def _commit_path(tar: Path) -> Path:
    return tar.with_name(f"{tar.stem}{COMMIT_SUFFIX}")


def _open_shared(path: Path) -> BinaryIO:
    """Open for reading and writing, and wait until no dying process of an earlier run has it."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _journal_line(value: dict[str, Any]) -> bytes:
    text = json.dumps(value, ensure_ascii=False).encode()
    return f"{xxhash.xxh3_64_hexdigest(text)} ".encode() + text + b"\n"


def _whole_row(line: bytes) -> dict[str, Any] | None:
    """Return a journal line's row, None for a line that was torn."""
    digest, _, text = line.partition(b" ")
    if not line.endswith(b"\n") or digest != xxhash.xxh3_64_hexdigest(text[:-1]).encode():
        return None
    return json.loads(text)
