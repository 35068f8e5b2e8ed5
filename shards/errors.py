"""What can be wrong with shards on disk."""

from .. import UnibrivlError


class ShardError(UnibrivlError):
    """A shard set or one of its files is missing, damaged or of another format version."""
