"""The command `unibrivl generate`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..model.train_command import Moved
from ..shards.console import Json, bar, print_json, print_table, usage

if TYPE_CHECKING:
    from .generation import Generation

MAKING, SEARCHING, CHOOSING = "Prompts and pictures", "Search", "Choice"


class Offload(StrEnum):
    """What leaves a GPU's memory."""

    none = "none"
    model = "model"
    sequential = "sequential"


class Method(StrEnum):
    """Where candidates are looked for."""

    best = "best-of-n"
    prune = "prune"
    zero_order = "zero-order"


Prompts = Annotated[
    list[str] | None, typer.Option("--prompt", help="Text to make pictures of; repeat.", rich_help_panel=MAKING)
]
PromptsFile = Annotated[Path | None, typer.Option("--prompts", help="One text a line.", rich_help_panel=MAKING)]
Size = Annotated[str | None, typer.Option(metavar="N|WxH", help="Pixels.", rich_help_panel=MAKING)]


def generate(
    place: Annotated[Path, typer.Argument(help="Index, or run, whose model scores the pictures.")],
    audio: Annotated[Path, typer.Option(help="Sound that the pictures are for.")],
    pipeline: Annotated[str, typer.Option(metavar="DIR|ID", help="Text-to-image pipeline of diffusers.")],
    out: Annotated[Path, typer.Option(help="Folder of the pictures and their record; what is there is kept.")],
    n: Annotated[int, typer.Option("-n", help="Candidates a prompt; other searches cost as much.")] = 20,
    keep: Annotated[int, typer.Option(help="Pictures that are chosen.", rich_help_panel=CHOOSING)] = 4,
    prompt: Prompts = None,
    prompts: PromptsFile = None,
    labels: Annotated[int, typer.Option(help="Prompts drawn from the sound.", rich_help_panel=MAKING)] = 3,
    template: Annotated[str, typer.Option(help="Of drawn ones.", rich_help_panel=MAKING)] = "a photo of {label}",
    steps: Annotated[int | None, typer.Option(help="Of the scheduler.", rich_help_panel=MAKING)] = None,
    guidance: Annotated[float | None, typer.Option(help="Of the prompt.", rich_help_panel=MAKING)] = None,
    size: Size = None,
    seed: Annotated[int, typer.Option(help="The first; the others count up.", rich_help_panel=MAKING)] = 0,
    batch: Annotated[int | None, typer.Option(help="Pictures at once.", rich_help_panel=MAKING)] = None,
    offload: Annotated[Offload, typer.Option(help="To spare a GPU.", rich_help_panel=MAKING)] = Offload.none,
    previews: Annotated[bool, typer.Option("--previews", help="Write them, too.", rich_help_panel=MAKING)] = False,
    search: Annotated[Method, typer.Option(help="Where to look.", rich_help_panel=SEARCHING)] = Method.best,
    preview_steps: Annotated[int | None, typer.Option(help="Of prune.", rich_help_panel=SEARCHING)] = None,
    finalists: Annotated[int | None, typer.Option(help="Of prune.", rich_help_panel=SEARCHING)] = None,
    neighbours: Annotated[int, typer.Option(help="Of zero-order, a round.", rich_help_panel=SEARCHING)] = 2,
    mix: Annotated[float, typer.Option(help="Of zero-order: new noise.", rich_help_panel=SEARCHING)] = 0.3,
    judge: Annotated[
        Path | None, typer.Option(help="Another run or a CLIP folder: a second opinion.", rich_help_panel=CHOOSING)
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run, if it was moved.")] = None,
    image_tower: Moved = None,
    as_json: Json = False,
) -> None:
    """Make pictures with a diffusion pipeline and keep those that fit a sound best.

    Example: unibrivl generate try/index --audio dog.wav --pipeline stable-diffusion --prompt "a dog" --out pictures
    """
    from .generate import generate as make
    from .generation import GenerateConfig
    from .noise_search import SearchConfig
    from .pipelines import PipelineConfig
    from .prompts import PromptConfig

    with usage():
        config = GenerateConfig(
            place=place, audio=audio, out=out, keep=keep, steps=steps, guidance=guidance, size_px=_size(size),
            batch=batch, previews=previews, judge=judge, run=run, image_tower=image_tower,
            pipeline=PipelineConfig(name=pipeline, offload=offload.value),
            prompts=PromptConfig(given=tuple(prompt or ()), file=prompts, labels=labels, template=template),
            search=SearchConfig(
                method=search.value, n=n, seed=seed, preview_steps=preview_steps, finalists=finalists,
                neighbours=neighbours, mix=mix,
            ),
        )  # fmt: skip
    with bar("generate", unit="pictures") as step:
        generation = make(config, step)
    if as_json:
        print_json(generation.rows())
    else:
        _print(generation)


def _size(told: str | None) -> tuple[int, int] | None:
    """Return width and height of `512` or `768x512`."""
    if told is None:
        return None
    numbers = told.lower().split("x")
    if not (1 <= len(numbers) <= 2 and all(number.isdecimal() for number in numbers)):
        raise ValueError(f"size is {told[:40]!r}, want pixels such as 512 or 768x512")
    return int(numbers[0]), int(numbers[-1])


def _print(generation: "Generation") -> None:
    from .baselines import baselines
    from .generation import PAGE, RECORD

    drawn = [(p.text, p.label or "", f"{p.score:.0%}") for p in generation.prompts if p.score is not None]
    if drawn:
        print_table("prompts drawn from the sound", ("prompt", "label", "share"), drawn)
    rows = [
        (str(one.ranked.rank), f"{one.ranked.score:z.3f}", _number(one.ranked.calibrated, "+z.2f"),
         _number(one.ranked.percentile, ".1f"), generation.prompts[one.tried.candidate.prompt].text,
         str(one.tried.candidate.seed), one.tried.made.path.name)
        for one in generation.kept if one.ranked is not None and one.tried.made is not None
    ]  # fmt: skip
    print_table("kept", ("", "cosine", "deviations", "above %", "prompt", "seed", "file"), rows)
    columns = ("", "cosine", "deviations", *["judge"] * (generation.judge is not None))
    worth = [
        (one.name, f"{one.score:z.3f}", _number(one.z, "+z.2f"), _number(one.judged, "z.3f"))[: len(columns)]
        for one in baselines(generation)
    ]
    print_table("what the choice is worth", columns, worth)
    dropped = sum(bool(one.tried.dropped) for one in generation.placed)
    out = generation.config.out
    typer.echo(
        f"{len(generation.placed)} candidates, {dropped} dropped, {generation.found} were there already, "
        f"{generation.evaluations:,} evaluations of the network\npage: {out / PAGE}\nrecord: {out / RECORD}"
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
