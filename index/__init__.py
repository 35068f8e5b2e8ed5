"""Embeddings on disk, search over them, and the page that shows what was found."""
