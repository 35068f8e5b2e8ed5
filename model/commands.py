"""The commands `unibrivl model ...`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..shards.console import Json, print_json, usage

SHOWN = 12
"""Names of tensors without weights that `import` prints."""

app = typer.Typer(help="Published weights in, and what a folder of weights is.", no_args_is_help=True)


class Kind(StrEnum):
    """Whose weights `import` reads."""

    brivl = "brivl"
    speechlm = "speechlm"
    hubert = "hubert"
    wav2clip = "wav2clip"


@app.command("import")
def model_import(
    kind: Annotated[Kind, typer.Argument(help="Whose weights they are.")],
    file: Annotated[Path, typer.Argument(help="Published checkpoint; of hubert also a folder of transformers.")],
    out: Annotated[Path | None, typer.Option(help="Folder to make; without it, only tell what would fit.")] = None,
    image_px: Annotated[
        int | None, typer.Option(help="Side of BriVL's input. [default: 380 for B5, 384 for B7]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn a published checkpoint into a folder of weights; nothing in the file is ever run.

    Every tensor must find its place, or the import is refused by name. HuBERT is a start for SpeechLM: what it lacks
    is listed and starts neutral.

    Example: unibrivl model import brivl BriVL-1.0-5500w.pth --out towers/brivl
    """
    from .imports import ImportConfig, import_weights

    with usage():
        config = ImportConfig(kind=kind.value, file=file, out=out, image_px=image_px)
    report = import_weights(config)
    if as_json:
        print_json(report.as_dict() | {"out": None if out is None else str(out)})
        return
    ignored = ", ".join(f"{count} of {group}" for group, count in report.ignored.items())
    typer.echo(f"{report.layout}: {report.matched} tensors fit, {report.parameters:,} parameters")
    typer.echo(
        f"{sum(report.ignored.values())} tensors of other networks ignored" + (f": {ignored}" if ignored else "")
    )
    if report.missing:
        more = f" and {len(report.missing) - SHOWN} more" if len(report.missing) > SHOWN else ""
        typer.echo(f"{len(report.missing)} not in the checkpoint, at a neutral start: "
                   f"{', '.join(report.missing[:SHOWN])}{more}")  # fmt: skip
    typer.echo("nothing written: give --out to import" if out is None else f"{out}: fingerprint {report.fingerprint}")


@app.command("info")
def model_info(
    folder: Annotated[Path, typer.Argument(help="Imported weights, or a run.")],
    as_json: Json = False,
) -> None:
    """Tell what a folder of weights is: kind, sizes, parameters, fingerprint and source.

    Example: unibrivl model info towers/brivl
    """
    from .info import describe_folder

    info = describe_folder(folder)
    if as_json:
        print_json(info.as_dict())
        return
    typer.echo(f"{info.kind}: {info.parameters:,} numbers in {info.tensors} tensors")
    for title, values in (("sizes", info.sizes), ("source", info.source)):
        typer.echo(f"{title}: {_told(values)}")
    if info.fresh:
        typer.echo(f"not in the release: {len(info.fresh)} tensors, among them {info.fresh[0]}")
    typer.echo(f"fingerprint: {info.fingerprint}")


def _told(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
