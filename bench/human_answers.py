"""The answers of a human test: lines of JSON, only ever added to, each carrying the study's hash.

A line is written in one piece and flushed to disk before the answer counts, so a killed server loses at most what it
had not yet confirmed. What it leaves then, half a line at the end, stays where it is: the next server ends that line
and writes after it that it is void. A line that cannot be read and is not declared void means damage.

Whether a session is simulated stands in every line, and is told by the server, never by the page alone.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..shards.atomic import sync_directory
from .errors import BenchError
from .human import ANSWERS, Study, Trial

CHOICES = ("picture", "foil", "neither")
SIDES = ("left", "right")
VOID = "void"


@dataclass(frozen=True, slots=True)
class Shown:
    """A trial as one rater gets it."""

    trial: Trial
    picture_side: str

    def choice(self, side: str) -> str:
        """Return what a side, or `neither`, stands for."""
        return "neither" if side == "neither" else "picture" if side == self.picture_side else "foil"

    def name(self, side: str) -> str:
        """Return the file that is shown on a side."""
        return self.trial.picture if side == self.picture_side else self.trial.foil


@dataclass(frozen=True, slots=True)
class Answer:
    """What one rater said of one trial."""

    choice: str
    """One of `CHOICES`."""
    time_ms: int
    """From the pictures' appearance to the choice."""
    replays: int
    """How often the sound was played beyond once."""


@dataclass(slots=True)
class Session:
    """One rater and what came from there."""

    rater: str
    """Hash of the secret that the rater's browser holds."""
    number: int
    is_simulated: bool
    plan: tuple[Shown, ...]
    answers: dict[str, Answer] = field(default_factory=dict)
    """By trial, in the order in which they came."""
    is_withdrawn: bool = False

    @property
    def is_finished(self) -> bool:
        """Tell whether every trial was answered."""
        return len(self.answers) == len(self.plan)

    @property
    def next(self) -> Shown | None:
        """Return the trial whose turn it is."""
        return None if self.is_finished else self.plan[len(self.answers)]


@dataclass(slots=True)
class Answers:
    """Everything in the file."""

    sessions: dict[str, Session] = field(default_factory=dict)
    """By rater, in the order in which they began."""
    finished: list[Session] = field(default_factory=list)
    """In the order in which they finished."""
    torn: int = 0
    """Half lines that were ignored."""
    is_torn: bool = False
    """The file ends with half a line that is not declared void yet."""

    def of(self, *, simulated: bool) -> list[Session]:
        """Return the sessions of people, or the simulated ones."""
        return [session for session in self.sessions.values() if session.is_simulated == simulated]


