"""The commands `unibrivl sample`, `unibrivl ingest` and `unibrivl shards ...`."""

import os
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import UnibrivlError
from .console import Json, bar, count_clips, print_json, print_table, usage

shards = typer.Typer(help="Look after a shard set: check, mend, complete, describe.", no_args_is_help=True)

Root = Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of the shard set.")]
MediaDir = Annotated[Path | None, typer.Option(help="Folder with the media files, named by id, id_start, or the list.")]
MediaHolds = Annotated[str, typer.Option(help="What a file named by id alone is: media (whole) or clips (the clip).")]
MediaUrl = Annotated[
    str | None, typer.Option(help="Address of a medium, such as s3://bucket/{id}.mp4; '' takes the list's own.")
]
YouTube = Annotated[bool, typer.Option("--youtube", help="Fetch from YouTube (extra `youtube`).")]
Cookies = Annotated[Path | None, typer.Option(help="YouTube: cookies file in Netscape's format.")]
Ffmpeg = Annotated[Path | None, typer.Option(help="The ffmpeg to use. [default: that on PATH, else a bundled one]")]
Workers = Annotated[int | None, typer.Option(help="Worker processes. [default: one a core]")]
ClipTimeout = Annotated[float, typer.Option(help="Seconds that decoding a clip may take.")]
FetchTimeout = Annotated[float, typer.Option(help="Seconds that fetching a clip's medium may take.")]
MaxWait = Annotated[float, typer.Option(help="Seconds to wait, in all, for a source that refuses.")]


class SampleName(StrEnum):
    """The sample corpora."""

    stamps = "stamps"
    film = "film"


def sample(
    name: Annotated[SampleName, typer.Argument(help="stamps: pictures with spoken names; film: one long video.")],
    directory: Annotated[Path, typer.Argument(help="Folder to write media, clips.csv and list.csv to.")],
    language: Annotated[
        list[str] | None,
        typer.Option(help="Voices of the stamps, such as fr, es, ru; repeat for more. [default: fr]"),
    ] = None,
    sounds: Annotated[bool, typer.Option(help="Stamps: also the things' own sounds.")] = True,
    seed: Annotated[int, typer.Option(help="Of the choice of what is held out.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Folder for downloads. [default: ~/.cache/unibrivl]")] = None,
) -> None:
    """Fetch a sample corpus and write it as video files with their lists.

    Example: unibrivl sample stamps try/stamps
    """
    from .corpora import SampleConfig
    from .samples import default_cache, write_sample

    with usage():
        config = SampleConfig(
            name=name.value, out=directory, languages=tuple(language or ["fr"]), sounds=sounds, seed=seed,
            cache=cache or default_cache(),
        )  # fmt: skip
    with bar("sample") as step:
        result = write_sample(config, step)
    typer.echo(
        f"{result.num_clips} clips of {result.num_groups} groups ({result.num_held_out} clips held out) in "
        f"{result.media_dir}\nlists: {result.general_csv}, {result.clips_csv}"
    )


