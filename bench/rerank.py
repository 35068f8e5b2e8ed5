"""`bench rerank`: how often the true picture of a held-out sound is chosen first from a small pool.

Protocol. Each distinct sound of the query split that has a true picture gets several pools of n distinct pictures of
the gallery split: one true one and n - 1 that are not related to it at all (`model/relation.py`), drawn and shuffled by
the seed. `index/rerank.py`, the code of the command, sorts them by the embeddings that the index stores. The same pools
are put to two controls: the same embeddings with the sounds permuted among the pools, and a linear map from mean
log-mel spectra (`ridge.py`), fitted on the clips of all other splits. Intervals are by a bootstrap over groups, since
several voices that name one thing are not independent. Some pools then go through `unibrivl rerank` itself, with files
cut out of the shards.

Shapes: Q queries, M pools (those of a query one after the other), G gallery items, N pictures a pool.
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..index.cards import stored_sample
from ..index.engine import Engine
from ..index.question import Part
from ..index.rerank import rerank
from ..model.relation import MIN_OVERLAP
from ..shards.checks import check_ranges
from .errors import BenchError
from .opened import open_index
from .protocol import GROUP, ITEM, LEVEL, RESAMPLES, Progress, Result, bootstrap
from .retrieval import Side, fit_linear, mapped, read_side, related_items
from .steps import answer_of

COLUMNS = (
    "pool",
    "chosen first (95 %)",
    "by chance",
    "permuted (± sd)",
    "linear map (95 %)",
    "above it (95 %)",
    "queries",
)
SIZES = (4, 8, 20)
DIGITS = 6
PROTOCOL = (
    "pools of one true picture and n - 1 unrelated ones for each held-out sound; the share in which the true one is "
    "chosen first"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankBenchConfig:
    """What `unibrivl bench rerank` was asked to do."""

    index: Path
    query_split: str = "test"
    gallery_split: str = "test"
    sizes: tuple[int, ...] = SIZES
    """Pictures a pool."""
    draws: int = 20
    """Pools a query and size: one alone leaves much to the luck of the draw."""
    by_command: int = 10
    """Pools that also go through the command; their size is that of `sizes` nearest to 8."""
    permutations: int = 200
    seed: int = 0
    """Of the pools, the controls and the bootstrap."""

    def __post_init__(self) -> None:
        """Refuse pools that leave no choice."""
        check_ranges(self, draws=(1, 1000), by_command=(0, 10_000), permutations=(2, None), seed=(0, 2**31 - 1))
        if not self.sizes or not all(2 <= size <= 1000 for size in self.sizes):
            raise ValueError(f"sizes are {self.sizes}, want pools of 2 to 1000 pictures")


@dataclass(frozen=True, slots=True)
class Pools:
    """Pools of all queries."""

    query_M: np.ndarray
    """Whose each pool is."""
    items_MN: np.ndarray
    """Numbers of gallery items."""
    true_M: np.ndarray
    """The place of the true one in each pool."""

    def first(self, scores_QG: np.ndarray) -> np.ndarray:
        """Return whether the true picture scores most, boolean (M,)."""
        scores_MN = scores_QG[self.query_M[:, None], self.items_MN]
        return scores_MN.argmax(axis=1) == self.true_M


@dataclass(frozen=True, slots=True)
class Chosen:
    """What came of the pools of one size."""

    hit_Q: np.ndarray
    """Share of each query's pools whose true picture comes first."""
    ridge_Q: np.ndarray
    """The same by the linear map."""
    permuted: np.ndarray
    """Share of all pools, of each permutation."""


def measure_rerank(config: RerankBenchConfig, progress: Progress = lambda done, total, text: None) -> Result:
    """Measure every size of pool.

    Raises:
        NeedsError: the index or its run is missing.
        BenchError: a split has no items, no query has a true picture, a gallery is too small, or the command failed.
        IndexStoreError, IndexMismatchError, CheckpointError: the index or its run is not in order.
    """
    engine = open_index(config.index)
    queries = read_side(engine.snapshot, "audio", config.query_split)
    gallery = read_side(engine.snapshot, "image", config.gallery_split)
    true_QG, near_QG = (related_items(queries, gallery, least) for least in (MIN_OVERLAP, 0.0))
    asked = np.flatnonzero(true_QG.any(axis=1))
    if not len(asked):
        raise BenchError(f"{config.index}: no sound of split {config.query_split} has a true picture to be found")
    linear = fit_linear(config.index, engine.snapshot, {config.query_split, config.gallery_split})
    spectral_QG = (mapped(engine.snapshot, linear, queries) @ gallery.vectors_ND.T)[asked]
    rows = [queries.items[number] for number in asked]
    found, by_command = {}, None
    for number, size in enumerate(config.sizes):
        progress(number, len(config.sizes), f"pools of {size}")
        pools = draw_pools(true_QG[asked], near_QG[asked], size, config.draws, config.seed)
        chosen = _choose(engine, queries.vectors_ND[asked], gallery, pools)
        scores_QG = queries.vectors_ND[asked] @ gallery.vectors_ND.T
        found[size] = _chosen(config, pools, chosen, spectral_QG, scores_QG)
        if size == min(config.sizes, key=lambda one: (abs(one - 8), one)) and config.by_command:
            by_command = _ask_command(config, engine, rows, gallery, pools, chosen)
    progress(len(config.sizes), len(config.sizes), "")
    return _result(config, engine, rows, found, by_command)


