"""The shard format and nothing else: writing, committing, finding and reading clips."""

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
