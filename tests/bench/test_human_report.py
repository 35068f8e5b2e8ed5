"""Whose answers count in a human test, what they say, and what may be called Table 5."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unibrivl.bench.human import ANSWERS, Study
from unibrivl.bench.human_answers import AnswerLog, Session, Shown, read_answers
from unibrivl.bench.human_rehearse import RehearseConfig, rehearse
from unibrivl.bench.human_report import measure
from unibrivl.bench.human_table import coverage_text, heading, human_page, pair_rows, rows
from unibrivl.index.page import render

from .human_folder import make_study

SHAPE = {
    "bench", "protocol", "tower", "metrics", "chance", "oracle", "coverage", "interval", "seed", "status",
}  # fmt: skip


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("report"), systems=2, catches=4)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("large"), per_class=8, raters=30, resamples=2000)


@pytest.fixture(params=[True, False], ids=["simulated", "people"])
def kind(request: pytest.FixtureRequest) -> bool:
    return request.param


Choose = Callable[[Shown], str]


def truly(shown: Shown) -> str:
    return shown.picture_side


def falsely(shown: Shown) -> str:
    return "right" if shown.picture_side == "left" else "left"


class Writing:
    """A study with an empty log, and people or simulated raters who answer by rules."""

    def __init__(self, study: Study) -> None:
        (study.root / ANSWERS).unlink(missing_ok=True)
        self.study, self.log, self.count = study, AnswerLog(study), 0

    def answer(self, choose: Choose, *, simulated: bool, most: int = 1000) -> Session:
        self.count += 1
        session = self.log.begin(f"secret number {self.count:06d}", simulated=simulated)
        while (shown := session.next) is not None and len(session.answers) < most:
            self.log.answer(session, choose(shown), time_ms=1500, plays=1)
        return session

    def result(self, **options: Any) -> dict[str, Any]:
        read = read_answers(self.study)
        assert read.sessions == self.log.answers.sessions
        return measure(self.study, read, **options)


@pytest.fixture
def writing(frozen: Study) -> Writing:
    return Writing(frozen)


def test_figures_are_counted_by_hand(writing: Writing, kind: bool) -> None:
    """Three raters, 6 sounds, two systems: the first always fits; of the second only the dog, and rain is undecided."""

    def choose(shown: Shown) -> str:
        if shown.trial.is_catch or shown.trial.system == "ours" or shown.trial.category == "dog":
            return truly(shown)
        return "neither" if shown.trial.category == "rain" else falsely(shown)

    for _ in range(3):
        writing.answer(choose, simulated=kind)
    result = writing.result()
    assert set(result) >= SHAPE and json.loads(json.dumps(result, allow_nan=False)) == result
    ours, theirs = (result["metrics"]["by_system"][name] for name in ("ours", "theirs"))
    assert (ours["picture"], ours["foil"], ours["neither"], ours["agree"], ours["preference"]) == (18, 0, 0, 1.0, 1.0)
    assert (theirs["picture"], theirs["foil"], theirs["neither"]) == (6, 6, 6)
    assert (theirs["agree"], theirs["preference"], theirs["p"]) == (0.3333, 0.5, 1.0)
    assert ours["p"] == pytest.approx(2 / 2**18) and ours["alpha"] == theirs["alpha"] == 1.0
    assert result["interval"]["agree_wilson"] == [0.8241, 1.0]  # 18 of 18: 1 / (1 + 3.8415 / 18)
    assert result["metrics"]["agree"] == 1.0 and result["metrics"]["catches_passed"] == 1.0
    (pair,) = result["metrics"]["pairs"]
    assert (pair["only_first"], pair["only_second"], pair["difference"]) == (12, 0, 0.6667)
    assert pair["p"] == pytest.approx(2 / 2**12)
    low, high = pair["difference_interval"]
    assert 0 <= low < 0.6667 < high <= 1
    assert result["coverage"]["answers"] == 48 and result["coverage"]["median_s"] == 1.5
    assert len(rows(result)) == 2 and len(pair_rows(result)) == 1


def test_only_people_make_table_5(writing: Writing) -> None:
    for _ in range(3):
        writing.answer(truly, simulated=False)
    result = writing.result()
    assert (result["status"], result["simulated"], result["tower"]) == ("ok", False, "ours")
    assert heading(result) == "Table 5: what people choose"
    assert "simulated" not in json.dumps(rows(result)) and "Table 5: what people choose" in render(human_page(result))


def test_simulated_raters_are_marked_everywhere(writing: Writing) -> None:
    for _ in range(3):
        writing.answer(truly, simulated=True)
    result = writing.result()
    assert (result["status"], result["simulated"]) == ("simulated", True)
    assert result["tower"] == "ours (simulated)" and result["protocol"].endswith("(simulated)")
    assert heading(result) == "Simulated raters: not Table 5, not people"
    assert all(row[0].endswith("(simulated)") for row in (*rows(result), *pair_rows(result)))
    assert "3 simulated raters count" in coverage_text(result)
    page = render(human_page(result))
    assert "No person gave these answers" in page and page.count("(simulated)") >= 5
    assert "Table 5" not in page.replace("Simulated raters: not Table 5, not people", "")


@pytest.mark.parametrize("status", ["ok", "insufficient"])
def test_a_changed_status_makes_no_table_5_of_simulated_raters(writing: Writing, status: str) -> None:
    for _ in range(3):
        writing.answer(truly, simulated=True)
    result = writing.result() | {"status": status}
    assert "not people" in heading(result) and all("(simulated)" in row[0] for row in rows(result))


def test_people_and_simulated_raters_are_never_counted_together(writing: Writing) -> None:
    writing.answer(truly, simulated=False)
    for _ in range(3):
        writing.answer(falsely if writing.count % 2 else truly, simulated=True)
    result = writing.result()
    assert (result["status"], result["coverage"]["raters"], result["coverage"]["begun"]) == ("insufficient", 1, 1)
    asked = writing.result(simulated=True)
    assert (asked["status"], asked["coverage"]["begun"]) == ("simulated", 3)


def test_below_the_wanted_number_there_is_no_figure(writing: Writing, kind: bool) -> None:
    for _ in range(2):
        writing.answer(truly, simulated=kind)
    result = writing.result()
    assert result["metrics"] == {} and set(result["interval"]) == {"level"}
    assert result["status"] == ("simulated" if kind else "insufficient")
    (row,) = rows(result)
    assert row[1] == "insufficient: 2 of 3 valid raters" and not any(row[2:]) and not pair_rows(result)
    page = render(human_page(result))
    assert "insufficient" in page and "Table 5: what" not in page


def test_nobody_is_insufficient(writing: Writing) -> None:
    result = writing.result()
    assert (result["status"], result["simulated"], result["metrics"]) == ("insufficient", False, {})


def test_who_does_not_count_is_counted(writing: Writing, kind: bool) -> None:
    def careless(shown: Shown) -> str:
        return falsely(shown) if shown.trial.is_catch else truly(shown)

    def undecided(shown: Shown) -> str:
        return "neither" if shown.trial.is_catch else truly(shown)

    for choose in (careless, undecided):
        writing.answer(choose, simulated=kind)
    writing.answer(truly, simulated=kind, most=5)
    gone = writing.answer(truly, simulated=kind)
    writing.log.withdraw(gone)
    for _ in range(5):
        writing.answer(truly, simulated=kind)
    coverage = writing.result()["coverage"]
    assert coverage["left_out"] == {"withdrawn": 1, "unfinished": 1, "failed_catches": 2, "beyond": 2}
    assert (coverage["raters"], coverage["begun"]) == (3, 9)


def test_the_share_of_catches_is_the_one_that_was_frozen(writing: Writing) -> None:
    """Three of four are passed, 0.75 wanted; two of four are not enough."""
    for failed, counts in ((1, 1), (2, 1)):
        wrong = {trial.trial for trial in writing.study.catches[:failed]}
        writing.answer(lambda s, w=wrong: falsely(s) if s.trial.trial in w else truly(s), simulated=True)
        assert writing.result()["coverage"]["raters"] == counts


def test_a_withdrawal_makes_room_for_the_next(writing: Writing) -> None:
    sessions = [writing.answer(truly, simulated=False) for _ in range(4)]
    assert writing.result()["coverage"]["left_out"]["beyond"] == 1
    writing.log.withdraw(sessions[0])
    result = writing.result()
    assert (result["status"], result["coverage"]["left_out"]) == (
        "ok", {"withdrawn": 1, "unfinished": 0, "failed_catches": 0, "beyond": 0},
    )  # fmt: skip


def test_half_a_line_is_told_of(writing: Writing) -> None:
    writing.answer(truly, simulated=True)
    with (writing.study.root / ANSWERS).open("ab") as f:
        f.write(b'{"kind":"answer","stu')
    assert "1 half-written lines were ignored" in coverage_text(writing.result())


def test_a_planted_preference_is_found(large: Study) -> None:
    """30 raters, 24 sounds, preference 0.75, a tenth undecided: known values, within three of their deviations."""
    result = simulated_result(large, seed=1)
    metrics, interval = result["metrics"], result["interval"]
    assert metrics["answers"] == 720 and result["status"] == "simulated"
    for name, value in (("preference", 0.75), ("agree", 0.675)):
        low, high = interval[name]
        assert low < value < high and high - low < 0.15
        assert metrics[name] == pytest.approx(value, abs=3 * (value * (1 - value) / 648) ** 0.5)
        low_wilson, high_wilson = interval[f"{name}_wilson"]
        assert low_wilson < metrics[name] < high_wilson and high - low >= 0.8 * (high_wilson - low_wilson)
    assert metrics["undecided"] == pytest.approx(0.1, abs=0.034)  # deviation sqrt(0.09 / 720) = 0.011
    assert metrics["p"] < 1e-20
    # two raters agree with 0.675^2 + 0.225^2 + 0.1^2 = 0.516; by chance (labels even) 0.45^2 + 0.45^2 + 0.1^2 = 0.415
    assert metrics["alpha"] == pytest.approx((0.516 - 0.415) / (1 - 0.415), abs=0.06)


def test_no_preference_is_none(large: Study) -> None:
    result = simulated_result(large, seed=2, preference=0.5)
    low, high = result["interval"]["preference"]
    assert low < 0.5 < high and result["metrics"]["p"] > 0.001 and abs(result["metrics"]["alpha"]) < 0.06


def test_intervals_cover_and_the_coin_errs_as_often_as_it_says(tmp_path: Path) -> None:
    """60 small studies with planted 0.75: 95 % intervals miss at most 8 (3 expected); the same seed is the same."""
    study = make_study(tmp_path, per_class=4, raters=8, resamples=500)
    missed = {"preference": 0, "preference_wilson": 0}
    for seed in range(60):
        result = simulated_result(study, seed)
        for name in missed:
            low, high = result["interval"][name]
            missed[name] += not low <= 0.75 <= high
    assert max(missed.values()) <= 8
    assert simulated_result(study, 5)["metrics"] == simulated_result(study, 5)["metrics"]


def simulated_result(study: Study, seed: int, preference: float = 0.75) -> dict[str, Any]:
    """Answer in memory: that thousands of lines are flushed to disk is not the matter here."""
    writing = Writing(study)
    writing.log._write = lambda data: None  # type: ignore[method-assign]
    config = RehearseConfig(raters=study.config.raters, preference=preference, seed=seed)
    rehearse(config, study, writing.log)
    writing.log.close()
    return measure(study, writing.log.answers)