def _result(
    config: RerankBenchConfig, engine: Engine, rows: list[dict[str, Any]], found: dict[int, Chosen],
    by_command: dict[str, int] | None,
) -> Result:  # fmt: skip
    groups = [row["group"] for row in rows]
    metrics, intervals = {}, {}
    for size, one in found.items():
        told = {"first": one.hit_Q, "ridge": one.ridge_Q, "above_ridge": one.hit_Q - one.ridge_Q}
        bounded = {name: interval(values_Q, groups, config.seed) for name, values_Q in told.items()}
        metrics[pool_name(size)] = {name: each["mean"] for name, each in bounded.items()}
        intervals[pool_name(size)] = {name: [each["low"], each["high"]] for name, each in bounded.items()}
    return Result(
        bench="rerank", protocol=PROTOCOL, tower=engine.encoder.model.tower_name, metrics=metrics,
        chance={pool_name(size): {"first": round(1 / size, DIGITS)} for size in found},
        oracle={pool_name(size): {"first": 1.0} for size in found},
        coverage={"queries": len(rows), "groups": len(set(groups))},
        interval=intervals | {"level": LEVEL}, seed=config.seed,
        config=asdict(config) | {"index": config.index.name, "sizes": list(config.sizes)},
        more={
            "permuted": {pool_name(size): _permuted(one) for size, one in found.items()},
            "by_language": {pool_name(size): _by_language(config, rows, one) for size, one in found.items()},
            "command": by_command, "resamples": RESAMPLES, "repeats": 1,
            "index": {"snapshot": engine.snapshot.id, "fingerprints": engine.fingerprints},
        },
        predictions=pa.table(
            {ITEM: [row["key"] for row in rows], GROUP: groups}
            | {f"{pool_name(size)}_first": one.hit_Q for size, one in found.items()}
        ),
    )  # fmt: skip


def pool_name(size: int) -> str:
    """Return how a size of pool is called among the figures."""
    return f"pool_of_{size}"


def draw_pools(true_QG: np.ndarray, near_QG: np.ndarray, size: int, draws: int, seed: int) -> Pools:
    """Draw pools for each query: one true item and others that are not related, in random order.

    Raises:
        BenchError: a query has too few unrelated items.
    """
    items, places = [], []
    for query, (true_G, near_G) in enumerate(zip(true_QG, near_QG, strict=True)):
        rng = np.random.default_rng([seed, size, query])
        others = np.flatnonzero(~near_G)
        if len(others) < size - 1:
            raise BenchError(
                f"a sound has {len(others)} unrelated pictures in the gallery, want {size - 1} for its pool"
            )
        for _ in range(draws):
            pool = np.append(rng.choice(others, size - 1, replace=False), rng.choice(np.flatnonzero(true_G)))
            order = rng.permutation(size)
            items.append(pool[order])
            places.append(int(np.flatnonzero(order == size - 1)[0]))
    return Pools(np.repeat(np.arange(len(true_QG)), draws), np.stack(items), np.array(places))


def _choose(engine: Engine, queries_QD: np.ndarray, gallery: Side, pools: Pools) -> np.ndarray:
    """Return the place (M,) that comes first in each pool."""
    chosen = []
    for query_D, pool_N in zip(queries_QD[pools.query_M], pools.items_MN, strict=True):
        candidates = [Part("image", gallery.vectors_ND[item]) for item in pool_N]
        chosen.append(rerank(engine, [Part("audio", query_D)], candidates).ranked[0].candidate)
    return np.array(chosen)


