"""The commit file: written last, it is what makes a shard exist.

`{name}.commit.json` names the shard's files with their sizes and SHA-256, and carries a seal of its own. A shard
without a commit file is not there as far as any reader is concerned; one whose files do not fit it is damaged.
"""

import hashlib
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .atomic import write_json
from .errors import ShardError
from .schema import FORMAT_VERSION, SPLIT_PATTERN
from .seal import SEAL, check_seal, parse_object, seal

SUFFIXES = (".tar", ".tar.idx", ".parquet")
"""The files of a shard, in the order in which they are put in place."""
COMMIT_SUFFIX = ".commit.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


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

    def stored(self) -> dict[str, Any]:
        """Return what the commit file holds, seal included."""
        names = (field.name for field in fields(self) if field.name != "directory")
        return seal({"format": FORMAT_VERSION} | {name: getattr(self, name) for name in names})


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """One file that is not what it should be."""

    path: Path
    reason: str
    """Goes on behind the path, such as `is missing, its commit says 10240 bytes`."""
    shard: str | None = None
    """Name of the shard that the file belongs to, None for a file of the whole set."""

    def __str__(self) -> str:
        """Return path and reason as one line."""
        return f"{self.path} {self.reason}"


def set_root(directory: Path) -> Path:
    """Return the root of the shard set that has its shards in `directory`."""
    return directory.parent.parent if directory.parent.name == "shards" else directory


class DamageError(ShardError):
    """A file of a shard is damaged; the message also says what to do."""

    def __init__(self, damage: Damage) -> None:
        """Keep what is damaged; `unibrivl shards verify` lists all that is."""
        super().__init__(f"{damage}; mend it with `unibrivl shards repair {set_root(damage.path.parent)}`")
        self.damage = damage


