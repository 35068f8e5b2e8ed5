"""`bench speed reader`: one epoch in random order, raw and decoded, beside webdataset, MosaicML streaming and litData.

The same samples lie as our shards, in MDS files and in litData chunks; webdataset reads our very tars. Each contender
is one process without workers, kept on the same core, its files in the page cache. It must hand out every sample's
sound, picture and description as bytes, or batches of sound and picture decoded by the same libraries, and the sums
over what it handed out must agree with ours. They take turns, an epoch each; figures are medians of samples a second
of wall time. Two ceilings stand beside them: plain `pread` of the spans in random order, and decoding FLAC that is
already in memory.

A peer is looked for in another Python's environment if one is named, since not all of them can live with our versions
of NumPy and torch.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ..shards.checks import check_ranges
from . import peers
from .environment import environment
from .errors import BenchError
from .speed import (
    ContenderError,
    Conversation,
    Progress,
    figure,
    fill_in,
    last_core,
    no_progress,
    ratio,
    run_process,
    spread,
    spread_text,
    versions,
    working_folder,
)
from .speed_clips import make_set

OURS = "unibrivl"
UNVERIFIED = "unibrivl_without_verify"
PEERS = tuple(peers.PACKAGES)
CEILINGS = ("pread", "flac_only")
CONTENDERS = (OURS, UNVERIFIED, *PEERS, *CEILINGS)
KINDS = ("raw", "decoded")
REMEDY = "install the peers with: make peers, and name them with --peers-python"
PACKAGES = ("unibrivl", "webdataset", "soundfile", "numpy", "pillow", "pyarrow", "xxhash")
PREPARE_S = 600
EPOCH_S = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderSpeedConfig:
    """What `unibrivl bench speed reader` was asked to do; what is None depends on `quick`."""

    quick: bool = False
    """Under a minute instead of about ten."""
    work: Path | None = None
    """Where the folder for the samples is made, and removed again; None: where temporary files go."""
    peers_python: Path | None = None
    """Python whose environment has the peers; None: our own."""
    seed: int = 0
    """Of the samples and of their order."""
    samples: int | None = None
    """Clips in the set."""
    shard_clips: int | None = None
    """Clips of a shard."""
    raw_epochs: int | None = None
    """Turns of each contender, raw."""
    decoded_epochs: int | None = None
    """Turns of each contender, decoded."""

    def __post_init__(self) -> None:
        """Fill in what was left open; refuse what cannot be measured."""
        fill_in(self, QUICK if self.quick else FULL)
        check_ranges(self, **dict.fromkeys(FULL, (1, None)))


QUICK = {"samples": 400, "shard_clips": 64, "raw_epochs": 5, "decoded_epochs": 1}
FULL = {"samples": 4000, "shard_clips": 256, "raw_epochs": 9, "decoded_epochs": 3}


def measure_reader(config: ReaderSpeedConfig, progress: Progress = no_progress) -> dict[str, Any]:
    """Measure all contenders; return figures, ratios and all that is needed to read them, as plain JSON values.

    A contender that is not installed or fails is null, and `errors` says why.

    Raises:
        BenchError: our own reader fails, or `peers_python` is no Python.
    """
    with working_folder(config.work) as folder:
        return _Bench(config, folder, progress).measure()


class _Bench:
    """The samples in a folder, the contenders' processes, and what they answered."""

    def __init__(self, config: ReaderSpeedConfig, folder: Path, progress: Progress) -> None:
        assert config.samples and config.shard_clips and config.raw_epochs and config.decoded_epochs
        self.config = config
        self.samples, self.shard_clips = config.samples, config.shard_clips
        self.epochs = {"raw": config.raw_epochs, "decoded": config.decoded_epochs}
        self.folder = folder
        self.python = config.peers_python or Path(sys.executable)
        self.errors: dict[str, str] = {}
        self.answers: dict[str, dict[str, list[dict[str, Any]]]] = {name: {k: [] for k in KINDS} for name in CONTENDERS}
        self.prepared: dict[str, Any] = {}
        self._progress = progress
        self._done = 0
        self._total = 2 + sum(self.epochs.values()) * len(CONTENDERS)

    def step(self, what: str) -> None:
        self._progress(self._done, self._total, what)
        self._done += 1

    def measure(self) -> dict[str, Any]:
        found = self.probe()
        self.step("making samples")
        cores = len(os.sched_getaffinity(0))
        tar_bytes = make_set(
            self.folder / "set", count=self.samples, shard_clips=self.shard_clips, seed=self.config.seed, workers=cores
        )
        with ExitStack() as stack:
            self.step("starting and converting")
            talks: dict[str, Conversation] = {}
            for name in CONTENDERS:
                if name not in self.errors:
                    talks[name] = self.start(name)
                    stack.callback(talks[name].close)
                    talks[name].tell({"do": "prepare"})
            for name, talk in talks.items():
                self.attempt(name, lambda name=name, talk=talk: self.prepared.update({name: talk.hear(PREPARE_S)}))
            for kind, count in self.epochs.items():
                for epoch in range(count):
                    self.turn(talks, kind, epoch)
        self._progress(self._total, self._total, "done")
        return self.result(tar_bytes, found)

    def probe(self) -> dict[str, Any]:
        """Ask the peers' Python which of them it has; who is missing is named and left out."""
        try:
            words = [self.python, Path(peers.__file__), json.dumps({"task": "probe"})]
            found = json.loads(run_process(words, timeout_s=120).stdout)
            for name, version in found["peers"].items():
                if version is None:
                    self.errors[name] = f"{peers.PACKAGES[name]} is not installed; {REMEDY}"
        except (ContenderError, ValueError, KeyError) as e:
            raise BenchError(f"{self.python}: is no Python that runs the peers ({e}); {REMEDY}") from e
        return found

    def start(self, name: str) -> Conversation:
        """Start a contender's process, its home and temporary files inside our folder."""
        home = self.folder / "home" / name
        home.mkdir(parents=True)
        source = self.folder / "set"
        root = self.folder / name if name in peers.CONVERT else source
        job = {
            "contender": name, "source": str(source), "root": str(root), "seed": self.config.seed,
            "core": last_core(), "verify": name == OURS,
        }  # fmt: skip
        script = [sys.executable, Path(peers.__file__)]
        if name in PEERS:
            script = [self.python, Path(peers.__file__)]
        elif name in (OURS, UNVERIFIED):
            script = [sys.executable, "-m", f"{__package__}.speed_ours"]
        env = {"HOME": str(home), "TMPDIR": str(home), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
        return Conversation([*script, json.dumps(job)], env=env, folder=home, name=name)

    def attempt(self, name: str, action: Callable[[], object]) -> None:
        """Let a contender do something; one that fails is out, unless it is ours."""
        if name in self.errors:
            return
        try:
            action()
        except ContenderError as e:
            if name in (OURS, UNVERIFIED):
                raise BenchError(f"our own reader failed: {e}") from e
            self.errors[name] = str(e)

    def turn(self, talks: dict[str, Conversation], kind: str, epoch: int) -> None:
        """One epoch of every contender that can do this kind, one after the other."""
        for name, talk in talks.items():
            self.step(f"{name}, {kind}")
            if name in CEILINGS and name != ("pread" if kind == "raw" else "flac_only"):
                continue
            self.attempt(name, lambda name=name, talk=talk: self.epoch(name, talk, kind, epoch))

    def epoch(self, name: str, talk: Conversation, kind: str, epoch: int) -> None:
        talk.tell({"do": kind, "epoch": epoch})
        answer = talk.hear(EPOCH_S)
        first = self.answers[OURS][kind][0] if self.answers[OURS][kind] else answer
        same = ("samples",) if name in CEILINGS else ("samples", "bytes", "mark")
        if answer["samples"] != self.samples or any(answer[what] != first[what] for what in same):
            raise ContenderError(
                f"{name}: handed out {answer['samples']} samples of {answer['bytes']} bytes, "
                f"want {self.samples} of {first['bytes']}, or other contents"
            )
        self.answers[name][kind].append(answer)

    def result(self, tar_bytes: int, found: dict[str, Any]) -> dict[str, Any]:
        wall = {name: {kind: self.rates(name, kind, "wall_s") for kind in KINDS} for name in CONTENDERS}
        per_s = {name: {kind: _median(rates[kind]) for kind in KINDS} for name, rates in wall.items()}
        ours, decoded = per_s[OURS]["raw"], per_s[OURS]["decoded"]
        best = max((rate for name in PEERS if (rate := per_s[name]["raw"])), default=None)
        missing = set(PEERS) & set(self.errors)
        return {
            "samples_per_s": {name: None if name in missing else per_s[name] for name in CONTENDERS},
            "ratio_vs_webdataset_raw": ratio(ours, per_s["webdataset"]["raw"]),
            "ratio_vs_best_peer_raw": ratio(ours, best),
            "ratio_vs_webdataset_decoded": ratio(decoded, per_s["webdataset"]["decoded"]),
            "ratio_decoded_to_flac_only": ratio(decoded, per_s["flac_only"]["decoded"]),
            "samples_per_cpu_s": {
                name: {kind: _median(self.rates(name, kind, "cpu_s")) for kind in KINDS} for name in CONTENDERS
            },
            "spread": {n: {kind: spread(r[kind]) if r[kind] else None for kind in KINDS} for n, r in wall.items()},
            "errors": self.errors,
            "prepare_s": {name: figure(answer["convert_s"]) for name, answer in self.prepared.items()},
            "set": {"samples": self.samples, "mean_sample_bytes": tar_bytes // self.samples, "tar_bytes": tar_bytes},
            "config": asdict(self.config) | {"work": None, "peers_python": self.config.peers_python is not None},
            "seed": self.config.seed,
            "versions": {"ours": versions(PACKAGES), "peers": found["peers"], "peers_python": found["python"]},
            "environment": environment(),
        }

    def rates(self, name: str, kind: str, clock: str) -> list[float]:
        return [answer["samples"] / max(answer[clock], 1e-9) for answer in self.answers[name][kind]]


def _median(rates: list[float]) -> float | None:
    return figure(median(rates)) if rates else None


COLUMNS = ("contender", "raw samples/s", "min-max", "decoded samples/s", "min-max", "ours is faster by, raw")


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of a table of `COLUMNS`; a contender that is missing or failed shows the reason."""
    found = []
    for name in CONTENDERS:
        rates = result["samples_per_s"][name]
        if rates is None or name in result["errors"]:
            found.append((name, "-", "", "-", "", result["errors"][name]))
            continue
        times = ratio(result["samples_per_s"][OURS]["raw"], rates["raw"])
        cells = []
        for kind in KINDS:
            rate = rates[kind]
            cells += ["" if rate is None else f"{rate:,.0f}", spread_text(result["spread"][name][kind])]
        found.append((name, *cells, "" if name == OURS or times is None else f"{times:.2f}"))
    return found
