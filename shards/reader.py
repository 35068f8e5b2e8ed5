"""Reads committed clips by position, one `pread` a sample, in any order.

`ClipShards` is a plain sequence of samples: bytes as stored, decoded on request. It knows no torch. `loader` gives
batches of them in an order that survives a crash and another number of machines.
"""

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from pyarrow.compute import Expression

from .batch import check_fields
from .cache import CacheConfig, RemoteSet, is_address, remote_of
from .catalog import Catalog, open_catalog
from .errors import ShardError
from .loader import ClipLoader, LoaderConfig
from .sample import Sample
from .skip import IntactReader, SkipLog, Skipped, limit_of
from .subset import inverse_sqrt_frequency, select_clips
from .tars import TarFiles, TarReader, read_sample

__all__ = ["ClipShards", "Sample", "read_sample"]

ON_ERROR = ("raise", "skip")


class ClipShards:
    """The committed clips of a shard set as a sequence; close it, or use it as a context manager.

    It may be shared by threads, and pickled or carried over a fork: the other process opens its own files.
    """

    def __init__(
        self, root: Path | str, *, split: str | None = None, labels: tuple[str, ...] = (),
        exclude_labels: tuple[str, ...] = (), where: Expression | None = None,
        fields: tuple[str, ...] = ("audio", "frame", "info"), on_error: str = "raise", max_skipped: float = 0.05,
        verify: bool = True, cache: CacheConfig | None = None,
    ) -> None:  # fmt: skip
        """Open the set at `root`.

        Args:
            root: a folder, or an fsspec address such as `s3://bucket/set` (with `cache`).
            split: `train`, `test`, ...; None takes every split.
            labels: take the clips that carry any of these. Where the set has an `ontology.json`, a label is a name
                or a MID and stands for all below it, too; otherwise it is compared letter by letter.
            exclude_labels: leave out the clips that carry any of these.
            where: take the rows of `catalog.table` that fit, such as `pc.field("silent_ratio") < 0.5`.
            fields: what batches hold of a clip: `audio`, `frame` (the main size), `frame:384` and the like, `info`.
            on_error: what to do with a damaged clip: `raise` a ShardError, or `skip` it: the next intact clip of
                the catalog takes its place, `skipped` has the reason, and one warning a shard is logged.
            max_skipped: give up when more than this share of the clips is damaged (one is always allowed). With
                `skip` a shard whose sidecar or commit is damaged is left out, and all its clips count.
            verify: compare every sample with its checksum as it is read, about 4 microseconds of 25.
            cache: where tars of a remote set are kept, and how many bytes of them.

        Raises:
            ShardError: as `open_catalog`; no clip is selected; a label is not known; too many clips are lost.
            ValueError: a field or `on_error` is none of the above.
        """
        if on_error not in ON_ERROR:
            raise ValueError(f"on_error {on_error!r}: want raise or skip")
        self.fields = check_fields(fields)
        skip = on_error == "skip"
        folder, remote = _located(root, cache)
        # Who skips damaged clips wants to open a set whose tars are cut or gone.
        tars = not skip and remote is None
        catalog = open_catalog(folder, split=split, tars=tars, on_error="skip" if skip else "raise")
        limit = limit_of(catalog, max_skipped)
        self.catalog: Catalog = select_clips(catalog, labels=labels, exclude_labels=exclude_labels, where=where)
        files = TarFiles(self.catalog.shards, remote)
        limit = limit.scaled(len(self.catalog), len(catalog))
        self._reader = IntactReader(TarReader(self.catalog, files, verify=verify), skip=skip, limit=limit)
        self._log = SkipLog(limit, files)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self._reader.reader)

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the open tars."""
        self.close()

    def close(self) -> None:
        """Close the open tars; reading opens them again."""
        self._reader.reader.tars.close()

    def __getitem__(self, position: int) -> Sample:
        """Return the clip at `position` in the catalog, or with `on_error="skip"` the one that stands in for it.

        Raises:
            IndexError: there is no such position.
            ShardError: the bytes there are not that clip; with `skip`, too many clips are damaged.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"clip {position} of {len(self)}")
        known = len(self._reader.skipped)
        _, sample = self._reader.get(position, _as_it_is)
        if self._reader.skipped:
            self.note_skipped(list(self._reader.skipped.values())[known:])
        return sample

    def __iter__(self) -> Iterator[Sample]:
        """Yield every clip in catalog order."""
        return (self[position] for position in range(len(self)))

    @property
    def skipped(self) -> dict[int, Skipped]:
        """Damaged clips found so far, by position; loaders add theirs, those of worker processes included."""
        return dict(self._log.skipped)

    def note_skipped(self, found: list[Skipped]) -> None:
        """Count what a loader or a worker skipped; ShardError where it is too much."""
        self._log.note(found)

    @property
    def catalog_sha(self) -> str:
        """SHA-256 of what is read and from where: key, checksum and shard of every clip in catalog order."""
        table, digest = self.catalog.table, hashlib.sha256()
        digest.update("\n".join(table["key"].to_pylist()).encode())
        digest.update(table["sample_xxh3"].fill_null(0).to_numpy().astype("<u8").tobytes())
        digest.update(table["shard"].to_numpy().astype("<i4").tobytes())
        return digest.hexdigest()

    def take(self, positions: np.ndarray, *, fields: tuple[str, ...] | None = None) -> "ClipShards":
        """Return a reader of the clips at `positions` alone, in that order; close it by itself.

        Args:
            positions: int (N,), of this reader's clips, none twice; they are 0 to N - 1 in the other.
            fields: what its batches hold; as here, unless given.

        Raises:
            ValueError: a position is unknown or comes twice.
        """
        if len(np.unique(positions)) != len(positions) or not np.isin(positions, np.arange(len(self))).all():
            raise ValueError(f"positions: want each once, from 0 to {len(self) - 1}")
        other = copy.copy(self)
        other.fields = self.fields if fields is None else check_fields(fields)
        other.catalog = replace(self.catalog, table=self.catalog.table.take(positions))
        ours, files = self._reader, self._reader.reader.tars.files
        limit = ours.limit.scaled(len(positions), len(self))
        reader = TarReader(other.catalog, files, verify=ours.reader.verify)
        other._reader = IntactReader(reader, skip=ours.skip, limit=limit)
        other._log = SkipLog(limit, files)
        return other

    def loader(
        self, *, batch_size: int, workers: int = 0, rank: int = 0, world_size: int = 1, seed: int = 0,
        shuffle: str = "full", weights: str | np.ndarray | None = None, raw: bool = False, drop_last: bool = True,
        prefetch: int = 2,
    ) -> ClipLoader:  # fmt: skip
        """Return an iterable of batches, one epoch an iteration; `LoaderConfig` explains the arguments."""
        config = LoaderConfig(
            batch_size=batch_size, workers=workers, rank=rank, world_size=world_size, seed=seed, shuffle=shuffle,
            weights=weights, raw=raw, drop_last=drop_last, prefetch=prefetch,
        )  # fmt: skip
        return ClipLoader(self, config)

    @property
    def shard_of_clip(self) -> np.ndarray:
        """Number of each clip's shard in `catalog.shards`: int32 (clips,)."""
        return self.catalog.table["shard"].to_numpy()

    def label_weights(self) -> np.ndarray:
        """Return the weights `inv_sqrt_freq`: float64 (clips,)."""
        return inverse_sqrt_frequency(self.catalog.table["labels"])

    def intact_reader(self) -> IntactReader:
        """Return a reader of the same clips that shares nothing with this one but what is known to be damaged."""
        reader = IntactReader(self._reader.reader, skip=self._reader.skip, limit=self._reader.limit)
        reader.skipped.update(self._log.skipped)
        return reader


def _as_it_is(sample: Sample) -> Sample:
    return sample


def _located(root: Path | str, cache: CacheConfig | None) -> tuple[Path, RemoteSet | None]:
    """Return the folder with commits and sidecars, and where the tars come from if they are not there."""
    if not is_address(root):
        return Path(root), remote_of(Path(root))
    if cache is None:
        raise ShardError(f"{root}: a remote set needs a cache: ClipShards(..., cache=CacheConfig(directory=..., ...))")
    remote = RemoteSet(str(root), cache)
    return remote.sync(), remote
