"""Writes one shard: samples go to a hidden tar, and the shard appears when it is whole.

Order: hidden tar, flushed; reopened and checked; renamed; index; sidecar; commit file last. A process that dies
anywhere before the last step leaves no shard, and the same samples give the same bytes.
"""

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from .atomic import sync_directory, temporary_path, write_file
from .commit import SUFFIXES, Commit, describe_file, write_commit
from .errors import ShardError
from .schema import KEY_PATTERN, SIDECAR_SCHEMA
from .tarindex import BLOCK, END_OF_TAR, member_bytes, read_index, write_index


class ShardWriter:
    """Context manager for one shard; leaving it without `commit` (an exception, say) removes what was written."""

    def __init__(self, directory: Path, name: str) -> None:
        """Open the hidden tar of shard `name` in `directory`, which must exist."""
        self.directory = directory
        self.name = name
        self._temporary = temporary_path(directory / f"{name}.tar")
        self._file = self._temporary.open("xb")
        self._offsets: list[int] = []
        self._size = 0

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the hidden tar unless `commit` has put it in place."""
        with suppress(OSError):  # closing flushes, which a full disk refuses once more
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def add(self, key: str, members: dict[str, bytes]) -> dict[str, int]:
        """Append one sample; `members` maps file extension to data, in storage order.

        Returns:
            The sidecar's columns about its place: `tar_offset` and `tar_len` in bytes, and `sample_xxh3`.
        """
        if not KEY_PATTERN.fullmatch(key):
            raise ValueError(f"{key!r} is no clip key")
        return self.add_span(b"".join(member_bytes(f"{key}.{extension}", data) for extension, data in members.items()))

    def add_span(self, span: bytes) -> dict[str, int]:
        """Append one sample as it lies in another tar; return what `add` does."""
        self._file.write(span)
        offset = self._size
        self._offsets.append(offset)
        self._size += len(span)
        return {"tar_offset": offset, "tar_len": len(span), "sample_xxh3": xxhash.xxh3_64_intdigest(span)}

    def commit(self, *, split: str, plan_sha256: str, rows: list[dict[str, Any]]) -> Commit:
        """Put the shard in place; `rows` are its sidecar rows, one for every planned clip."""
        self._finish_tar()
        target = {suffix: self.directory / f"{self.name}{suffix}" for suffix in SUFFIXES}
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
        return commit

    def _finish_tar(self) -> None:
        self._file.write(END_OF_TAR)
        self._size += len(END_OF_TAR)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._temporary.stat().st_size != self._size or self._size % BLOCK:
            raise ShardError(f"{self._temporary}: the disk holds another number of bytes than was written")
