"""The commands `unibrivl sample` and `unibrivl ingest`."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..shards.console import Address, Engine, Json, bar, print_json, usage
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

ListPath = Annotated[
    Path, typer.Argument(metavar="LIST", help="Clip list: AudioSet's or VGGSound's dialects, CSV, JSONL or Parquet.")
]
Labels = Annotated[list[str] | None, typer.Option(help="Only clips with this label or one below; repeat.")]
ExcludeLabels = Annotated[list[str] | None, typer.Option(help="No clip with this label or one below.")]
OntologyFile = Annotated[Path | None, typer.Option(help="AudioSet's ontology.json, for names and what is below.")]
Balance = Annotated[int | None, typer.Option(help="At most so many clips of each label.")]
Take = Annotated[int | None, typer.Option(help="A random subset of so many clips, by --seed.")]
Frame = Annotated[str, typer.Option(help="middle or random (nearest keyframe), exact or exact:SECONDS.")]
FrameSizes = Annotated[
    list[int] | None, typer.Option(help="Side of the stored picture, in pixels; repeat for more. [default: 64]")
]
Drop = Annotated[list[str] | None, typer.Option(help="Leave out clips flagged silent, black_frame, ...")]
MaxPad = Annotated[int, typer.Option(help="Milliseconds of a clip's sound that may be missing.")]
MaxFailed = Annotated[float, typer.Option(help="Share of clips that may fail without failing the run.")]
Out = Annotated[
    str | None, typer.Argument(metavar="OUT", help="Folder of the shard set, or its address: s3://bucket/shards.")
]
Work = Annotated[
    Path | None,
    typer.Option(help="Folder in which shards for an address are made. [default: below ~/.cache/unibrivl]"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Read and plan only; touch nothing.")]


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
    from ..shards.cache import default_cache
    from .corpora import SampleConfig
    from .samples import write_sample

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
    list_path: ListPath,
    out: Out = None,
    media_dir: MediaDir = None,
    media_holds: MediaHolds = "media",
    media_url: MediaUrl = None,
    youtube: YouTube = False,
    cookies: Cookies = None,
    labels: Labels = None,
    exclude_labels: ExcludeLabels = None,
    ontology: OntologyFile = None,
    balance: Balance = None,
    take: Take = None,
    drop_restricted: Annotated[bool, typer.Option(help="Leave out the ontology's restricted classes.")] = False,
    split: Annotated[str | None, typer.Option(help="Split of rows that name none.")] = None,
    frame: Frame = "middle",
    frame_size: FrameSizes = None,
    audio: Annotated[str, typer.Option(help="flac, or wav: larger and faster to read.")] = "flac",
    decoder: Annotated[str, typer.Option(help="pyav, or ffmpeg: slower, knows more codecs.")] = "pyav",
    ffmpeg: Ffmpeg = None,
    drop: Drop = None,
    shard_clips: Annotated[int, typer.Option(help="Clips planned for a shard.")] = 2048,
    seed: Annotated[int, typer.Option(help="Of the order of the clips.")] = 0,
    workers: Workers = None,
    clip_timeout: ClipTimeout = 60.0,
    fetch_timeout: FetchTimeout = 600.0,
    max_wait: MaxWait = 7200.0,
    engine: Engine = "local",
    address: Address = None,
    max_pad_ms: MaxPad = 1000,
    max_failed: MaxFailed = 0.0,
    work: Work = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Turn a list of clips into shards of 16 kHz sound and square pictures; run it again to finish or resume.

    Example: unibrivl ingest try/stamps/list.csv try/shards --media-dir try/stamps/media

    With --engine ray all machines of a Ray cluster make shards, in folders that all of them see under the same paths:
    unibrivl ingest list.csv /shared/set --media-dir /shared/media --engine ray --address head:6379
    """
    from .run import IngestConfig

    with usage():
        making = engine_of(
            media_dir, media_holds, media_url, youtube, cookies, workers, clip_timeout, fetch_timeout, max_wait,
            engine, address,
        )  # fmt: skip
        if not dry_run and (out is None or making.source is None):
            raise typer.BadParameter("give OUT and one of --media-dir, --media-url and --youtube, or --dry-run")
        folder, making = _placed(out or "", work, making)
        config = IngestConfig(
            list_path=list_path, out=folder, engine=making, ontology=ontology, split=split,
            select=_selection(labels, exclude_labels, balance, take, drop_restricted, seed),
            recipe=_recipe(frame, frame_size, max_pad_ms, decoder, ffmpeg, audio, drop, seed),
            shard_clips=shard_clips, seed=seed, max_failed=max_failed,
        )  # fmt: skip
    _run_ingest(config, dry_run, as_json)


def _placed(out: str, work: Path | None, engine: Any) -> tuple[Path, Any]:
    """Return the folder in which shards are made, and the engine that sends them on if `out` is an address."""
    from dataclasses import replace

    from ..shards.cache import is_address
    from ..shards.upload import Upload

    if is_address(out):
        upload = Upload(url=out)
        return work or upload.default_work, replace(engine, upload=upload)
    if work is not None:
        raise ValueError("work is for an address; shards in a folder are made where they stay")
    return Path(out), engine


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
        made = f"{result.shards} shards of {config.place} ({result.made} new)"
        typer.echo(f"{result.ok} of {result.planned} clips in {made}")


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
    from .plan import leaks

    value = {
        "rows": clips.rows, "bad_rows": len(clips.bad), "bad_lines": [bad.line for bad in clips.bad],
        "clips": plan.num_clips, "shards": len(plan.shards), "splits": plan.splits(), "leaks": leaks(plan.table),
    }  # fmt: skip
    if as_json:
        print_json(value)
        return
    for bad in clips.bad:
        typer.echo(f"line {bad.line}: {bad.reason}")
    splits = ", ".join(f"{name} {count}" for name, count in value["splits"].items())
    typer.echo(f"{value['clips']} clips ({splits}) in {value['shards']} shards; {value['bad_rows']} bad rows")
    if value["leaks"]:
        typer.echo(f"{value['leaks']} media have clips in more than one split, so what is trained on leaks into tests")


def _warn_of_bad_rows(path: Path, clips: Any) -> None:
    if clips.bad:
        first = clips.bad[0]
        typer.echo(
            f"{path}: {len(clips.bad)} of {clips.rows} rows are left out; line {first.line}: {first.reason} "
            "(--dry-run lists them all)",
            err=True,
        )
