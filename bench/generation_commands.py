"""The commands of how pictures are chosen for a sound: `unibrivl bench rerank`, `noise-search` and `volume`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import UnibrivlError
from ..shards.console import Json, bar, print_table, usage
from .row_commands import Out, Seed, tell


def bench_noise_search(
    index: Annotated[Path, typer.Argument(help="Index whose model scores, and whose sounds are asked for.")],
    judge: Annotated[Path, typer.Option(help="Another run, or the folder of a CLIP-like model.")],
    pipeline: Annotated[str | None, typer.Option(help="Pipeline of diffusers. [default: a tiny one, drawn]")] = None,
    split: Annotated[str, typer.Option(help="Where the sounds are drawn.")] = "test",
    sounds: Annotated[int, typer.Option(help="Sounds.")] = 10,
    n: Annotated[int, typer.Option("-n", help="Whole pictures that each method may spend.")] = 40,
    steps: Annotated[int, typer.Option(help="Of the scheduler.")] = 10,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure pruning and noise search beside best-of-n at equal cost, and what a judge says of their choices.

    Example: unibrivl bench noise-search try/index --judge try/judge --out noise-search.json
    """
    from .noise_search import COLUMNS, PROTOCOL, NoiseSearchConfig, measure_noise_search, rows
    from .protocol import measured

    with usage():
        config = NoiseSearchConfig(
            index=index, judge=judge, pipeline=pipeline, split=split, sounds=sounds, n=n, steps=steps, seed=seed
        )
    with bar("noise search", unit="sounds") as step:
        result = measured(
            lambda: measure_noise_search(config, step), bench="noise-search", protocol=PROTOCOL, tower=index.name,
            seed=seed,
        )  # fmt: skip
    tell(result, out, as_json, lambda told: print_table("searches at equal cost", COLUMNS, rows(told)))


def bench_rerank(
    index: Annotated[Path, typer.Argument(help="Index with the sounds and the pictures.")],
    size: Annotated[
        list[int] | None, typer.Option("--size", help="Pictures a pool; repeat. [default: 4, 8, 20]")
    ] = None,
    query_split: Annotated[str, typer.Option(help="Split whose sounds are asked for.")] = "test",
    gallery_split: Annotated[str, typer.Option(help="Split whose pictures fill the pools.")] = "test",
    draws: Annotated[int, typer.Option(help="Pools a sound and size.")] = 20,
    by_command: Annotated[int, typer.Option(help="Pools that also go through unibrivl rerank, as files.")] = 10,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure how often a held-out sound's true picture is chosen first from a pool, beside chance and two controls.

    Example: unibrivl bench rerank try/index --out rerank.json
    """
    from .protocol import measured
    from .rerank import COLUMNS, PROTOCOL, SIZES, RerankBenchConfig, measure_rerank, rows

    with usage():
        config = RerankBenchConfig(
            index=index, query_split=query_split, gallery_split=gallery_split, sizes=tuple(size or SIZES),
            draws=draws, by_command=by_command, seed=seed,
        )  # fmt: skip
    with bar("rerank", unit="sizes") as step:
        result = measured(
            lambda: measure_rerank(config, step), bench="rerank", protocol=PROTOCOL, tower=index.name, seed=seed
        )

    def show(told: dict[str, Any]) -> None:
        print_table("true picture chosen first", COLUMNS, rows(told))
        if (by := told["command"]) is not None:
            typer.echo(
                f"by the command: {by['true_first']} of {by['pools']} pools of {by['size']} true first, "
                f"{by['same_choice']} of {by['pools']} the same choice"
            )

    tell(result, out, as_json, show)


def bench_volume(
    index: Annotated[Path, typer.Argument(help="Index whose model hears, with the sounds and the pictures.")],
    split: Annotated[str, typer.Option(help="Where both are drawn.")] = "test",
    sounds: Annotated[int, typer.Option(help="Sounds.")] = 20,
    pictures: Annotated[int, typer.Option(help="Of the fixed pool.")] = 20,
    large: Annotated[str, typer.Option(help="Words for loud, if the run reads text.")] = "a large thing",
    small: Annotated[str, typer.Option(help="Words for soft.")] = "a small thing",
    pipeline: Annotated[str | None, typer.Option(help="Pipeline of diffusers, for the noise floor.")] = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with the curves.")] = None,
) -> None:
    """Measure what loudness does to embeddings and to the choice of pictures, if the front end lets any of it through.

    Example: unibrivl bench volume try/index --html volume.html
    """
    from ..index.page import write_page
    from ..shards.checks import check_file
    from .protocol import measured
    from .volume import COLUMNS, PROTOCOL, VolumeConfig, measure_volume, rows, summary
    from .volume_page import volume_page

    with usage():
        config = VolumeConfig(
            index=index, split=split, sounds=sounds, pictures=pictures, large=large, small=small, pipeline=pipeline,
            seed=seed,
        )  # fmt: skip
    if html is not None:
        check_file(html, UnibrivlError)
    with bar("volume", unit="arms") as step:
        result = measured(
            lambda: measure_volume(config, step), bench="volume", protocol=PROTOCOL, tower=index.name, seed=seed
        )
    if html is not None and not result.expected:
        write_page(volume_page(result.as_dict()), html)

    def show(told: dict[str, Any]) -> None:
        print_table("levels, means over sounds", COLUMNS, rows(told))
        for line in summary(told):
            typer.echo(line)

    tell(result, out, as_json, show)


GENERATION: dict[str, Callable[..., None]] = {
    "noise-search": bench_noise_search,
    "rerank": bench_rerank,
    "volume": bench_volume,
}
"""By the name that is typed."""
