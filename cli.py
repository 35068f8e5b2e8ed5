"""The command `unibrivl`: parses, calls one function, prints its result.

Results go to standard output, progress and errors to standard error. Exit codes: 0, 1 for a fault of input or
files (one line), 2 for a mistake of usage. Heavy libraries load inside the commands, so that `--help` is quick.
"""

import errno
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import UnibrivlError, __version__

app = typer.Typer(
    name="unibrivl",
    help="Search video collections by sound and sight.\n\nThe examples in each command's --help can be pasted one "
    "after the other: sample, ingest, train, index, query.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
bench = typer.Typer(help="Measurements, each beside chance or a named peer.", no_args_is_help=True)
app.add_typer(bench, name="bench", rich_help_panel="Measured")

Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]


class Target(StrEnum):
    """What `query` searches."""

    image = "image"
    audio = "audio"
    both = "both"


class SampleName(StrEnum):
    """The sample corpora."""

    stamps = "stamps"
    film = "film"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command(rich_help_panel="From video to answers")
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
    from .ingest.corpora import SampleConfig
    from .ingest.samples import default_cache, write_sample

    with _usage():
        config = SampleConfig(
            name=name.value, out=directory, languages=tuple(language or ["fr"]), sounds=sounds, seed=seed,
            cache=cache or default_cache(),
        )  # fmt: skip
    with _bar("sample") as step:
        result = write_sample(config, step)
    typer.echo(
        f"{result.num_clips} clips of {result.num_groups} groups ({result.num_held_out} clips held out) in "
        f"{result.media_dir}\nlists: {result.general_csv}, {result.clips_csv}"
    )


@app.command(rich_help_panel="From video to answers")
def ingest(
    list_path: Annotated[Path, typer.Argument(metavar="LIST", help="Clip list: AudioSet's dialect or a general CSV.")],
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="Folder of the shard set.")] = None,
    media_dir: Annotated[Path | None, typer.Option(help="Folder with the media files.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of rows that name none.")] = None,
    frame_size: Annotated[int, typer.Option(help="Side of the stored picture, in pixels.")] = 64,
    shard_clips: Annotated[int, typer.Option(help="Clips planned for a shard.")] = 2048,
    seed: Annotated[int, typer.Option(help="Of the order of the clips.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Worker processes. [default: one a core]")] = None,
    clip_timeout: Annotated[float, typer.Option(help="Seconds that one clip may take.")] = 60.0,
    max_pad_ms: Annotated[int, typer.Option(help="Milliseconds of a clip's sound that may be missing.")] = 1000,
    max_failed: Annotated[float, typer.Option(help="Share of clips that may fail without failing the run.")] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and plan only; touch nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Turn a list of clips into shards of 16 kHz sound and square pictures; run it again to finish or resume.

    Example: unibrivl ingest try/stamps/list.csv try/shards --media-dir try/stamps/media
    """
    from .ingest import IngestConfig, read_and_plan
    from .ingest import ingest as run

    if not dry_run and (out is None or media_dir is None):
        raise typer.BadParameter("give OUT and --media-dir, or --dry-run")
    with _usage():
        config = IngestConfig(
            list_path=list_path, out=out or Path(), media_dir=media_dir or Path(), split=split, frame_size=frame_size,
            shard_clips=shard_clips, seed=seed, workers=len(os.sched_getaffinity(0)) if workers is None else workers,
            clip_timeout_s=clip_timeout, max_pad_ms=max_pad_ms, max_failed=max_failed,
        )  # fmt: skip
    clips, plan = read_and_plan(config)
    if dry_run:
        _print_plan(clips, plan, as_json)
        return
    _warn_of_bad_rows(list_path, clips)
    with _bar("ingest", plan.num_clips, unit="clips") as step:
        result = run(config, plan, _count_clips(step, plan.num_clips))
    if as_json:
        _print_json({name: getattr(result, name) for name in ("planned", "ok", "errors", "shards", "made", "seconds")})
    else:
        typer.echo(f"{result.ok} of {result.planned} clips in {result.shards} shards of {out} ({result.made} new)")


@app.command(rich_help_panel="From video to answers")
def train(
    shards: Annotated[Path, typer.Argument(help="Shard set to train on.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    split: Annotated[str, typer.Option(help="Part of the shard set.")] = "train",
    language_tower: Annotated[str, typer.Option(help="Tower to train: wav2clip.")] = "wav2clip",
    image_tower: Annotated[str, typer.Option(help="Frozen tower: tf_efficientnet_lite0.")] = "tf_efficientnet_lite0",
    epochs: Annotated[int, typer.Option(help="Passes over the clips.")] = 20,
    batch_size: Annotated[int, typer.Option(help="Clips a step.")] = 64,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    val_share: Annotated[float, typer.Option(help="Share of the groups kept for the curves.")] = 0.1,
    validate_every: Annotated[int, typer.Option(help="Epochs between two points of the retrieval curve.")] = 2,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 25,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Option of the language tower: clip_s, hop or num_mels, as in --set num_mels=64."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train the language tower against the frozen image tower; run it again to finish or resume.

    Example: unibrivl train try/shards --out try/run --epochs 8 --set clip_s=1.6 --set num_mels=64
    """
    from .model.train import TrainConfig
    from .model.train import train as run

    with _usage():
        config = TrainConfig(
            shards=shards, out=out, split=split, language_tower=language_tower, image_tower=image_tower, epochs=epochs,
            batch_size=batch_size, lr=lr, val_share=val_share, validate_every=validate_every,
            checkpoint_every=checkpoint_every, seed=seed,
            tower_options=_settings(set_ or []),
        )  # fmt: skip
    with _bar("train") as step:
        result = run(config, step)
    scores = result.validation or {}
    if as_json:
        figures = {name: {"r10": s.r10, "chance_r10": s.chance_r10, "gallery": s.gallery} for name, s in scores.items()}
        _print_json({"run": str(out), "steps": result.steps, "seconds": result.seconds, "validation": figures})
        return
    typer.echo(f"{result.steps} steps in {out}; curves: {out / 'plot.png'}")
    for name, s in scores.items():
        words = name.replace("_", " ")
        typer.echo(f"{words}: R@10 {s.r10:.3f} among {s.gallery} ({result.validated_on}), chance {s.chance_r10:.3f}")


