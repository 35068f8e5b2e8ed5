"""The commands `unibrivl train` and `unibrivl embed`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import UnibrivlError
from ..shards.console import Address, CacheDir, CacheGb, Engine, Json, bar, opened, print_json, print_table, usage

Moved = Annotated[str | None, typer.Option(help="Its name where its weights lie now, such as brivl-b5:DIR.")]
PRESET = "(default: the preset's, or {})"


Preset = Annotated[str | None, typer.Option(help="Start from the options of: paper, wav2clip or tiny.")]
Split = Annotated[str | None, typer.Option(help="Part of the shard set. (default: train)")]
LanguageTower = Annotated[str | None, typer.Option(help=f"Tower to train. {PRESET.format('wav2clip')}")]
FrozenTower = Annotated[str | None, typer.Option(help=f"Frozen tower. {PRESET.format('tf_efficientnet_lite0')}")]
Epochs = Annotated[int | None, typer.Option(help=f"Passes over the clips. {PRESET.format(20)}")]
BatchSize = Annotated[
    int | None, typer.Option(help=f"Clips of a micro-batch, all processes together. {PRESET.format(64)}")
]
Rate = Annotated[float | None, typer.Option(help=f"Peak learning rate. {PRESET.format('1e-3')}")]
ValShare = Annotated[float | None, typer.Option(help="Share of the groups kept for the curves. (default: 0.1)")]
ValidateEvery = Annotated[
    int | None, typer.Option(help=f"Epochs between two points of the retrieval curve. {PRESET.format(2)}")
]
CheckpointEvery = Annotated[int | None, typer.Option(help="Steps between two checkpoints. (default: 25)")]
Seed = Annotated[int | None, typer.Option(help="Of weights, order and augmentation. (default: 0)")]
Workers = Annotated[int | None, typer.Option(help="Processes that read and decode; 0: a thread. (default: 0)")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Event files for TensorBoard, too.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any option by name: accumulate=4, loss.queue_size=9600, num_mels=64; repeat."),
]
Grid = Annotated[Path | None, typer.Option(help="JSON or TOML with lists of values: one run for each combination.")]


def train(
    shards: Annotated[str, typer.Argument(help="Shard set to train on: a folder, or an address.")],
    out: Annotated[Path, typer.Option(help="Folder of the run, or of the runs of a grid.")],
    preset: Preset = None,
    split: Split = None,
    language_tower: LanguageTower = None,
    image_tower: FrozenTower = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    val_share: ValShare = None,
    validate_every: ValidateEvery = None,
    checkpoint_every: CheckpointEvery = None,
    seed: Seed = None,
    workers: Workers = None,
    tensorboard: TensorBoard = False,
    set_: Set = None,
    grid: Grid = None,
    cache_dir: CacheDir = None,
    cache_gb: CacheGb = 100.0,
    as_json: Json = False,
) -> None:
    """Train the language tower against the frozen image tower; run it again to finish or resume.

    Example: unibrivl train try/shards --out try/run --epochs 8 --set clip_s=1.6 --set num_mels=64

    Under `torchrun --nproc-per-node 4 -m unibrivl train ...` several processes share every batch of one run; with
    `--max-restarts` it survives the death of one. Any number of them may resume it. With `--set sharded=true` each
    keeps a part of a SpeechLM tower. docs/train.md lists all options.
    """
    folder = opened(shards, cache_dir, cache_gb)
    config = _configured(
        folder, out, preset, set_ or [], split=split, language_tower=language_tower, image_tower=image_tower,
        epochs=epochs, batch_size=batch_size, lr=lr, val_share=val_share, validate_every=validate_every,
        checkpoint_every=checkpoint_every, seed=seed, workers=workers, tensorboard=tensorboard or None,
    )  # fmt: skip
    if grid is not None:
        _train_grid(config, grid, as_json)
    else:
        _train_one(config, as_json)


def _configured(shards: Path, out: Path, preset: str | None, words: list[str], **given: Any) -> Any:
    """Return the configuration of a preset, changed by the options that were given and by `--set`."""
    from .settings import read_settings
    from .train_config import make_config

    with usage():
        settings = {name: value for name, value in given.items() if value is not None} | read_settings(words)
        return make_config(shards, out, settings, preset=preset)


def _train_one(config: Any, as_json: bool) -> None:
    from .train import is_writer
    from .train import train as run

    with bar("train") as step:
        result = run(config, step)
    if not is_writer():
        return
    scores = result.validation or {}
    if as_json:
        figures = {name: {"r10": s.r10, "chance_r10": s.chance_r10, "mrr": s.mrr, "chance_mrr": s.chance_mrr,
                          "gallery": s.gallery} for name, s in scores.items()}  # fmt: skip
        print_json({"run": str(config.out), "steps": result.steps, "seconds": result.seconds, "validation": figures,
                    "best": result.best})  # fmt: skip
        return
    typer.echo(f"{result.steps} steps in {config.out}; curves: {config.out / 'curves.html'}")
    for name, s in scores.items():
        words = name.replace("_", " ")
        typer.echo(f"{words}: R@10 {s.r10:.3f} among {s.gallery} ({result.validated_on}), chance {s.chance_r10:.3f}")


def _train_grid(config: Any, path: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from .grid import read_grid, run_grid
    from .train import is_writer
    from .train import train as run

    points = read_grid(path)
    with bar("grid") as step, usage():
        done = 0

        def train_point(one: Any) -> object:
            return run(one, lambda at, of, text: step(done * of + at, len(points) * of, f"{one.out.name}  {text}"))

        def count(point: Any) -> None:
            nonlocal done
            done += 1

        found = run_grid(config, points, train_point, writes=is_writer(), report=count)
    if not is_writer():
        return
    figures = {"grid": str(config.out), "best_by": config.best_by, "points": [asdict(point) for point in found]}
    if not as_json:
        _print_grid(found)
    failed = [point for point in found if point.state == "failed"]
    if failed:
        raise UnibrivlError(
            f"{len(failed)} of {len(found)} runs failed; {failed[0].name}: {failed[0].reason}", figures=figures
        )
    if as_json:
        print_json(figures)


def _print_grid(points: list[Any]) -> None:
    def figure(point: Any, name: str) -> str:
        return f"{point.figure(name):.3f}" if point.validation else "-"

    names = ("mrr", "chance_mrr", "r10", "chance_r10")
    rows = [
        (point.name, *(figure(point, name) for name in names), f"{point.step} of {point.steps}", point.state)
        for point in points
    ]
    columns = ("run", "MRR", "chance", "R@10", "chance", "best step", "")
    print_table("grid, best first; means of both directions in validation", columns, rows)


def embed(
    run: Annotated[Path, typer.Argument(help="A trained run.")],
    shards: Annotated[str, typer.Argument(help="Shard set to embed: a folder, or an address.")],
    out: Annotated[Path, typer.Option(help="Folder for one Parquet file a shard.")],
    split: Annotated[str | None, typer.Option(help="Part of the shard set. (default: all)")] = None,
    checkpoint: Annotated[str, typer.Option(help="last, or best in validation.")] = "last",
    image_tower: Moved = None,
    engine: Engine = "local",
    address: Address = None,
    cache_dir: CacheDir = None,
    cache_gb: CacheGb = 100.0,
    as_json: Json = False,
) -> None:
    """Write the embeddings of every clip's sound and picture as Parquet; run it again to finish.

    Example: unibrivl embed try/run try/shards --out try/embeddings

    With --engine ray all machines of a Ray cluster embed, in folders that all of them see under the same paths:
    unibrivl embed /shared/run /shared/set --out /shared/embeddings --engine ray --address head:6379
    """
    from dataclasses import asdict

    from ..shards.cluster import cluster_of
    from .embed_set import embed_set
    from .embed_shard import EmbedConfig

    folder = opened(shards, cache_dir, cache_gb)
    with usage():
        config = EmbedConfig(
            run=run, shards=folder, out=out, split=split, which=checkpoint, image_tower=image_tower,
            cluster=cluster_of(engine, address),
        )  # fmt: skip
    with bar("embed", unit="clips") as step:
        result = embed_set(config, step)
    if as_json:
        print_json({"embeddings": str(out)} | asdict(result))
    else:
        typer.echo(f"{result.clips} clips in {result.files} files of {out} ({result.made} new)")
