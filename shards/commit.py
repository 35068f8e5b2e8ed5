"""The commit file: written last, it is what makes a shard exist.

`{name}.commit.json` names the shard's files with their sizes and SHA-256. A shard without a commit file, or with
one whose sizes do not fit, is not there as far as any reader is concerned.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .atomic import write_json
from .errors import ShardError
from .schema import FORMAT_VERSION

SUFFIXES = (".tar", ".tar.idx", ".parquet")
"""The files of a shard, in the order in which they are put in place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """What a commit file says."""

    name: str
    """Stem of the shard's files, such as `as-train-000012`."""
    split: str
    plan_sha256: str
    """The plan that the shard belongs to."""
    planned: int
    """Clips planned for the shard; the sidecar has as many rows."""
    ok: int
    """Clips in the tar."""
    errors: dict[str, int]
    """Failed clips by reason."""
    files: dict[str, dict[str, Any]]
    """Suffix to `{"bytes": int, "sha256": str}`."""
    directory: Path
    """Where the files lie; not stored."""

    def path(self, suffix: str) -> Path:
        """Return the path of the shard's file with `suffix`."""
        return self.directory / f"{self.name}{suffix}"


def describe_file(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file, as the commit file stores them."""
    with path.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def write_commit(commit: Commit) -> None:
    """Write the commit file: from here on the shard exists."""
    fields = ("name", "split", "plan_sha256", "planned", "ok", "errors", "files")
    value = {"format": FORMAT_VERSION} | {f: getattr(commit, f) for f in fields}
    write_json(commit.path(".commit.json"), value)


def read_commit(path: Path) -> Commit:
    """Read and check a commit file, sizes of the shard's files included.

    Raises:
        ShardError: the file is damaged, of another format version, or does not fit the files beside it.
    """
    try:
        value = json.loads(path.read_bytes())
        version = value.pop("format")
        if version != FORMAT_VERSION:
            raise ShardError(f"{path}: shard format {version}, this program reads {FORMAT_VERSION}")
        commit = Commit(directory=path.parent, **value)
        sizes = {suffix: commit.files[suffix]["bytes"] for suffix in SUFFIXES}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise ShardError(f"{path}: no readable commit file ({e}); delete it and run the ingestion again") from e
    for suffix, size in sizes.items():
        file = commit.path(suffix)
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes"
            raise ShardError(
                f"{file} {state}, its commit says {size} bytes; delete {path.name} and run the ingestion again"
            )
    return commit


def verify_commit(commit: Commit) -> None:
    """Compare the SHA-256 of each file with the commit.

    Raises:
        ShardError: a file is not the one that was committed.
    """
    for suffix in SUFFIXES:
        if describe_file(commit.path(suffix))["sha256"] != commit.files[suffix]["sha256"]:
            raise ShardError(f"{commit.path(suffix)}: SHA-256 differs from its commit; the file is damaged")
