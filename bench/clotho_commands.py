"""The command `unibrivl bench clotho`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..shards.console import Json, bar, usage
from .row_commands import Cache, Out, Seed, Tower, measured_row, open_tower, shown_tower, tell


def bench_clotho(
    data: Annotated[
        Path, typer.Option(help="Folder of Clotho: clotho_captions_*.csv, and development/, validation/, evaluation/.")
    ],
    tower: Tower,
    preset: Annotated[
        str, typer.Option(help="dcase2020 (a layer, greedy) or dcase2024 (six layers, three beams).")
    ] = "dcase2020",
    epochs: Annotated[int | None, typer.Option(help="At most. [default: the preset's, 300 or 400]")] = None,
    limit: Annotated[int | None, typer.Option(help="Clips of each split at most, for a first look.")] = None,
    meteor: Annotated[bool, typer.Option(help="Measure METEOR, too, which takes 2 GiB of memory.")] = True,
    work: Annotated[
        Path | None, typer.Option(help="Folder that keeps the decoder after every epoch: a killed run goes on there.")
    ] = None,
    cache: Cache = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Train a small decoder to write captions from a frozen tower, and score them: CIDEr-D, BLEU, METEOR, ROUGE-L.

    Example: unibrivl bench clotho --data Clotho --tower run --preset dcase2020 --work captions --cache kept
    """
    from .clotho import ClothoConfig, measure_clotho

    with usage():
        config = ClothoConfig(
            data=data, preset=preset, epochs=epochs, limit=limit, meteor=meteor, cache=cache, work=work, seed=seed
        )
    with bar("clotho") as step:
        result = measured_row(
            lambda: measure_clotho(config, open_tower(tower, seed), step), "clotho", config.protocol(),
            shown_tower(tower), seed,
        )  # fmt: skip
    tell(result, out, as_json)
    if not as_json:
        _tell_others(result.more)


def _tell_others(more: dict[str, Any]) -> None:
    figures = ", ".join(f"{n} {value:.5g}" for n, value in more["constant"].items() if n != "caption")
    typer.echo(f"the most frequent caption for every clip, {more['constant']['caption']!r}: {figures}")
    typer.echo(f"{', '.join(more['not_measured'])}: needs-weights, not measured")
