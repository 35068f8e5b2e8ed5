"""Looks for damage in a whole shard set: every file against its commit, and on request every sample inside.

Damage is a file that was committed and is not what was committed. What nobody committed (a killed run's leftovers)
and what is planned and not made yet are told apart from it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .catalog import DATASET_FILE, read_dataset
from .commit import (
    COMMIT_SUFFIX,
    SUFFIXES,
    Commit,
    Damage,
    DamageError,
    check_hashes,
    check_sizes,
    check_split,
    committed_paths,
    parse_commit,
)
from .compaction import check_catalog
from .errors import ShardError
from .inspection import inspect_index, inspect_tar
from .setfiles import check_dataset, check_ontology, check_plans
from .sidecar import in_threads, read_sidecar

LEVELS = ("size", "hash", "deep")


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What a shard set is like."""

    shards: int
    """Commit files found."""
    ok: int
    """Shards without any damage."""
    damaged: tuple[Damage, ...]
    """In the order of shard names; then files of the whole set."""
    uncommitted: tuple[Path, ...]
    """Files below `shards/` that no commit file stands for: leftovers of a killed run, or strangers."""
    missing_planned: tuple[str, ...]
    """Names of planned shards that are not made yet."""

    @property
    def damaged_shards(self) -> tuple[str, ...]:
        """Return the names of shards with damage, each once."""
        return tuple(dict.fromkeys(damage.shard for damage in self.damaged if damage.shard is not None))

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing is damaged and everything planned is made."""
        return not self.damaged and not self.missing_planned

    def advice(self, root: Path) -> str:
        """Return in one line what is wrong with the set at `root` and which command mends it; empty if nothing is."""
        parts = []
        if shards := len(self.damaged_shards):
            parts.append(
                f"{shards} of {self.shards} shards are damaged, mend them with `unibrivl shards repair {root}`"
            )
        if others := [damage for damage in self.damaged if damage.shard is None]:
            parts.append(f"{others[0]}")
        if missing := len(self.missing_planned):
            parts.append(f"{missing} planned shards are not made yet, run the same `unibrivl ingest` again")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            "shards": self.shards,
            "ok": self.ok,
            "damaged": [{"path": str(d.path), "reason": d.reason, "shard": d.shard} for d in self.damaged],
            "uncommitted": [str(path) for path in self.uncommitted],
            "missing_planned": list(self.missing_planned),
        }


def verify(
    root: Path, *, level: str = "hash", progress: Callable[[int, int, str], None] = lambda done, total, name: None
) -> VerifyReport:
    """Look for damage in the shard set at `root`.

    Args:
        root: folder of the set.
        level: `size` compares sizes with the commits, `hash` also every SHA-256 and the plans' own, `deep` also decodes
            every sample and compares it with index and sidecar.
        progress: called with the shards done, all shards, and the name of the last one done.

    Raises:
        ShardError: `root` is no shard set.
        ValueError: there is no such level.
    """
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}, want {', '.join(LEVELS)}")
    paths = committed_paths(root)
    if not (root / DATASET_FILE).exists() and not paths:
        read_dataset(root)  # says that this is no shard set
    dataset, of_set = check_dataset(root)
    damaged: list[Damage] = []
    num_ok = 0
    for done, found in enumerate(in_threads(lambda path: _check_shard(path, level, dataset), paths), start=1):
        damaged += found
        num_ok += not found
        progress(done, len(paths), paths[done - 1].name.removesuffix(COMMIT_SUFFIX))
    made = {path.name.removesuffix(COMMIT_SUFFIX) for path in paths}
    planned, of_plan = check_plans(root, dataset, made, content=level != "size")
    of_set += check_ontology(root, dataset) + of_plan
    return VerifyReport(
        shards=len(paths), ok=num_ok, damaged=(*damaged, *of_set, *check_catalog(root)),
        uncommitted=tuple(_uncommitted(root, paths)),
        missing_planned=tuple(name for name in sorted(planned) if name not in made),
    )  # fmt: skip


def _check_shard(path: Path, level: str, dataset: dict[str, Any]) -> list[Damage]:
    """Return everything that is wrong with the shard of a commit file."""
    name = path.name.removesuffix(COMMIT_SUFFIX)
    try:
        commit = parse_commit(path)
        damaged = check_split(commit) + _check_plan(commit, dataset) + check_sizes(commit)
        return damaged if level == "size" else damaged + _check_content(commit, damaged, level, dataset)
    except DamageError as e:
        return [e.damage]
    except ShardError as e:  # of another format version
        return [Damage(path=path, reason=f"is refused ({e})", shard=name)]
    except OSError as e:
        return [Damage(path=Path(e.filename or path), reason=f"cannot be read ({e.strerror or e})", shard=name)]


def _check_plan(commit: Commit, dataset: dict[str, Any]) -> list[Damage]:
    if commit.plan_sha256 == dataset.get("plan_sha256", commit.plan_sha256):
        return []
    return [
        Damage(path=commit.path(COMMIT_SUFFIX), reason=f"is of another plan than {DATASET_FILE}", shard=commit.name)
    ]


def _check_content(commit: Commit, damaged: list[Damage], level: str, dataset: dict[str, Any]) -> list[Damage]:
    """Hash the files whose sizes fit, check the sidecar's rows, and look inside if that was asked for."""
    found = check_hashes(commit, tuple(s for s in SUFFIXES if commit.path(s) not in {d.path for d in damaged}))
    wrong = {damage.path for damage in damaged + found}
    if commit.path(".parquet") in wrong:
        return found  # nothing says where the samples should lie
    try:
        table = read_sidecar(commit)
    except DamageError as e:
        return [*found, e.damage]
    if level == "deep" and commit.path(".tar.idx") not in wrong:
        found += inspect_index(commit, table)
    if level == "deep" and commit.path(".tar").is_file():  # damaged or not: it says which clips were hit
        found += inspect_tar(commit, table, dataset)
    return found


def _uncommitted(root: Path, paths: list[Path]) -> Iterator[Path]:
    known = {path.with_name(path.name.removesuffix(COMMIT_SUFFIX) + suffix) for path in paths for suffix in SUFFIXES}
    known.update(paths)
    yield from (path for path in sorted((root / "shards").rglob("*")) if path.is_file() and path not in known)
