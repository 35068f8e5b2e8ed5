"""`push`: the current snapshot of an index goes into a collection of Milvus, which counts once its recall is measured.

Rows are upserted by their keys in one fixed order, so that a push that was killed goes on behind the rows that are
there. At the end an alias is moved from the former snapshot's collection to the new one, for programs of others.
Shapes: N rows, D dimensions, Q queries, K answers.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ..shards.checks import check_ranges, check_whole
from .ann import LEVELS
from .asked import Asked, gather_queries
from .conditions import COLUMNS, numbers_of
from .errors import GateError, MilvusError
from .milvus import (
    LONG_S,
    METRIC,
    PREFIX,
    PROPERTY,
    ROW_BITS,
    About,
    Collection,
    Store,
    about_snapshot,
    check_about,
    check_uri,
    connect,
)
from .milvus_search import MilvusSearcher
from .recall import recalls, summarize
from .search import EXACT_MAX_NUMBERS, Searcher
from .segment import Segment
from .snapshot import Snapshot, open_snapshot

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers
BATCH_ROWS = 4096
BATCH_BYTES = 16_000_000
"""Of vectors in one call; a server takes 64 MB with all that comes along."""
TEXTS = (
    "item_id", "modality", "key", "caption", "language", "split", "group", "media_id", "shard", "content_sha256",
)  # fmt: skip
NUMBERS = tuple(name for name, kind in COLUMNS.items() if kind == "number")
MAX_BYTES = 65_535
"""Of a text in Milvus; longer ones are cut, and no filter's value is as long."""
MAX_LABELS = 4096
"""Of one row, as Milvus takes them."""
FIRST_NPROBE = 8
"""Doubled until the recall is reached."""
POLL_S = 1.0
Recalls = dict[str, dict[str, dict[str, float]]]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class PushConfig:
    """What `unibrivl push` was asked to do."""

    index: Path
    to: str
    """A server, `http://HOST:PORT`, or a file of Milvus Lite, `NAME.db`."""
    alias: str = "unibrivl"
    """Name under which other programs find the latest collection."""
    recall: float = 0.99
    """That the lower end of the 95 % interval must reach at 10 and at 100 answers, in every direction."""
    lists: int | None = None
    """Inverted lists; 0: every vector is compared, None: by the number of rows and dimensions."""
    queries: int = 250
    """Rows of each modality that ask when recall is measured."""
    clean: bool = False
    """Drop the collection that the alias stood for before."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be pushed."""
        check_uri("to", self.to)
        check_ranges(self, recall=(0, 1), lists=(0, 65_536))
        check_whole(self, queries=(1, 100_000), seed=(0, 2**32))
        if not self.alias.isidentifier() or not self.alias.isascii() or self.alias.startswith(PREFIX):
            raise ValueError(f"alias is {self.alias[:40]!r}, want letters, digits and _, not beginning with {PREFIX}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """What a push did."""

    collection: str
    snapshot: str
    items: dict[str, int]
    """By modality."""
    pushed: int
    """Rows that were sent this time."""
    there: int
    """Rows that an earlier push had left."""
    lists: int
    nprobe: dict[str, int]
    """Lists that are looked through, by number of answers."""
    recall: Recalls
    """By direction, by number of answers."""
    dropped: str | None
    """The former collection, where it was dropped."""
    seconds: float


@dataclass(slots=True)
class _Push:
    """One push at work."""

    store: Store
    snapshot: Snapshot
    config: PushConfig
    progress: Progress
    about: About
    sent: int = 0
    there: int = 0
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = sum(self.snapshot.counts().values())

    @property
    def name(self) -> str:
        return PREFIX + self.snapshot.id

    def say(self, done: int, text: str) -> None:
        self.progress(done, self.total, text)


def run_push(config: PushConfig, progress: Progress = lambda done, total, text: None) -> Pushed:
    """Push the current snapshot of an index; one that is there already is left as it is.

    Raises:
        IndexStoreError: the index is missing or damaged.
        IndexMismatchError: the collection of that name is another one.
        MilvusError: Milvus cannot be reached, or holds other rows than were sent.
        GateError: the recall is not reached; the alias stays where it was.
    """
    began, snapshot = time.perf_counter(), open_snapshot(config.index)
    store = connect(config.to, create=True)
    try:
        push = _Push(store, snapshot, config, progress, about_snapshot(snapshot.id, snapshot.manifest))
        _begin(push)
        if not (push.about.whole and _least(push.about) >= config.recall):
            _fill(push)
            _measure(push)
        dropped = _move_alias(push)
    finally:
        store.close()
    return Pushed(
        collection=push.name, snapshot=snapshot.id, items=snapshot.counts(), pushed=push.sent, there=push.there,
        lists=push.about.lists, nprobe=push.about.nprobe, recall=push.about.recall, dropped=dropped,
        seconds=round(time.perf_counter() - began, 2),
    )  # fmt: skip


def _begin(push: _Push) -> None:
    """Find the collection, or create it."""
    found, asked = push.store.about(push.name), push.config.lists
    if found is not None:
        check_about(push.store, found, push.snapshot.id, push.snapshot.manifest, push.snapshot.root)
        if asked in (None, found.lists):
            push.store.load(push.name)
            push.about, push.there = found, push.total if found.whole else _count(push)
            return
        if found.whole:
            raise MilvusError(
                f"{push.store.uri}: collection {push.name} has {found.lists} lists and may be in use; drop it to push "
                f"it with {asked}"
            )
        push.store.call("drop_collection", push.name, timeout=LONG_S)
    rows = max(push.snapshot.counts().values(), default=0)
    by_size = 0 if rows * push.about.dim <= EXACT_MAX_NUMBERS else min(65_536, int(4 * rows**0.5))
    push.about = replace(push.about, lists=by_size if asked is None else asked)
    _create(push)


def _create(push: _Push) -> None:
    from pymilvus import CollectionSchema, DataType, FieldSchema, MilvusClient

    fields = [
        FieldSchema("id", DataType.INT64, is_primary=True),
        FieldSchema("vector", DataType.FLOAT_VECTOR, dim=push.about.dim),
        *(FieldSchema(name, DataType.VARCHAR, max_length=MAX_BYTES) for name in TEXTS),
        *(FieldSchema(name, DataType.DOUBLE) for name in NUMBERS),
        FieldSchema(
            "labels", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=_most_labels(push.snapshot),
            max_length=MAX_BYTES,
        ),
    ]  # fmt: skip
    index = MilvusClient.prepare_index_params()
    # as JSON, which servers read as well as single parameters, and Milvus Lite alone
    params = {"params": json.dumps({"nlist": push.about.lists})} if push.about.lists else {}
    index.add_index(
        "vector", index_name="vector", index_type="IVF_FLAT" if params else "FLAT", metric_type=METRIC, params=params
    )
    push.store.call(
        "create_collection", push.name, schema=CollectionSchema(fields), index_params=index,
        properties=_properties(push.about), consistency_level="Bounded",
    )  # fmt: skip
    for modality in push.snapshot.counts():
        push.store.call("create_partition", push.name, modality)


def _most_labels(snapshot: Snapshot) -> int:
    lengths = [pc.max(pc.list_value_length(segment.rows["labels"])).as_py() or 0 for segment in snapshot.segments]
    most = max(lengths, default=0)
    if most > MAX_LABELS:
        raise MilvusError(f"{snapshot.root}: an item has {most} labels, Milvus takes {MAX_LABELS}")
    return max(1, most)


def _properties(about: About) -> dict[str, str]:
    return {PROPERTY: json.dumps(asdict(about))}


def _count(push: _Push) -> int:
    return sum(push.store.count(push.name, modality) for modality in push.snapshot.counts())


def _fill(push: _Push) -> None:
    """Send what is missing; where the rows that are there are no beginning, send all once more."""
    _send_behind(push, push.there)
    if _differing(push):
        _send_behind(push, 0)
    if differing := _differing(push):
        raise MilvusError(f"{push.store.uri}: collection {push.name} holds {differing}; drop it and push again")
    push.store.call("flush", push.name, timeout=LONG_S)
    push.store.load(push.name)
    _await_index(push)


def _send_behind(push: _Push, there: int) -> None:
    """Send the batches behind the first `there` rows, and the one that these end in."""
    done = 0
    for number, rows in _batches(push):
        done += len(rows)
        if done > there:
            _send(push, _entities(push.snapshot.segments[number], number, rows))
        push.say(done, "rows")


def _send(push: _Push, entities: list[dict[str, Any]]) -> None:
    partition = entities[0]["modality"]
    push.store.call("upsert", push.name, entities, partition_name=partition, timeout=LONG_S)
    push.sent += len(entities)


def _differing(push: _Push) -> str:
    """Return which modality has other rows than it should; empty: none."""
    counts = {m: (push.store.count(push.name, m), wanted) for m, wanted in push.snapshot.counts().items()}
    return ", ".join(f"{found} {m} rows, not {wanted}" for m, (found, wanted) in counts.items() if found != wanted)


def _await_index(push: _Push) -> None:
    """Wait until the server has built the index: before that it compares every vector, and recall means nothing."""
    until = time.monotonic() + LONG_S
    while int(push.store.call("describe_index", push.name, "vector").get("pending_index_rows", 0)):
        if time.monotonic() > until:
            raise MilvusError(f"{push.store.uri}: the index of {push.name} is not built after {LONG_S:g} s; push again")
        push.say(push.total, "waits for the index")
        time.sleep(POLL_S)


def _batches(push: _Push) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of a segment and rows of it that are not deleted, always in the same order."""
    size = max(1, min(BATCH_ROWS, BATCH_BYTES // (4 * push.about.dim)))
    for number, segment in enumerate(push.snapshot.segments):
        live = push.snapshot.live(segment)
        rows = np.arange(len(segment.rows)) if live is None else np.flatnonzero(live)
        for start in range(0, len(rows), size):
            yield number, rows[start : start + size]


def _entities(segment: Segment, number: int, rows: np.ndarray) -> list[dict[str, Any]]:
    table = segment.rows.take(pa.array(rows))
    there = set(table.schema.names)
    columns: dict[str, list[Any]] = {
        "id": [number << ROW_BITS | row for row in rows.tolist()],
        "vector": list(segment.vectors_ND[rows].astype(np.float32)),
        "labels": [labels or [] for labels in table["labels"].to_pylist()],
    }
    columns |= {name: np.nan_to_num(numbers_of(table, name).astype(np.float64)).tolist() for name in NUMBERS}
    columns |= {name: [_cut(text) for text in table[name].to_pylist()] for name in TEXTS if name in there}
    columns |= {name: [""] * len(rows) for name in TEXTS if name not in there}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _cut(text: str | None) -> str:
    data = (text or "").encode()
    return (text or "") if len(data) <= MAX_BYTES else data[:MAX_BYTES].decode(errors="ignore")


def _measure(push: _Push) -> None:
    """Measure recall, look through more lists until it is reached, and mark the collection as whole.

    Raises:
        GateError: it is not reached although every list is looked through.
    """
    trials, nprobe = _trials(push), min(FIRST_NPROBE, push.about.lists)
    nprobes: dict[str, int] = {}
    recall: Recalls = {}
    for level in LEVELS:
        while (found := _recall(push, trials, level, nprobe)) is None:
            nprobe = min(2 * nprobe, push.about.lists)
        nprobes[str(level)] = nprobe
        for direction, told in found.items():
            recall.setdefault(direction, {})[str(level)] = told
    push.about = replace(push.about, nprobe=nprobes, recall=recall, whole=True)
    push.store.call("alter_collection_properties", push.name, properties=_properties(push.about))


def _trials(push: _Push) -> list[tuple[str, str, Asked, np.ndarray]]:
    """Return query modality, target, queries and the true scores (Q, K) of each direction."""
    vectors = {m: [s.vectors_ND for s in push.snapshot.of(m)] for m, count in push.snapshot.counts().items() if count}
    scans, trials = Searcher(push.snapshot), []
    for target in vectors:
        for modality, asked in gather_queries(vectors, {}, target, push.config.seed).items():
            asked = asked.part(0, push.config.queries)
            truth = scans.search(target, asked.queries_QD, LEVELS[-1] + asked.spare, exact=True)
            trials.append((modality, target, asked, asked.scores(truth)))
    return trials


def _recall(
    push: _Push, trials: list[tuple[str, str, Asked, np.ndarray]], level: int, nprobe: int
) -> dict[str, dict[str, float]] | None:
    """Return recall at `level` answers by direction; None where one misses it and there are lists to look through yet.

    Raises:
        GateError: there are none.
    """
    push.say(push.total, f"recall at {level}, {nprobe} of {push.about.lists} lists")
    searcher = MilvusSearcher(push.snapshot, Collection(push.store, push.name, push.about))
    found = {}
    for modality, target, asked, truth_QK in trials:
        masks = [part.live for part in searcher.parts(target)]
        scores_QK = asked.scores(searcher.nearest(target, asked.queries_QD, level + asked.spare, masks, "", nprobe))
        reached = summarize(recalls(scores_QK, truth_QK, level), push.config.seed)
        found[f"{modality}>{target}"] = reached.as_dict()
        if reached.low >= push.config.recall:
            continue
        if nprobe < push.about.lists:
            return None
        raise GateError(
            f"{push.store.uri}: {modality}>{target} has recall {reached.value:.4f} at {level} in collection "
            f"{push.name}, wanted {push.config.recall:g} with 95 % confidence; the alias stays where it was: drop the "
            "collection and push again",
            figures={"collection": push.name, "recall": found},
        )
    return found


def _least(about: About) -> float:
    """Return the lowest end of all intervals."""
    return min((one["low"] for told in about.recall.values() for one in told.values()), default=1.0)


def _move_alias(push: _Push) -> str | None:
    """Let the alias stand for the new collection, in one step; return the former one if it was dropped."""
    store, alias = push.store, push.config.alias
    ours = [PREFIX + snapshot for snapshot in store.snapshots()]
    before = next((name for name in ours if alias in _aliases(store, name)), None)
    if before == push.name:
        return None
    store.call("create_alias" if before is None else "alter_alias", push.name, alias)
    if before is None or not push.config.clean:
        return None
    store.call("drop_collection", before, timeout=LONG_S)
    return before


def _aliases(store: Store, collection: str) -> list[str]:
    return list(store.call("list_aliases", collection)["aliases"])
