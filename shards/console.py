"""What all commands share: progress on standard error, tables and JSON on standard output, mistakes of usage.

It stands in the folder that every other one may import, and only modules of commands do import it.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import UnibrivlError

FIELDS = {"holds": "media_holds", "prefix": "media_url"}
"""Fields of configurations that are called otherwise than their options."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
Engine = Annotated[
    str, typer.Option(help="local: this machine. ray: a Ray cluster (extra `ray`) that sees the same files.")
]
Address = Annotated[
    str | None, typer.Option(help="HOST:PORT of the cluster's head. (default: auto, the one that this machine is in)")
]
MAX_CACHE_GB = 1_000_000_000
CacheDir = Annotated[
    Path | None, typer.Option(help="Of shards at an address: folder for what is fetched. [default: ~/.cache/unibrivl]")
]
CacheGb = Annotated[float, typer.Option(help="Of shards at an address: most that is kept of their tars, in GB.")]


class RefusedValueError(typer.BadParameter):
    """A value that a configuration refuses; told with the option as it is typed, `--shard-clips` for `shard_clips`."""

    def format_message(self) -> str:
        """Return the message with the option in place of the field that it begins with, if there is such an option.

        A field may be called as its option, in the plural, or with its unit; `FIELDS` has the others.
        """
        field, _, rest = self.message.partition(" ")
        name = FIELDS.get(field, field)
        for option in self.ctx.command.params if self.ctx else ():
            if name in (option.name, f"{option.name}s", f"{option.name}_s"):
                return f"Invalid value: {max(option.opts, key=len)} {rest}"
        return super().format_message()


@contextmanager
def usage() -> Iterator[None]:
    """A value that a configuration refuses is a mistake of usage."""
    try:
        yield
    except ValueError as e:
        raise RefusedValueError(str(e)) from e


def opened(shards: str, cache_dir: Path | None, cache_gb: float) -> Path:
    """Return the folder to read a shard set from: itself, or of one at an address its local mirror.

    Raises:
        ShardError: there is no shard set at the address, or it cannot be read.
    """
    from .cache import default_cache, local_set

    with usage():
        if not 0 < cache_gb < MAX_CACHE_GB:
            raise ValueError(f"cache_gb is {cache_gb:g}, want more than 0 and less than {MAX_CACHE_GB}")
        return local_set(shards, directory=cache_dir or default_cache(), max_bytes=round(cache_gb * 1e9))


@contextmanager
def bar(what: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[int, int, str], None]]:
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


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table, as wide as the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    # a pipe has no width: never cut a figure there
    Console(width=None if sys.stdout.isatty() else 160, markup=False).print(table)