def ingest(
    list_path: Annotated[
        Path,
        typer.Argument(metavar="LIST", help="Clip list: AudioSet's or VGGSound's dialects, CSV, JSONL or Parquet."),
    ],
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="Folder of the shard set.")] = None,
    media_dir: MediaDir = None,
    media_holds: MediaHolds = "media",
    media_url: MediaUrl = None,
    youtube: YouTube = False,
    cookies: Cookies = None,
    labels: Annotated[list[str] | None, typer.Option(help="Only clips with this label or one below; repeat.")] = None,
    exclude_labels: Annotated[list[str] | None, typer.Option(help="No clip with this label or one below.")] = None,
    ontology: Annotated[
        Path | None, typer.Option(help="AudioSet's ontology.json, for names and what is below.")
    ] = None,
    balance: Annotated[int | None, typer.Option(help="At most so many clips of each label.")] = None,
    take: Annotated[int | None, typer.Option(help="A random subset of so many clips, by --seed.")] = None,
    drop_restricted: Annotated[bool, typer.Option(help="Leave out the ontology's restricted classes.")] = False,
    split: Annotated[str | None, typer.Option(help="Split of rows that name none.")] = None,
    frame: Annotated[str, typer.Option(help="middle or random (nearest keyframe), exact or exact:SECONDS.")] = "middle",
    frame_size: Annotated[
        list[int] | None, typer.Option(help="Side of the stored picture, in pixels; repeat for more. [default: 64]")
    ] = None,
    audio: Annotated[str, typer.Option(help="flac, or wav: larger and faster to read.")] = "flac",
    decoder: Annotated[str, typer.Option(help="pyav, or ffmpeg: slower, knows more codecs.")] = "pyav",
    ffmpeg: Ffmpeg = None,
    drop: Annotated[list[str] | None, typer.Option(help="Leave out clips flagged silent, black_frame, ...")] = None,
    shard_clips: Annotated[int, typer.Option(help="Clips planned for a shard.")] = 2048,
    seed: Annotated[int, typer.Option(help="Of the order of the clips.")] = 0,
    workers: Workers = None,
    clip_timeout: ClipTimeout = 60.0,
    fetch_timeout: FetchTimeout = 600.0,
    max_wait: MaxWait = 7200.0,
    max_pad_ms: Annotated[int, typer.Option(help="Milliseconds of a clip's sound that may be missing.")] = 1000,
    max_failed: Annotated[float, typer.Option(help="Share of clips that may fail without failing the run.")] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and plan only; touch nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Turn a list of clips into shards of 16 kHz sound and square pictures; run it again to finish or resume.

    Example: unibrivl ingest try/stamps/list.csv try/shards --media-dir try/stamps/media
    """
    from .run import IngestConfig

    with usage():
        engine = _engine(
            media_dir, media_holds, media_url, youtube, cookies, workers, clip_timeout, fetch_timeout, max_wait
        )
        if not dry_run and (out is None or engine.source is None):
            raise typer.BadParameter("give OUT and one of --media-dir, --media-url and --youtube, or --dry-run")
        config = IngestConfig(
            list_path=list_path, out=out or Path(), engine=engine, ontology=ontology, split=split,
            select=_selection(labels, exclude_labels, balance, take, drop_restricted, seed),
            recipe=_recipe(frame, frame_size, max_pad_ms, decoder, ffmpeg, audio, drop, seed),
            shard_clips=shard_clips, seed=seed, max_failed=max_failed,
        )  # fmt: skip
    _run_ingest(config, dry_run, as_json)


def _run_ingest(config: Any, dry_run: bool, as_json: bool) -> None:
    from .run import ingest as run
    from .run import read_and_plan

    clips, plan = read_and_plan(config)
    if dry_run:
        _print_plan(clips, plan, as_json)
        return
    _warn_of_bad_rows(config.list_path, clips)
    with bar("ingest", plan.num_clips, unit="clips") as step:
        result = run(config, plan, count_clips(step, plan.num_clips))
    if as_json:
        print_json(asdict(result))
    else:
        made = f"{result.shards} shards of {config.out} ({result.made} new)"
        typer.echo(f"{result.ok} of {result.planned} clips in {made}")


@shards.command("verify")
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
    if as_json:
        print_json(report.as_dict())
    else:
        for damage in report.damaged:
            typer.echo(f"{damage.path}: {damage.reason}")
        typer.echo(f"{report.ok} of {report.shards} shards are whole")
    if not report.is_whole:
        raise UnibrivlError(f"{root} is not whole: {report.advice(root)}")


@shards.command("repair")
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
    as_json: Json = False,
) -> None:
    """Make damaged shards again: whole samples are kept, only the others are taken from the media.

    Example: unibrivl shards repair try/shards --media-dir try/stamps/media
    """
    from .repair import RepairConfig
    from .repair import repair as run

    with usage():
        engine = _engine(
            media_dir, media_holds, media_url, youtube, cookies, workers, clip_timeout, fetch_timeout, max_wait
        )
    with bar("repair", unit="clips") as step:
        result = run(
            RepairConfig(root=root, engine=engine, ffmpeg=ffmpeg, accept_loss=accept_loss), count_clips(step, 0)
        )
    if as_json:
        print_json(asdict(result))
    else:
        typer.echo(f"{result.damaged} shards were damaged; {result.identical} are again as committed, bit for bit")
        for plan in result.plans:
            typer.echo(f"{plan} is written again")
        if result.bare:
            typer.echo(f"{result.bare} clips are whole without what only their media tell: codecs, size, SHA-256")
    if result.left:
        raise UnibrivlError(
            f"{len(result.left)} shards are left as they are ({result.left[0]} the first): some of their clips must be "
            "made again and could not; name their media, as in --media-dir, or go on without them with --accept-loss"
        )
    if result.lost:
        reasons = ", ".join(f"{count} {code}" for code, count in result.lost.items())
        raise UnibrivlError(
            f"clips could not be made again ({reasons}); `unibrivl shards retry {root}` tries once more"
        )
    if result.others:
        raise UnibrivlError(f"not mended: {'; '.join(result.others)}")


@shards.command("retry")
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
    as_json: Json = False,
) -> None:
    """Try the clips that failed once more; what is recovered goes into patch shards beside the others.

    Example: unibrivl shards retry try/shards --media-dir try/stamps/media
    """
    from .retry import RetryConfig
    from .retry import retry as run

    with usage():
        engine = _engine(
            media_dir, media_holds, media_url, youtube, cookies, workers, clip_timeout, fetch_timeout, max_wait
        )
        if engine.source is None:
            raise typer.BadParameter("give one of --media-dir, --media-url and --youtube")
        config = RetryConfig(root=root, engine=engine, only=tuple(only or ()), ffmpeg=ffmpeg)
    with bar("retry", unit="clips") as step:
        result = run(config, count_clips(step, 0))
    if as_json:
        print_json(asdict(result))
    else:
        left = ", ".join(f"{count} {code}" for code, count in result.errors.items()) or "none"
        typer.echo(
            f"{result.recovered} of {result.tried} clips recovered into {result.shards} patch shards; left: {left}"
        )


@shards.command("stats")
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


@shards.command("index")
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


@shards.command("report")
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


def _engine(
    media_dir: Path | None,
    media_holds: Any,
    media_url: str | None,
    youtube: bool,
    cookies: Path | None,
    workers: int | None,
    clip_timeout_s: float,
    fetch_timeout_s: float,
    max_wait_s: float,
) -> Any:
    """Build what ingest, repair and retry have in common."""
    from .engine import EngineConfig
    from .patience import PatienceConfig
    from .sources import FolderConfig, RemoteConfig, YouTubeConfig

    if (media_dir is not None) + (media_url is not None) + youtube > 1:
        raise ValueError("--media-dir, --media-url and --youtube exclude each other")
    source = None
    if media_dir is not None:
        source = FolderConfig(root=media_dir, holds=media_holds)
    elif media_url is not None:
        source = RemoteConfig(prefix=media_url)
    elif youtube:
        source = YouTubeConfig(cookies=cookies)
    return EngineConfig(
        source=source, workers=len(os.sched_getaffinity(0)) if workers is None else workers,
        clip_timeout_s=clip_timeout_s, fetch_timeout_s=fetch_timeout_s, patience=PatienceConfig(max_wait_s=max_wait_s),
    )  # fmt: skip


def _selection(
    labels: list[str] | None,
    exclude_labels: list[str] | None,
    balance: int | None,
    take: int | None,
    drop_restricted: bool,
    seed: int,
) -> Any:
    from .select import SelectConfig

    return SelectConfig(
        labels=tuple(labels or ()), exclude_labels=tuple(exclude_labels or ()), balance=balance, take=take,
        drop_restricted=drop_restricted, seed=seed,
    )  # fmt: skip


def _recipe(
    frame: str,
    frame_size: list[int] | None,
    max_pad_ms: int,
    decoder: Any,
    ffmpeg: Path | None,
    audio: str,
    drop: list[str] | None,
    seed: int,
) -> Any:
    from .decoded import DecodeConfig
    from .recipe import Recipe

    decode = DecodeConfig(
        frame=frame, frame_sizes=tuple(frame_size or [64]), max_pad_ms=max_pad_ms, decoder=decoder, ffmpeg=ffmpeg,
        seed=seed,
    )  # fmt: skip
    return Recipe(decode=decode, audio=audio, drop=tuple(drop or ()))


def _print_plan(clips: Any, plan: Any, as_json: bool) -> None:
    value = {
        "rows": clips.rows, "bad_rows": len(clips.bad), "bad_lines": [bad.line for bad in clips.bad],
        "clips": plan.num_clips, "shards": len(plan.shards), "splits": plan.splits(),
    }  # fmt: skip
    if as_json:
        print_json(value)
        return
    for bad in clips.bad:
        typer.echo(f"line {bad.line}: {bad.reason}")
    splits = ", ".join(f"{name} {count}" for name, count in value["splits"].items())
    typer.echo(f"{value['clips']} clips ({splits}) in {value['shards']} shards; {value['bad_rows']} bad rows")


def _warn_of_bad_rows(path: Path, clips: Any) -> None:
    if clips.bad:
        first = clips.bad[0]
        typer.echo(
            f"{path}: {len(clips.bad)} of {clips.rows} rows are left out; line {first.line}: {first.reason} "
            "(--dry-run lists them all)",
            err=True,
        )
