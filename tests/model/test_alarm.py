"""The alarm of collapse: it speaks once, after enough steps in a row, and not otherwise."""

import math

import pytest

from unibrivl.model.alarm import STEPS, CollapseAlarm


def said(losses: list[float], candidates: float = 64) -> list[str]:
    lines: list[str] = []
    alarm = CollapseAlarm(lines.append)
    for loss in losses:
        alarm.feed(loss, candidates)
    return lines


def test_it_speaks_once_in_one_line() -> None:
    level = math.log(64)
    (line,) = said([level * 1.005] * (3 * STEPS))
    assert "ln(64) = 4.16 for 200 steps" in line and "\n" not in line
    assert len(said([level * 0.995] * STEPS)) == 1


@pytest.mark.parametrize("share", [0.5, 0.98, 1.02, 2.0])
def test_a_loss_elsewhere_is_no_collapse(share: float) -> None:
    assert said([math.log(64) * share] * (2 * STEPS)) == []


def test_one_step_away_starts_the_count_again() -> None:
    level = math.log(64)
    assert said([*[level] * (STEPS - 1), level / 2, *[level] * (STEPS - 1)]) == []
    assert len(said([*[level] * (STEPS - 1), level / 2, *[level] * STEPS])) == 1


def test_the_level_follows_the_candidates() -> None:
    lines: list[str] = []
    alarm = CollapseAlarm(lines.append, steps=10)
    for step in range(10):  # a queue that fills
        alarm.feed(math.log(8 + 8 * step), 8 + 8 * step)
    assert lines == ["the loss has stayed at ln(80) = 4.38 for 10 steps: all embeddings look alike; "
                     "lower --lr, or look at the data"]  # fmt: skip


def test_one_candidate_and_a_loss_that_is_no_number_are_no_collapse() -> None:
    assert said([0.0] * (2 * STEPS), candidates=1) == []
    assert said([math.nan] * (2 * STEPS)) == []
