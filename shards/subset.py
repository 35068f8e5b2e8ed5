"""Which clips of a catalog a reader takes: by label, with the ontology where the set has one, and by any column."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from pyarrow.compute import Expression

from .catalog import ONTOLOGY_FILE, Catalog, label_counts
from .checks import first_line
from .errors import ShardError
from .labels import Ontology, near_spellings

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers

SHOWN_LABELS = 10
"""Labels that a message names when none fits."""


def select_clips(
    catalog: Catalog, *, labels: tuple[str, ...], exclude_labels: tuple[str, ...], where: Expression | None
) -> Catalog:
    """Return the catalog with the rows that carry any of `labels`, none of `exclude_labels`, and fit `where`.

    Raises:
        ShardError: nothing is left, a label is one that neither the clips nor the set's ontology have, or `where` names
            no column of ours.
    """
    table = catalog.table
    if labels or exclude_labels:
        path, origin = catalog.root / ONTOLOGY_FILE, str(catalog.root)
        ontology = Ontology.read(path) if path.exists() else None
        column = table["labels"]
        keep = with_labels(column, labels, ontology, origin) if labels else np.ones(len(table), dtype=bool)
        if exclude_labels:
            keep &= ~with_labels(column, exclude_labels, ontology, origin)
        if not keep.any():
            raise ShardError(f"{catalog.root}: {_none_left(labels, exclude_labels, table)}")
        table = table.filter(pa.array(keep))
    if where is not None:
        try:
            table = table.filter(where)
        except (pa.ArrowException, TypeError, ValueError) as e:
            raise ShardError(f"where: {first_line(e)}; the columns are {', '.join(table.column_names)}") from e
        if not len(table):
            raise ShardError(f"{catalog.root}: no clip of {len(catalog.table):,} fits where={where}")
    return replace(catalog, table=table)


def with_labels(column: pa.ChunkedArray, asked: tuple[str, ...], ontology: Ontology | None, origin: str) -> np.ndarray:
    """Return bool (clips,): whether a clip carries any of the labels that are asked for.

    With an ontology a class, given by name or MID, stands for all below it too, whether any clip carries one or not.
    A label that the ontology does not have, and any label without one, is taken as it stands with the clips.

    Args:
        column: the labels of the clips.
        asked: names or MIDs.
        ontology: of the set or list, if there is one.
        origin: what the clips belong to, named in errors.

    Raises:
        ShardError: neither the clips nor the ontology have a label (near spellings are named), or several classes do.
    """
    known = set(pc.unique(flat_labels(column)[1].drop_null()).to_pylist())
    names: set[str] = set()
    for label in asked:
        if ontology is not None:
            try:
                names |= ontology.spellings(ontology.descendants(ontology.resolve(label)))
                continue
            except ShardError:
                if label not in known:
                    raise
        elif label not in known:
            near = near_spellings(label, sorted(known))
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "labels are compared letter by letter"
            raise ShardError(f"{origin}: no clip has the label {label[:80]!r}; {hint}")
        names.add(label)
    return has_label(column, names)


def has_label(column: pa.ChunkedArray, names: set[str]) -> np.ndarray:
    """Return bool (clips,): whether any label of the clip is in `names`."""
    starts, labels = flat_labels(column)
    hits = pc.is_in(labels, value_set=pa.array(sorted(names), pa.string())).to_numpy(zero_copy_only=False)
    total = np.concatenate([[0], np.cumsum(hits)])
    return total[starts[1:]] > total[starts[:-1]]


def inverse_sqrt_frequency(column: pa.ChunkedArray) -> np.ndarray:
    """Return float64 (clips,): 1 / sqrt(clips that carry it) of the rarest label of each clip.

    A clip without labels weighs as much as one whose label every clip carries, the least there is.
    """
    starts, labels = flat_labels(column)
    codes = labels.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    per_label = 1 / np.sqrt(np.maximum(np.bincount(codes), 1)) if len(codes) else np.zeros(0)
    weights = np.full(len(starts) - 1, 1 / np.sqrt(max(1, len(starts) - 1)))
    clip_of_label = np.repeat(np.arange(len(weights)), np.diff(starts))
    np.maximum.at(weights, clip_of_label, per_label[codes])
    return weights


def flat_labels(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Return a list column as int64 (clips + 1,) starts and the labels of all clips, one after the other."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    flat = pc.list_flatten(column)
    chunks = flat.chunks if isinstance(flat, pa.ChunkedArray) else [flat]
    labels = pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), labels


def _none_left(labels: tuple[str, ...], exclude_labels: tuple[str, ...], table: pa.Table) -> str:
    counts = label_counts(table)
    shown = ", ".join(f"{name} ({count:,})" for name, count in list(counts.items())[:SHOWN_LABELS])
    asked = " or ".join(repr(label) for label in labels) or "any label"
    without = f" and without {' or '.join(repr(label) for label in exclude_labels)}" if exclude_labels else ""
    return f"no clip with {asked}{without}; it has {len(counts):,} labels: {shown or 'none'}"
