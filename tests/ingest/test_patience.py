"""Checks how often and how patiently a source is asked."""

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unibrivl.ingest import patience
from unibrivl.ingest.clips import Clip
from unibrivl.ingest.errors import ClipError, IngestError
from unibrivl.ingest.patience import MAX_TRIES, Gate, GateMirror, PatienceConfig, patiently
from unibrivl.ingest.sources import Medium

CLIP = Clip(corpus="as", media_id="abcdefghijk", start_ms=0, end_ms=1000)


class Moody:
    """A source that raises what it was told, one after the other, and then gives the medium."""

    def __init__(self, *codes: str) -> None:
        self.codes = list(codes)
        self.asked = 0
        self.closed = 0

    @contextmanager
    def open(self, clip: Clip) -> Iterator[Medium]:
        self.asked += 1
        if self.codes:
            code = self.codes.pop(0)
            raise ClipError(code, f"{clip.key}: {code}")
        yield Medium(Path("x.mp4"))
        self.closed += 1


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make time pass at once; return the pauses that were slept."""
    slept: list[float] = []
    now = [1000.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(patience.time, "sleep", sleep)
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    return slept


def ask(source: Moody, gate: Gate) -> tuple[list[str], int]:
    """Open once; return the codes of the tries in between, and how often a sign of life was given."""
    tries: list[str] = []
    beats: list[None] = []
    with patiently(source, CLIP, gate, lambda: beats.append(None), lambda e: tries.append(e.code)) as medium:
        assert medium.path == Path("x.mp4")
        assert source.closed == 0
    assert source.closed == 1
    return tries, len(beats)


def gate(**options: float) -> Gate:
    return Gate(PatienceConfig(**options), multiprocessing.get_context("spawn"))


def test_a_source_that_answers_is_asked_once(pauses: list[float]) -> None:
    source = Moody()
    assert ask(source, gate()) == ([], 1)
    assert pauses == []


def test_a_fault_in_passing_is_tried_again_a_few_times(pauses: list[float]) -> None:
    source = Moody(*["transient.network"] * (MAX_TRIES - 1))
    assert ask(source, gate())[0] == ["transient.network"] * (MAX_TRIES - 1)
    assert pauses == [0.5, 1.0, 2.0]


def test_a_fault_that_does_not_pass_is_the_last_word(pauses: list[float]) -> None:
    source = Moody(*["transient.http_5xx"] * MAX_TRIES)
    with pytest.raises(ClipError, match=r"transient\.http_5xx"):
        ask(source, gate())
    assert source.asked == MAX_TRIES


@pytest.mark.parametrize("code", ["source.private", "local.missing_file", "media.no_audio", "policy.address"])
def test_what_another_try_would_not_change_is_tried_once(pauses: list[float], code: str) -> None:
    source = Moody(code)
    with pytest.raises(ClipError):
        ask(source, gate())
    assert source.asked == 1 and pauses == []


def test_refusals_are_no_tries_and_their_pauses_double(pauses: list[float]) -> None:
    source = Moody(*["throttle.http_429"] * 6)
    tries, beats = ask(source, gate(pause_s=8.0))
    assert tries == ["throttle.http_429"] * 6
    assert beats >= sum(pauses), "a worker that waits must not look as if it hung"
    assert 0.75 * 8 * 63 <= sum(pauses) <= 1.25 * 8 * 63


def test_an_answer_ends_the_doubling(pauses: list[float]) -> None:
    shared = gate(pause_s=8.0)
    ask(Moody("throttle.http_429", "throttle.http_429"), shared)
    pauses.clear()
    ask(Moody("throttle.bot_check"), shared)
    assert sum(pauses) <= 10


def test_the_gate_is_closed_to_all_and_closed_once(pauses: list[float]) -> None:
    shared = gate(pause_s=8.0)
    error = ClipError("throttle.http_429", "too many requests")
    shared.refused(error)
    shared.refused(error)  # another worker, whose request was under way
    ask(Moody(), shared)
    assert 6 <= sum(pauses) <= 10


def test_a_source_that_refuses_for_good_ends_the_run(pauses: list[float]) -> None:
    source = Moody(*["throttle.bot_check"] * 1000)
    with pytest.raises(IngestError, match="nothing is lost: run the same command later"):
        ask(source, gate(max_wait_s=3600.0))
    assert 3600 <= sum(pauses) <= 3600 + 1125


@pytest.mark.parametrize(("name", "value"), [("pause_s", 0), ("pause_s", 901), ("max_wait_s", -1)])
def test_values_that_cannot_be_meant_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        PatienceConfig(**{name: value})


def test_real_time_passes_where_none_is_faked() -> None:
    started = time.monotonic()
    ask(Moody("throttle.http_429"), gate(pause_s=0.2))
    assert time.monotonic() - started >= 0.15


class Machine:
    """A machine with a gate of its own that follows the shared one, as `machine.py` does once a second."""

    def __init__(self, shared: Gate, **options: float) -> None:
        self.shared, self.gate = shared, gate(**options)
        self.mirror = GateMirror(self.gate)

    def report(self) -> None:
        met = self.mirror.news()
        if met is not None:
            self.shared.meet(met)
        self.mirror.follow(self.shared.state)


def test_machines_share_pauses_as_workers_of_one_machine_do(pauses: list[float]) -> None:
    shared = gate(pause_s=8.0)
    one, other = Machine(shared, pause_s=8.0), Machine(shared, pause_s=8.0)
    error = ClipError("throttle.http_429", "too many requests")
    one.gate.refused(error)
    other.gate.refused(error)  # its request was under way
    one.report()
    other.report()
    one.report()
    assert one.gate.state == other.gate.state == shared.state  # closed once: the first pause, by whoever came first
    assert 6 <= shared.state[0] <= 10 and shared.state[1] == 8.0
    ask(Moody(), other.gate)
    assert 6 <= sum(pauses) <= 10
    other.report()
    one.report()
    assert one.gate.state == (0.0, 0.0, 0.0)  # an answer on any machine ends the doubling on all


def test_pauses_double_from_machine_to_machine_up_to_the_limit_of_the_run(pauses: list[float]) -> None:
    shared = gate(pause_s=8.0, max_wait_s=100.0)
    machines = [Machine(shared, pause_s=8.0, max_wait_s=100.0) for _ in range(3)]
    error, refusals = ClipError("throttle.http_429", "too many requests"), 0
    with pytest.raises(IngestError, match="the source has refused for"):
        for refusals in range(100):
            machine = machines[refusals % 3]
            machine.gate.refused(error)
            for each in (machine, *machines):
                each.report()
            machine.gate.wait(lambda: None)
    assert refusals in (4, 5)  # 8 + 16 + 32 + 64 s, each a quarter less or more, are about 100
    assert shared.state[2] == pytest.approx(sum(pauses))


def test_what_is_met_between_two_reports_is_not_overwritten() -> None:
    shared = gate()
    one = Machine(shared)
    met = one.mirror.news()
    assert met is None
    one.gate.refused(ClipError("throttle.http_429", "too many requests"))
    one.mirror.follow(shared.state)
    assert one.gate.state[1] == 10.0
    one.report()
    assert shared.state[1] == 10.0
