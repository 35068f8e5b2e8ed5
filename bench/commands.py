"""The commands `unibrivl bench ...`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ..ingest.commands import SampleName
from ..ingest.console import Json, print_json, print_table, usage

app = typer.Typer(help="Measurements, each beside chance or a named peer.", no_args_is_help=True)


@app.command("retrieval")
def bench_retrieval(
    index: Annotated[Path, typer.Argument(help="Index with the queries and the gallery.")],
    query_split: Annotated[str, typer.Option(help="Split whose items are the queries.")] = "test",
    gallery_split: Annotated[str, typer.Option(help="Split whose items are searched.")] = "test",
    permutations: Annotated[int, typer.Option(help="Of the control.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the control and the examples.")] = 0,
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with the figures and six examples.")] = None,
) -> None:
    """Measure held-out retrieval in both directions, beside chance and a permutation control.

    Example: unibrivl bench retrieval try/index --html retrieval.html
    """
    from ..index.page import write_page
    from .retrieval import RetrievalConfig, measure
    from .retrieval_page import COLUMNS, figure_rows, retrieval_page

    with usage():
        config = RetrievalConfig(
            index=index, query_split=query_split, gallery_split=gallery_split, permutations=permutations, seed=seed
        )
    measured = measure(config)
    if html is not None:
        write_page(retrieval_page(config, measured, ()), html)
    if as_json:
        print_json({name: direction.as_dict() | {"seed": seed} for name, direction in measured.items()})
    else:
        rows = [row for name, direction in measured.items() for row in figure_rows(name, direction.as_dict())]
        print_table("held-out retrieval", COLUMNS, rows)


@app.command("demo")
def bench_demo(
    sample: Annotated[SampleName, typer.Option(help="Corpus to show.")] = SampleName.stamps,
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of training, control and examples.")] = 0,
    started: Annotated[float | None, typer.Option(hidden=True, help="Unix time at which setup began.")] = None,
) -> None:
    """Take a sample corpus the whole way to a page of answers, one timed step after the other.

    Example: unibrivl bench demo --sample stamps --out demo
    """
    setup_s = None if started is None else time.time() - started
    from .demo import DemoConfig, run_demo
    from .retrieval_page import COLUMNS, figure_rows

    config = DemoConfig(sample=sample.value, out=out, setup_s=setup_s, seed=seed)
    summary = run_demo(config, lambda name, s, command: typer.echo(f"{name:<10}{s:>7.1f} s   {command}"))
    rows = [row for name, figures in summary["retrieval"].items() for row in figure_rows(name, figures)]
    print_table(f"held-out retrieval, {sample.value}", COLUMNS, rows)
    typer.echo(f"page: {summary['page']}\nsummary: {out / 'summary.json'}")
