"""The commands `unibrivl bench ...`."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import UnibrivlError
from ..ingest.commands import SampleName
from ..shards.console import Json, bar, print_json, print_table, usage
from .all_command import bench_all
from .drill_command import bench_drills
from .generation_commands import GENERATION
from .human_commands import app as human
from .row_commands import Out, Seed
from .scale_commands import bench_costs
from .table_commands import TABLES

app = typer.Typer(help="Measurements, each beside chance or a named peer.", no_args_is_help=True)
speed = typer.Typer(help="Speed beside named peers and measured limits, in one run.", no_args_is_help=True)
app.add_typer(speed, name="speed")
app.add_typer(human, name="human")
for _name, _command in (TABLES | GENERATION).items():
    app.command(_name)(_command)
app.command("all")(bench_all)
app.command("costs")(bench_costs)
app.command("drills")(bench_drills)

Quick = Annotated[bool, typer.Option("--quick", help="Under a minute, for a first look.")]
Work = Annotated[Path | None, typer.Option(help="Folder for media and shards. [default: that for temporary files]")]


@app.command("retrieval")
def bench_retrieval(
    index: Annotated[Path, typer.Argument(help="Index with the queries and the gallery.")],
    query_split: Annotated[str, typer.Option(help="Split whose items are the queries.")] = "test",
    gallery_split: Annotated[str, typer.Option(help="Split whose items are searched.")] = "test",
    permutations: Annotated[int, typer.Option(help="Of the control.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the control and the examples.")] = 0,
    ridge: Annotated[bool, typer.Option("--ridge", help="Beside a linear map of mean log-mel spectra, too.")] = False,
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with the figures and six examples.")] = None,
) -> None:
    """Measure held-out retrieval in both directions, beside chance and a permutation control.

    Example: unibrivl bench retrieval try/index --html retrieval.html
    """
    from ..index.page import write_page
    from ..shards.checks import check_file
    from .retrieval import RetrievalConfig, measure
    from .retrieval_page import COLUMNS, figure_rows, retrieval_page

    with usage():
        config = RetrievalConfig(
            index=index,
            query_split=query_split,
            gallery_split=gallery_split,
            permutations=permutations,
            seed=seed,
            ridge=ridge,
        )
    if html is not None:
        check_file(html, UnibrivlError)
    measured = measure(config)
    if html is not None:
        write_page(retrieval_page(config, measured, ()), html)
    if as_json:
        print_json({name: direction.as_dict() | {"seed": seed} for name, direction in measured.items()})
    else:
        rows = [row for name, direction in measured.items() for row in figure_rows(name, direction.as_dict())]
        print_table("held-out retrieval", COLUMNS, rows)


@app.command("reference")
def bench_reference(
    folder: Annotated[Path, typer.Argument(help="Folder with files of reference tensors.")],
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest error of an output of unit scale; larger ones may differ by more.")
    ] = 1e-5,
    verbose: Annotated[bool, typer.Option("--verbose", help="A row for each tensor.")] = False,
    as_json: Json = False,
) -> None:
    """Run our networks and losses on reference tensors and tell how far the results are from the original's.

    The beginning of a file's name is its kind: speechlm_, brivl_, cx_loss or moco_loss. Exits with 1 if one differs.

    Example: unibrivl bench reference reference --tolerance 1e-5
    """
    from .reference import COLUMNS, EACH_COLUMNS, check_folder, each_rows, rows

    results = check_folder(folder, tolerance)
    if as_json:
        print_json([result.as_dict(verbose=verbose) for result in results])
    else:
        print_table("our results beside the original's", COLUMNS, rows(results))
        for result in results if verbose else []:
            print_table(result.file, EACH_COLUMNS, each_rows(result))
        for result in results:
            if result.unchecked:
                typer.echo(f"{result.file}: not compared: {', '.join(result.unchecked)}")
    if not all(result.passed for result in results):
        raise typer.Exit(1)


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


@speed.command("ingest")
def speed_ingest(
    quick: Quick = False,
    repeats: Annotated[int | None, typer.Option(help="Turns of each contender.")] = None,
    memory_clips: Annotated[int | None, typer.Option(help="Clips over which memory is watched.")] = None,
    seed: Seed = 0,
    work: Work = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure ingestion of 10 s 720p clips beside ffmpeg as people call it, and beside its own floor.

    Example: unibrivl bench speed ingest --quick
    """
    from .speed_ingest import COLUMNS, IngestSpeedConfig, measure_ingest, rows

    with usage():
        config = IngestSpeedConfig(quick=quick, repeats=repeats, memory_clips=memory_clips, seed=seed, work=work)
    with bar("ingest") as step:
        result = measure_ingest(config, step)
    names = ("ratio_vs_ffmpeg_two_outputs", "ratio_vs_ffmpeg_keyframes", "ratio_to_floor", "scaling_2_workers")
    _show_speed(result, COLUMNS, rows(result), (*names, "scaling_2_floors", "rss_growth_mb"), out, as_json)


