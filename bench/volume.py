"""`bench volume`: what loudness does to embeddings and to the choice of pictures, and whether it does anything at all.

Protocol. One float master for each of several sounds, cut to what the language tower hears, at gains around its own
level. Arms: `as_saved`, clipped at full scale as a file would be; `peak_safe`, from a softer master that no gain clips;
`int16`, the same with each level saved in 16 bits and brought back, so that only the rounding is left; `noise`, the
master with white noise. Each is compared with its own 0 dB.

The gate comes first: where gain alone moves embeddings by less than a hundredth of what lies between two sounds, the
front end removes gain, and no trend is told, since it would be one of rounding.

Source: the questions are those of Wan et al. (arXiv 1808.04108) and section 4.2 of the paper; the arms are ours.
Shapes: S sounds, L levels, P pictures, D dimensions.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..index.cards import stored_sample
from ..index.engine import Engine
from ..index.media import SILENT
from ..index.question import Part
from ..model.batches import fit
from ..shards.checks import check_ranges
from .errors import BenchError
from .loudness import amplify, as_int16, clip, measure_loudness, spearman, with_noise
from .made_pictures import MadePictures, make_pictures
from .opened import open_index
from .protocol import LEVEL, Progress, Result, t_interval
from .retrieval import read_side

COLUMNS = (
    "arm",
    "level",
    "peak",
    "clipped",
    "LUFS",
    "cosine (95 %)",
    "norm",
    "score moved",
    "same first",
    "rank corr.",
)
GAINS_DB = (-30.0, -24.0, -18.0, -12.0, -6.0, 0.0, 6.0, 12.0)
HEADROOM_DB = 0.1
"""Below full scale, of the loudest level that is not to clip."""
SNRS_DB = (40.0, 30.0, 20.0, 10.0, 0.0)
LIMIT = 0.01
"""Share of the distance between two sounds that gain alone must move an embedding by, to count as heard."""
ASKED = {"score": "mean score", "text": "size in words"}
REMOVED, KEPT = "front end removes gain", "front end keeps gain"
PROTOCOL = (
    "gains of -30 to 12 dB around a float master, as saved, peak safe, in 16 bits, and noise; first whether the front "
    "end lets gain through, then its rank correlation with the mean score of a fixed pool"
)
Embed = Callable[[list[np.ndarray]], np.ndarray]
"""From sounds to embeddings (N, D) float32, of the model's own length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeConfig:
    """What `unibrivl bench volume` was asked to do."""

    index: Path
    split: str = "test"
    """Where sounds and pictures are drawn."""
    sounds: int = 20
    pictures: int = 20
    """Of the fixed pool."""
    large: str = "a large thing"
    """With `small`, the direction that a run with a text side is asked along."""
    small: str = "a small thing"
    pipeline: str | None = None
    """A pipeline of diffusers, whose pictures of several seeds tell how much a score varies by itself."""
    seeds: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what says nothing."""
        check_ranges(self, sounds=(2, 1000), pictures=(2, 1000), seeds=(2, 1000), seed=(0, 2**31 - 1))


@dataclass(frozen=True, slots=True)
class Listener:
    """What hears, and what it is asked."""

    embed: Embed
    pool_PD: np.ndarray
    """Of the fixed pictures, unit norm."""
    direction_D: np.ndarray | None
    """From small to large, unit norm; None without a text side."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An arm, embedded."""

    levels_L: tuple[float, ...]
    sounds: list[list[np.ndarray]]
    """By level, what was heard."""
    unit_LSD: np.ndarray
    norms_LS: np.ndarray
    reference_SD: np.ndarray
    """Unit embeddings that it is compared with."""
    reference_norms_S: np.ndarray