def _chosen(
    config: RerankBenchConfig, pools: Pools, chosen_M: np.ndarray, spectral_QG: np.ndarray, scores_QG: np.ndarray
) -> Chosen:
    hit_Q, ridge_Q = (_by_query(pools, one) for one in (chosen_M == pools.true_M, pools.first(spectral_QG)))
    return Chosen(hit_Q, ridge_Q, permuted_hits(scores_QG, pools, config.permutations, config.seed))


def _permuted(one: Chosen) -> dict[str, float]:
    return {
        "first": round(float(one.permuted.mean()), DIGITS), "first_sd": round(float(one.permuted.std(ddof=1)), DIGITS)
    }  # fmt: skip


def _by_query(pools: Pools, hit_M: np.ndarray) -> np.ndarray:
    """Return the share of each query's pools, float64 (Q,)."""
    return np.bincount(pools.query_M, hit_M) / np.bincount(pools.query_M)


def _by_language(config: RerankBenchConfig, rows: list[dict[str, Any]], one: Chosen) -> dict[str, Any]:
    """Return the figures of spoken names, by language, and of sounds without one, as `none`."""
    found = {}
    for language in sorted({row["language"] for row in rows}):
        mine = np.array([row["language"] == language for row in rows])
        groups = [row["group"] for row, is_mine in zip(rows, mine, strict=True) if is_mine]
        found[language or "none"] = {
            "first": interval(one.hit_Q[mine], groups, config.seed), "queries": int(mine.sum()),
            "ridge": interval(one.ridge_Q[mine], groups, config.seed),
        }  # fmt: skip
    return found


def permuted_hits(scores_QG: np.ndarray, pools: Pools, permutations: int, seed: int) -> np.ndarray:
    """Return, for each permutation, the share of pools whose true picture another query's scores put first."""
    rng = np.random.default_rng([seed, permutations])
    return np.array([pools.first(scores_QG[rng.permutation(len(scores_QG))]).mean() for _ in range(permutations)])


def interval(values_Q: np.ndarray, groups: list[str], seed: int) -> dict[str, float]:
    """Return a mean with the bounds of 95 % of the means of resampled groups."""
    low, high = bootstrap(values_Q, seed, np.array(groups), digits=DIGITS)
    return {"mean": round(float(values_Q.mean()), DIGITS), "low": low, "high": high}


def _ask_command(
    config: RerankBenchConfig, engine: Engine, rows: list[dict[str, Any]], gallery: Side, pools: Pools,
    chosen_M: np.ndarray,
) -> dict[str, int]:  # fmt: skip
    """Put some pools to the command, as files; return how often it chooses the same, and the true one."""
    drawn = np.random.default_rng([config.seed, 1]).permutation(len(chosen_M))[: config.by_command]
    same = true = 0
    for number in drawn.tolist():
        with tempfile.TemporaryDirectory() as work:
            sound = _cut(engine, rows[pools.query_M[number]], ("flac", "wav"), Path(work) / "sound")
            files = [
                _cut(engine, gallery.items[item], ("jpg",), Path(work) / f"{place}")
                for place, item in enumerate(pools.items_MN[number].tolist())
            ]
            words = ["rerank", str(config.index), "--audio", str(sound), *map(str, files), "--json"]
            first = int(Path(json.loads(answer_of("rerank", words))[0]["path"]).stem)
        same += first == chosen_M[number]
        true += first == pools.true_M[number]
    return {"pools": len(drawn), "size": pools.items_MN.shape[1], "same_choice": int(same), "true_first": int(true)}


def _cut(engine: Engine, row: dict[str, Any], kinds: tuple[str, ...], path: Path) -> Path:
    """Write a member of a clip beside others; return its file."""
    members = stored_sample(engine.snapshot, row).members
    kind = next(kind for kind in kinds if kind in members)
    file = path.with_suffix(f".{kind}")
    file.write_bytes(members[kind])
    return file


def rows(told: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the table of a result as plain values, small pools first."""
    found = []
    for size in sorted(told["config"]["sizes"]):
        first, ridge, above = (_bounded(told, size, *one) for one in (("first",), ("ridge",), ("above_ridge", "+")))
        permuted, chance = told["permuted"][pool_name(size)], told["chance"][pool_name(size)]["first"]
        control = f"{permuted['first']:.3f} ± {permuted['first_sd']:.3f}"
        found.append((str(size), first, f"{chance:.3f}", control, ridge, above, str(told["coverage"]["queries"])))
    return found


def _bounded(told: dict[str, Any], size: int, name: str, sign: str = "") -> str:
    low, high = told["interval"][pool_name(size)][name]
    return f"{told['metrics'][pool_name(size)][name]:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"
