"""`bench all`: one tower through every table of the registry whose data set is there, a result file a table.

A table that fails costs the others nothing. A folder that holds results is gone on with: what was measured of the same
tower, choices, data and seed is kept, and a result of anything else is refused before anything is measured. A row
without a number (`needs-data`, `needs-weights`) is tried again.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..index.page import write_page
from ..shards.atomic import hold_directory, write_bytes
from .doctor import locate
from .encoders import Embedder
from .errors import BenchError, NeedsError
from .protocol import Progress, measured, write_result
from .registry import REGISTRY, TableConfig, TableEntry
from .tables import FAILED, UNSUITED, Row, as_page, read_row, table_rows

PAGE, FAILURES, EMBEDDINGS = "index.html", "failures.txt", "embeddings"
LISTS = (".csv", ".tsv")
"""Files of a data set whose contents tell one from another; of all others, name and size do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AllTablesConfig:
    """What `unibrivl bench all` was asked to do."""

    data: Path
    """Folder of data sets, or one data set's own."""
    out: Path
    """Folder for a result file a table, their predictions, and the page."""
    only: tuple[str, ...] = ()
    """Names of tables; none: all."""
    table: TableConfig = field(default_factory=TableConfig)

    def __post_init__(self) -> None:
        """Refuse tables that there are not."""
        names = [entry.name for entry in REGISTRY]
        if unknown := [name for name in self.only if name not in names]:
            raise ValueError(f"only names {unknown[0]!r}, want some of {', '.join(names)}")

    @property
    def entries(self) -> list[TableEntry]:
        """Return the tables that are asked for."""
        return [entry for entry in REGISTRY if not self.only or entry.name in self.only]

    def choices(self) -> TableConfig:
        """Return what the tables are measured with; embeddings are kept in `out`, if no other place is named."""
        return replace(self.table, cache=self.table.cache or self.out / EMBEDDINGS)


@dataclass(frozen=True, slots=True)
class MissingTower:
    """In place of an encoder whose weights are not there."""

    name: str
    needs: NeedsError
    fingerprint: None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A table, the data set that was found for it, and what its result must be of to be kept."""

    entry: TableEntry
    path: Path
    """Of the result file."""
    place: Path | None
    """Folder of the data set."""
    note: str
    """What is missing, where there is no folder."""
    identity: dict[str, Any]

    @property
    def bench(self) -> str:
        """Return what its result calls itself."""
        return self.entry.bench or self.entry.name


@dataclass(frozen=True, kw_only=True, slots=True)
class AllTables:
    """What came of all tables."""

    rows: list[dict[str, Any]]
    """As in their files, each with its `table`; also those without a file: failed, or not for this tower."""
    tables: dict[str, list[Row]]
    """As `bench table` shows them, with what the folder holds of tables that were not asked for."""
    kept: tuple[str, ...]
    """Tables that had been measured before."""

    @property
    def failures(self) -> dict[str, str]:
        """Return the error of each table that failed."""
        return {row["table"]: row["reason"] for row in self.rows if row["status"] == FAILED}

    @property
    def measured(self) -> int:
        """Count the tables with a figure."""
        return sum(bool(row["metrics"]) for row in self.rows)


def run_tables(
    config: AllTablesConfig,
    encoder: Embedder | MissingTower,
    progress: Progress = lambda done, total, text: None,
) -> AllTables:
    """Measure an encoder on every table and write a file each, and the page.

    Args:
        config: what is measured, and where results go.
        encoder: any object as `encoders.py` describes it.
        progress: called with tables done, of how many, and what goes on.

    Raises:
        BenchError: there is no folder of data sets; or the one for results holds others, or is being written to.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    with hold_directory(config.out, wait=False) as held:
        if not held:
            raise BenchError(f"{config.out}: another process measures into it; end that one first")
        jobs = _jobs(config, encoder)
        kept = {job.entry.name: told for job in jobs if (told := _kept(job)) is not None}
        rows = []
        for number, job in enumerate(jobs):

            def step(done: int, total: int, text: str, number: int = number, name: str = job.entry.name) -> None:
                progress(number, len(jobs), f"{name}: {text} {done:,}/{total:,}")

            progress(number, len(jobs), job.entry.name)
            told = kept.get(job.entry.name) or _row(job, config.choices(), encoder, step)
            rows.append(told | {"table": job.entry.name})
        progress(len(jobs), len(jobs), "")
        return _written(config, rows, tuple(kept))


def _jobs(config: AllTablesConfig, encoder: Embedder | MissingTower) -> list[Job]:
    """Find the data set of each table; a folder is one data set only, though tables of its parts share it."""
    jobs: list[Job] = []
    keys: dict[Path, str] = {}
    apart = {path.resolve() for path in (config.out, config.choices().cache) if path is not None}
    for entry in config.entries:
        finding, place = locate(config.data, entry.place)
        note, bench = finding.note.replace(f"{config.data}/", ""), entry.bench or entry.name
        if place is not None and (bench, entry.variant, place) in {(j.bench, j.entry.variant, j.place) for j in jobs}:
            place, note = None, "a folder of its own"
        if place is not None and place not in keys:
            keys[place] = data_key(place, apart)
        identity = {
            "tower": encoder.fingerprint, "config": config.table.stored(), "seed": config.table.seed,
            "data": keys[place] if place else None,
        }  # fmt: skip
        path = config.out / f"{entry.name}.json"
        jobs.append(Job(entry=entry, path=path, place=place, note=note, identity=identity))
    return jobs