@app.command(rich_help_panel="From video to answers")
def index(
    run: Annotated[Path, typer.Argument(help="A trained run.")],
    shards: Annotated[Path, typer.Argument(help="Shard set to index.")],
    out: Annotated[Path, typer.Option(help="Folder of the index.")],
    as_json: Json = False,
) -> None:
    """Embed every clip's sound and picture and publish them as a searchable index.

    Example: unibrivl index try/run try/shards --out try/index
    """
    from .index.build import IndexConfig, build_index

    with _bar("index") as step:
        result = build_index(IndexConfig(run=run, shards=shards, out=out), step)
    if as_json:
        _print_json({"index": str(out), "snapshot": result.snapshot, "items": result.items, "built": result.built})
    else:
        items = " and ".join(f"{count} {modality}" for modality, count in result.items.items())
        typer.echo(f"{items} items in {out}, snapshot {result.snapshot}" + ("" if result.built else " (was there)"))


@app.command(rich_help_panel="From video to answers")
def query(
    index: Annotated[Path, typer.Argument(help="Index to search.")],
    audio: Annotated[Path | None, typer.Option(help="Sound to search with.")] = None,
    image: Annotated[Path | None, typer.Option(help="Picture to search with.")] = None,
    to: Annotated[Target, typer.Option(help="What to search.")] = Target.both,
    k: Annotated[int, typer.Option("-k", help="Answers a list.")] = 10,
    run: Annotated[Path | None, typer.Option(help="Folder of the run, if it was moved.")] = None,
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures and players.")] = None,
) -> None:
    """Find the clips nearest to a sound or a picture.

    Example: unibrivl query try/index --audio try/stamps/media/--M0ewU2XAo.mp4 --to image --html answers.html
    """
    from .index.query import QueryConfig, run_query

    with _usage():
        config = QueryConfig(index=index, audio=audio, image=image, to=to.value, k=k, run=run)
    result = run_query(config)
    if html is not None:
        from .index.cards import query_page
        from .index.page import write_page

        write_page(query_page(config, result), html)
    if as_json:
        _print_json(result.as_dict())
    else:
        _print_answers(result)
        if html is not None:
            typer.echo(f"page: {html}")


@bench.command("retrieval")
def bench_retrieval(
    index: Annotated[Path, typer.Argument(help="Index with the queries and the gallery.")],
    query_split: Annotated[str, typer.Option(help="Split whose items are the queries.")] = "test",
    gallery_split: Annotated[str, typer.Option(help="Split whose items are searched.")] = "test",
    permutations: Annotated[int, typer.Option(help="Of the control.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the control and the examples.")] = 0,
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with the figures and six examples.")] = None,
) -> None:
    """Measure held-out retrieval in both directions, beside chance and a permutation control.

    Example: unibrivl bench retrieval try/index --html retrieval.html
    """
    from .bench.retrieval import RetrievalConfig, measure
    from .bench.retrieval_page import COLUMNS, figure_rows, retrieval_page
    from .index.page import write_page

    with _usage():
        config = RetrievalConfig(
            index=index, query_split=query_split, gallery_split=gallery_split, permutations=permutations, seed=seed
        )
    measured = measure(config)
    if html is not None:
        write_page(retrieval_page(config, measured, ()), html)
    if as_json:
        _print_json({name: direction.as_dict() | {"seed": seed} for name, direction in measured.items()})
    else:
        rows = [row for name, direction in measured.items() for row in figure_rows(name, direction.as_dict())]
        _print_table("held-out retrieval", COLUMNS, rows)


