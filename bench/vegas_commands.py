"""The command `unibrivl bench vegas`: pictures that were generated from sounds, judged."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..shards.console import Json, bar, print_table, usage
from .row_commands import Cache, Out, Seed, shown_tower, tell

COLUMNS = ("figure", "value", "95 %", "pictures of other clips (± sd)", "real frames", "chance")


def bench_vegas(
    data: Annotated[
        Path, typer.Option(help="Folder with manifest.csv (clip_id,class,split,audio,frame), or with CLASS/ folders.")
    ],
    images: Annotated[
        Path, typer.Option(help="Generated pictures: CLIP_ID/*.png, or CLIP_ID as unibrivl generate --out leaves it.")
    ],
    judge: Annotated[
        str, typer.Option(help="Of pictures and words: clip:DIR, a run that reads text, random, or oracle.")
    ],
    extractor: Annotated[
        str | None, typer.Option(help="Features of KID and FID; also image:TOWER. [default: the judge's]")
    ] = None,
    scorer: Annotated[
        str | None, typer.Option(help="Of pictures and sounds, for AIS: a run, random, or oracle.")
    ] = None,
    split: Annotated[str, typer.Option(help="Clips that are judged.")] = "test",
    per_clip: Annotated[int | None, typer.Option(help="Pictures a clip, the first by name. [default: all]")] = None,
    name: Annotated[str | None, typer.Option(help="Of what made the pictures. [default: that of their folder]")] = None,
    same_judge: Annotated[
        bool, typer.Option("--same-judge", help="Let a model judge its own choice; the result is labelled circular.")
    ] = False,
    cache: Cache = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Judge pictures made from sounds: R@1 by class names, likeness, KID, FID, each between its floor and its ceiling.

    Example: unibrivl bench vegas --data VEGAS --images pictures --judge clip:clip-vit-b-32 --per-clip 8
    """
    from .protocol import measured
    from .vegas import VegasConfig, measure_vegas
    from .vegas_figures import open_models

    with usage():
        config = VegasConfig(
            data=data, images=images, name=name, split=split, per_clip=per_clip, same_judge=same_judge, cache=cache,
            seed=seed,
        )  # fmt: skip
    protocol = config.protocol(shown_tower(judge), shown_tower(extractor) if extractor else None)
    with bar("vegas") as step:
        result = measured(
            lambda: measure_vegas(config, open_models(judge, extractor, scorer, seed), step),
            bench="vegas", protocol=protocol, tower=config.tower, seed=seed,
        )  # fmt: skip
    tell(result, out, as_json, _print)


def _print(told: dict[str, Any]) -> None:
    from .vegas import rows

    print_table(f"vegas, {told['tower']}, {told['protocol']}", COLUMNS, rows(told))
    covered = told["coverage"]
    typer.echo(
        f"status: {told['status']}; {covered['pictures']:,} pictures of {covered['clips']:,} clips, of "
        f"{covered['listed']:,} listed; {covered['black']:,} black ones left out"
    )
    if told["fid_flag"] is not None:
        typer.echo(f"FID: {told['fid_flag']}")
    for one in told["circular"]:
        typer.echo(f"circular: {one}")
