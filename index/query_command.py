"""The command `unibrivl query`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import UnibrivlError
from ..model.train_command import Moved
from ..shards.console import Json, bar, print_json, print_table, usage

if TYPE_CHECKING:
    from .answers import QueryResult
    from .query import QueryConfig

MINUS_PANEL = "Taken away"


class Target(StrEnum):
    """What `query` searches."""

    image = "image"
    audio = "audio"
    both = "both"


class Fuse(StrEnum):
    """How parts are combined."""

    sum = "sum"
    rrf = "rrf"


def _option(metavar: str, help_text: str, panel: str | None = None) -> Any:
    return typer.Option(metavar=metavar, help=help_text, rich_help_panel=panel)


Sounds = Annotated[list[Path] | None, _option("FILE", "Sound to search with; give several to combine them.")]
Pictures = Annotated[list[Path] | None, _option("FILE", "Picture to search with.")]
Words = Annotated[list[str] | None, _option("WORDS", "Words to search with, if the run reads text.")]
Items = Annotated[list[str] | None, _option("ID", "Item of the index to search with: more like this.")]
MinusSounds = Annotated[list[Path] | None, _option("FILE", "Sound.", MINUS_PANEL)]
MinusPictures = Annotated[list[Path] | None, _option("FILE", "Picture.", MINUS_PANEL)]
MinusWords = Annotated[list[str] | None, _option("WORDS", "Words.", MINUS_PANEL)]
MinusItems = Annotated[list[str] | None, _option("ID", "Item.", MINUS_PANEL)]
Weights = Annotated[
    list[str] | None, _option("KIND=W", "How much a kind counts, such as audio=2 or minus-text=0.5; 1 else.")
]
Filters = Annotated[
    list[str] | None,
    _option("FILTER", "Such as labels=Dog, split=test,train, duration_s>=5, caption~cat, or JSON; all must hold."),
]
AcceptOther = Annotated[
    bool,
    typer.Option("--accept-other-encoder", help="Go on with a model that did not build the index; answers say so."),
]

Milvus = Annotated[
    str | None,
    _option("URI", "Search the vectors where `unibrivl push` put them: http://HOST:PORT or a file of Milvus Lite."),
]


def query(
    index: Annotated[Path, typer.Argument(help="Index to search.")],
    audio: Sounds = None,
    image: Pictures = None,
    text: Words = None,
    item: Items = None,
    minus_audio: MinusSounds = None,
    minus_image: MinusPictures = None,
    minus_text: MinusWords = None,
    minus_item: MinusItems = None,
    weight: Weights = None,
    fuse: Annotated[Fuse, typer.Option(help="Combine by the weighted sum, or by reciprocal ranks.")] = Fuse.sum,
    to: Annotated[Target, typer.Option(help="What to search.")] = Target.both,
    k: Annotated[int, typer.Option("-k", help="Answers a list.")] = 10,
    where: Filters = None,
    exact: Annotated[bool, typer.Option("--exact", help="Scan every item although there is an ANN index.")] = False,
    distinct: Annotated[bool, typer.Option(help="List equal contents once.")] = True,
    near: Annotated[float | None, typer.Option(help="Also leave out what lies this near to a better answer.")] = None,
    batch: Annotated[Path | None, typer.Option(help="Questions, JSONL or CSV; the answers are JSONL.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the answers of --batch there.")] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run, if it was moved.")] = None,
    image_tower: Moved = None,
    accept_other_encoder: AcceptOther = False,
    milvus: Milvus = None,
    explain: Annotated[bool, typer.Option("--explain", help="Tell how the answers were found.")] = False,
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures and players.")] = None,
) -> None:
    """Find the clips nearest to sounds, pictures and words, alone or together.

    Example: unibrivl query try/index --audio try/stamps/media/--M0ewU2XAo.mp4 --to image --html answers.html
    """
    from .query import QueryConfig, asked_of

    named = {
        "audio": audio, "image": image, "text": text, "item": item, "minus_audio": minus_audio,
        "minus_image": minus_image, "minus_text": minus_text, "minus_item": minus_item,
    }  # fmt: skip
    values = {kind: tuple(map(str, given)) for kind, given in named.items() if given}
    with usage():
        _refuse_mixtures(values, batch, out, html, as_json)
        config = QueryConfig(
            index=index, asked=() if batch else asked_of(values, read_weights(weight or [])), to=to.value, k=k,
            where=tuple(where or ()), exact=exact, fuse=fuse.value, distinct=distinct, near=near, run=run,
            image_tower=image_tower, accept_other_encoder=accept_other_encoder, milvus=milvus,
        )  # fmt: skip
    if batch is not None:
        _answer_batch(config, batch, out, as_json)
    else:
        _answer(config, html, as_json, explain)


def _refuse_mixtures(
    values: dict[str, Any], batch: Path | None, out: Path | None, html: Path | None, as_json: bool
) -> None:
    if batch is not None and values:
        raise ValueError("batch has the questions; leave --audio, --image, --text and --item out")
    if batch is not None and html is not None:
        raise ValueError("html is the page of one question; leave it out with --batch")
    if batch is not None and out is None and as_json:
        raise ValueError("batch prints JSONL as it is; leave --json out, or name a file with --out")
    if batch is None and out is not None:
        raise ValueError("out is for the answers of --batch; give --batch FILE")


def read_weights(told: list[str]) -> dict[str, tuple[float, ...]]:
    """Read `KIND=W` or `KIND=W,W`: the weights of the first, second, ... of that kind."""
    found: dict[str, tuple[float, ...]] = {}
    for text in told:
        kind, _, numbers = text.partition("=")
        try:
            found[kind.strip().replace("-", "_")] = tuple(float(number) for number in numbers.split(","))
        except ValueError:
            raise ValueError(f"weight is {text[:40]!r}, want a kind and a number, such as audio=2") from None
    return found


def _answer(config: "QueryConfig", html: Path | None, as_json: bool, explain: bool) -> None:
    from ..shards.checks import check_file
    from .query import ask

    if html is not None:
        check_file(html, UnibrivlError)
    engine, result = ask(config)
    if html is not None:
        from .cards import query_page
        from .page import write_page

        write_page(query_page(config, engine.snapshot, result), html)
    if as_json:
        print_json(result.as_dict())
        return
    _print_answers(result)
    if explain:
        _print_explanation(result)
    if html is not None:
        typer.echo(f"page: {html}")


def _answer_batch(config: "QueryConfig", questions: Path, out: Path | None, as_json: bool) -> None:
    from .batchfile import run_batch, write_batch

    with bar("query", unit="questions") as step:
        if out is None:
            result = run_batch(config, questions, sys.stdout, step)
        else:
            result = write_batch(config, questions, out, step)
    told = {"questions": result.questions, "failed": result.failed}
    if result.failed:
        message = f"{questions}: {result.failed} of {result.questions} questions have no answer; their lines say why"
        raise UnibrivlError(message, figures=told)
    if as_json:
        print_json(told | {"out": str(out)})
    elif out is not None:
        typer.echo(f"{result.questions} questions answered in {out}")


def _print_answers(result: "QueryResult") -> None:
    if result.other_encoder is not None:
        typer.echo(f"warning: {result.other_encoder}", err=True)
    for modality, answers in result.results.items():
        rows = [
            (str(a.rank), f"{a.score:.3f}", f"{a.percentile:.1f}", a.caption, ", ".join(a.labels), a.split,
             f"{a.start_ms / 1000:g}-{a.end_ms / 1000:g} s", a.key)
            for a in answers
        ]  # fmt: skip
        columns = ("", "cosine", "above %", "caption", "labels", "split", "time", "key")
        print_table(f"nearest {modality}", columns, rows)
    if result.merged is not None:
        rows = [(str(m.rank), f"{m.calibrated:+.2f}", f"{m.percentile:.1f}", f"{m.modality} {m.place}", m.item_id)
                for m in result.merged]  # fmt: skip
        print_table("both, by calibrated score", ("", "deviations", "above %", "list and place", "item"), rows)


def _print_explanation(result: "QueryResult") -> None:
    rows = [
        ("index", f"{result.index}, snapshot {result.snapshot}"),
        *((f"{modality} model", name[:16]) for modality, name in result.encoder.items()),
        ("search", result.mode + "".join(f", {target} {params}" for target, params in result.params.items())),
        ("recall", f"{'not known' if result.recall is None else f'{result.recall:.4f}'}: {result.recall_note}"),
        *((f"recorded {name}", _recall(told)) for name, told in result.recorded.items()),
        *((f"matched {target}", f"{count:,} by {result.filter.strategy[target]}")
          for target, count in result.filter.matched.items()),
        *((f"background {target}", source) for target, source in result.calibration.items()),
        *((f"{name} ms", f"{ms:.2f}") for name, ms in result.timings_ms.items()),
    ]  # fmt: skip
    print_table("how it was found", ("", ""), rows)


def _recall(told: dict[str, Any]) -> str:
    """Return recall at 1, 10 and 100 with its interval."""
    return ", ".join(f"@{k} {v['value']:.4f} ({v['low']:.4f} to {v['high']:.4f})" for k, v in told.items())
