"""The answers of a human test are only ever added to, and what a killed writer leaves is told from damage."""

import json
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.bench.errors import BenchError
from unibrivl.bench.human import ANSWERS, Study
from unibrivl.bench.human_answers import AnswerLog, Session, plan, rater_of, read_answers

from .human_folder import make_study


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("frozen"), systems=2)


@pytest.fixture
def study(frozen: Study) -> Study:
    (frozen.root / ANSWERS).unlink(missing_ok=True)
    return frozen


def answer_all(log: AnswerLog, secret: str, *, simulated: bool = True) -> Session:
    session = log.begin(secret, simulated=simulated)
    while (shown := session.next) is not None:
        log.answer(session, shown.picture_side, time_ms=900, plays=2)
    return session


def lines_of(study: Study) -> list[bytes]:
    return (study.root / ANSWERS).read_bytes().splitlines(keepends=True)


@given(st.integers(0, 500))
def test_sides_are_balanced_within_and_across_raters(frozen: Study, number: int) -> None:
    first, second = (plan(frozen, 2 * number + k) for k in (0, 1))
    for shown in (first, second):
        assert sorted(one.trial.trial for one in shown) == sorted(trial.trial for trial in frozen.trials)
        assert Counter(one.picture_side for one in shown) == {"left": 7, "right": 7}
    sides = [{one.trial.trial: one.picture_side for one in shown} for shown in (first, second)]
    assert all(sides[0][name] != sides[1][name] for name in sides[0])
    assert plan(frozen, 2 * number) == first


def test_orders_differ_between_raters(frozen: Study) -> None:
    orders = {tuple(one.trial.trial for one in plan(frozen, number)) for number in range(50)}
    assert len(orders) == 50
    first = Counter(plan(frozen, number)[0].trial.trial for number in range(700))
    assert len(first) == 14 and max(first.values()) < 90  # 50 each expected, deviation 7


def test_what_was_written_is_read_again(study: Study) -> None:
    log = AnswerLog(study)
    assert read_answers(study).sessions == {}
    session = answer_all(log, "a secret that is long")
    other = log.begin("another secret, long", simulated=False)
    log.withdraw(other)
    log.close()
    answers = read_answers(study)
    assert answers.sessions == log.answers.sessions and answers.finished == [session]
    assert [one.number for one in answers.sessions.values()] == [0, 0]  # simulated raters take nobody's number
    assert answers.sessions[rater_of("another secret, long")].is_withdrawn
    records = [json.loads(line) for line in lines_of(study)]
    assert {record["study"] for record in records} == {study.sha256}
    assert [record["simulated"] for record in records] == [True] * 15 + [False] * 2
    assert records[0]["seed"] == study.config.seed and records[1]["replays"] == 1
    assert b"secret" not in b"".join(lines_of(study))


def test_a_file_cut_anywhere_goes_on(study: Study) -> None:
    """A killed writer may leave any beginning of its last line."""
    log = AnswerLog(study)
    session = log.begin("a secret that is long", simulated=True)
    log.answer(session, "left", time_ms=1, plays=1)
    log.close()
    path = study.root / ANSWERS
    whole = path.read_bytes()
    last = len(lines_of(study)[-1])
    for kept in range(1, last, 3):
        path.write_bytes(whole[: len(whole) - last + kept])
        before = read_answers(study)
        assert (before.torn, before.is_torn) == (1, True) and len(before.sessions[session.rater].answers) == 0
        again = AnswerLog(study)
        assert path.read_bytes().startswith(whole[: len(whole) - last + kept])  # nothing is taken away
        again.answer(again.answers.sessions[session.rater], "right", time_ms=2, plays=1)
        again.close()
        after = read_answers(study)
        assert (after.torn, after.is_torn) == (1, False) and after.sessions == again.answers.sessions
        assert [answer.time_ms for answer in after.sessions[session.rater].answers.values()] == [2]


