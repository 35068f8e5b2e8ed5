"""Batches of clips in an order that a crash, another number of machines or of workers does not change.

The order of an epoch is one list of positions for all ranks. Batch number b of all ranks together is the next
`world_size * batch_size` of them, and a rank takes its slice: every rank makes equally many steps, and where a run
stands is one number, how many positions have been used.
"""

import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Protocol, Self

import numpy as np

from .batch import Batch, BatchMaker
from .catalog import Catalog
from .checks import check_ranges
from .errors import ShardError
from .order import ORDER_VERSION, check_shuffle, check_weights, clip_order, weighted_order
from .sample import Sample
from .skip import IntactReader, Skipped
from .workers import ProcessWorkers, ThreadWorker

REMEDIES = {
    "catalog_sha": "open the shards, split and labels of that run",
    "seed": "give that seed",
    "shuffle": "give that shuffle",
    "weights_sha": "give those weights",
    "order_version": "take the version of unibrivl that wrote it",
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoaderConfig:
    """How clips become batches."""

    batch_size: int
    """Clips a batch of one rank."""
    workers: int = 0
    """Processes that read and decode; 0 does it in a thread of this process, ahead of use."""
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    shuffle: str = "full"
    """`full`, `window:N` (N shards at a time) or `none`."""
    weights: str | np.ndarray | None = None
    """Draw with replacement in proportion to these: one number a clip in catalog order, or `inv_sqrt_freq`, which is
    1 / sqrt(clips with that label) of a clip's rarest label. Such an epoch has as many draws as there are clips and
    visits some clips more than once, others not at all."""
    raw: bool = False
    """Yield lists of undecoded samples."""
    drop_last: bool = True
    """Leave out the clips at the end of an epoch that do not fill a batch on every rank. Without it they make one
    last, smaller batch of equal size on every rank; up to world_size - 1 clips are repeated there, and `valid` is
    False for those."""
    prefetch: int = 2
    """Batches made ahead, by each worker."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_ranges(
            self, batch_size=(1, None), workers=(0, None), world_size=(1, None), rank=(0, None), prefetch=(1, None)
        )
        if self.rank >= self.world_size:
            raise ValueError(f"rank {self.rank} of world_size {self.world_size}: want 0 to {self.world_size - 1}")
        check_shuffle(self.shuffle)
        if self.weights is not None and self.shuffle != "full":
            raise ValueError(f"shuffle {self.shuffle!r} with weights: draws come from all clips, leave it at full")
        if isinstance(self.weights, str) and self.weights != "inv_sqrt_freq":
            raise ValueError(f"weights {self.weights!r}: want inv_sqrt_freq, an array or None")
        if self.raw and not self.drop_last and self.world_size > 1:
            raise ValueError("raw batches do not say which clips are repeats: use drop_last=True or world_size=1")


class Clips(Protocol):
    """What is loaded, which is `ClipShards`; that makes its loader and so cannot be imported here."""

    catalog: Catalog
    fields: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of clips."""
        ...

    @property
    def catalog_sha(self) -> str:
        """Return the SHA-256 of what is read and from where."""
        ...

    @property
    def shard_of_clip(self) -> np.ndarray:
        """Return the number of each clip's shard: int32 (clips,)."""
        ...

    def label_weights(self) -> np.ndarray:
        """Return the weights `inv_sqrt_freq`: float64 (clips,)."""
        ...

    def intact_reader(self) -> IntactReader:
        """Return a reader of the same clips for another thread or process."""
        ...

    def note_skipped(self, found: list[Skipped]) -> None:
        """Count what was skipped; ShardError where it is too much."""
        ...


class ClipLoader:
    """Iterates over one epoch's batches after the other; close it, or use it as a context manager.

    An iteration goes on where the last one stopped: after a `break`, with the next batch of the same epoch; after
    an epoch's end, with the next epoch. `state_dict` is exact at any moment, since it counts the batches that were
    handed out, not those made ahead.
    """

    def __init__(self, clips: Clips, config: LoaderConfig) -> None:
        """Prepare to read `clips`.

        Raises:
            ShardError: one batch for every rank takes more clips than there are.
            ValueError: `weights` are not one a clip.
        """
        self.clips = clips
        self.config = config
        self.epoch = 0
        self.consumed = 0
        """Positions of this epoch's order that all ranks together have used."""
        self._weights = _weights_of(clips, config.weights)
        self._backend: ThreadWorker | ProcessWorkers | None = None
        self._run: object = None
        """The iteration that is under way."""
        if config.drop_last and len(clips) < self._global_batch:
            raise ShardError(
                f"{clips.catalog.root}: {len(clips):,} clips do not fill one batch of {config.batch_size:,} on "
                f"{config.world_size} ranks; take a smaller batch_size, or drop_last=False"
            )

    def __len__(self) -> int:
        """Return the steps of a whole epoch, the same on every rank."""
        return self._steps(len(self.clips))

    @property
    def steps_left(self) -> int:
        """Steps that are left of the epoch, the same on every rank."""
        return self._steps(len(self.clips) - self.consumed)

    def __iter__(self) -> Iterator[Batch | list[Sample]]:
        """Yield the batches that are left of the epoch; then the next iteration is the next epoch's.

        Raises:
            ShardError: a clip is damaged, or a worker process has died. The state stays where the last batch that
                was handed out left it, and iterating again goes on from there.
            RuntimeError: another iteration of this loader was begun meanwhile, or its place was set.
        """
        self._leave()
        self._run = run = object()
        return self._iterate(run)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of `epoch`; within that epoch already, stay at the place (after a resume, say)."""
        if epoch != self.epoch:
            self._leave()
            self.epoch, self.consumed = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the place of all ranks as plain JSON values; any rank's may be given to every rank."""
        return self._identity | {"epoch": self.epoch, "consumed": self.consumed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved place, with any number of ranks and workers and any batch size.

        Raises:
            ShardError: the state is of other clips, another seed, order or weights, or no state at all.
        """
        for name, ours in self._identity.items():
            if state.get(name) != ours:
                raise ShardError(
                    f"the reader's state has {name} {state.get(name)!r}, this reader {ours!r}: a place in another "
                    f"order means nothing; {REMEDIES[name]}, or begin anew without the state"
                )
        epoch, consumed = state.get("epoch"), state.get("consumed")
        if type(epoch) is not int or type(consumed) is not int or epoch < 0 or not 0 <= consumed <= len(self.clips):
            raise ShardError(
                f"the reader's state has epoch {epoch!r} and consumed {consumed!r} of {len(self.clips):,} clips; "
                "it is damaged, begin anew without it"
            )
        self._leave()
        self.epoch, self.consumed = epoch, consumed

    def close(self) -> None:
        """End the thread or the processes; iterating starts them again where it stopped."""
        self._run = None
        if self._backend is not None:
            self._close_backend()
            self._backend = None

    def __enter__(self) -> Self:
        """Return the loader itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread or the processes."""
        self.close()

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What must be equal for a place to mean the same."""
        weights = None if self._weights is None else sha256(self._weights.astype("<f8").tobytes()).hexdigest()
        return {
            "catalog_sha": self.clips.catalog_sha, "seed": self.config.seed, "shuffle": self.config.shuffle,
            "weights_sha": weights, "order_version": ORDER_VERSION,
        }  # fmt: skip

    @property
    def _global_batch(self) -> int:
        return self.config.world_size * self.config.batch_size

    def _steps(self, num_clips: int) -> int:
        whole, rest = divmod(num_clips, self._global_batch)
        return whole + (rest > 0 and not self.config.drop_last)

    def _order(self) -> np.ndarray:
        config = self.config
        if self._weights is not None:
            return weighted_order(self._weights, seed=config.seed, epoch=self.epoch)
        return clip_order(self.clips.shard_of_clip, shuffle=config.shuffle, seed=config.seed, epoch=self.epoch)

    def _tasks(self) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
        """Yield `consumed` after each batch that is left, and this rank's (positions, valid) of it."""
        order, start, total = self._order(), self.consumed, len(self.clips)
        for _ in range(self.steps_left):
            size = min(self.config.batch_size, -(-(total - start) // self.config.world_size))
            places = start + self.config.rank * size + np.arange(size)
            start = min(start + self.config.world_size * size, total)
            yield start, (order[places % total], places < total)

    def _iterate(self, run: object) -> Iterator[Batch | list[Sample]]:
        try:
            ends: deque[int] = deque()
            depth = self.config.prefetch * max(1, self.config.workers)
            for end, task in self._tasks():
                self._check(run)
                self._work().submit(task)
                ends.append(end)
                if len(ends) > depth:
                    yield self._take(run, ends)
            while ends:
                yield self._take(run, ends)
            self._check(run)
            self.epoch, self.consumed = self.epoch + 1, 0
        finally:
            if self._run is run:
                self._leave()

    def _take(self, run: object, ends: deque[int]) -> Batch | list[Sample]:
        self._check(run)
        batch, skipped = self._work().take()
        self.clips.note_skipped(skipped)
        self.consumed = ends.popleft()
        return batch

    def _check(self, run: object) -> None:
        if self._run is not run:
            raise RuntimeError("this iteration is over: the loader was closed, moved or iterated anew meanwhile")

    def _leave(self) -> None:
        """End the current iteration; what was made ahead for it is thrown away with the workers that make it."""
        self._run = None
        if self._backend is not None and self._backend.outstanding:
            self.close()

    def _work(self) -> ThreadWorker | ProcessWorkers:
        if self._backend is None:
            maker = BatchMaker(self.clips.intact_reader(), self.clips.fields, self.config.raw)
            workers = self.config.workers
            self._backend = ProcessWorkers(maker, workers) if workers else ThreadWorker(maker)
            self._close_backend = weakref.finalize(self, self._backend.close)
        return self._backend


def _weights_of(clips: Clips, weights: str | np.ndarray | None) -> np.ndarray | None:
    if weights is None:
        return None
    values = check_weights(clips.label_weights() if isinstance(weights, str) else weights)
    if len(values) != len(clips):
        raise ValueError(f"weights: {len(values):,} numbers for {len(clips):,} clips, want one a clip")
    return values
