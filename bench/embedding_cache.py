"""Embeddings that were made once: a block of items is an `.npy` file, and exists once its `.json` does.

The key is the encoder's fingerprint, the modality, the preprocessing and the contents of the items, so that another
tower, another front end or a changed file is another entry, and tables that ask for the same share it.
"""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..shards.atomic import write_bytes, write_json
from .errors import BenchError


class EmbeddingCache:
    """The embeddings of one encoder, modality and preprocessing."""

    def __init__(self, root: Path | None, fingerprint: str, modality: str, preprocessing: str) -> None:
        """Open it; without `root` nothing is kept."""
        self._about = {"fingerprint": fingerprint, "modality": modality, "preprocessing": preprocessing}
        self._folder = None if root is None else root / _digest(json.dumps(self._about, sort_keys=True))

    def block(self, keys: list[str], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Return float32 (N, D) of the items with these contents: kept, or computed now and kept.

        Raises:
            BenchError: what was kept is damaged.
        """
        if self._folder is None:
            return compute()
        path = self._folder / f"{_digest(json.dumps(keys))}.npy"
        if path.with_suffix(".json").is_file():
            return self._read(path, len(keys))
        found = np.ascontiguousarray(compute(), dtype=np.float32)
        self._folder.mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()
        np.save(data, found, allow_pickle=False)
        write_bytes(path, data.getvalue())
        write_json(path.with_suffix(".json"), self._about | {"sha256": _sha256(data.getvalue()), "items": len(keys)})
        return found

    def _read(self, path: Path, items: int) -> np.ndarray:
        try:
            told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            data = path.read_bytes()
        except (OSError, ValueError) as e:
            raise BenchError(f"{path}: not readable ({e}); delete it and its .json") from e
        if told.get("sha256") != _sha256(data) or told.get("items") != items:
            raise BenchError(f"{path}: not the bytes that were written; delete it and its .json")
        return np.load(io.BytesIO(data), allow_pickle=False)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest(text: str) -> str:
    return _sha256(text.encode())[:24]