def plan(study: Study, number: int) -> tuple[Shown, ...]:
    """Return order and sides of one rater: a function of seed and number.

    Each side has the picture in half of the trials, and raters 2n and 2n + 1 see opposite sides.
    """
    config, count = study.config, len(study.trials)
    pair = np.random.Generator(np.random.Philox(key=[config.seed, 2 * (number // 2)]))
    is_left = (pair.permutation(count) + number) % 2 == 0
    own = np.random.Generator(np.random.Philox(key=[config.seed, 2 * number + 1]))
    return tuple(Shown(study.trials[i], SIDES[0] if is_left[i] else SIDES[1]) for i in own.permutation(count))


def rater_of(secret: str) -> str:
    """Return under which name the answers of a browser stand."""
    return hashlib.sha256(secret.encode()).hexdigest()[:24]


def read_answers(study: Study) -> Answers:
    """Read all answers; without the file, there are none.

    Raises:
        BenchError: a line is damaged, of another study, or cannot have come from the server.
    """
    path = study.root / ANSWERS
    data = path.read_bytes() if path.exists() else b""
    *lines, rest = data.split(b"\n")
    is_torn = bool(rest) or bool(lines and _parsed(lines[-1]) is None)
    answers = Answers(torn=int(is_torn), is_torn=is_torn)
    for number, record in _valid(path, lines):
        if record["kind"] == VOID:
            answers.torn += 1
        elif record.get("study") != study.sha256:
            raise BenchError(f"{path}:{number}: is an answer to another study; want {study.sha256[:16]}")
        elif not _take(study, answers, record):
            raise BenchError(f"{path}:{number}: cannot have come from the server; the file was changed")
    return answers


def _valid(path: Path, lines: Sequence[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield records with their line numbers, without those that the next one declares void."""
    records = [_parsed(line) for line in lines]
    for number, (record, after) in enumerate(zip(records, [*records[1:], None], strict=False), start=1):
        if record is None:
            if after is not None and after["kind"] != VOID:
                raise BenchError(f"{path}:{number}: cannot be read, and the next line does not declare it void")
        elif record["kind"] == VOID or after is None or after["kind"] != VOID:
            yield number, record


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("kind"), str) else None


def _take(study: Study, answers: Answers, record: dict[str, Any]) -> bool:
    """Add what a record says; tell whether it fits what came before."""
    rater, kind = record.get("rater"), record["kind"]
    if not isinstance(rater, str):
        return False
    session = answers.sessions.get(rater)
    if kind == "session":
        return session is None and _take_session(study, answers, rater, record)
    if session is None or session.is_withdrawn or record.get("simulated") is not session.is_simulated:
        return False
    if kind == "withdrawal":
        session.is_withdrawn = True
        return True
    return kind == "answer" and _take_answer(answers, session, record)


def _take_session(study: Study, answers: Answers, rater: str, record: dict[str, Any]) -> bool:
    number, simulated = record.get("number"), record.get("simulated")
    if type(number) is not int or number < 0 or not isinstance(simulated, bool):
        return False
    session = answers.sessions[rater] = Session(rater, number, simulated, plan(study, number))
    return record == _session_record(study, session) | {"at": record.get("at")}


def _take_answer(answers: Answers, session: Session, record: dict[str, Any]) -> bool:
    shown, time_ms, replays = session.next, record.get("time_ms"), record.get("replays")
    if shown is None or record.get("trial") != shown.trial.trial:
        return False
    if type(time_ms) is not int or type(replays) is not int:
        return False
    choice = shown.choice(record.get("side", ""))
    session.answers[shown.trial.trial] = Answer(choice, time_ms, replays)
    if session.is_finished:
        answers.finished.append(session)
    return record.get("choice") == choice


def _session_record(study: Study, session: Session) -> dict[str, Any]:
    """Return the record of a consent: with seed, order and sides."""
    return _head(study, session, "session") | {
        "number": session.number, "consent": hashlib.sha256(study.config.consent.encode()).hexdigest(),
        "seed": study.config.seed, "order": [shown.trial.trial for shown in session.plan],
        "picture_sides": [shown.picture_side for shown in session.plan],
    }  # fmt: skip


def _head(study: Study, session: Session, kind: str) -> dict[str, Any]:
    return {"kind": kind, "study": study.sha256, "rater": session.rater, "simulated": session.is_simulated}


class AnswerLog:
    """The one writer of the answers of a study; hold its folder meanwhile (`shards.atomic.hold_directory`)."""

    def __init__(self, study: Study) -> None:
        """Read what is there, and declare half a line at the end void."""
        self.study = study
        self.answers = read_answers(study)
        path = study.root / ANSWERS
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        sync_directory(study.root)
        self.found_torn = self.answers.is_torn
        """A writer before this one left half a line."""
        self._mend()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def begin(self, secret: str, *, simulated: bool) -> Session:
        """Write that somebody agreed, and return the new session."""
        number = len(self.answers.of(simulated=simulated))
        session = Session(rater_of(secret), number, simulated, plan(self.study, number))
        self._append(_session_record(self.study, session))
        return self.answers.sessions[session.rater]

    def answer(self, session: Session, side: str, *, time_ms: int, plays: int) -> None:
        """Write the answer to the trial whose turn it is; `side` is left, right or neither."""
        shown = session.next
        assert shown is not None and not session.is_withdrawn
        self._append(
            _head(self.study, session, "answer")
            | {"trial": shown.trial.trial, "side": side, "choice": shown.choice(side)}
            | {"time_ms": time_ms, "replays": plays - 1}
        )

    def withdraw(self, session: Session) -> None:
        """Write that none of these answers counts."""
        self._append(_head(self.study, session, "withdrawal"))

    def _append(self, record: dict[str, Any]) -> None:
        record |= {"at": round(time.time(), 3)}
        self._mend()
        self._write(_line(record))
        taken = _take(self.study, self.answers, record)
        assert taken, record

    def _mend(self) -> None:
        """End half a line and declare it void."""
        if self.answers.is_torn:
            self._write(b"\n" + _line({"kind": VOID, "why": "the line before was not written whole"}))

    def _write(self, data: bytes) -> None:
        was_torn, self.answers.is_torn = self.answers.is_torn, True
        try:
            written = os.write(self._fd, data)
            os.fsync(self._fd)
        except OSError as e:
            self.answers.torn += not was_torn
            raise BenchError(f"{self.study.root / ANSWERS}: {e.strerror or e}; nothing more can be stored") from e
        if written != len(data):
            self.answers.torn += not was_torn
            raise BenchError(f"{self.study.root / ANSWERS}: half a line was written; make room on the disk")
        self.answers.is_torn = False


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"
