"""The commands `unibrivl index`, `unibrivl push` and `unibrivl snapshots ...`."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..model.train_command import Moved
from ..shards.console import Address, CacheDir, CacheGb, Engine, Json, bar, opened, print_json, print_table, usage

if TYPE_CHECKING:
    from .changes import Changed
    from .plan import SearchConfig

app = typer.Typer(help="What an index was and is: list, verify, roll back, delete, compact.", no_args_is_help=True)

Index = Annotated[Path, typer.Argument(help="Folder of the index.")]
Recall = Annotated[
    float | None,
    typer.Option(
        help="Recall at 10 and 100 that every direction must reach, or be exact. [default: as before, or 0.95]"
    ),
]
Memory = Annotated[
    float | None, typer.Option(metavar="GB", help="Most memory, in 10^9 bytes. [default: what is available]")
]
Exact = Annotated[
    bool | None,
    typer.Option("--exact/--no-exact", help="Compare every query with every item, however many. [default: as before]"),
]
Factory = Annotated[
    str | None, typer.Option(metavar="STRING", help="FAISS index to use, such as IVF1024,PQ128x4fsr; gated as ours.")
]
Seed = Annotated[
    int | None,
    typer.Option(help="Of training samples and of the queries that measure recall. [default: as before, or 0]"),
]


def index(
    run: Annotated[Path, typer.Argument(help="A trained run.")],
    shards: Annotated[str, typer.Argument(help="Shard set to index: a folder, or an address.")],
    out: Annotated[Path, typer.Option(help="Folder of the index.")],
    append: Annotated[bool, typer.Option("--append", help="Beside what the index holds.")] = False,
    upsert: Annotated[bool, typer.Option("--upsert", help="The same; clips that it holds are replaced.")] = False,
    embeddings: Annotated[
        Path | None, typer.Option(metavar="DIR", help="What `unibrivl embed` wrote for these shards.")
    ] = None,
    recall: Recall = None,
    memory: Memory = None,
    exact: Exact = None,
    factory: Factory = None,
    seed: Seed = None,
    image_tower: Moved = None,
    engine: Engine = "local",
    address: Address = None,
    cache_dir: CacheDir = None,
    cache_gb: CacheGb = 100.0,
    as_json: Json = False,
) -> None:
    """Embed every clip's sound and picture and publish them as a searchable index.

    Small indexes are searched exactly. Large ones get an approximate index whose recall is measured, with queries of
    each kind, before it is published. The same command again does nothing; --append puts further shards beside it.
    With --engine ray a cluster does what takes longest, and the bytes are the same.

    Example: unibrivl index try/run try/shards --out try/index
    """
    from ..shards.cluster import cluster_of
    from .build import IndexConfig, build_index
    from .snapshot import asked_before

    if append and upsert:
        raise typer.BadParameter("--append and --upsert exclude each other; --upsert replaces what is there already")
    before = asked_before(out) if append or upsert else {}
    folder = opened(shards, cache_dir, cache_gb)
    with usage():
        config = IndexConfig(
            run=run, shards=folder, out=out, image_tower=image_tower, embeddings=embeddings,
            search=_search(before, recall=recall, memory_gb=memory, exact=exact, factory=factory, seed=seed),
            cluster=cluster_of(engine, address), mode="append" if append else "upsert" if upsert else "replace",
        )  # fmt: skip
    with bar("index") as step:
        result = build_index(config, step)
    if as_json:
        print_json(
            {
                "index": str(out), "snapshot": result.snapshot, "items": result.items, "built": result.built,
                "seconds": round(result.seconds, 2), "peak_rss_mb": result.peak_rss_mb,
            }
        )  # fmt: skip
        return
    was_there = "" if result.built else " (was there)"
    typer.echo(f"{_items(result.items)} in {out}, snapshot {result.snapshot}{was_there}")


def push(
    index: Index,
    to: Annotated[
        str, typer.Option(metavar="URI", help="Server, http://HOST:PORT, or a file of Milvus Lite, NAME.db.")
    ],
    alias: Annotated[str, typer.Option(help="Name by which other programs find the latest snapshot.")] = "unibrivl",
    recall: Annotated[float, typer.Option(help="Recall at 10 and 100 that every direction must reach.")] = 0.99,
    lists: Annotated[
        int | None, typer.Option(help="Inverted lists; 0 compares every vector. [default: by size]")
    ] = None,
    queries: Annotated[int, typer.Option(help="Rows of each modality that measure recall.")] = 250,
    clean: Annotated[bool, typer.Option("--clean", help="Drop the collection that the alias stood for.")] = False,
    seed: Annotated[int, typer.Option(help="Of the rows that measure recall.")] = 0,
    as_json: Json = False,
) -> None:
    """Put an index's current snapshot into Milvus, for `query` and `serve` with --milvus, and measure the recall there.

    The same command again goes on where it was, and does nothing for a snapshot that is there. A server's token is read
    from the environment, UNIBRIVL_MILVUS_TOKEN. Needs the extra `milvus`.

    Example: unibrivl push try/index --to try/vectors.db
    """
    from .milvus_push import PushConfig, run_push

    with usage():
        config = PushConfig(
            index=index, to=to, alias=alias, recall=recall, lists=lists, queries=queries, clean=clean, seed=seed
        )  # fmt: skip
    with bar("push", unit="rows") as step:
        pushed = run_push(config, step)
    if as_json:
        print_json({"index": str(index), "to": to, "alias": alias} | asdict(pushed))
        return
    was_there = f" ({pushed.there:,} rows were there)" if pushed.there else ""
    typer.echo(f"{_items(pushed.items)} in {to}, collection {pushed.collection}, alias {alias}{was_there}")
    for name, told in pushed.recall.items():
        at = ", ".join(f"@{k} {v['value']:.4f} ({v['low']:.4f} to {v['high']:.4f})" for k, v in told.items())
        typer.echo(f"recall {name} {at}")
    if pushed.dropped:
        typer.echo(f"dropped {pushed.dropped}")


@app.command("list")
def list_command(index: Index, as_json: Json = False) -> None:
    """List the snapshots that are there, the newest first.

    Example: unibrivl snapshots list try/index
    """
    from .changes import list_snapshots

    found = list_snapshots(index)
    if as_json:
        print_json(
            [
                {"id": one.id, "current": one.is_current, "parent": one.parent, "rows": one.items,
                 "segments": one.segments, "written": one.written, "fault": one.fault}
                for one in found
            ]
        )  # fmt: skip
        return
    rows = [
        ("*" if one.is_current else "", one.id, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.written)),
         _items(one.items) if not one.fault else one.fault, str(one.segments), one.parent or "")
        for one in found
    ]  # fmt: skip
    print_table(f"snapshots of {index}", ("", "snapshot", "written", "rows", "segments", "parent"), rows)


@app.command("verify")
def verify_command(index: Index, as_json: Json = False) -> None:
    """Hash every file of every snapshot; exit with 1 if one is damaged or missing.

    Example: unibrivl snapshots verify try/index
    """
    from .changes import verify

    faults = verify(index)
    if as_json:
        print_json({"index": str(index), "intact": not faults, "faults": faults})
    else:
        for fault in faults:
            typer.echo(fault)
        typer.echo(f"{index}: {len(faults)} faults" if faults else f"{index}: every file is as it was written")
    if faults:
        raise typer.Exit(1)


@app.command("rollback")
def rollback_command(
    index: Index,
    to: Annotated[
        str | None, typer.Option(metavar="SNAPSHOT", help="Which. [default: the current one's parent]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an earlier snapshot the current one, after reading it whole.

    Example: unibrivl snapshots rollback try/index
    """
    from .changes import rollback

    _tell(index, rollback(index, to), as_json)