def data_key(folder: Path, apart: Iterable[Path] = ()) -> str:
    """Return what tells one state of a data set from another: names and sizes of its files, contents of its lists.

    Args:
        folder: of the data set.
        apart: folders within that are not of it, resolved.
    """
    told = hashlib.sha256()
    for path in sorted(_files(folder, set(apart))):
        name = path.relative_to(folder).as_posix()
        told.update(f"{name}\n{path.stat().st_size}\n".encode(errors="surrogateescape"))
        if path.suffix.lower() in LISTS:
            told.update(path.read_bytes())
    return told.hexdigest()


def _files(folder: Path, apart: set[Path]) -> Iterator[Path]:
    seen = {folder.resolve(), *apart}
    for root, folders, names in os.walk(folder, followlinks=True):
        inner = {name: (Path(root) / name).resolve() for name in sorted(folders) if not name.startswith(".")}
        folders[:] = [name for name, path in inner.items() if path not in seen]
        seen |= set(inner.values())
        yield from (path for name in names if not name.startswith(".") and (path := Path(root) / name).is_file())


def _kept(job: Job) -> dict[str, Any] | None:
    """Return what was measured before, if it is what would be measured now.

    Raises:
        BenchError: it has figures of anything else.
    """
    if not job.path.exists():
        return None
    told = read_row(job.path)
    if not told["metrics"]:
        return None
    before = told.get("run")
    if before == job.identity:
        return told
    if not isinstance(before, dict):
        other = "that `bench all` did not write"
    else:
        words = {
            "tower": f"another tower ({told['tower']})", "config": "another probe or template",
            "data": "other data", "seed": f"seed {told['seed']}",
        }  # fmt: skip
        told_apart = [text for name, text in words.items() if before.get(name) != job.identity[name]]
        other = f"of {' and '.join(told_apart) or 'another version'}"
    raise BenchError(f"{job.path}: holds a result {other}; take another --out, or delete it to measure again")


def _row(job: Job, config: TableConfig, encoder: Embedder | MissingTower, progress: Progress) -> dict[str, Any]:
    """Measure a table and write its file; whatever goes wrong within is told in its row."""
    lacks = None if isinstance(encoder, MissingTower) else job.entry.lacks(encoder, config.probe)
    if lacks is not None:
        return _untold(job, config, encoder.name, UNSUITED, f"{encoder.name} embeds no {lacks}")
    try:
        return _measured(job, config, encoder, progress)
    except Exception as e:  # a tower may be code of anybody's: its fault in one table must not cost the others
        line = (str(e).strip() or "no message").splitlines()[0]
        reason = line if isinstance(e, BenchError) else f"{type(e).__name__}: {line}"
        return _untold(job, config, encoder.name, FAILED, reason)


def _measured(job: Job, config: TableConfig, encoder: Embedder | MissingTower, progress: Progress) -> dict[str, Any]:
    def measure() -> Any:
        if job.place is None:
            expected = (f"{job.entry.place.folders[0]}/", job.note)
            raise NeedsError(f"{job.entry.dataset} is not there", status="needs-data", expected=expected)
        if isinstance(encoder, MissingTower):
            raise encoder.needs
        return job.entry.measure(job.place, encoder, config, progress)

    result = measured(
        measure, bench=job.bench, protocol=f"{job.entry.variant}, {config.probe}", tower=encoder.name, seed=config.seed
    )
    own: dict[str, Any] = {"run": job.identity}
    if result.expected:
        reason = str(result.more["reason"]).replace(str(job.place), job.entry.place.folders[0])
        own = {"dataset": job.entry.dataset, "reason": reason}
    write_result(job.path, replace(result, more=result.more | own))
    return read_row(job.path)


def _untold(job: Job, config: TableConfig, tower: str, status: str, reason: str) -> dict[str, Any]:
    """Return a row that no file holds; one that an earlier run left had no number, and another reason."""
    job.path.unlink(missing_ok=True)
    empty: dict[str, Any] = {name: {} for name in ("metrics", "chance", "coverage", "interval")}
    return empty | {
        "bench": job.bench, "protocol": f"{job.entry.variant}, {config.probe}", "tower": tower, "seed": config.seed,
        "status": status, "reason": reason, "dataset": job.entry.dataset, "config": asdict(config) | {"cache": None},
        "file": "",
    }  # fmt: skip


def _written(config: AllTablesConfig, rows: list[dict[str, Any]], kept: tuple[str, ...]) -> AllTables:
    """Write the page and the list of failures."""
    asked = {row["table"] for row in rows}
    others = [config.out / f"{entry.name}.json" for entry in REGISTRY if entry.name not in asked]
    tables = table_rows([*rows, *(read_row(path) for path in others if path.is_file())])
    found = AllTables(rows=rows, tables=tables, kept=kept)
    write_page(as_page(tables), config.out / PAGE)
    lines = "".join(f"{name}: {line}\n" for name, line in found.failures.items())
    if lines:
        write_bytes(config.out / FAILURES, lines.encode())
    else:
        (config.out / FAILURES).unlink(missing_ok=True)
    return found
