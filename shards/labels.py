"""The tree of sound classes: names and MIDs, what lies below a class, and which classes are no labels by themselves.

Source of the format: `ontology.json` of AudioSet (Gemmeke et al. 2017), a list of objects with `id`, `name`,
`child_ids` and `restrictions`. The tree is a directed graph without cycles; a class may have several parents.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .checks import check_file
from .errors import ShardError

RESTRICTIONS = frozenset({"abstract", "blacklist"})
"""`abstract`: only holds other classes; `blacklist`: too hard for raters, so without clips of its own."""


@dataclass(frozen=True, slots=True)
class _Class:
    name: str
    children: tuple[str, ...]
    restrictions: frozenset[str]


class Ontology:
    """Sound classes by MID."""

    def __init__(self, classes: Mapping[str, _Class], origin: str) -> None:
        """Index the classes; `origin` is named in errors. Use `Ontology.read`."""
        self._classes = dict(classes)
        self._origin = origin
        self._by_name: dict[str, list[str]] = {}
        for mid, found in classes.items():
            self._by_name.setdefault(_folded(found.name), []).append(mid)

    @classmethod
    def read(cls, path: Path) -> "Ontology":
        """Read and check an `ontology.json`.

        Raises:
            ShardError: the file is missing, no such list, names a class twice or a child that is not there, or a
                class lies below itself.
        """
        classes: dict[str, _Class] = {}
        for number, entry in enumerate(_entries(path), 1):
            mid, found = _class(path, number, entry)
            if mid in classes:
                raise ShardError(f"{path}: class {mid} stands twice; take the ontology as it was published")
            classes[mid] = found
        for mid, found in classes.items():
            if missing := [child for child in found.children if child not in classes]:
                raise ShardError(f"{path}: class {mid} has a child {missing[0][:40]!r} that is not in the file")
        _refuse_cycles(path, classes)
        return cls(classes, str(path))

    def __len__(self) -> int:
        """Count the classes."""
        return len(self._classes)

    def __contains__(self, mid: object) -> bool:
        """Tell whether `mid` is a class."""
        return mid in self._classes

    def resolve(self, label: str) -> str:
        """Return the MID of a class given by MID or by name in any case.

        Raises:
            ShardError: there is none (close names are suggested), or several have that name (their MIDs are listed).
        """
        if label in self._classes:
            return label
        found = self._by_name.get(_folded(label), [])
        if len(found) == 1:
            return found[0]
        if found:
            raise ShardError(f"{self._origin}: {label[:80]!r} names {len(found)} classes; say {' or '.join(found)}")
        close = near_spellings(label, (found.name for found in self._classes.values()))
        names = ", ".join(map(repr, close))
        hint = f"did you mean {names}?" if names else "give a name or MID that is in the ontology"
        raise ShardError(f"{self._origin}: there is no class {label[:80]!r}; {hint}")

    def name(self, mid: str) -> str:
        """Return the name of class `mid`."""
        return self._class(mid).name

    def restricted(self) -> frozenset[str]:
        """Return every class with a restriction."""
        return frozenset(mid for mid, found in self._classes.items() if found.restrictions)

    def descendants(self, mid: str) -> frozenset[str]:
        """Return class `mid` and all below it."""
        seen, todo = {mid}, [mid]
        while todo:
            fresh = set(self._class(todo.pop()).children) - seen
            seen |= fresh
            todo += fresh
        return frozenset(seen)

    def spellings(self, mids: Iterable[str]) -> frozenset[str]:
        """Return MIDs and names of classes: clips have the one or the other."""
        return frozenset(spelling for mid in mids for spelling in (mid, self.name(mid)))

    def _class(self, mid: str) -> _Class:
        try:
            return self._classes[mid]
        except KeyError:
            raise ShardError(f"{self._origin}: there is no class {mid[:80]!r}; resolve names to MIDs first") from None


def near_spellings(label: str, known: Iterable[str]) -> list[str]:
    """Return up to three names that `label` may stand for, the nearest first; case and blanks do not count."""
    by_folded: dict[str, str] = {}
    for name in known:
        by_folded.setdefault(_folded(name), name)
    return [by_folded[name] for name in get_close_matches(_folded(label), by_folded, n=3)]


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())


def _entries(path: Path) -> list[Any]:
    check_file(path, ShardError)
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ShardError(f"{path}: there is no such ontology; AudioSet publishes ontology.json") from None
    except OSError as e:
        raise ShardError(f"{path}: cannot be read ({e.strerror})") from e
    except (ValueError, RecursionError) as e:
        raise ShardError(f"{path}: not a JSON file; want AudioSet's ontology.json") from e
    if not isinstance(value, list) or not value:
        raise ShardError(f"{path}: no list of classes; want AudioSet's ontology.json")
    return value


def _class(path: Path, number: int, entry: Any) -> tuple[str, _Class]:
    fields = entry if isinstance(entry, dict) else {}
    mid, name = fields.get("id"), fields.get("name")
    children, restrictions = fields.get("child_ids", []), fields.get("restrictions", [])
    if not (isinstance(mid, str) and mid and isinstance(name, str) and name.strip()):
        raise ShardError(f"{path}: entry {number} has no id and name; want AudioSet's ontology.json")
    for what, values in (("child_ids", children), ("restrictions", restrictions)):
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ShardError(f"{path}: {what} of class {mid[:40]} is no list of strings")
    if unknown := set(restrictions) - RESTRICTIONS:
        raise ShardError(f"{path}: class {mid[:40]} has an unknown restriction {min(unknown)[:40]!r}")
    return mid, _Class(name, tuple(children), frozenset(restrictions))


def _refuse_cycles(path: Path, classes: Mapping[str, _Class]) -> None:
    """Take away classes without parents, again and again; what stays lies on or below a cycle."""
    parents = dict.fromkeys(classes, 0)
    for found in classes.values():
        for child in found.children:
            parents[child] += 1
    todo = [mid for mid, count in parents.items() if not count]
    left = len(classes)
    while todo:
        left -= 1
        for child in classes[todo.pop()].children:
            parents[child] -= 1
            if not parents[child]:
                todo.append(child)
    if left:
        first = next(mid for mid, count in parents.items() if count)
        raise ShardError(f"{path}: {left} classes lie on or below a cycle, such as {first}; a class cannot hold itself")
