"""What a label of a filter stands for: a class and all below it, by every ontology that the index's shard sets have."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..shards import ShardError
from ..shards.labels import Ontology


@dataclass(frozen=True, slots=True)
class Classes:
    """Ontologies taken together: a label stands for all that any of them puts below it."""

    ontologies: tuple[Ontology, ...] = ()

    def knows(self, label: str) -> bool:
        """Tell whether a label names a class."""
        return self.fault(label) is None

    def fault(self, label: str) -> str | None:
        """Return why a label names no class, by the last of the ontologies; None: it does in one of them."""
        told = "there is no ontology"
        for ontology in self.ontologies:
            try:
                ontology.resolve(label)
            except ShardError as e:
                told = str(e)
            else:
                return None
        return told

    def spellings(self, label: str) -> frozenset[str]:
        """Return the label and every name and MID that it stands for."""
        found = {label}
        for ontology in self.ontologies:
            if Classes((ontology,)).knows(label):
                found |= ontology.spellings(ontology.descendants(ontology.resolve(label)))
        return frozenset(found)


def read_classes(paths: Iterable[Path]) -> Classes:
    """Return the ontologies that are there; equal files count once.

    Raises:
        ShardError: one is damaged.
    """
    there = {path.read_bytes(): path for path in paths if path.is_file()}
    return Classes(tuple(Ontology.read(path) for path in there.values()))
