"""One contender of `bench speed reader`, in a process of its own.

This file runs in other Python environments than ours too, because a peer may want other versions of NumPy or torch:
it imports the standard library and, inside the functions, what the contender itself needs. It is started as
`python peers.py JOB`, JOB a JSON object, and then obeys one JSON line on standard input after the other (`prepare`,
`raw`, `decoded`), answering each with one on standard output; whatever a library prints goes to standard error.

Every contender yields the same three byte strings a sample (`flac`, `jpg`, `json`) in random order, in one process
without workers, from the same tars or from a conversion of them. Decoding, stacking to batches and the loop that is
timed are the same for all.
"""

import importlib
import io
import json
import os
import random
import struct
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = {"webdataset": "webdataset", "mosaicml_streaming": "mosaicml-streaming", "litdata": "litdata"}
"""Contender to the package that has to be installed."""
FIELDS = ("flac", "jpg", "json")
BATCH_SIZE = 64
"""Of decoded samples."""
SHUFFLE_BUFFER = 1000
"""Samples in webdataset's shuffle buffer, the size of its own examples."""
CHUNK_BYTES = 64 << 20
"""MDS and litData: their own default size of a file."""

Members = dict[str, Any]
Epoch = Callable[[int], Iterable[Members]]
"""From the number of an epoch to its samples."""


def tars_of(root: Path) -> list[Path]:
    """Return the tars of a shard set, in order."""
    return sorted(root.glob("shards/*/*.tar"))


def samples_of(root: Path) -> Iterator[tuple[str, Members]]:
    """Yield every sample of a shard set in storage order, read by the standard library."""
    for path in tars_of(root):
        found: Members = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, field = member.name.partition(".")
                data = tar.extractfile(member)
                assert data is not None
                found[field] = data.read()
                if len(found) == len(FIELDS):
                    yield key, found
                    found = {}


def warm(folder: Path) -> int:
    """Read every file below `folder` once, so that it lies in the page cache; return the bytes."""
    total = 0
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as f:
                while block := f.read(1 << 22):
                    total += len(block)
    return total


def convert_mosaicml_streaming(source: Path, target: Path) -> None:
    """Write the samples as MDS, uncompressed."""
    mds = importlib.import_module("streaming")
    columns = {"key": "str"} | dict.fromkeys(FIELDS, "bytes")
    with mds.MDSWriter(out=str(target), columns=columns, size_limit=CHUNK_BYTES) as writer:
        for key, members in samples_of(source):
            writer.write({"key": key} | members)


def convert_litdata(source: Path, target: Path) -> None:
    """Write the samples as litData chunks, uncompressed."""
    lit = importlib.import_module("litdata")
    tars = [str(path) for path in tars_of(source)]
    lit.optimize(
        fn=_lit_samples, inputs=tars, output_dir=str(target), chunk_bytes=CHUNK_BYTES, num_workers=1,
        reorder_files=False, verbose=False, start_method="fork",
    )  # fmt: skip


def _lit_samples(path: str) -> Iterator[Members]:
    with tarfile.open(path) as tar:
        found: Members = {}
        for member in tar:
            data = tar.extractfile(member)
            assert data is not None
            found[member.name.partition(".")[2]] = data.read()
            if len(found) == len(FIELDS):
                yield found
                found = {}


def open_webdataset(root: Path, seed: int) -> Epoch:
    """Read our very tars: shards shuffled, then a shuffle buffer, as its users do."""
    wds = importlib.import_module("webdataset")
    urls = [str(path) for path in tars_of(root)]

    def epoch(number: int) -> Iterable[Members]:
        # a new pipeline each time: the seed is of the pipeline, and an epoch must not repeat the last one's order
        dataset = wds.WebDataset(urls, shardshuffle=len(urls), seed=seed + number, empty_check=False)
        return dataset.shuffle(SHUFFLE_BUFFER, rng=random.Random(seed + number))  # noqa: S311

    return epoch


def open_mosaicml_streaming(root: Path, seed: int) -> Epoch:
    """Read MDS files with shuffling, no worker processes."""
    mds = importlib.import_module("streaming")
    importlib.import_module("streaming.base.util").clean_stale_shared_memory()
    dataset = mds.StreamingDataset(local=str(root), shuffle=True, shuffle_seed=seed, batch_size=1)
    return lambda number: dataset


def open_litdata(root: Path, seed: int) -> Epoch:
    """Read litData chunks with shuffling, no worker processes."""
    lit = importlib.import_module("litdata")
    dataset = lit.StreamingDataset(str(root), shuffle=True, seed=seed)
    return lambda number: dataset


def open_pread(root: Path, seed: int) -> Epoch:
    """Ceiling: the spans of the samples in random order, one read each, nothing parsed and nothing checked."""
    spans: list[tuple[int, int, int]] = []
    for path in tars_of(root):
        index = Path(f"{path}.idx").read_bytes()
        offsets = struct.unpack(f"<{len(index) // 8}Q", index)
        fd = os.open(path, os.O_RDONLY)
        # the last entry is the tar's size, which counts the two zero blocks that end it
        ends = [*offsets[1:-1], offsets[-1] - 1024]
        spans += [(fd, start, end - start) for start, end in zip(offsets, ends, strict=False)]

    def epoch(number: int) -> Iterator[Members]:
        order = list(spans)
        random.Random(seed + number).shuffle(order)  # noqa: S311
        for fd, start, length in order:
            yield {"span": os.pread(fd, length, start)}

    return epoch


