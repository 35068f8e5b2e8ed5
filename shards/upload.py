"""Sends a shard set that is made in a local work folder to object storage, its commit files last.

Every object of an S3, Google or Azure bucket appears whole or not at all, so a shard is there once its commit file is,
as on a disk. What is committed at the address is what counts: a run begins with a copy of its commits and sidecars, and
a shard that is there is not made again. The work folder keeps tars until they are sent, the rest as a copy.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .atomic import is_foreign
from .cache import check_no_password, default_cache, folder_name
from .catalog import DATASET_FILE, ONTOLOGY_FILE
from .checks import check_ranges
from .commit import COMMIT_SUFFIX, SUFFIXES, Commit, committed_paths, parse_commit, verify_commit
from .errors import ShardError
from .mirror import Mirror
from .planfile import PLAN_FILE
from .transfer import RemoteFolder

SCHEMES = ("s3", "gs", "gcs", "az", "abfs")
"""Of storage in which an object appears whole or not at all."""
SENDERS = 4
"""Shards sent at a time where they wait for it at the beginning of a run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """Where a shard set goes; may be pickled."""

    url: str
    """Such as `s3://bucket/shards`; credentials come from the environment."""
    retries: int = 5
    """Of each file, beside those of its parts."""
    backoff_s: float = 0.5
    """Pause before the first retry; each further one is twice as long."""

    def __post_init__(self) -> None:
        """Refuse an address at which no set can lie."""
        check_ranges(self, retries=(0, 100), backoff_s=(0, 3600))
        scheme, _, rest = self.url.partition("://")
        if scheme not in SCHEMES or not rest.strip("/") or "::" in self.url:
            known = ", ".join(f"{name}://" for name in SCHEMES)
            raise ValueError(f"{scheme}://...: want a folder, or bucket and path behind one of {known}")
        check_no_password(self.url)

    @property
    def folder(self) -> RemoteFolder:
        """Return the address as a folder of files."""
        return RemoteFolder(self.url, self.retries, self.backoff_s)

    @property
    def default_work(self) -> Path:
        """Return the work folder of this address, unless another is named."""
        return default_cache() / "work" / folder_name(self.url)

    def pull(self, work: Path) -> None:
        """Bring commits and sidecars in `work` up to what is committed at the address.

        Raises:
            ShardError: it cannot be read, or it or `work` holds something else than a shard set.
        """
        if is_foreign(work, "plan"):
            raise ShardError(f"{work} is not empty and no work folder of an ingestion; choose another")
        if self.folder.size(DATASET_FILE) is None:
            strange = set(self.folder.listing("")) - {"plan", ONTOLOGY_FILE, ""}
            if strange:
                raise ShardError(f"{self.url} is not empty and no shard set; choose another address")
        (work / "plan").mkdir(exist_ok=True)  # marks a folder of ours, before anything else is in it
        Mirror(self.folder, work).update(may_be_new=True)

    def push_heads(self, work: Path) -> None:
        """Send plan, ontology and last `dataset.json`, where they are not there as they are here.

        Raises:
            ShardError: they cannot be written; no shard could be either.
        """
        for name in (PLAN_FILE, ONTOLOGY_FILE):
            if (work / name).exists() and self.folder.size(name) != (work / name).stat().st_size:
                self.folder.put(name, work / name)
        if not self._holds(DATASET_FILE, (work / DATASET_FILE).read_bytes()):
            self.folder.put(DATASET_FILE, work / DATASET_FILE)

    def push_waiting(self, work: Path) -> int:
        """Send the shards that an earlier run made and did not send; return how many that were.

        Raises:
            ShardError: as `push`.
        """
        waiting = [path for path in committed_paths(work) if path.with_name(f"{_stem(path)}.tar").exists()]
        with ThreadPoolExecutor(SENDERS) as threads:
            list(threads.map(lambda path: self.push(parse_commit(path)), waiting))
        return len(waiting)

    def push(self, commit: Commit) -> None:
        """Send a shard's files, the commit file last, then remove its tar and index here.

        Raises:
            ShardError: it cannot be written, is damaged here, or another run has committed other bytes there.
        """
        remote, stored = f"shards/{commit.split}/{commit.name}", commit.path(COMMIT_SUFFIX)
        if not self._holds(remote + COMMIT_SUFFIX, stored.read_bytes(), is_final=True):
            verify_commit(commit)
            for suffix in (*SUFFIXES, COMMIT_SUFFIX):
                self.folder.put(remote + suffix, commit.path(suffix))
        commit.path(".tar.idx").unlink(missing_ok=True)
        commit.path(".tar").unlink()  # last: a commit with its tar beside it waits to be sent

    def push_ledger(self, work: Path) -> None:
        """Send what the ledger here has, each worker's file whole, and remove it here.

        Raises:
            ShardError: it cannot be written.
        """
        for path in sorted((work / "ledger").glob("*/*.jsonl")):
            if path.stat().st_size:
                self.folder.put(path.relative_to(work).as_posix(), path)
            path.unlink()
        for directory in (work / "ledger").glob("*/"):
            directory.rmdir()

    def _holds(self, name: str, data: bytes, *, is_final: bool = False) -> bool:
        """Tell whether a file is there with these bytes; with `is_final`, others are an error."""
        try:
            found = self.folder.read(name)
        except FileNotFoundError:
            return False
        if is_final and found != data:
            raise ShardError(
                f"{self.folder.where(name)}: another run has committed this shard there meanwhile; "
                "run the same command again, it takes that one"
            )
        return found == data


def _stem(path: Path) -> str:
    return path.name.removesuffix(COMMIT_SUFFIX)