def test_a_writer_killed_while_it_mends_is_mended_too(study: Study) -> None:
    AnswerLog(study).begin("a secret that is long", simulated=True)
    path = study.root / ANSWERS
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind":"answ')
    AnswerLog(study).close()
    mended = path.read_bytes()
    for kept in range(len(whole) + 14, len(mended), 4):
        path.write_bytes(mended[:kept])
        assert list(read_answers(study).sessions) == [rater_of("a secret that is long")]
        log = AnswerLog(study)
        answer_all(log, "another secret, long")
        log.close()
        assert len(read_answers(study).finished) == 1


@pytest.mark.parametrize("line", [0, 1, 5])
def test_damage_in_the_middle_is_no_half_line(study: Study, line: int) -> None:
    log = AnswerLog(study)
    answer_all(log, "a secret that is long")
    log.close()
    lines = lines_of(study)
    lines[line] = lines[line][:20] + b"\n"
    (study.root / ANSWERS).write_bytes(b"".join(lines))
    with pytest.raises(BenchError, match=rf"answers\.jsonl:{line + 1}: cannot be read"):
        read_answers(study)
    with pytest.raises(BenchError, match="cannot be read"):
        AnswerLog(study)


def forged(study: Study, number: int, /, **changes: object) -> None:
    lines = lines_of(study)
    lines[number] = json.dumps(json.loads(lines[number]) | changes).encode() + b"\n"
    (study.root / ANSWERS).write_bytes(b"".join(lines))


@pytest.mark.parametrize(
    ("number", "changes", "told"),
    [
        (0, {"simulated": False}, "2: cannot have come from the server"),  # the answers still say simulated
        (3, {"simulated": False}, "4: cannot have come from the server"),
        (3, {"choice": "picture", "side": "neither"}, "4: cannot have come from the server"),
        (3, {"trial": "another"}, "4: cannot have come from the server"),
        (3, {"time_ms": "soon"}, "4: cannot have come from the server"),
        (3, {"rater": "nobody"}, "4: cannot have come from the server"),
        (0, {"picture_sides": ["left"] * 14}, "1: cannot have come from the server"),
        (0, {"number": -1}, "1: cannot have come from the server"),
        (0, {"seed": 9}, "1: cannot have come from the server"),
        (0, {"study": "0" * 64}, "1: is an answer to another study"),
    ],
)
def test_forged_lines_are_seen(study: Study, number: int, changes: dict[str, object], told: str) -> None:
    log = AnswerLog(study)
    answer_all(log, "a secret that is long")
    log.close()
    forged(study, number, **changes)
    with pytest.raises(BenchError, match=told):
        read_answers(study)


def test_a_line_twice_or_left_out_is_seen(study: Study) -> None:
    log = AnswerLog(study)
    answer_all(log, "a secret that is long")
    log.close()
    lines = lines_of(study)
    for changed in ([*lines[:4], *lines[5:]], [*lines[:4], lines[3], *lines[4:]], [lines[0], *lines], lines[1:]):
        (study.root / ANSWERS).write_bytes(b"".join(changed))
        with pytest.raises(BenchError, match="cannot have come from the server"):
            read_answers(study)


def test_the_file_is_its_owners(study: Study, tmp_path: Path) -> None:
    AnswerLog(study).close()
    assert (study.root / ANSWERS).stat().st_mode & 0o077 == 0


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("spare", [0, 1, 40])
def test_a_full_disk_loses_no_later_answer(study: Study, spare: int) -> None:
    log = AnswerLog(study)
    session = log.begin("a secret that is long", simulated=True)
    size = (study.root / ANSWERS).stat().st_size
    with room_for(size + spare):
        for _ in range(2):
            with pytest.raises(BenchError, match=r"half a line was written|nothing more can be stored"):
                log.answer(session, "left", time_ms=1, plays=1)
    assert not session.answers and read_answers(study).sessions == log.answers.sessions
    while (shown := session.next) is not None:
        log.answer(session, shown.picture_side, time_ms=2, plays=1)
    log.close()
    answers = read_answers(study)
    assert answers.finished == [session] and {a.time_ms for a in answers.finished[0].answers.values()} == {2}
