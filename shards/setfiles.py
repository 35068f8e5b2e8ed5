"""Looks for damage in the files that a set has once: `dataset.json`, the ontology, and the plans."""

import hashlib
from pathlib import Path
from typing import Any

from .atomic import canonical_json
from .catalog import DATASET_FILE, ONTOLOGY_FILE, read_dataset
from .commit import Damage
from .errors import ShardError
from .labels import Ontology
from .planfile import PLAN_FILE, planned_shards, read_plan_file, round_file
from .schema import ROUND_PATTERN
from .seal import seal

HINT = "run the same `unibrivl ingest` again"


def check_dataset(root: Path) -> tuple[dict[str, Any], list[Damage]]:
    """Return `dataset.json` (empty if it is damaged) and what is wrong with it; here it must carry its seal."""
    path = root / DATASET_FILE
    if not path.exists():
        return {}, [Damage(path=path, reason=f"is missing; {HINT}")]
    try:
        dataset = read_dataset(root)
        if path.read_bytes() != canonical_json(seal(dataset)):
            return {}, [Damage(path=path, reason=f"is damaged: it has no seal; delete it and {HINT}")]
    except (ShardError, OSError) as e:
        return {}, [Damage(path=path, reason=f"is damaged ({e})")]
    return dataset, []


def check_ontology(root: Path, dataset: dict[str, Any]) -> list[Damage]:
    """Look for damage in the set's ontology, which is there if `dataset.json` has its SHA-256."""
    path, said = root / ONTOLOGY_FILE, dataset.get("ontology_sha256")
    hint = f"{HINT} with its --ontology"
    if not path.exists():
        return [Damage(path=path, reason=f"is missing; {hint}")] if said else []
    try:
        if said is None:  # of a set that was made before this was noted
            Ontology.read(path)
        elif hashlib.sha256(path.read_bytes()).hexdigest() != said:
            return [Damage(path=path, reason=f"is damaged: SHA-256 differs from {DATASET_FILE}; {hint}")]
    except (ShardError, OSError) as e:
        return [Damage(path=path, reason=f"is damaged ({e}); {hint}")]
    return []


def check_plans(root: Path, dataset: dict[str, Any], made: set[str], *, content: bool) -> tuple[set[str], list[Damage]]:
    """Return the names of all planned shards, and the plans that are missing or damaged.

    Args:
        root: of the set.
        dataset: its `dataset.json`, which has the hash of the first plan.
        made: names of the committed shards; a patch shard needs the plan of its round.
        content: compare every clip with the plan's own hash, else only what the file states.
    """
    rounds = {int(match[1]) for name in made if (match := ROUND_PATTERN.search(name))}
    wanted = {root / round_file(number) for number in rounds}
    if "plan_sha256" in dataset:
        wanted.add(root / PLAN_FILE)
    names: set[str] = set()
    damaged = []
    for path in sorted(wanted | set((root / "plan").glob("*.parquet"))):
        try:
            found, sha256 = _read_names(path, content=content)
            names |= found
            if path == root / PLAN_FILE and sha256 != dataset.get("plan_sha256", sha256):
                raise ShardError(f"{path}: is another plan than that of {DATASET_FILE}")
        except ShardError as e:
            hint = f"`unibrivl shards repair {root}` writes it again"
            hint = f"{HINT}, it writes the plan anew" if path == root / PLAN_FILE else hint
            what = f"is damaged ({str(e).removeprefix(f'{path}: ')})" if path.exists() else "is missing"
            damaged.append(Damage(path=path, reason=f"{what}; {hint}"))
    return names, damaged


def _read_names(path: Path, *, content: bool) -> tuple[set[str], str]:
    if not content:
        return planned_shards(path)
    plan = read_plan_file(path)
    return {name for name, _ in plan.shards}, plan.sha256
