"""Chooses clips of a list before they are planned: by label, balanced over labels, or a random part.

Every choice is a function of the list, the ontology and the seed, whatever the order of the list.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ..shards.arrays import array_of, numpy_of
from ..shards.checks import check_ranges
from ..shards.labels import Ontology
from ..shards.subset import has_label, with_labels
from .errors import PlanError
from .hashes import hash_ranks

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectConfig:
    """Which clips of a list are wanted; by default all. The choices are made in the order of the fields."""

    labels: tuple[str, ...] = ()
    """Clips with one of these, by name or MID. With an ontology a class stands for all below it too; a label that the
    ontology does not have, and any label without one, is taken as it stands in the list, which must have it."""
    exclude_labels: tuple[str, ...] = ()
    """Clips with one of these are left out, even if they have a wanted one too."""
    drop_restricted: bool = False
    """Leave out clips all of whose labels are restricted (abstract or blacklisted) in the ontology, which is needed."""
    balance: int | None = None
    """Choose so many clips for each label: the labels from the rarest to the commonest (ties by name); each adds its
    clips in the order of the seeded hash until so many of the chosen carry it, counting those that rarer labels
    chose. A label that accompanies many others ends with more, a rare one with all it has. Clips without a label are
    left out, and restricted labels choose nothing under `drop_restricted`."""
    take: int | None = None
    """The first so many clips in the order of the seeded hash of their media, then of their start; all if there are
    fewer. A smaller number takes a part of what a larger takes, and both are the beginnings of plans of that seed."""
    seed: int = 0
    """Of the hash."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        check_ranges(self, balance=(1, None), take=(1, None))
        if not all(label.strip() for label in (*self.labels, *self.exclude_labels)):
            raise ValueError("a label is empty, want a name or MID")


class _Labels:
    """The labels of the rows, flat: one entry a row and label."""

    def __init__(self, table: pa.Table) -> None:
        column = table["labels"].combine_chunks()
        encoded = column.flatten().dictionary_encode()
        self.names: list[str] = encoded.dictionary.to_pylist()
        self.codes = numpy_of(encoded.indices).astype(np.int64)
        self.rows = np.repeat(np.arange(len(table)), numpy_of(pc.list_value_length(column)))


def select(table: pa.Table, config: SelectConfig, ontology: Ontology | None = None) -> pa.Table:
    """Return the chosen rows of `table`, a table in `CLIP_SCHEMA`, in their order.

    Raises:
        PlanError: nothing is left, or `drop_restricted` has no ontology.
        ShardError: neither the list nor the ontology has a label asked for, or it names several classes.
    """
    if config == SelectConfig(seed=config.seed):
        return table
    if config.drop_restricted and ontology is None:
        raise PlanError("restricted labels can be dropped only with an ontology; give AudioSet's ontology.json")
    labels, column = _Labels(table), table["labels"]
    chosen = np.ones(len(table), bool)
    if config.labels:
        chosen &= with_labels(column, config.labels, ontology, "the list")
        _refuse_nothing(chosen, f"has {_named(config.labels)}")
    if config.exclude_labels:
        chosen &= ~with_labels(column, config.exclude_labels, ontology, "the list")
        _refuse_nothing(chosen, f"is without {_named(config.exclude_labels)}")
    restricted = ontology.spellings(ontology.restricted()) if ontology and config.drop_restricted else frozenset[str]()
    if restricted:
        chosen &= has_label(column, set(labels.names) - restricted) | ~has_label(column, set(labels.names))
        _refuse_nothing(chosen, "has a label that is not restricted")
    if config.balance is not None:
        chosen = _balanced(table, labels, chosen, restricted, config)
        _refuse_nothing(chosen, "has a label to balance")
    if config.take is not None:
        order = _hash_order(table, config.seed)
        chosen[order[chosen[order]][config.take :]] = False
    return table.filter(array_of(chosen))


def _hash_order(table: pa.Table, seed: int) -> np.ndarray:
    """Return the rows in the order of the hash; int64 (rows,)."""
    return np.lexsort((numpy_of(table["start_ms"]), hash_ranks(table, seed)))


def _balanced(
    table: pa.Table, labels: _Labels, chosen: np.ndarray, restricted: frozenset[str], config: SelectConfig
) -> np.ndarray:
    """Choose as `SelectConfig.balance` says; bool (rows,)."""
    assert config.balance is not None
    is_used = chosen[labels.rows] & np.array([name not in restricted for name in labels.names], bool)[labels.codes]
    order = _hash_order(table, config.seed)
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    pairs = np.unique(labels.codes[is_used] * len(table) + places[labels.rows[is_used]])  # a label twice counts once
    codes, rows = pairs // len(table), order[pairs % len(table)]
    bounds = np.searchsorted(codes, np.arange(len(labels.names) + 1))
    counts = np.diff(bounds)
    picked = np.zeros(len(table), bool)
    for code in sorted(np.flatnonzero(counts).tolist(), key=lambda code: (counts[code], labels.names[code])):
        members = rows[bounds[code] : bounds[code + 1]]
        is_picked = picked[members]
        missing = max(config.balance - int(is_picked.sum()), 0)
        picked[members[~is_picked][:missing]] = True
    return picked


def _named(labels: tuple[str, ...]) -> str:
    more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
    return "the label " + " or ".join(repr(label[:40]) for label in labels[:3]) + more


def _refuse_nothing(chosen: np.ndarray, what: str) -> None:
    if not chosen.any():
        raise PlanError(f"none of {len(chosen)} clips {what}; ask for other labels, or for fewer conditions")
