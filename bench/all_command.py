"""The command `unibrivl bench all`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..shards.console import Json, bar, print_json, usage
from .row_commands import Seed, Tower, shown_tower
from .table_commands import ProbeName, Template

if TYPE_CHECKING:
    from .all_tables import AllTables, MissingTower
    from .encoders import Embedder


def bench_all(
    data: Annotated[Path, typer.Option(help="Folder that holds the data sets, as bench doctor finds them.")],
    tower: Tower,
    out: Annotated[Path, typer.Option(help="Folder for a result file a table, predictions, and index.html.")],
    only: Annotated[str | None, typer.Option(help="Tables, with commas between. [default: all]")] = None,
    probe: ProbeName = "l3",
    template: Template = "laion",
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps embeddings. [default: embeddings in --out]")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure a tower on every table whose data set is there; run it again to finish, resume or do nothing.

    Exit code 1: a table failed, or nothing at all was there to be measured.

    Example: unibrivl bench all --data datasets --tower run --out tables
    """
    from .all_tables import AllTablesConfig, run_tables
    from .registry import TableConfig

    with usage():
        names = () if only is None else tuple(name.strip() for name in only.split(","))
        table = TableConfig(probe=probe, template=template, seed=seed, cache=cache)
        config = AllTablesConfig(data=data, out=out, only=names, table=table)
    with bar("tables") as step:
        found = run_tables(config, _open(tower, seed), step)
    _tell(found, out, as_json)
    if found.failures or not found.measured:
        raise typer.Exit(1)


def _open(tower: str, seed: int) -> "Embedder | MissingTower":
    from .all_tables import MissingTower
    from .encoders import open_encoder
    from .errors import NeedsError

    try:
        return open_encoder(tower, seed=seed)
    except NeedsError as e:
        return MissingTower(shown_tower(tower), e)


def _tell(found: "AllTables", out: Path, as_json: bool) -> None:
    from .all_tables import PAGE
    from .tables import as_markdown

    if as_json:
        print_json(found.rows)
    else:
        typer.echo(as_markdown(found.tables))
        told = f"{found.measured} of {len(found.rows)} tables measured, {len(found.kept)} of them before"
        typer.echo(f"{told}; {out / PAGE} shows them")
    for name, line in found.failures.items():
        typer.echo(f"failed: {name}: {line}", err=True)
