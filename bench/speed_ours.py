"""Our own reader as a contender of `bench speed reader`: `ClipShards.loader` at its defaults, under the same loop.

Started like `peers.py`, by `python -m unibrivl.bench.speed_ours JOB`, and only in our own environment. JOB has `verify`
besides: whether every sample is compared with its checksum.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..shards import ClipShards
from .peers import BATCH_SIZE, Contender, look, pin, serve, timed, touch, warm

RAW_BATCH_SIZE = 16
"""Raw samples come in lists; the others hand them out one by one, so that each is still in the processor's cache."""


class OurContender(Contender):
    """One epoch of raw samples or of decoded batches, read and decoded by this process itself."""

    def prepare(self) -> dict[str, Any]:
        """Warm the page cache and open."""
        warm(Path(self.job["root"]))
        clips = ClipShards(self.job["root"], fields=("audio", "frame"), verify=self.job["verify"])
        self.loaders: dict[str, Any] = {
            kind: clips.loader(batch_size=size, seed=self.job["seed"], raw=kind == "raw", drop_last=False)
            for kind, size in (("raw", RAW_BATCH_SIZE), ("decoded", BATCH_SIZE))
        }
        pin(self.job["core"])
        return {"convert_s": 0.0}

    def run(self, kind: str, number: int) -> dict[str, float]:
        """Time one epoch; its number is the loader's own affair."""
        loader = self.loaders[kind]
        if number:  # the first is where a new loader stands
            loader.set_epoch(number)
        if kind == "raw":
            return timed(_members(loader), touch)
        return timed(((batch["audio"], batch["frame"]) for batch in loader), look)


def _members(loader: Any) -> Iterator[Any]:
    for batch in loader:
        for sample in batch:
            yield sample.members


if __name__ == "__main__":
    serve(OurContender(json.loads(sys.argv[1])))
