"""What the commands of the tables share: their options, opening a tower, writing and printing a row.

A row whose weights or data are missing is printed and written all the same, without a number, and the exit code is 1.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..shards.checks import check_file
from ..shards.console import print_json, print_table
from .errors import BenchError
from .figures import flat

if TYPE_CHECKING:
    from .encoders import Embedder
    from .protocol import Result


def writable(out: Path | None) -> Path | None:
    """Return `--out`, whose folder is there: hours of work must not end without it.

    Raises:
        BenchError: there is no such folder, or something other than a file bears the name.
    """
    if out is not None:
        check_file(out, BenchError)
        if not out.parent.is_dir():
            raise BenchError(f"{out}: the folder {out.parent} does not exist; make it first")
    return out


Out = Annotated[
    Path | None,
    typer.Option(
        help="Write the result as JSON to this file; what samples came to as Parquet beside it.", callback=writable
    ),
]
Seed = Annotated[int, typer.Option(help="Of all that is drawn.", min=0, max=2**31 - 1)]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps embeddings, for this table and others.")]
Tower = Annotated[
    str,
    typer.Option(help="Folder of a run or an index, clap:DIR, clip:DIR, logmel, random (chance), oracle (ceiling)."),
]


def open_tower(tower: str, seed: int) -> "Embedder":
    """Open the tower of that name, as `Tower` says."""
    from .encoders import open_encoder

    return open_encoder(tower, seed=seed)


def shown_tower(tower: str) -> str:
    """Return a tower's name without the folders above it."""
    kind, colon, place = tower.rpartition(":")
    return f"{kind}{colon}{Path(place).name}"


def measured_row(measure: "Callable[[], Result]", bench: str, protocol: str, tower: str, seed: int) -> "Result":
    """Return what `measure` returns, or a row without numbers where weights or data are missing."""
    from .protocol import measured

    return measured(measure, bench=bench, protocol=protocol, tower=tower, seed=seed)


def tell(
    result: "Result", out: Path | None, as_json: bool, show: Callable[[dict[str, Any]], None] | None = None
) -> None:
    """Write and print a row, by `show` where its figures make a table of their own; exit with 1 if it has none."""
    from .protocol import write_result

    if out is not None:
        write_result(out, result)
    told = result.as_dict()
    if as_json:
        print_json(told)
    elif result.expected:
        typer.echo(f"{result.bench}, {result.tower}: {result.status}: {told.get('reason', '')}")
        typer.echo(f"expected: {', '.join(result.expected)}")
    elif show is not None:
        show(told)
    else:
        columns = ("figure", "value", "95 %", "chance", "ceiling")
        print_table(f"{result.bench}, {result.tower}, {result.protocol}", columns, list(_lines(told)))
        typer.echo(f"status: {result.status}; covered: {_covered(result.coverage)}")
    if result.expected:
        raise typer.Exit(1)


def _lines(told: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a line for each figure, nested ones by their path."""
    bounds = [flat(told[name]) for name in ("interval", "chance", "oracle")]
    for name, value in flat(told["metrics"]).items():
        low_high, chance, oracle = (found.get(name) for found in bounds)
        shown = "" if low_high is None else f"{low_high[0]:.4f} to {low_high[1]:.4f}"
        yield name, _number(value), shown, _number(chance), _number(oracle)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def _covered(coverage: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in coverage.items())


def _short(value: Any) -> str:
    return f"{len(value)}: {', '.join(map(str, value[:5]))}" if isinstance(value, list) and value else str(value)
