"""The recall gate: what it promises holds for queries it never saw; what cannot hold becomes exact, or an error."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unibrivl.bench.speed_index_data import Vectors, make_vectors
from unibrivl.index import plan
from unibrivl.index.ann import FILE, open_ann
from unibrivl.index.errors import GateError
from unibrivl.index.exact import ExactScan
from unibrivl.index.gate import SearchConfig, equip
from unibrivl.index.recall import recalls
from unibrivl.index.search import Searcher

ROWS, DIM = 6_000, 32


@dataclass(frozen=True)
class Draft:
    modality: str
    vectors_ND: np.ndarray
    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name


@dataclass(frozen=True)
class Kept:
    """A snapshot of drafts."""

    drafts: tuple[Draft, ...]
    manifest: Mapping[str, Any]

    def of(self, modality: str) -> tuple[Draft, ...]:
        return tuple(draft for draft in self.drafts if draft.modality == modality)

    def live(self, segment: Draft) -> None:
        return None


@pytest.fixture(scope="module")
def made() -> Vectors:
    return make_vectors(ROWS, DIM, seed=2, queries=1600)


def draft(folder: Path, modality: str, vectors: np.ndarray) -> Draft:
    folder.mkdir()
    return Draft(modality, vectors.astype(np.float16), folder)


@pytest.fixture(scope="module")
def equipped(made: Vectors, tmp_path_factory: pytest.TempPathFactory) -> tuple[Kept, dict[str, Any], list[Any]]:
    """Pictures with an ANN index, few sounds without one, gated with held-out sounds and texts."""
    folder, steps = tmp_path_factory.mktemp("drafts"), []
    drafts = [draft(folder / "a", "audio", made.far_QD[:300]), draft(folder / "i", "image", made.base_ND)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "EXACT_MAX_NUMBERS", 10**5)
        evaluation = equip(
            drafts, {"audio": made.far_QD[300:900], "text": made.near_QD[:300]}, SearchConfig(recall=0.9),
            lambda done, total, text: steps.append((done, total, text)),
        )  # fmt: skip
    return Kept(tuple(drafts), {"search": evaluation["search"]}), evaluation, steps


def test_the_recall_holds_for_queries_it_never_saw(
    equipped: tuple[Kept, dict[str, Any], list[Any]], made: Vectors
) -> None:
    kept, evaluation, _ = equipped
    searcher = Searcher(kept)
    for modality, queries in (("audio", made.far_QD[900:]), ("text", made.near_QD[300:1000])):
        for k in (10, 100):
            hits = searcher.search("image", queries, k, direction=modality)
            truth = searcher.search("image", queries, k, exact=True)
            assert (hits.mode, truth.mode) == ("ann", "exact")
            # the lower bound of 95 % holds for the mean of all queries; these are a further sample of them
            assert recalls(hits.scores_QK, truth.scores_QK, k).mean() >= 0.9 - 0.01
        found = evaluation["directions"][f"{modality}>image"]["recall"]["10"]
        assert 0.9 <= found["low"] <= found["value"] <= found["high"] <= 1


def test_what_is_recorded(equipped: tuple[Kept, dict[str, Any], list[Any]]) -> None:
    kept, evaluation, steps = equipped
    json.dumps(evaluation, allow_nan=False)
    directions = {f"{query}>{target}" for query in ("audio", "image", "text") for target in ("audio", "image")}
    assert evaluation["directions"].keys() == evaluation["background"].keys() == directions
    assert evaluation["search"]["audio"] == {"factory": "exact", "params": {}}
    assert evaluation["search"]["image"]["params"].keys() == {"audio", "image", "text"}
    approximate = evaluation["directions"]["audio>image"]
    assert (approximate["queries"], approximate["source"]) == (300, "held-out queries")
    assert evaluation["directions"]["image>image"]["source"] == "rows, each left out of its own answers"
    assert approximate["recall"].keys() == {"1", "10", "100"}
    assert approximate["filters"].keys() == {"0.5", "0.1", "0.01", "0.001"}
    assert all(found["value"] >= 0.9 for found in approximate["filters"].values())
    assert 0 < approximate["ms"]["p50"] <= approximate["ms"]["p95"] <= approximate["ms"]["p99"]
    assert approximate["qps_single"] > 0 and approximate["qps_batch"] > 0
    exact = evaluation["directions"]["image>audio"]
    assert exact["recall"]["10"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert not {"ms", "qps_single", "qps_batch"} & exact.keys(), "figures that vary would make equal indexes differ"
    segments = evaluation["segments"]["image"]
    size = (kept.drafts[1].folder / FILE).stat().st_size
    assert segments["bytes_per_vector"] == pytest.approx(2 * DIM + size / ROWS, abs=0.1)
    pairs = {f"{a}+{b}" for a in ("audio", "image", "text") for b in ("audio", "image", "text") if a <= b}
    assert segments["sums"].keys() == pairs
    assert all(told["recall"][level]["value"] >= 0.85 for told in segments["sums"].values() for level in ("10", "100"))
    assert [candidate["factory"] for candidate in segments["candidates"]] == ["IVF256,PQ8x4fsr", "IVF256,SQ8"]
    assert not (kept.drafts[0].folder / FILE).exists()
    assert [done for done, _, _ in steps] == list(range(len(steps))) and len(steps) <= steps[0][1]


def test_the_background_is_that_of_random_pairs(
    equipped: tuple[Kept, dict[str, Any], list[Any]], made: Vectors
) -> None:
    _, evaluation, _ = equipped
    for direction, queries in (("audio>image", made.far_QD[300:900]), ("image>image", made.base_ND[:2000])):
        cosines = (queries @ made.base_ND.T).ravel()
        found = evaluation["background"][direction]
        # 200,000 pairs of 600 and 2,000 vectors: the sampling of the vectors dominates, about sd / sqrt(600)
        assert found["mean"] == pytest.approx(cosines.mean(), abs=4 * cosines.std() / np.sqrt(600))
        assert found["sd"] == pytest.approx(cosines.std(), rel=0.1)
        assert len(found["quantiles"]) == 101 and found["quantiles"] == sorted(found["quantiles"])
        assert found["quantiles"][50] == pytest.approx(np.median(cosines), abs=4 * cosines.std() / np.sqrt(600))
    gap = evaluation["background"]["image>image"]["mean"] - evaluation["background"]["audio>image"]["mean"]
    assert gap > 0.1, "the modality gap shows"


def test_a_small_index_is_exact_and_the_same_every_time(made: Vectors, tmp_path: Path) -> None:
    drafts = [draft(tmp_path / "a", "audio", made.far_QD[:50]), draft(tmp_path / "i", "image", made.base_ND[:80])]
    first = equip(drafts, {}, SearchConfig(seed=3))
    assert first == equip(drafts, {}, SearchConfig(seed=3)) != equip(drafts, {}, SearchConfig(seed=4))
    assert first["search"] == {name: {"factory": "exact", "params": {}} for name in ("audio", "image")}
    assert first["peak_rss_mb"] is None
    assert not list(tmp_path.rglob(FILE))


def test_one_row_has_a_background(tmp_path: Path) -> None:
    one = draft(tmp_path / "i", "image", np.eye(1, 8, dtype=np.float32))
    background = equip([one], {}, SearchConfig())["background"]
    assert background == {"image>image": {"mean": 0.0, "sd": 1.0, "quantiles": [0.0] * 101}}


def test_what_cannot_reach_the_recall_becomes_exact(
    made: Vectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "EXACT_MAX_NUMBERS", 10**4)
    # 1 bit a dimension and no more than two answers' worth of candidates: neither candidate can do it
    monkeypatch.setattr(plan, "factories", lambda rows, dim: ["IVF16,PQ2x4fsr"])
    monkeypatch.setattr("unibrivl.index.tune.K_FACTORS", (1,))
    images = draft(tmp_path / "i", "image", made.base_ND[:3000])
    evaluation = equip([images], {"audio": made.far_QD[:400]}, SearchConfig(recall=0.99))
    assert evaluation["search"]["image"] == {"factory": "exact", "params": {}}
    assert "reaches recall 0." in evaluation["segments"]["image"]["candidates"][0]["shortfall"]
    assert not (images.folder / FILE).exists()
    named = SearchConfig(recall=0.99, factory="IVF16,PQ2x4fsr")
    with pytest.raises(GateError, match=r"audio>image reaches recall 0\.\d+ at 10 with IVF16,PQ2x4fsr, wanted 0\.99"):
        equip([images], {"audio": made.far_QD[:400]}, named)
    assert not (images.folder / FILE).exists()


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("IVF16,PQ7x4fsr", "makes no index of 32 dimensions"),
        ("IVF16,NONE", "makes no index of 32 dimensions"),
        ("IVF4096,SQ8", "has 4096 lists for 300 rows; ask for fewer"),
    ],
)
def test_an_index_that_cannot_be_is_refused(made: Vectors, tmp_path: Path, factory: str, message: str) -> None:
    images = draft(tmp_path / "i", "image", made.base_ND[:300])
    with pytest.raises(GateError, match=message):
        equip([images], {}, SearchConfig(factory=factory))


def test_several_segments_of_a_modality_are_gated_together(made: Vectors, tmp_path: Path) -> None:
    parts = made.base_ND[:3000], made.base_ND[3000:]
    drafts = tuple(draft(tmp_path / str(n), "image", part) for n, part in enumerate(parts))
    evaluation = equip(drafts, {"audio": made.far_QD[:400]}, SearchConfig(recall=0.9, factory="IVF32,SQ8"))
    for one in drafts:
        assert open_ann(one.folder / FILE, ExactScan(one.vectors_ND)).nlist == 32
    searcher = Searcher(Kept(drafts, {"search": evaluation["search"]}))
    hits = searcher.search("image", made.far_QD[400:1000], 10, direction="audio")
    truth = searcher.search("image", made.far_QD[400:1000], 10, exact=True)
    assert set(hits.segments_QK.ravel().tolist()) == {0, 1}
    assert recalls(hits.scores_QK, truth.scores_QK, 10).mean() >= 0.89


def test_lists_that_hold_too_few_rows_are_no_setting(
    made: Vectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once one list of some twenty rows was "enough" for 100 answers: every query was scanned, and so always right."""
    monkeypatch.setattr(plan, "EXACT_MAX_NUMBERS", 10**5)
    images = draft(tmp_path / "i", "image", made.base_ND)
    evaluation = equip([images], {"audio": made.far_QD[:400]}, SearchConfig(recall=0.9, factory="IVF256,SQ8"))
    params = evaluation["search"]["image"]["params"]["audio"]
    assert params["100"]["nprobe"] >= 100 / (ROWS / 256)
    searcher, scanned = Searcher(Kept((images,), {"search": evaluation["search"]})), []
    part = searcher.parts("image")[0]
    monkeypatch.setattr(part.scan, "search", lambda queries, *_: scanned.append(len(queries)))
    searcher.search("image", made.far_QD[400:], 100, direction="audio")
    assert sum(scanned) == 0