@speed.command("reader")
def speed_reader(
    quick: Quick = False,
    peers_python: Annotated[
        Path | None, typer.Option(help="Python that has MosaicML streaming, litData and webdataset (make peers).")
    ] = None,
    seed: Seed = 0,
    work: Work = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure reading in random order, raw and decoded, beside webdataset, MosaicML streaming and litData.

    Example: unibrivl bench speed reader --quick
    """
    from .speed_reader import COLUMNS, ReaderSpeedConfig, measure_reader, rows

    with usage():
        python = peers_python and peers_python.absolute()  # not resolved: an environment is known by its link
        config = ReaderSpeedConfig(quick=quick, peers_python=python, seed=seed, work=work)
    with bar("reader") as step:
        result = measure_reader(config, step)
    names = ("ratio_vs_webdataset_raw", "ratio_vs_best_peer_raw", "ratio_vs_webdataset_decoded")
    _show_speed(result, COLUMNS, rows(result), (*names, "ratio_decoded_to_flac_only"), out, as_json)


@speed.command("train")
def speed_train(
    quick: Quick = False,
    device: Annotated[str, typer.Option(help="auto: a GPU where there is one; or cpu.")] = "auto",
    repeats: Annotated[int | None, typer.Option(help="Turns of each contender.")] = None,
    batch: Annotated[int | None, typer.Option(help="Clips in a pass and in a step.")] = None,
    gpu_batch: Annotated[int | None, typer.Option(help="Clips in a step of SpeechLM-Large on a GPU.")] = None,
    seed: Seed = 0,
    work: Work = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure attention beside its published form, a step with and without kept pictures, and a GPU's share of use.

    Example: unibrivl bench speed train --quick
    """
    from .speed_train import COLUMNS, TrainSpeedConfig, measure_train, rows

    with usage():
        config = TrainSpeedConfig(
            quick=quick, device=device, repeats=repeats, batch=batch, gpu_batch=gpu_batch, seed=seed, work=work
        )
    with bar("train") as step:
        result = measure_train(config, step)
    names = ("ratio_attention_time", "ratio_attention_memory", "ratio_cached_step", "mfu", "data_wait_share")
    _show_speed(result, COLUMNS, rows(result), (*names, "clips_per_s"), out, as_json)


@speed.command("index")
def speed_index(
    quick: Quick = False,
    rows_: Annotated[int, typer.Option("--rows", help="Vectors to search.")] = 100_000,
    dim: Annotated[int, typer.Option(help="Numbers of a vector.")] = 512,
    engines: Annotated[
        str | None, typer.Option(metavar="A,B", help="Some of them. (default: all that there are; quick: 3)")
    ] = None,
    peers_python: Annotated[
        Path | None, typer.Option(help="Python with LanceDB, Milvus Lite, Qdrant and Chroma, to measure them too.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Turns of each engine.")] = None,
    seed: Seed = 0,
    work: Work = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the curves.")] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure search beside FAISS, usearch, hnswlib and local vector stores.

    Example: unibrivl bench speed index --quick --html curves.html
    """
    from .speed_index import COLUMNS, IndexSpeedConfig, measure_index, rows

    with usage():
        config = IndexSpeedConfig(
            quick=quick, rows=rows_, dim=dim, engines=tuple(engines.split(",")) if engines else None, rounds=rounds,
            peers_python=peers_python and peers_python.absolute(), seed=seed, work=work,
        )  # fmt: skip
    with bar("index") as step:
        result = measure_index(config, step)
    if html is not None:
        from .speed_index_page import write_curves

        write_curves(result, html)
    names = ("ratio_ood_at_095_batch", "ratio_ood_at_095_single", "exact_single_share", "exact_batch_share")
    _show_speed(result, COLUMNS, rows(result), names, out, as_json)


@speed.command("serve")
def speed_serve(
    index: Annotated[Path, typer.Argument(help="Index to serve.")],
    quick: Quick = False,
    clients: Annotated[int, typer.Option(help="Clients that ask at once.")] = 64,
    seconds: Annotated[float | None, typer.Option(help="How long a round is. (default: 60)")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds; the last counts. (default: 5)")] = None,
    max_waiting: Annotated[int, typer.Option(help="As of unibrivl serve.")] = 64,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure the server with one client and with many, on loopback.

    Example: unibrivl bench speed serve try/index --quick
    """
    from .speed_serve import COLUMNS, ServeSpeedConfig, measure_serve, rows

    with usage():
        config = ServeSpeedConfig(
            index=index, clients=clients, seconds=seconds, rounds=rounds, max_waiting=max_waiting, quick=quick
        )
    with bar("serve") as step:
        result = measure_serve(config, step)
    _show_speed(result, COLUMNS, rows(result), ("memory_growth_mb",), out, as_json)


def _show_speed(
    result: dict[str, Any],
    columns: tuple[str, ...],
    table: list[tuple[str, ...]],
    names: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    from ..shards.atomic import write_json

    if out is not None:
        write_json(out, result)
    if as_json:
        print_json(result)
        return
    print_table("speed", columns, table)
    for name in names:
        value = result.get(name)
        typer.echo(f"{name.replace('_', ' ')}: {'not measured' if value is None else f'{value:.2f}'}")
