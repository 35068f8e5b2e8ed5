"""The command `unibrivl bench drills`."""

from pathlib import Path
from typing import Annotated

import typer

from ..shards.console import Json, bar, print_json, print_table, usage
from .row_commands import Out, Seed

SHOWN = 5
"""Cases that are printed; all are in the JSON."""


def bench_drills(
    minutes: Annotated[float, typer.Option(help="How long to go on.")] = 10.0,
    quick: Annotated[bool, typer.Option("--quick", help="One round of what takes seconds.")] = False,
    kinds: Annotated[str, typer.Option(metavar="A,B", help="Of faults.")] = "kill,disk,source,clock,torn",
    seed: Seed = 0,
    work: Annotated[Path | None, typer.Option(help="Folder to work in. [default: that for temporary files]")] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Disturb ingestion, training and indexing on small media, and count what is lost, doubled or wrong.

    Kills, disks without room, sources that flap, clocks that jump and torn files come at random instants, drawn by the
    seed. Exits with 1 if anything was lost, doubled or wrong.

    Example: unibrivl bench drills --quick
    """
    from ..shards.atomic import write_json
    from .drills import COLUMNS, DrillsConfig, rows, run_drills

    with usage():
        config = DrillsConfig(minutes=minutes, quick=quick, kinds=tuple(kinds.split(",")), seed=seed, work=work)
    with bar("drills") as step:
        result = run_drills(config, step)
    if out is not None:
        write_json(out, result)
    counts = {name: result[name] for name in ("lost", "doubled", "wrong")}
    if as_json:
        print_json(result)
    else:
        print_table(f"faults in {result['minutes']:g} minutes", COLUMNS, rows(result))
        typer.echo(", ".join(f"{name} {count}" for name, count in counts.items()))
        for name, cases in result["cases"].items():
            for case in cases[:SHOWN]:
                typer.echo(f"{name}: {case}", err=True)
    if any(counts.values()):
        raise typer.Exit(1)
