"""The shard format: writing, committing, finding and reading clips, and what every other folder needs besides.

Names are loaded when they are asked for: whoever needs only a small module of this folder, such as the console, does
not wait for Arrow and the decoders.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cache import CacheConfig
    from .catalog import Catalog, all_rows, open_catalog, read_dataset
    from .commit import Commit, read_commit, verify_commit
    from .errors import ShardError
    from .labels import Ontology
    from .loader import ClipLoader, LoaderConfig
    from .order import epoch_order
    from .reader import ClipShards, Sample
    from .schema import FORMAT_VERSION, SAMPLE_RATE, make_key, split_key
    from .writer import ShardWriter

__all__ = [
    "FORMAT_VERSION",
    "SAMPLE_RATE",
    "CacheConfig",
    "Catalog",
    "ClipLoader",
    "ClipShards",
    "Commit",
    "LoaderConfig",
    "Ontology",
    "Sample",
    "ShardError",
    "ShardWriter",
    "all_rows",
    "epoch_order",
    "make_key",
    "open_catalog",
    "read_commit",
    "read_dataset",
    "split_key",
    "verify_commit",
]

_HOMES = {
    "cache": ("CacheConfig",),
    "catalog": ("Catalog", "all_rows", "open_catalog", "read_dataset"),
    "commit": ("Commit", "read_commit", "verify_commit"),
    "errors": ("ShardError",),
    "labels": ("Ontology",),
    "loader": ("ClipLoader", "LoaderConfig"),
    "order": ("epoch_order",),
    "reader": ("ClipShards", "Sample"),
    "schema": ("FORMAT_VERSION", "SAMPLE_RATE", "make_key", "split_key"),
    "writer": ("ShardWriter",),
}
"""Module to the names that it gives."""


def __getattr__(name: str) -> Any:
    """Load the module of a name when it is first asked for (PEP 562)."""
    for module, names in _HOMES.items():
        if name in names:
            globals()[name] = value = getattr(import_module(f".{module}", __name__), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
