"""A local copy of a remote shard set without its tars: what a reader needs to open it, and a writer to go on with it.

It has `dataset.json`, the ontology, commits and sidecars, each checked against its commit. Where a tar lies beside a
commit (the work folder of an upload), that shard is still to be sent: it is not taken for one that was removed there.
"""

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .atomic import write_bytes, write_file
from .catalog import DATASET_FILE, ONTOLOGY_FILE, read_dataset
from .commit import COMMIT_SUFFIX, DamageError, check_split, committed_paths, parse_commit
from .compaction import CATALOG_FILES
from .errors import ShardError
from .schema import SPLIT_PATTERN
from .seal import check_seal, parse_object
from .transfer import RemoteFolder

SHARD_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+")
THREADS = 8
"""Small files fetched at a time: most of that time is waiting."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """The copy of the set in `folder` that lies in `directory`; its callers keep other writers away from it."""

    folder: RemoteFolder
    directory: Path

    def update(self, *, may_be_new: bool = False) -> None:
        """Bring the copy up to what is committed there now.

        Args:
            may_be_new: an address at which nothing is committed yet is fine.

        Raises:
            ShardError: there is no shard set, it cannot be read or listed, or a file does not fit its commit.
        """
        self._copy_heads(may_be_new)
        shards = self._committed(may_be_new)
        for path in committed_paths(self.directory):
            name = path.name.removesuffix(COMMIT_SUFFIX)
            if (path.parent.name, name) not in shards and not path.with_name(f"{name}.tar").exists():
                path.unlink()  # first, as it was written last
                path.with_name(f"{name}.parquet").unlink(missing_ok=True)
        with _scratch(self.directory) as scratch, ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(lambda shard: self._copy_shard(scratch, *shard), shards))

    def _copy_heads(self, may_be_new: bool) -> None:
        """Copy the files that the set has once."""
        for name in (DATASET_FILE, ONTOLOGY_FILE, *CATALOG_FILES):
            try:
                data = self.folder.read(name)
            except FileNotFoundError:
                if name == DATASET_FILE and may_be_new:
                    return
                if name == DATASET_FILE:
                    raise ShardError(f"{self.folder.where(name)} is not there: this is no shard set") from None
                (self.directory / name).unlink(missing_ok=True)
                continue
            if not _holds(self.directory / name, data):
                write_bytes(self.directory / name, data)
        try:
            read_dataset(self.directory)
        except ShardError as e:
            raise ShardError(f"{self.folder.where(DATASET_FILE)}: {e}") from e

    def _committed(self, may_be_new: bool) -> dict[tuple[str, str], None]:
        """Return split and name of every committed shard, in order.

        A web server may show no listings; then `catalog.json` says what there is.
        """
        folder, shards = self.folder, dict[tuple[str, str], None]()
        for split in folder.listing("shards"):
            for name in folder.listing(f"shards/{split}") if SPLIT_PATTERN.fullmatch(split) else ():
                if name.endswith(COMMIT_SUFFIX) and SHARD_NAME.fullmatch(stem := name.removesuffix(COMMIT_SUFFIX)):
                    shards[split, stem] = None
        if not shards:
            shards = self._catalogued()
        if not shards and not may_be_new:
            raise ShardError(
                f"{folder.where('shards')}: nothing is committed there, or the server lists no folders; "
                "in the second case run `unibrivl shards index` on the set, so that its catalog.json says what it holds"
            )
        return shards

    def _catalogued(self) -> dict[tuple[str, str], None]:
        path = self.directory / CATALOG_FILES[1]
        if not path.exists():
            return {}
        try:
            data = path.read_bytes()
            check_seal(value := parse_object(data), data)
            shards = [(str(entry[0]), str(entry[1])) for entry in value["shards"]]
            for split, name in shards:
                if not SPLIT_PATTERN.fullmatch(split) or not SHARD_NAME.fullmatch(name):
                    raise ValueError(f"{split}/{name} is no shard")
        except (ValueError, KeyError, TypeError, IndexError) as e:
            raise ShardError(f"{self.folder.where(path.name)}: damaged ({e}); run `unibrivl shards index`") from e
        return dict.fromkeys(shards)

    def _copy_shard(self, scratch: Path, split: str, name: str) -> None:
        """Put sidecar, then commit of one shard in place, unless the mirror has them."""
        remote = f"shards/{split}/{name}"
        try:
            data = self.folder.read(remote + COMMIT_SUFFIX)
            incoming = scratch / split / f"{name}{COMMIT_SUFFIX}"
            incoming.parent.mkdir(exist_ok=True)
            incoming.write_bytes(data)
            commit = parse_commit(incoming)
            if misplaced := check_split(commit):
                raise DamageError(misplaced[0])
            sidecar = commit.files[".parquet"]
            target = self.directory / remote
            target.parent.mkdir(parents=True, exist_ok=True)
            if _holds(place := target.with_name(incoming.name), data) and _has_size(
                target.with_suffix(".parquet"), sidecar["bytes"]
            ):
                return
            place.unlink(missing_ok=True)
            write_file(
                target.with_suffix(".parquet"),
                lambda f: self.folder.fetch(f"{remote}.parquet", f, size=sidecar["bytes"], sha256=sidecar["sha256"]),
            )
            write_bytes(place, data)
        except FileNotFoundError as e:
            raise ShardError(f"{self.folder.where(remote)}: a file of the shard is not there; repair that set") from e
        except DamageError as e:
            raise ShardError(f"{self.folder.where(remote + COMMIT_SUFFIX)} {e.damage.reason}; repair that set") from e


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    path = directory / "incoming"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