def describe_file(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file, as the commit file stores them."""
    with path.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def write_commit(commit: Commit) -> None:
    """Write the commit file: from here on the shard exists."""
    write_json(commit.path(COMMIT_SUFFIX), commit.stored())


def parse_commit(path: Path) -> Commit:
    """Read and check a commit file, without a look at the files that it names.

    Raises:
        ShardError: the file is damaged, says something that no commit says, or is of another format version.
    """
    try:
        data = path.read_bytes()
        value = parse_object(data)
        version = value["format"]
        if type(version) is not int or version != FORMAT_VERSION:
            raise ShardError(f"{path}: shard format {version!r}, this program reads {FORMAT_VERSION}")
        check_seal(value, data)
        return _commit_of({name: entry for name, entry in value.items() if name not in ("format", SEAL)}, path)
    except (OSError, ValueError, KeyError) as e:
        name = path.name.removesuffix(COMMIT_SUFFIX)
        raise DamageError(Damage(path=path, reason=f"is no readable commit file ({e})", shard=name)) from e


def _commit_of(value: dict[str, Any], path: Path) -> Commit:
    """Check every field, so that nothing in a hostile file leads out of its folder or to a surprise later."""
    names = {field.name for field in fields(Commit)} - {"directory"}
    if value.keys() != names:
        raise ValueError(f"want the fields {', '.join(sorted(names))}; found {', '.join(sorted(value)) or 'none'}")
    split, errors, files = value["split"], value["errors"], value["files"]
    fits = {
        "name": value["name"] == path.name.removesuffix(COMMIT_SUFFIX),  # a file's own name leads nowhere else
        "split": isinstance(split, str) and bool(SPLIT_PATTERN.fullmatch(split)),
        "plan_sha256": _is_sha256(value["plan_sha256"]),
        "planned": _is_count(value["planned"]),
        "ok": _is_count(value["ok"]),
        "errors": isinstance(errors, dict) and all(map(_is_count, errors.values())),
        "files": isinstance(files, dict) and files.keys() == set(SUFFIXES) and all(map(_is_file, files.values())),
    }
    if wrong := [name for name, fit in fits.items() if not fit]:
        raise ValueError(f"{wrong[0]} is {value[wrong[0]]!r:.80}")
    if value["planned"] != value["ok"] + sum(errors.values()):
        raise ValueError(f"planned is {value['planned']}, ok and errors together are not")
    value["files"] = {suffix: files[suffix] for suffix in SUFFIXES}
    return Commit(directory=path.parent, **value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and bool(_SHA256.fullmatch(value))


def _is_file(value: Any) -> bool:
    is_described = isinstance(value, dict) and value.keys() == {"bytes", "sha256"}
    return is_described and _is_count(value["bytes"]) and _is_sha256(value["sha256"])


def check_sizes(commit: Commit, suffixes: tuple[str, ...] = SUFFIXES) -> list[Damage]:
    """Compare the sizes of a shard's files with its commit."""
    damaged = []
    for suffix in suffixes:
        path, size = commit.path(suffix), commit.files[suffix]["bytes"]
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes"
            damaged.append(Damage(path=path, reason=f"{state}, its commit says {size} bytes", shard=commit.name))
    return damaged


def read_commit(path: Path, *, tars: bool = True) -> Commit:
    """Read and check a commit file, sizes of the shard's files included.

    Args:
        path: of the commit file.
        tars: False: only the sidecar must be there, as in a mirror without tars and their indexes.

    Raises:
        ShardError: the file is damaged, of another format version, or does not fit the files beside it.
    """
    commit = parse_commit(path)
    if damaged := check_sizes(commit, SUFFIXES if tars else (".parquet",)):
        raise DamageError(damaged[0])
    return commit


def check_hashes(commit: Commit, suffixes: tuple[str, ...] = SUFFIXES) -> list[Damage]:
    """Compare the SHA-256 of a shard's files with its commit; each is read whole."""
    damaged = []
    for suffix in suffixes:
        path = commit.path(suffix)
        try:
            if describe_file(path)["sha256"] == commit.files[suffix]["sha256"]:
                continue
            reason = "is damaged: SHA-256 differs from its commit"
        except OSError as e:
            reason = f"cannot be read ({e.strerror or e})"
        damaged.append(Damage(path=path, reason=reason, shard=commit.name))
    return damaged


def verify_commit(commit: Commit) -> None:
    """Compare the SHA-256 of each file with the commit.

    Raises:
        ShardError: a file is not the one that was committed.
    """
    if damaged := check_hashes(commit):
        raise DamageError(damaged[0])


def commit_path(root: Path, split: str, name: str) -> Path:
    """Return where the commit file of a shard lies in the set at `root`, or will lie."""
    return root / "shards" / split / f"{name}{COMMIT_SUFFIX}"


def committed_paths(root: Path, *, split: str | None = None) -> list[Path]:
    """Return the commit files below `root` in the order of shard names; of one split, if given."""
    if split is not None and not SPLIT_PATTERN.fullmatch(split):
        return []  # no split has such a name, and a pattern would match several
    return sorted(root.glob(f"shards/{split or '*'}/*{COMMIT_SUFFIX}"))


def committed_shards(root: Path, *, split: str | None = None, tars: bool = True) -> list[Commit]:
    """Return the committed shards below `root` in the order of their names; of one split, if given.

    Raises:
        ShardError: a commit is damaged, or does not fit the files beside it.
    """
    return [read_committed(path, tars=tars) for path in committed_paths(root, split=split)]


def read_committed(path: Path, *, tars: bool = True) -> Commit:
    """Read a commit file as `read_commit`; it must also lie in the folder of its split.

    Raises:
        ShardError: as `read_commit`.
    """
    commit = read_commit(path, tars=tars)
    if damaged := check_split(commit):
        raise DamageError(damaged[0])
    return commit


def check_split(commit: Commit) -> list[Damage]:
    """Check that a shard lies in the folder of its split."""
    if commit.directory.name == commit.split:
        return []
    reason = f"belongs to split {commit.split}, yet lies in the folder {commit.directory.name}"
    return [Damage(path=commit.path(COMMIT_SUFFIX), reason=reason, shard=commit.name)]
