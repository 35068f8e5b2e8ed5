"""The command `unibrivl bench desed`."""

from pathlib import Path
from typing import Annotated

import typer

from ..shards.console import Json, bar, usage
from .row_commands import Cache, Out, Seed, Tower, measured_row, open_tower, shown_tower, tell


def bench_desed(
    data: Annotated[Path, typer.Option(help="Folder of DESED, which holds metadata/ and audio/.")],
    tower: Tower,
    subset: Annotated[
        str, typer.Option(help="Files to measure: synth21-val, real-val or public-eval.")
    ] = "synth21-val",
    probe: Annotated[str, typer.Option(help="l3, hear, or zero-shot (words, without training).")] = "l3",
    labels: Annotated[
        str, typer.Option(help="That a probe is trained on: strong (synthetic, in time), or weak (real, whole files).")
    ] = "strong",
    template: Annotated[str, typer.Option(help="Of zero-shot: bare, laion or ensemble.")] = "laion",
    cache: Cache = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find sounds at home in time by a frozen tower, in windows of a second: F1 of segments and events, PSDS.

    Thresholds come from a tenth of the synthetic training files, never from those that are measured.

    Example: unibrivl bench desed --data DESED --tower run --subset real-val
    """
    from .desed_detection import DesedConfig, measure_desed

    with usage():
        config = DesedConfig(
            data=data, subset=subset, probe=probe, labels=labels, template=template, cache=cache, seed=seed
        )
    with bar("desed") as step:
        result = measured_row(
            lambda: measure_desed(config, open_tower(tower, seed), step), "desed", config.protocol(),
            shown_tower(tower), seed,
        )  # fmt: skip
    tell(result, out, as_json)
