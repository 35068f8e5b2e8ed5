"""The commands `unibrivl plan` and `unibrivl bench costs`: what a collection of any size takes, by measured costs."""

from pathlib import Path
from typing import Annotated

import typer

from ..shards.console import Json, bar, print_json, print_table, usage
from .row_commands import Seed


def plan(
    clips: Annotated[int, typer.Option(help="Clips of the collection.")],
    tower: Annotated[str, typer.Option(help="Language tower: wav2clip, speechlm-base or speechlm-large.")] = (
        "speechlm-base"
    ),
    epochs: Annotated[int, typer.Option(help="Of training.")] = 10,
    cores: Annotated[int, typer.Option(help="Cores that work at once, for the days.")] = 64,
    costs: Annotated[
        Path | None, typer.Option(help="What unibrivl bench costs wrote. [default: what this release measured]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what a collection takes in core-hours, days, disk and memory, from costs that were measured.

    Example: unibrivl plan --clips 2000000 --tower wav2clip --cores 64
    """
    from .costs import COSTS, read_costs
    from .scale_plan import COLUMNS, ScaleConfig, as_dict, plan_scale

    with usage():
        config = ScaleConfig(clips=clips, tower=tower, epochs=epochs, cores=cores)
    known = read_costs(costs or COSTS)
    steps = plan_scale(config, known)
    if as_json:
        return print_json(as_dict(config, steps, known))
    columns = tuple(column.format(cores=cores) for column in COLUMNS)
    print_table(f"{clips:,} clips of {known['clip_s']:g} s", columns, [step.cells(cores) for step in steps])
    machine = known["environment"]
    typer.echo(f"costs of one core of {machine['processor']}; clips cost in proportion, GPUs were not measured")


def bench_costs(
    ingest: Annotated[Path, typer.Option(help="Result of bench speed ingest.")],
    reader: Annotated[Path, typer.Option(help="Result of bench speed reader.")],
    index: Annotated[Path, typer.Option(help="Result of bench speed index, of as many rows as there is.")],
    out: Annotated[Path | None, typer.Option(help="Write the costs as JSON to this file.")] = None,
    towers: Annotated[
        str, typer.Option(help="Towers to measure, with commas between.")
    ] = "wav2clip,speechlm-base,speechlm-large",
    repeats: Annotated[int, typer.Option(help="Passes of each tower; the middle one counts.")] = 3,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Collect what a clip and a vector cost from result files, and measure the towers here, on one core.

    Example: unibrivl bench costs --ingest ingest.json --reader reader.json --index index.json --out costs.json
    """
    from ..shards.atomic import write_json
    from .costs import CostsConfig, measure_costs

    with usage():
        config = CostsConfig(
            ingest=ingest, reader=reader, index=index, towers=tuple(towers.split(",")), repeats=repeats, seed=seed
        )
    with bar("costs") as step:
        costs = measure_costs(config, step)
    if out is not None:
        write_json(out, costs)
    if as_json:
        return print_json(costs)
    rows = [
        (name, *(f"{value:.3g}" for value in told.values())) for name, told in costs["towers"].items() if name != "from"
    ]
    print_table("seconds of a core a clip", ("tower", "embed", "train"), rows)