@app.command("delete")
def delete_command(
    index: Index,
    item: Annotated[list[str] | None, typer.Option(metavar="ID", help="Item, such as KEY/audio; repeat.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="Clip, with its sound and its picture; repeat.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="FILTER", help="All that a filter keeps, such as labels=Speech.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take items away; compacting frees their space.

    Example: unibrivl snapshots delete try/index --where split=test --where "duration_s<1"
    """
    from .changes import delete_items
    from .where import parse_where

    _tell(index, delete_items(index, item_ids=item or (), keys=key or (), where=parse_where(where)), as_json)


@app.command("compact")
def compact_command(
    index: Index,
    recall: Recall = None,
    memory: Memory = None,
    exact: Exact = None,
    factory: Factory = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Merge all segments into one a modality, without what was deleted, and measure its recall again.

    Example: unibrivl snapshots compact try/index
    """
    from .changes import compact
    from .snapshot import asked_before

    with usage():
        search = _search(asked_before(index), recall=recall, memory_gb=memory, exact=exact, factory=factory, seed=seed)
    with bar("compact") as step:
        changed = compact(index, search, step)
    _tell(index, changed, as_json)


@app.command("clean")
def clean_command(
    index: Index,
    grace: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Snapshots that were current so lately stay.")
    ] = 3600.0,
    as_json: Json = False,
) -> None:
    """Remove snapshots other than the current one, and what only they used; what a process has open stays.

    Example: unibrivl snapshots clean try/index --grace 0
    """
    from .changes import clean

    cleaned = clean(index, grace)
    if as_json:
        print_json(
            {"removed": cleaned.snapshots, "segments": cleaned.segments, "bytes": cleaned.bytes, "held": cleaned.held}
        )
        return
    held = f"; {len(cleaned.held)} stay, since they are open somewhere" if cleaned.held else ""
    removed = f"{len(cleaned.snapshots)} snapshots and {cleaned.segments} segments removed"
    typer.echo(f"{removed}, {cleaned.bytes / 1e6:.1f} MB{held}")


def _search(before: dict[str, Any], **given: Any) -> "SearchConfig":
    from .plan import as_asked

    return as_asked(before, {name: value for name, value in given.items() if value is not None})


def _tell(index: Path, changed: "Changed", as_json: bool) -> None:
    if as_json:
        print_json(
            {"index": str(index), "snapshot": changed.snapshot, "items": changed.items, "deleted": changed.deleted}
        )
        return
    deleted = f"{changed.deleted} deleted, " if changed.deleted else ""
    typer.echo(f"{deleted}{_items(changed.items)} in {index}, snapshot {changed.snapshot}")
    if changed.advice:
        typer.echo(changed.advice)


def _items(items: dict[str, int]) -> str:
    return " and ".join(f"{count} {modality}" for modality, count in items.items()) + " items"
