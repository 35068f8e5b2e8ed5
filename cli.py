"""The command `unibrivl`: parses, calls one function, prints its result.

Results go to standard output, progress and errors to standard error. Exit codes: 0, 1 for a fault of input or
files (one line), 2 for a mistake of usage. Heavy libraries load inside the commands, so that `--help` is quick.
"""

import errno
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import UnibrivlError, __version__
from .bench.commands import app as bench
from .console import Json, bar, print_json, print_table, usage
from .index.serve_command import serve
from .ingest.commands import ingest, sample
from .ingest.shards_commands import app as shards
from .model.commands import app as model
from .model.train_command import Moved, embed, train

PANEL = "From video to answers"

app = typer.Typer(
    name="unibrivl",
    help="Search video collections by sound and sight.\n\nThe examples in each command's --help can be pasted one "
    "after the other: sample, ingest, train, index, query.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command(rich_help_panel=PANEL)(sample)
app.command(rich_help_panel=PANEL)(ingest)
app.command(rich_help_panel=PANEL)(train)
app.command(rich_help_panel=PANEL)(embed)
app.add_typer(shards, name="shards", rich_help_panel=PANEL)
app.add_typer(model, name="model", rich_help_panel=PANEL)
app.add_typer(bench, name="bench", rich_help_panel="Measured")


class Target(StrEnum):
    """What `query` searches."""

    image = "image"
    audio = "audio"
    both = "both"


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


@app.command(rich_help_panel=PANEL)
def index(
    run: Annotated[Path, typer.Argument(help="A trained run.")],
    shards: Annotated[Path, typer.Argument(help="Shard set to index.")],
    out: Annotated[Path, typer.Option(help="Folder of the index.")],
    image_tower: Moved = None,
    as_json: Json = False,
) -> None:
    """Embed every clip's sound and picture and publish them as a searchable index.

    Example: unibrivl index try/run try/shards --out try/index
    """
    from .index.build import IndexConfig, build_index

    with bar("index") as step:
        result = build_index(IndexConfig(run=run, shards=shards, out=out, image_tower=image_tower), step)
    if as_json:
        print_json({"index": str(out), "snapshot": result.snapshot, "items": result.items, "built": result.built})
    else:
        items = " and ".join(f"{count} {modality}" for modality, count in result.items.items())
        typer.echo(f"{items} items in {out}, snapshot {result.snapshot}" + ("" if result.built else " (was there)"))


@app.command(rich_help_panel=PANEL)
def query(
    index: Annotated[Path, typer.Argument(help="Index to search.")],
    audio: Annotated[Path | None, typer.Option(help="Sound to search with.")] = None,
    image: Annotated[Path | None, typer.Option(help="Picture to search with.")] = None,
    to: Annotated[Target, typer.Option(help="What to search.")] = Target.both,
    k: Annotated[int, typer.Option("-k", help="Answers a list.")] = 10,
    run: Annotated[Path | None, typer.Option(help="Folder of the run, if it was moved.")] = None,
    image_tower: Moved = None,
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures and players.")] = None,
) -> None:
    """Find the clips nearest to a sound or a picture.

    Example: unibrivl query try/index --audio try/stamps/media/--M0ewU2XAo.mp4 --to image --html answers.html
    """
    from .index.query import QueryConfig, run_query
    from .shards.checks import check_file

    with usage():
        config = QueryConfig(index=index, audio=audio, image=image, to=to.value, k=k, run=run, image_tower=image_tower)
    if html is not None:
        check_file(html, UnibrivlError)
    result = run_query(config)
    if html is not None:
        from .index.cards import query_page
        from .index.page import write_page

        write_page(query_page(config, result), html)
    if as_json:
        print_json(result.as_dict())
    else:
        _print_answers(result)
        if html is not None:
            typer.echo(f"page: {html}")


app.command(rich_help_panel=PANEL)(serve)


def _print_answers(result: Any) -> None:
    for modality, answers in result.results.items():
        rows = [
            (str(a.rank), f"{a.score:.3f}", a.caption, ", ".join(a.labels), a.split,
             f"{a.start_ms / 1000:g}-{a.end_ms / 1000:g} s", a.key)
            for a in answers
        ]  # fmt: skip
        print_table(f"nearest {modality}", ("", "cosine", "caption", "labels", "split", "time", "key"), rows)


def main() -> None:
    """Run the command line; one line (and JSON, with `--json`) and exit code 1 for an error that is ours to explain."""
    debug = "--debug" in sys.argv[1:2]
    try:
        app()
    except (UnibrivlError, OSError) as e:
        if debug:
            raise
        error = _explain(e) if isinstance(e, OSError) else e
        if "--json" in sys.argv:
            print_json(error.figures | {"error": str(error)})
        sys.exit(f"error: {error}")


def _explain(error: OSError) -> UnibrivlError:
    full = " (make room and run the same command again)" if error.errno == errno.ENOSPC else ""
    return UnibrivlError(f"{error.filename or 'a file'}: {error.strerror or error}{full}")
