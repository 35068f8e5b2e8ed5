"""The commands `unibrivl bench human ...`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import UnibrivlError
from ..shards.console import Json, print_json, print_table, usage

if TYPE_CHECKING:
    from .human import Study
    from .human_answers import AnswerLog
    from .human_serve import HumanServeConfig

app = typer.Typer(help="The human test (Table 5): a study, its page, its statistics.", no_args_is_help=True)
StudyFolder = Annotated[Path, typer.Argument(help="Folder that `bench human prepare` made.")]


@app.command("prepare")
def human_prepare(
    source: Annotated[
        Path, typer.Argument(help="Folder SYSTEM/CLASS/NAME of `unibrivl generate`, or a CSV of trials.")
    ],
    study: Annotated[Path, typer.Argument(help="Folder to make.")],
    photos: Annotated[
        Path | None, typer.Option(help="Folder with a photo of each class, CLASS.jpg or .png, for catch trials.")
    ] = None,
    raters: Annotated[int, typer.Option(help="Valid raters wanted; below it there are no figures.")] = 30,
    per_class: Annotated[
        int | None, typer.Option(help="Trials of each class and system. [default: as many as the smallest has]")
    ] = None,
    catches: Annotated[int, typer.Option(help="Catch trials to draw from the photos.")] = 4,
    catch_pass: Annotated[float, typer.Option(help="Share of catch trials that a rater must pass to count.")] = 0.75,
    primary: Annotated[str | None, typer.Option(help="System that the result is about, if there are several.")] = None,
    title: Annotated[str | None, typer.Option(help="What those who take part read first.")] = None,
    consent: Annotated[Path | None, typer.Option(help="Text file that they agree to. [default: a short one]")] = None,
    seed: Annotated[int, typer.Option(help="Of trials, foils, orders, sides and the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """Freeze a study before its first answer: trials, order, rules and consent, under one hash to be published.

    Example: unibrivl bench human prepare pictures study --photos photos --raters 30
    """
    from .human import CONSENT, TITLE, StudyConfig, as_told, freeze
    from .human_trials import make_trials

    words = CONSENT if consent is None else _text(consent)
    with usage():
        config = StudyConfig(
            raters=raters, per_class=per_class, catches=catches, catch_pass=catch_pass, primary=primary, seed=seed,
            title=TITLE if title is None else title, consent=words,
        )  # fmt: skip
    told = as_told(freeze(*make_trials(source, photos, config), study))
    if as_json:
        print_json(told)
    else:
        typer.echo(f"{study}: {told['trials']} trials of {told['classes']} classes, {told['catches']} catch trials")
        typer.echo(f"frozen as {told['sha256']}; {raters} valid raters wanted")


@app.command("serve")
def human_serve(
    study: StudyFolder,
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes one that is free.")] = 8758,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Name by which a proxy leads here, such as study.example; repeat.")
    ] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Whoever comes is marked as simulated: to try it out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Serve the page of a study on this machine and collect answers, which survive any end of the server.

    Example: unibrivl bench human serve study --port 8758
    """
    try:
        from .human_serve import HumanServeConfig
    except ImportError as e:
        raise UnibrivlError(f"{e.name} is not installed: run pip install 'unibrivl[serve]'") from e
    with usage():
        config = HumanServeConfig(port=port, hosts=tuple(allow_host or ()), simulated=simulated)
    with _writing(study) as (opened, log):
        _serve(config, opened, log, as_json)


def _serve(config: "HumanServeConfig", study: "Study", log: "AnswerLog", as_json: bool) -> None:
    from contextlib import suppress

    from ..index.serve_config import listen, url_of
    from ..index.wire import uvicorn_around
    from .human_serve import HumanServer

    with listen(config) as listener:
        told = {"url": url_of(listener), "study": study.sha256, "simulated": config.simulated}
        if as_json:
            print_json(told | {"half_lines": log.answers.torn, "sessions": len(log.answers.sessions)})
        else:
            mark = " with simulated raters only" if config.simulated else ""
            typer.echo(f"{told['url']} serves study {study.sha256[:16]}{mark}; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            uvicorn_around(HumanServer(config, study, log).guard).run(sockets=[listener])


@app.command("rehearse")
def human_rehearse(
    study: StudyFolder,
    raters: Annotated[int, typer.Option(help="Simulated raters.")] = 30,
    preference: Annotated[float, typer.Option(help="How often they choose the own picture, if they decide.")] = 0.75,
    neither: Annotated[float, typer.Option(help="How often they do not decide.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of their choices.")] = 0,
    as_json: Json = False,
) -> None:
    """Let simulated raters answer, to see how wide the intervals will be; they are never counted with people.

    Example: unibrivl bench human rehearse study --raters 30 --preference 0.75
    """
    from .human_rehearse import RehearseConfig, rehearse

    with usage():
        config = RehearseConfig(raters=raters, preference=preference, neither=neither, seed=seed)
    with _writing(study) as (opened, log):
        sessions = rehearse(config, opened, log)
    if as_json:
        print_json({"study": opened.sha256, "simulated": True, "sessions": len(sessions)})
    else:
        typer.echo(f"{study}: {len(sessions)} simulated raters answered; bench human report --simulated shows them")


@app.command("report")
def human_report(
    study: StudyFolder,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Of the simulated raters, though people have begun.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with the figures.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Tell what people chose, with intervals, agreement and exclusions; nothing below the wanted number of raters.

    Example: unibrivl bench human report study --html human.html
    """
    from ..index.page import write_page
    from ..shards.atomic import write_json
    from ..shards.checks import check_file
    from .human import open_study
    from .human_answers import read_answers
    from .human_report import measure
    from .human_table import human_page

    for path in (html, out):
        if path is not None:
            check_file(path, UnibrivlError)
    opened = open_study(study)
    result = measure(opened, read_answers(opened), simulated=simulated or None)
    if html is not None:
        write_page(human_page(result), html)
    if out is not None:
        write_json(out, result)
    if as_json:
        print_json(result)
    else:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    from .human_table import COLUMNS, PAIR_COLUMNS, coverage_text, heading, pair_rows, rows

    print_table(heading(result), COLUMNS, rows(result))
    if pairs := pair_rows(result):
        print_table("pairs of systems" + " (simulated)" * result["simulated"], PAIR_COLUMNS, pairs)
    typer.echo(coverage_text(result))


@contextmanager
def _writing(root: Path) -> Iterator[tuple["Study", "AnswerLog"]]:
    """Open a study as the only writer of its answers, and tell of half a line that was found."""
    from ..shards.atomic import hold_directory
    from .human import open_study
    from .human_answers import AnswerLog

    study = open_study(root)
    with hold_directory(root, wait=False) as held:
        if not held:
            raise UnibrivlError(f"{root}: another process writes answers to it; end that one first")
        log = AnswerLog(study)
        if log.found_torn:
            typer.echo("the last answer was only half written before; it is ignored, and the log says so", err=True)
        try:
            yield study, log
        finally:
            log.close()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UnibrivlError(f"{path}: not readable as text ({getattr(e, 'strerror', None) or e})") from e
