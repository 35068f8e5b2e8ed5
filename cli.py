"""The command `unibrivl`: parses, calls one function, prints its result.

Results go to standard output, progress and errors to standard error. Exit codes: 0, 1 for a fault of input or
files (one line), 2 for a mistake of usage. Heavy libraries load inside the commands, so that `--help` is quick.
"""

import errno
import sys
from typing import Annotated

import typer

from . import UnibrivlError, __version__
from .bench.commands import app as bench
from .bench.scale_commands import plan
from .index.commands import app as snapshots
from .index.commands import index, push
from .index.generate_command import generate
from .index.query_command import query
from .index.rerank_command import rerank
from .index.serve_command import serve
from .ingest.commands import ingest, sample
from .ingest.shards_commands import app as shards
from .model.commands import app as model
from .model.train_command import embed, train
from .shards.console import print_json

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
app.command(rich_help_panel=PANEL)(index)
app.command(rich_help_panel=PANEL)(query)
app.command(rich_help_panel=PANEL)(serve)
app.command(rich_help_panel=PANEL)(push)
app.command(rich_help_panel=PANEL)(generate)
app.command(rich_help_panel=PANEL)(rerank)
app.add_typer(shards, name="shards", rich_help_panel=PANEL)
app.add_typer(snapshots, name="snapshots", rich_help_panel=PANEL)
app.add_typer(model, name="model", rich_help_panel=PANEL)
app.command(rich_help_panel="Measured")(plan)
app.add_typer(bench, name="bench", rich_help_panel="Measured")


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