def open_flac_only(root: Path, seed: int) -> Epoch:
    """Ceiling of what is decoded: the same samples, already in memory."""
    held = [{"flac": members["flac"]} for _, members in samples_of(root)]

    def epoch(number: int) -> Iterator[Members]:
        order = list(held)
        random.Random(seed + number).shuffle(order)  # noqa: S311
        return iter(order)

    return epoch


CONVERT = {"mosaicml_streaming": convert_mosaicml_streaming, "litdata": convert_litdata}
OPEN: dict[str, Callable[[Path, int], Epoch]] = {
    "webdataset": open_webdataset,
    "mosaicml_streaming": open_mosaicml_streaming,
    "litdata": open_litdata,
    "pread": open_pread,
    "flac_only": open_flac_only,
}


def touch(members: Members) -> tuple[int, int, int]:
    """Touch every field of a sample as bytes; return 1, how many there are, and a mark that depends on them."""
    size = mark = 0
    for field in FIELDS if "flac" in members else members:
        data = members[field]
        size += len(data)
        mark += data[len(data) // 2]
    return 1, size, mark


def decoded(samples: Iterable[Members]) -> Iterator[Any]:
    """Decode samples, FLAC to float32 and JPEG to an array, and stack them to batches; FLAC alone is not stacked."""
    numpy, soundfile = importlib.import_module("numpy"), importlib.import_module("soundfile")
    image = importlib.import_module("PIL.Image")
    sounds, frames = [], []
    for members in samples:
        audio, _ = soundfile.read(io.BytesIO(members["flac"]), dtype="float32")
        if "jpg" not in members:
            yield [audio], None
            continue
        sounds.append(audio)
        with image.open(io.BytesIO(members["jpg"])) as picture:
            frames.append(numpy.asarray(picture.convert("RGB")))
        if len(sounds) == BATCH_SIZE:
            yield numpy.stack(sounds), numpy.stack(frames)
            sounds, frames = [], []
    if sounds:
        yield numpy.stack(sounds), numpy.stack(frames)


def look(batch: tuple[Any, Any]) -> tuple[int, int, int]:
    """Return samples and bytes of a decoded batch, and a mark that depends on each."""
    sounds, frames = batch
    size = sum(audio.nbytes for audio in sounds)
    mark = sum(int(audio[len(audio) // 2] * 32768) for audio in sounds)
    if frames is None:
        return len(sounds), size, mark
    return len(sounds), size + frames.nbytes, mark + int(frames[:, 0, 0, 0].sum())


def timed(batches: Iterable[Any], use: Callable[[Any], tuple[int, int, int]]) -> dict[str, float]:
    """Run one epoch to its end; return samples, bytes, the sum of their marks, wall and CPU seconds."""
    count = size = mark = 0
    cpu, wall = time.process_time(), time.perf_counter()
    for batch in batches:
        seen = use(batch)
        count += seen[0]
        size += seen[1]
        mark += seen[2]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"samples": count, "bytes": size, "mark": mark, "wall_s": wall, "cpu_s": cpu}


def pin(core: int) -> None:
    """Keep every thread of this process on one core."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.sched_setaffinity(int(task.name), {core})


class Contender:
    """What one process measures."""

    def __init__(self, job: dict[str, Any]) -> None:
        """Take the job: `contender`, `source` (our shards), `root` (what it reads), `seed`, `core`."""
        self.job = job
        self.epoch: Epoch | None = None

    def prepare(self) -> dict[str, Any]:
        """Convert, warm the page cache and open; return the seconds of each."""
        name, root = self.job["contender"], Path(self.job["root"])
        began = time.perf_counter()
        if name in CONVERT:
            CONVERT[name](Path(self.job["source"]), root)
        converted = time.perf_counter()
        warm(root)
        opened = time.perf_counter()
        self.epoch = OPEN[name](root, self.job["seed"])
        pin(self.job["core"])
        return {"convert_s": converted - began, "open_s": time.perf_counter() - opened}

    def run(self, kind: str, number: int) -> dict[str, float]:
        """Time one epoch, `raw` or `decoded`."""
        assert self.epoch is not None
        samples = self.epoch(number)
        return timed(samples, touch) if kind == "raw" else timed(decoded(samples), look)


def serve(contender: Contender) -> None:
    """Obey standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print
    for line in sys.stdin:
        order = json.loads(line)
        try:
            done = contender.prepare() if order["do"] == "prepare" else contender.run(order["do"], order["epoch"])
        except Exception as e:
            done = {"error": " ".join(f"{type(e).__name__}: {e}".split())[:500]}
        answers.write(json.dumps(done) + "\n")
        answers.flush()


def probe() -> dict[str, Any]:
    """Return the version, or none, of each peer's package; imports none of them."""
    found: dict[str, str | None] = {}
    for contender, package in PACKAGES.items():
        try:
            found[contender] = version(package)
        except PackageNotFoundError:
            found[contender] = None
    return {"python": sys.version.split()[0], "peers": found}


def main() -> None:
    """Probe, or serve the job of the first argument."""
    job = json.loads(sys.argv[1])
    if job.get("contender"):
        serve(Contender(job))
    else:
        sys.stdout.write(json.dumps(probe()))


if __name__ == "__main__":
    main()
