"""The commands of the paper's tables: `unibrivl bench esc50` and its neighbours; each prints and writes one row."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..shards.console import Json, bar, print_json, print_table, usage
from .clotho_commands import bench_clotho
from .desed_commands import bench_desed
from .row_commands import Cache, Out, Seed, Tower, measured_row, open_tower, shown_tower, tell
from .vegas_commands import bench_vegas

if TYPE_CHECKING:
    from .folds import FoldedSounds
    from .protocol import Result

Fold = Annotated[list[int] | None, typer.Option(help="Only this fold, for a first look; repeat.")]
EscData = Annotated[Path, typer.Option(help="Folder of ESC-50 or ESC-10: meta/esc50.csv or meta.csv, and audio/.")]
Frames = Annotated[
    bool, typer.Option("--frames", help="A probe trains on windows of 1 s; a clip is their mean probability.")
]
ProbeName = Annotated[str, typer.Option(help="l3, hear, or zero-shot (words, without training).")]
Template = Annotated[str, typer.Option(help="Of zero-shot's headline: bare, laion or ensemble; all are told.")]


def bench_esc50(
    data: EscData,
    tower: Annotated[
        str | None,
        typer.Option(help="As of bench vggsound; frozen. [default: wav2clip-supervised, trained from nothing]"),
    ] = None,
    probe: ProbeName = "l3",
    template: Template = "laion",
    frames: Frames = False,
    fold: Fold = None,
    epochs: Annotated[int, typer.Option(help="Of wav2clip-supervised, over the clips of four folds.")] = 40,
    cache: Cache = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Tell classes of sound apart on the official five folds: a tower from nothing, or a frozen one under a probe.

    Example: unibrivl bench esc50 --data ESC-50 --tower run --probe l3
    """
    from .esc50 import FOLDS, SUPERVISED, Esc50Config, list_esc50, measure_esc50
    from .folds import FrozenConfig, check_folds
    from .supervised import SupervisedConfig

    folds = tuple(fold or FOLDS)
    if tower in (None, SUPERVISED):
        with usage():
            if frames:
                raise ValueError("--frames is for a probe on a frozen tower; name it with --tower")
            config = Esc50Config(data=data, folds=folds, classifier=SupervisedConfig(epochs=epochs, seed=seed))
        with bar("esc50") as step:
            result = measured_row(lambda: measure_esc50(config, step), "esc50", "official folds", SUPERVISED, seed)
    else:
        with usage():
            check_folds(folds, FOLDS)
            frozen = FrozenConfig(probe=probe, template=template, frames=frames, seed=seed, cache=cache)
        result = _frozen("esc50", lambda: list_esc50(data), tower, folds, frozen)
    tell(result, out, as_json)


