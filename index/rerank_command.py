"""The command `unibrivl rerank`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import UnibrivlError
from ..model.train_command import Moved
from ..shards.console import Json, bar, print_json, print_table, usage
from .query_command import (
    Items,
    MinusItems,
    MinusPictures,
    MinusSounds,
    MinusWords,
    Pictures,
    Sounds,
    Weights,
    Words,
    read_weights,
)

if TYPE_CHECKING:
    from .rerank_files import RerankConfig, Reranked


def rerank(
    place: Annotated[Path, typer.Argument(help="Index, or run, whose model scores the pictures.")],
    images: Annotated[list[Path] | None, typer.Argument(help="Picture files, and folders of them.")] = None,
    images_from: Annotated[Path | None, typer.Option(help="File with one of them a line.")] = None,
    audio: Sounds = None,
    image: Pictures = None,
    text: Words = None,
    item: Items = None,
    minus_audio: MinusSounds = None,
    minus_image: MinusPictures = None,
    minus_text: MinusWords = None,
    minus_item: MinusItems = None,
    weight: Weights = None,
    keep: Annotated[int, typer.Option(help="Pictures that are chosen.")] = 1,
    run: Annotated[Path | None, typer.Option(help="Folder of the run, if it was moved.")] = None,
    image_tower: Moved = None,
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with the pictures that are chosen.")] = None,
) -> None:
    """Sort pictures from anywhere by how near they are to a sound; exits with 1 if one could not be read.

    Example: unibrivl rerank try/index --audio dog.wav pictures --keep 4 --html chosen.html
    """
    from .query import asked_of
    from .rerank_files import RerankConfig

    named = {
        "audio": audio, "image": image, "text": text, "item": item, "minus_audio": minus_audio,
        "minus_image": minus_image, "minus_text": minus_text, "minus_item": minus_item,
    }  # fmt: skip
    values = {kind: tuple(map(str, given)) for kind, given in named.items() if given}
    with usage():
        config = RerankConfig(
            place=place, asked=asked_of(values, read_weights(weight or [])), images=tuple(images or ()),
            images_from=images_from, keep=keep, run=run, image_tower=image_tower,
        )  # fmt: skip
    _tell(_sorted(config, html), as_json, html)


def _sorted(config: "RerankConfig", html: Path | None) -> "Reranked":
    from ..shards.checks import check_file
    from .rerank_files import rerank_files

    if html is not None:
        check_file(html, UnibrivlError)
    with bar("rerank", unit="pictures") as step:
        reranked = rerank_files(config, step)
    if html is not None:
        from .page import write_page
        from .rerank_page import rerank_page

        write_page(rerank_page(reranked), html)
    return reranked


def _tell(reranked: "Reranked", as_json: bool, html: Path | None) -> None:
    from .rerank_page import COLUMNS, cells

    if as_json:
        print_json(reranked.rows())
    else:
        print_table("nearest pictures", COLUMNS, [cells(one) for one in reranked.placed])
        typer.echo(f"{len(reranked.placed)} pictures, {len(reranked.placed) - len(reranked.result.ranked)} dropped")
        if html is not None:
            typer.echo(f"page: {html}")
    if faults := reranked.faults:
        typer.echo(f"error: {len(faults)} of {len(reranked.placed)} pictures could not be read; their rows say why",
                   err=True)  # fmt: skip
        raise typer.Exit(1)
