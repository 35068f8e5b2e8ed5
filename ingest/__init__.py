"""From a list of clips to committed shards."""