def bench_urbansound8k(
    data: Annotated[Path, typer.Option(help="Folder of UrbanSound8K: metadata/UrbanSound8K.csv, audio/fold1 to 10.")],
    tower: Tower,
    probe: ProbeName = "l3",
    template: Template = "laion",
    frames: Frames = False,
    fold: Fold = None,
    cache: Cache = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Tell classes of city sound apart on the official ten folds, by a frozen tower under a probe, or by words.

    Example: unibrivl bench urbansound8k --data UrbanSound8K --tower run --probe hear
    """
    from .folds import FrozenConfig, check_folds
    from .urbansound8k import FOLDS, list_urbansound8k

    with usage():
        folds = tuple(fold or FOLDS)
        check_folds(folds, FOLDS)
        config = FrozenConfig(probe=probe, template=template, frames=frames, seed=seed, cache=cache)
    tell(_frozen("urbansound8k", lambda: list_urbansound8k(data), tower, folds, config), out, as_json)


def bench_class_pictures(
    data: EscData,
    work: Annotated[Path, typer.Option(help="Folder for clips, shards, runs and indexes.")],
    pictures: Annotated[
        Path | None, typer.Option(help="Folder with a picture for each class. [default: cards with its name]")
    ] = None,
    fold: Fold = None,
    language_tower: Annotated[str, typer.Option(help="Tower to train.")] = "wav2clip",
    epochs: Annotated[int, typer.Option(help="Passes over the clips of four folds.")] = 30,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Train on the sounds of four official folds and their class's picture; find the pictures for the fifth's sounds.

    A killed run goes on where it was when it is started again with the same folder.

    Example: unibrivl bench class-pictures --data ESC-50 --work class-pictures
    """
    from .class_pictures import ClassPicturesConfig, measure_class_pictures
    from .esc50 import FOLDS

    with usage():
        config = ClassPicturesConfig(
            data=data, work=work, pictures=pictures, folds=tuple(fold or FOLDS), language_tower=language_tower,
            epochs=epochs, seed=seed,
        )  # fmt: skip
    with bar("class pictures") as step:
        result = measured_row(
            lambda: measure_class_pictures(config, step), "class-pictures", "official folds", language_tower, seed
        )
    tell(result, out, as_json)


def bench_vggsound_retrieval(
    data: Annotated[Path, typer.Option(help="VGGSound's test.csv, or the folder that holds it beside the clips.")],
    tower: Annotated[str | None, typer.Option(help="As of bench vggsound; not needed where both are given.")] = None,
    audio_embeddings: Annotated[
        Path | None, typer.Option(help="Embeddings of the sounds: .npy in the list's order, or Parquet by clip.")
    ] = None,
    image_embeddings: Annotated[Path | None, typer.Option(help="The same of the pictures.")] = None,
    gallery: Annotated[str, typer.Option(help="full, or 5-per-class (drawn, and told in the result).")] = "full",
    only: Annotated[Path | None, typer.Option("--list", help="Only the clips of this list, one a line.")] = None,
    frames: Annotated[str, typer.Option(help="single (drawn), middle, or mean-of-N.")] = "single",
    cache: Cache = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find each clip's picture by its sound and its sound by its picture, by clip and by class, beside chance.

    Example: unibrivl bench vggsound-retrieval --data vggsound/test.csv --tower random
    """
    from .vggsound_retrieval import VggsoundRetrievalConfig, measure_vggsound_retrieval

    with usage():
        config = VggsoundRetrievalConfig(
            data=data, audio_embeddings=audio_embeddings, image_embeddings=image_embeddings, gallery=gallery,
            only=only, frames=frames, cache=cache, seed=seed,
        )  # fmt: skip
    name = shown_tower(tower) if tower else "given embeddings"
    with bar("vggsound-retrieval") as step:
        result = measured_row(
            lambda: measure_vggsound_retrieval(config, open_tower(tower, seed) if tower else None, step),
            "vggsound-retrieval", config.protocol(), name, seed,
        )  # fmt: skip
    tell(result, out, as_json)


def bench_vggsound(
    data: Annotated[Path, typer.Option(help="Folder with vggsound.csv or train.csv and test.csv, beside the clips.")],
    tower: Annotated[
        str | None,
        typer.Option(help="Folder of a run or an index, clap:DIR, logmel, random (chance) or oracle (ceiling)."),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Scores of the test clips instead: .npy (clips, classes), classes by name.")
    ] = None,
    probe: Annotated[str, typer.Option(help="l3 or hear, on the training list; or zero-shot.")] = "l3",
    cache: Cache = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Tell VGGSound's classes apart by frozen embeddings under a probe: macro mAP, accuracy, AUC and d-prime.

    Example: unibrivl bench vggsound --data VGGSound --tower run
    """
    from .vggsound_classes import VggsoundConfig, measure_vggsound

    with usage():
        if (tower is None) == (scores is None):
            raise ValueError("tower or --scores: want exactly one of them")
        config = VggsoundConfig(data=data, scores=scores, probe=probe, cache=cache, seed=seed)
    name = shown_tower(tower) if tower else "given scores"
    with bar("vggsound") as step:
        result = measured_row(
            lambda: measure_vggsound(config, open_tower(tower, seed) if tower else None, step),
            "vggsound", config.protocol(), name, seed,
        )  # fmt: skip
    tell(result, out, as_json)


def bench_compare(
    first: Annotated[Path, typer.Argument(help="Result file, with its predictions beside it.")],
    second: Annotated[Path, typer.Argument(help="Another of the same bench and the same samples.")],
    metric: Annotated[str | None, typer.Option(help="Column of the predictions. [default: the first figure]")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Compare two results sample by sample: the difference, its interval, and how often chance differs as much.

    Example: unibrivl bench compare logmel.json run.json
    """
    from .protocol import compare

    found = compare(first, second, metric, seed)
    if as_json:
        print_json(found.as_dict())
        return
    low, high = found.interval
    rows = [
        (first.name, f"{found.first:.4f}", ""),
        (second.name, f"{found.second:.4f}", ""),
        ("difference", f"{found.difference:+.4f}", f"95 %: {low:+.4f} to {high:+.4f}, p = {found.p:.4f}"),
    ]
    print_table(f"{found.metric} of {found.samples:,} samples in {found.groups:,} groups", ("of", "value", ""), rows)


def bench_doctor(
    data: Annotated[Path, typer.Option(help="Folder that holds the data sets, or one of them.")],
    as_json: Json = False,
) -> None:
    """Tell which data sets of the tables are there, how much of each, and which files are missing.

    Example: unibrivl bench doctor --data datasets
    """
    from .doctor import COLUMNS, examine

    findings = examine(data)
    if as_json:
        print_json([finding.as_dict() for finding in findings])
    else:
        print_table("data sets of the tables", COLUMNS, [finding.cells() for finding in findings])


class TableFormat(StrEnum):
    """How tables are written."""

    markdown = "markdown"
    latex = "latex"
    json = "json"
    html = "html"


def bench_table(
    results: Annotated[
        list[Path] | None, typer.Argument(help="Result files of the tables' commands and of bench human report.")
    ] = None,
    form: Annotated[
        TableFormat, typer.Option("--format", help="Of the tables; html needs --out.")
    ] = TableFormat.markdown,
    out: Annotated[Path | None, typer.Option(help="File to write. [default: standard output]")] = None,
    as_json: Json = False,
) -> None:
    """Set results beside the paper's rows and the strongest known numbers, each with its protocol.

    Example: unibrivl bench table logmel.json run.json --format markdown
    """
    from ..index.page import write_page
    from ..shards.atomic import canonical_json, write_bytes
    from . import tables as made

    if form is TableFormat.html and out is None:
        raise typer.BadParameter("html needs a file: name it with --out")
    read = [made.read_row(path) for path in results or ()]
    rows, blocks = made.table_rows(read), made.human_blocks(read)
    if as_json or form is TableFormat.json:
        text = canonical_json(made.as_json(rows, blocks)).decode()
    elif form is TableFormat.html:
        return write_page(made.as_page(rows, blocks), Path(out or ""))
    else:
        text = made.as_latex(rows, blocks) if form is TableFormat.latex else made.as_markdown(rows, blocks)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_bytes(out, text.encode())


def _frozen(
    bench: str, listing: "Callable[[], FoldedSounds]", tower: str, folds: tuple[int, ...], config: Any
) -> "Result":
    from .folds import measure_frozen

    with bar(bench) as step:
        return measured_row(
            lambda: measure_frozen(bench, listing(), open_tower(tower, config.seed), folds, config, step),
            bench, config.protocol(), shown_tower(tower), config.seed,
        )  # fmt: skip


TABLES: dict[str, Callable[..., None]] = {
    "esc50": bench_esc50,
    "urbansound8k": bench_urbansound8k,
    "class-pictures": bench_class_pictures,
    "vggsound": bench_vggsound,
    "vggsound-retrieval": bench_vggsound_retrieval,
    "desed": bench_desed,
    "clotho": bench_clotho,
    "vegas": bench_vegas,
    "compare": bench_compare,
    "doctor": bench_doctor,
    "table": bench_table,
}
"""By the name that is typed."""
