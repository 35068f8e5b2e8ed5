"""Which rows of a segment may be found: a mask, and the forms that the ways of searching want it in."""

from functools import cached_property
from typing import Any

import numpy as np

from .library import load_faiss


class Matches:
    """Rows that match a filter and are not deleted."""

    def __init__(self, mask_N: np.ndarray) -> None:
        """Take a bool for each row."""
        self.mask_N = mask_N
        self.count = int(np.count_nonzero(mask_N))

    @property
    def share(self) -> float:
        """Of all rows."""
        return self.count / max(1, len(self.mask_N))

    @cached_property
    def rows(self) -> np.ndarray:
        """Their numbers, int64, sorted."""
        return np.flatnonzero(self.mask_N)

    @cached_property
    def selector(self) -> Any:
        """The same for FAISS; it reads the bitmap, which lives as long as this object."""
        self._bitmap = np.packbits(self.mask_N, bitorder="little")
        return load_faiss().IDSelectorBitmap(self._bitmap)