def measure_volume(config: VolumeConfig, progress: Progress = lambda done, total, text: None) -> Result:
    """Measure the gate, every arm, and the trend where gain is heard.

    Raises:
        NeedsError: the index, its run or the pipeline is missing.
        BenchError: the split has too few audible sounds or pictures, pyloudnorm is missing, or the model tells no
            sounds apart.
        UnibrivlError: the index or the pipeline is not in order.
    """
    engine = open_index(config.index)
    masters = _masters(engine, config)
    gallery = read_side(engine.snapshot, "image", config.split).vectors_ND
    if len(gallery) < config.pictures:
        raise BenchError(f"{config.index} has {len(gallery)} pictures in split {config.split}, want {config.pictures}")
    drawn = np.random.default_rng([config.seed, 1]).permutation(len(gallery))[: config.pictures]
    listener = Listener(engine.encoder.audio_with_norm, gallery[drawn], _direction(engine, config))
    made = None if config.pipeline is None else make_pictures(engine, config.pipeline, config.seeds, config.seed)
    found = study(listener, masters, made, config.seed, progress)
    told = asdict(config) | {"index": config.index.name, "pipeline": config.pipeline and Path(config.pipeline).name}
    return Result(
        bench="volume", protocol=PROTOCOL, tower=engine.encoder.model.tower_name, metrics=found.metrics,
        chance=found.chance, coverage={"sounds": len(masters), "pictures": config.pictures}, interval=found.interval,
        seed=config.seed, config=told,
        more=found.more | {
            "text": _describe_text(engine, config), "repeats": 1,
            "index": {"snapshot": engine.snapshot.id, "fingerprints": engine.fingerprints},
        },
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Studied:
    """What loudness does, as a result tells it."""

    metrics: dict[str, Any]
    """`gate`, and `trend` where gain is heard: rank correlations by arm."""
    chance: dict[str, Any]
    interval: dict[str, Any]
    more: dict[str, Any]
    """`verdict`, `gate`, `noise_floor`, and the points of every arm."""

    def told(self) -> dict[str, Any]:
        """Return the fields of a result that are filled."""
        return {"metrics": self.metrics, "chance": self.chance, "interval": self.interval} | self.more


def study(
    listener: Listener, masters: Sequence[np.ndarray], made: MadePictures | None = None, seed: int = 0,
    progress: Progress = lambda done, total, text: None,
) -> Studied:  # fmt: skip
    """Return gate, arms, trend and noise floor for masters, float32 (samples,) at 16 kHz.

    Raises:
        BenchError: the listener tells no sounds apart, or pyloudnorm is missing.
    """
    arms: dict[str, Heard] = {}
    makers = _arms(masters, seed)
    for number, (name, (references, levels, make)) in enumerate(makers.items()):
        progress(number, len(makers), name)
        arms[name] = _hear(listener.embed, references, levels, make)
    progress(len(makers), len(makers), "")
    gate = _gate(arms["peak_safe"])
    removed = gate["share"] < LIMIT
    trend = {} if removed else {name: _trend(listener, arms[name]) for name in ("as_saved", "peak_safe")}
    metrics: dict[str, Any] = {"gate": gate}
    if trend:
        metrics["trend"] = _each(trend, lambda one: one["mean"])
    return Studied(
        metrics,
        {"trend": _each(trend, lambda one: 0.0)} if trend else {},
        {"trend": _each(trend, lambda one: [one["low"], one["high"]]), "level": LEVEL} if trend else {},
        {
            "verdict": REMOVED if removed else KEPT, "gate": {"limit": LIMIT, "removes_gain": removed},
            "noise_floor": _noise_floor(made, arms["as_saved"]),
            "arms": {name: _points(listener, arm) for name, arm in arms.items()},
        },
    )  # fmt: skip


def _each(trend: dict[str, dict[str, Any]], told: Callable[[dict[str, float]], Any]) -> dict[str, dict[str, Any]]:
    return {arm: {what: told(one) for what, one in found.items()} for arm, found in trend.items()}


Make = Callable[[int, np.ndarray, float], np.ndarray]


def _arms(masters: Sequence[np.ndarray], seed: int) -> dict[str, tuple[Sequence[np.ndarray], tuple[float, ...], Make]]:
    """Return for each arm its references, its levels, and what makes a level of a reference."""
    soft = [amplify(master / np.abs(master).max(), -max(GAINS_DB) - HEADROOM_DB) for master in masters]
    return {
        "as_saved": (masters, GAINS_DB, lambda number, sound, gain_db: clip(amplify(sound, gain_db))),
        "peak_safe": (soft, GAINS_DB, lambda number, sound, gain_db: amplify(sound, gain_db)),
        "int16": (
            soft, GAINS_DB, lambda number, sound, gain_db: amplify(as_int16(amplify(sound, gain_db)), -gain_db),
        ),
        "noise": (masters, SNRS_DB, lambda number, sound, snr_db: clip(with_noise(sound, snr_db, seed + number))),
    }  # fmt: skip


def _hear(embed: Embed, references: Sequence[np.ndarray], levels: tuple[float, ...], make: Make) -> Heard:
    sounds = [[make(number, one, level) for number, one in enumerate(references)] for level in levels]
    unit, norms = zip(*(_split(embed(of_level)) for of_level in sounds), strict=True)
    return Heard(levels, sounds, np.stack(unit), np.stack(norms), *_split(embed(list(references))))


def _split(embedded_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    norms_N = np.linalg.norm(embedded_ND.astype(np.float64), axis=1)
    return embedded_ND / norms_N[:, None], norms_N


def _gate(arm: Heard) -> dict[str, float]:
    """Compare what gain alone moves with what lies between the sounds."""
    cosines_LS = (arm.unit_LSD * arm.reference_SD).sum(axis=2)
    moved = float(np.median((1 - cosines_LS).max(axis=0)))
    between = 1 - (arm.reference_SD @ arm.reference_SD.T)[np.triu_indices(len(arm.reference_SD), 1)]
    apart = float(np.median(between))
    if not apart > 1e-6:
        raise BenchError("the model gives all sounds one embedding, so nothing can be said of loudness; train it first")
    return {"moved": _short(moved), "apart": _short(apart), "share": _short(moved / apart)}


def _trend(listener: Listener, arm: Heard) -> dict[str, Any]:
    """Return how gain goes with the mean score of the pool and with size in words: rank correlations over sounds."""
    asked = {"score": (arm.unit_LSD @ listener.pool_PD.T).mean(axis=2)}
    if listener.direction_D is not None:
        asked["text"] = arm.unit_LSD @ listener.direction_D
    return {
        name: t_interval(np.array([spearman(np.array(arm.levels_L), values_L) for values_L in values_LS.T]))
        for name, values_LS in asked.items()
    }


def _noise_floor(made: MadePictures | None, arm: Heard) -> dict[str, Any]:
    if made is None:
        return {"sd": None, "reason": "no pipeline was given, so no picture was made again with another seed"}
    deviations_S = (arm.reference_SD @ made.vectors_ND.T).std(axis=1, ddof=1)
    first_S = (arm.reference_SD @ made.vectors_ND.T).argmax(axis=1)
    same = ((arm.unit_LSD @ made.vectors_ND.T).argmax(axis=2) == first_S).mean(axis=1)
    return made.facts | {
        "sd": _short(float(deviations_S.mean())),
        "same_chosen": {f"{level:g}": _short(float(one)) for level, one in zip(arm.levels_L, same, strict=True)},
    }


def _points(listener: Listener, arm: Heard) -> list[dict[str, Any]]:
    """Return the figures of each level, means over sounds."""
    before_SP = arm.reference_SD @ listener.pool_PD.T
    points = []
    for number, level in enumerate(arm.levels_L):
        loud = [measure_loudness(sound) for sound in arm.sounds[number]]
        lufs = [one.lufs for one in loud if one.lufs is not None]
        after_SP = arm.unit_LSD[number] @ listener.pool_PD.T
        ranks = [spearman(*pair) for pair in zip(before_SP, after_SP, strict=True)]
        told = {
            "level_db": level, "peak": np.mean([one.peak for one in loud]),
            "clipped": np.mean([one.clipped for one in loud]), "lufs": np.mean(lufs) if lufs else None,
            "norm": (arm.norms_LS[number] / arm.reference_norms_S).mean(),
            "score": after_SP.mean(), "score_moved": np.abs(after_SP - before_SP).mean(),
            "same_first": (after_SP.argmax(axis=1) == before_SP.argmax(axis=1)).mean(),
            "rank_correlation": np.mean(ranks),
            "text": None if listener.direction_D is None else (arm.unit_LSD[number] @ listener.direction_D).mean(),
        }  # fmt: skip
        cosine = t_interval((arm.unit_LSD[number] * arm.reference_SD).sum(axis=1).astype(np.float64))
        points.append({n: None if v is None else _short(float(v)) for n, v in told.items()} | {"cosine": cosine})
    return points


def _masters(engine: Engine, config: VolumeConfig) -> list[np.ndarray]:
    """Return audible sounds of the split, drawn by the seed, as much of each as the tower hears."""
    items = sorted(read_side(engine.snapshot, "audio", config.split).items, key=lambda row: row["key"])
    masters: list[np.ndarray] = []
    for number in np.random.default_rng(config.seed).permutation(len(items)).tolist():
        sound = stored_sample(engine.snapshot, items[number]).audio()
        sound = fit(sound, min(len(sound), engine.encoder.model.language.num_samples))
        if np.abs(sound).max() >= SILENT:
            masters.append(sound)
        if len(masters) == config.sounds:
            return masters
    raise BenchError(f"{config.index} has {len(masters)} sounds in split {config.split}, want {config.sounds}")


def _direction(engine: Engine, config: VolumeConfig) -> np.ndarray | None:
    if not engine.has_text:
        return None
    large_D, small_D = engine.embed([Part("text", config.large), Part("text", config.small)])
    length = float(np.linalg.norm(large_D - small_D))
    if length < 1e-6:
        raise BenchError(
            f"{config.large!r} and {config.small!r} have one embedding, which is no direction; reword them"
        )
    return (large_D - small_D) / length


def _describe_text(engine: Engine, config: VolumeConfig) -> dict[str, Any]:
    if engine.has_text:
        return {"large": config.large, "small": config.small}
    return {"large": None, "small": None, "reason": "the run reads no text, so size in words is no direction in it"}


def _short(value: float) -> float:
    return round(value, 6)


def rows(told: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the table of a result as plain values."""
    return [
        (name.replace("_", " "), f"{p['level_db']:+g} dB", f"{p['peak']:.3f}", f"{p['clipped']:.2%}",
         "" if p["lufs"] is None else f"{p['lufs']:.1f}",
         f"{p['cosine']['mean']:.3f} ({p['cosine']['low']:.3f} to {p['cosine']['high']:.3f})", f"{p['norm']:.2f}",
         f"{p['score_moved']:.4f}", f"{p['same_first']:.0%}", f"{p['rank_correlation']:.2f}")
        for name, points in told["arms"].items() for p in points
    ]  # fmt: skip


def summary(told: dict[str, Any]) -> list[str]:
    """Return what the gate says, in a line each; trends only where gain is heard."""
    gate = told["metrics"]["gate"]
    lines = [
        f"{told['verdict']}: gain alone moves an embedding by {gate['moved']:.4f}, {gate['share']:.1%} of the "
        f"{gate['apart']:.4f} between two sounds (heard from {told['gate']['limit']:.0%})"
    ]
    for arm, trend in told["metrics"].get("trend", {}).items():
        for what, value in trend.items():
            low, high = told["interval"]["trend"][arm][what]
            lines.append(
                f"rank correlation of gain and {ASKED[what]}, {arm.replace('_', ' ')}: "
                f"{value:+.2f} ({low:+.2f} to {high:+.2f})"
            )
    floor = told["noise_floor"]
    known = (
        f"not known: {floor['reason']}" if floor["sd"] is None else f"{floor['sd']:.4f}, over {floor['seeds']} seeds"
    )
    return [*lines, f"deviation of a score from seed to seed: {known}"]
