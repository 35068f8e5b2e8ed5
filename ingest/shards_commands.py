"""The commands `unibrivl shards ...`; they stand here since repair and retry ingest again."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import UnibrivlError
from ..shards.console import Address, Engine, Json, bar, print_json, print_table, usage
from .options import (
    ClipTimeout,
    Cookies,
    FetchTimeout,
    Ffmpeg,
    MaxWait,
    MediaDir,
    MediaHolds,
    MediaUrl,
    Workers,
    YouTube,
    count_clips,
    engine_of,
)

app = typer.Typer(help="Look after a shard set: check, mend, complete, describe.", no_args_is_help=True)

Root = Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the shard set.")]


@app.command("verify")
def shards_verify(
    root: Root,
    level: Annotated[str, typer.Option(help="size, hash, or deep: decode every sample.")] = "hash",
    as_json: Json = False,
) -> None:
    """Check every file of a shard set against its commits; exit with 1 if anything is damaged or missing.

    Example: unibrivl shards verify try/shards
    """
    from ..shards.verify import verify

    with usage(), bar("verify") as step:
        report = verify(root, level=level, progress=step)
    if not as_json:
        for damage in report.damaged:
            typer.echo(f"{damage.path}: {damage.reason}")
        typer.echo(f"{report.ok} of {report.shards} shards are whole")
    if not report.is_whole:
        raise UnibrivlError(f"{root} is not whole: {report.advice(root)}", figures=report.as_dict())
    if as_json:
        print_json(report.as_dict())


@app.command("repair")
def shards_repair(
    root: Root,
    media_dir: MediaDir = None,
    media_holds: MediaHolds = "media",
    media_url: MediaUrl = None,
    youtube: YouTube = False,
    cookies: Cookies = None,
    ffmpeg: Ffmpeg = None,
    accept_loss: Annotated[bool, typer.Option("--accept-loss", help="Go on without clips that can't be had.")] = False,
    workers: Workers = None,
    clip_timeout: ClipTimeout = 60.0,
    fetch_timeout: FetchTimeout = 600.0,
    max_wait: MaxWait = 7200.0,
    engine: Engine = "local",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Make damaged shards again: whole samples are kept, only the others are taken from the media.

    Example: unibrivl shards repair try/shards --media-dir try/stamps/media
    """
    from .repair import RepairConfig
    from .repair import repair as run

    with usage():
        making = engine_of(
            media_dir, media_holds, media_url, youtube, cookies, workers, clip_timeout, fetch_timeout, max_wait,
            engine, address,
        )  # fmt: skip
    with bar("repair", unit="clips") as step:
        result = run(
            RepairConfig(root=root, engine=making, ffmpeg=ffmpeg, accept_loss=accept_loss), count_clips(step, 0)
        )
    _tell_repair(root, result, as_json)


def _tell_repair(root: Path, result: Any, as_json: bool) -> None:
    """Print what a repair brought; what it could not bring is an error."""
    if not as_json:
        typer.echo(f"{result.damaged} shards were damaged; {result.identical} are again as committed, bit for bit")
        for plan in result.plans:
            typer.echo(f"{plan} is written again")
        if result.bare:
            typer.echo(f"{result.bare} clips are whole without what only their media tell: codecs, size, SHA-256")
    if result.left:
        raise UnibrivlError(
            f"{len(result.left)} shards are left as they are ({result.left[0]} the first): some of their clips must be "
            "made again and could not; name their media, as in --media-dir, or go on without them with --accept-loss",
            figures=asdict(result),
        )
    if result.lost:
        reasons = ", ".join(f"{count} {code}" for code, count in result.lost.items())
        raise UnibrivlError(
            f"clips could not be made again ({reasons}); `unibrivl shards retry {root}` tries once more",
            figures=asdict(result),
        )
    if result.others:
        raise UnibrivlError(f"not mended: {'; '.join(result.others)}", figures=asdict(result))
    if as_json:
        print_json(asdict(result))


@app.command("retry")
def shards_retry(
    root: Root,
    only: Annotated[list[str] | None, typer.Option(help="Only this reason, such as transient or source.*.")] = None,
    media_dir: MediaDir = None,
    media_holds: MediaHolds = "media",
    media_url: MediaUrl = None,
    youtube: YouTube = False,
    cookies: Cookies = None,
    ffmpeg: Ffmpeg = None,
    workers: Workers = None,
    clip_timeout: ClipTimeout = 60.0,
    fetch_timeout: FetchTimeout = 600.0,
    max_wait: MaxWait = 7200.0,
    engine: Engine = "local",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Try the clips that failed once more; what is recovered goes into patch shards beside the others.

    Example: unibrivl shards retry try/shards --media-dir try/stamps/media
    """
    from .retry import RetryConfig
    from .retry import retry as run

    with usage():
        making = engine_of(
            media_dir, media_holds, media_url, youtube, cookies, workers, clip_timeout, fetch_timeout, max_wait,
            engine, address,
        )  # fmt: skip
        if making.source is None:
            raise typer.BadParameter("give one of --media-dir, --media-url and --youtube")
        config = RetryConfig(root=root, engine=making, only=tuple(only or ()), ffmpeg=ffmpeg)
    with bar("retry", unit="clips") as step:
        result = run(config, count_clips(step, 0))
    if as_json:
        print_json(asdict(result))
    else:
        left = ", ".join(f"{count} {code}" for code, count in result.errors.items()) or "none"
        typer.echo(
            f"{result.recovered} of {result.tried} clips recovered into {result.shards} patch shards; left: {left}"
        )


@app.command("stats")
def shards_stats(root: Root, as_json: Json = False) -> None:
    """Count clips, hours, bytes, failures, labels and quality.

    Example: unibrivl shards stats try/shards
    """
    from ..shards.stats import rows, stats

    found = stats(root)
    if as_json:
        print_json(found.as_dict())
    else:
        print_table(str(root), ("", ""), rows(found))


@app.command("index")
def shards_index(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="A shard set, or a folder of tars made elsewhere.")],
) -> None:
    """Make a large set quick to open, or tars made by other tools readable in any order.

    Example: unibrivl shards index try/shards
    """
    from ..shards.catalog import DATASET_FILE, compact
    from ..shards.foreign import index_foreign

    if (root / DATASET_FILE).exists():
        typer.echo(f"{compact(root)} rows in {root / 'catalog.parquet'}")
    else:
        report = index_foreign(root)
        typer.echo(f"{report.samples} samples of {report.tars} tars in {report.path}")


@app.command("report")
def shards_report(
    root: Root,
    html: Annotated[Path, typer.Option(help="Page to write.")] = Path("report.html"),
    clips: Annotated[int, typer.Option(help="Clips on the contact sheet.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the choice of those clips.")] = 0,
) -> None:
    """Write one page that tells what was planned, what came, why the rest did not, and how good it is.

    Example: unibrivl shards report try/shards --html report.html
    """
    from .report import write_report

    with usage():
        write_report(root, html, clips=clips, seed=seed)
    typer.echo(f"page: {html}")