@bench.command("demo")
def bench_demo(
    sample: Annotated[SampleName, typer.Option(help="Corpus to show.")] = SampleName.stamps,
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of training, control and examples.")] = 0,
    started: Annotated[float | None, typer.Option(hidden=True, help="Unix time at which setup began.")] = None,
) -> None:
    """Take a sample corpus the whole way to a page of answers, one timed step after the other.

    Example: unibrivl bench demo --sample stamps --out demo
    """
    setup_s = None if started is None else time.time() - started
    from .bench.demo import DemoConfig, run_demo
    from .bench.retrieval_page import COLUMNS, figure_rows

    config = DemoConfig(sample=sample.value, out=out, setup_s=setup_s, seed=seed)
    summary = run_demo(config, lambda name, s, command: typer.echo(f"{name:<10}{s:>7.1f} s   {command}"))
    rows = [row for name, figures in summary["retrieval"].items() for row in figure_rows(name, figures)]
    _print_table(f"held-out retrieval, {sample.value}", COLUMNS, rows)
    typer.echo(f"page: {summary['page']}\nsummary: {out / 'summary.json'}")


@contextmanager
def _usage() -> Iterator[None]:
    """A value that a configuration refuses is a mistake of usage."""
    try:
        yield
    except ValueError as e:
        raise typer.BadParameter(str(e)) from e


@contextmanager
def _bar(what: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[int, int, str], None]]:
    """Show a progress bar on standard error, if that is a terminal; yield what moves it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[text]}"),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total, text="")

        def step(done: int, total: int, text: str) -> None:
            progress.update(task, completed=done, total=total, text=text)

        try:
            yield step
        except KeyboardInterrupt as e:
            raise UnibrivlError("interrupted; the same command goes on where it was") from e


def _count_clips(step: Callable[[int, int, str], None], total: int) -> Callable[[str, int], None]:
    """Turn ingestion's progress into a bar with clips/s and errors by reason."""
    started, counts = time.monotonic(), Counter[str]()

    def count(code: str, number: int) -> None:
        counts[code] += number
        done = sum(counts.values())
        errors = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()) if name)
        step(done, total, f"{done / max(0.1, time.monotonic() - started):.1f} clips/s  {errors}")

    return count


def _settings(pairs: list[str]) -> dict[str, Any]:
    settings = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            settings[name] = json.loads(text)
        except ValueError:
            raise ValueError(f"--set {pair}: want NAME=NUMBER, as in --set num_mels=64") from None
    return settings


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _print_table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    # a pipe has no width: never cut a figure there
    Console(width=None if sys.stdout.isatty() else 160, markup=False).print(table)


def _print_plan(clips: Any, plan: Any, as_json: bool) -> None:
    value = {
        "rows": clips.rows, "bad_rows": len(clips.bad), "bad_lines": [bad.line for bad in clips.bad],
        "clips": plan.num_clips, "shards": len(plan.shards), "splits": plan.splits(),
    }  # fmt: skip
    if as_json:
        _print_json(value)
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


def _print_answers(result: Any) -> None:
    for modality, answers in result.results.items():
        rows = [
            (str(a.rank), f"{a.score:.3f}", a.caption, ", ".join(a.labels), a.split,
             f"{a.start_ms / 1000:g}-{a.end_ms / 1000:g} s", a.key)
            for a in answers
        ]  # fmt: skip
        _print_table(f"nearest {modality}", ("", "cosine", "caption", "labels", "split", "time", "key"), rows)


def main() -> None:
    """Run the command line; one line and exit code 1 for an error that is ours to explain."""
    debug = "--debug" in sys.argv[1:2]
    try:
        app()
    except UnibrivlError as e:
        if debug:
            raise
        sys.exit(f"error: {e}")
    except OSError as e:
        if debug:
            raise
        full = " (make room and run the same command again)" if e.errno == errno.ENOSPC else ""
        sys.exit(f"error: {e.filename or 'a file'}: {e.strerror or e}{full}")
