"""`query --batch`: a file of questions becomes a file of answers, one JSON object a line, in their order.

JSONL: objects with `audio`, `image`, `text`, `item` (a text or a list of them), the same behind `minus_`, and
`weights`, `to`, `k`, `where`, `exact`, `fuse`, `distinct`, `near`, `id`. CSV: the same names as columns, apart from
`weights`. Media are looked for from the folder of the questions. A question that cannot be answered has an `error` in
its place.
"""

import csv
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TextIO

from .. import UnibrivlError
from ..shards.atomic import temporary_path
from ..shards.checks import check_file
from ..shards.labels import near_spellings
from .answers import QueryResult
from .engine import Engine
from .errors import QueryError
from .query import KINDS, MINUS, QueryConfig, asked_of, question_of, read_part
from .question import Question

PASS = 32
"""Questions answered together."""
ASKED = tuple(f"{sign}{kind}" for sign in ("", MINUS) for kind in KINDS)
NUMBERS = {"k": int, "near": float}
TRUTHS = {"true": True, "1": True, "false": False, "0": False}
OPTIONS = ("to", "k", "where", "exact", "fuse", "distinct", "near")
FIELDS = (*ASKED, *OPTIONS, "weights", "id")

Row = Mapping[str, Any] | QueryError
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a file of questions."""

    questions: int
    failed: int


def run_batch(
    config: QueryConfig, questions: Path, out: TextIO, progress: Progress = lambda done, total, text: None
) -> BatchResult:
    """Answer a file of questions; what a question does not say is as in `config`.

    Raises:
        QueryError: the file cannot be read.
        IndexStoreError, IndexMismatchError, CheckpointError: the index or its encoder is not in order.
    """
    total = sum(1 for _ in read_rows(questions))
    rows, done, failed = enumerate(read_rows(questions), 1), 0, 0
    engine = config.open()
    while taken := list(islice(rows, PASS)):
        for told in _pass(engine, config, questions, taken):
            out.write(json.dumps(told, ensure_ascii=False) + "\n")
            failed += "error" in told
        done += len(taken)
        progress(done, total, f"questions, {failed} without an answer")
    return BatchResult(done, failed)


def write_batch(config: QueryConfig, questions: Path, out: Path, progress: Progress) -> BatchResult:
    """As `run_batch`, into a file that appears whole or not at all."""
    check_file(out, QueryError)
    temporary = temporary_path(out)
    try:
        with temporary.open("w", encoding="utf-8") as f:
            result = run_batch(config, questions, f, progress)
        temporary.rename(out)
    finally:
        temporary.unlink(missing_ok=True)
    return result


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file of questions; a line that is none is an error in its place, an empty one is nothing.

    Raises:
        QueryError: the file is missing, not text, or neither JSONL nor CSV.
    """
    check_file(path, QueryError)
    if path.suffix not in (".jsonl", ".csv"):
        raise QueryError(f"{path}: want a file of questions that ends in .jsonl or .csv")
    try:
        with path.open(encoding="utf-8-sig", newline="") as f:
            yield from csv.DictReader(f) if path.suffix == ".csv" else (_json_row(line) for line in f if line.strip())
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise QueryError(f"{path}: cannot be read ({getattr(e, 'strerror', None) or e})") from e


def _json_row(line: str) -> Row:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return QueryError("no JSON; want an object in each line")
    if not isinstance(value, dict):
        return QueryError("no object; want {...} in each line")
    return value if _is_text(value) else QueryError("a half of a surrogate pair is no text; write characters as UTF-8")


def _is_text(value: Any) -> bool:
    """Tell whether what JSON escapes may say can be written again."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _pass(engine: Engine, base: QueryConfig, path: Path, rows: list[tuple[int, Row]]) -> list[dict[str, Any]]:
    names = [_name(row, number) for number, row in rows]
    began = time.perf_counter()
    asked = [_question(engine, base, path, row) for _, row in rows]
    decode_ms = {"decode": round(1000 * (time.perf_counter() - began), 3)}
    good = [question for question in asked if isinstance(question, Question)]
    answers = iter(_answers(engine, good))
    told = [next(answers) if isinstance(one, Question) else one for one in asked]
    return [
        {"id": name} | ({"error": str(one)} if isinstance(one, UnibrivlError) else _timed(one, decode_ms))
        for name, one in zip(names, told, strict=True)
    ]  # fmt: skip


def _timed(result: QueryResult, before: dict[str, float]) -> dict[str, Any]:
    return replace(result, timings_ms=before | result.timings_ms).as_dict()


def _answers(engine: Engine, questions: list[Question]) -> list[QueryResult | UnibrivlError]:
    """Answer in one pass; where one of the questions cannot be answered, each by itself."""
    try:
        return list(engine.ask_many(questions))
    except UnibrivlError as e:
        if len(questions) == 1:
            return [e]
        return [answer for question in questions for answer in _answers(engine, [question])]


def _name(row: Row, number: int) -> Any:
    return number if isinstance(row, QueryError) or row.get("id") in (None, "") else row["id"]


def _question(engine: Engine, base: QueryConfig, path: Path, row: Row) -> Question | UnibrivlError:
    if isinstance(row, QueryError):
        return row
    try:
        config = _config(base, path.parent, row)
        return question_of(config, tuple(read_part(engine, asked) for asked in config.asked))
    except UnibrivlError as e:
        return e
    except OSError as e:
        return QueryError(f"{(e.filename or 'a file')[:80]}: cannot be read ({e.strerror or e})")
    except (ValueError, TypeError, OverflowError) as e:
        return QueryError(str(e))


def _config(base: QueryConfig, folder: Path, row: Mapping[str, Any]) -> QueryConfig:
    told = {name: value for name, value in row.items() if value is not None and value != ""}
    for name in told:
        if name not in FIELDS:
            near = near_spellings(str(name), FIELDS)
            raise QueryError(
                f"there is no field {str(name)[:40]!r}; " + (f"did you mean {near[0]}?" if near else "see --help")
            )
    values = {kind: _texts(kind, told[kind], folder) for kind in ASKED if kind in told}
    weights = told.get("weights", {})
    if not isinstance(weights, dict):
        raise QueryError('weights are by kind, such as {"audio": 2}')
    options = {name: _option(name, told[name]) for name in OPTIONS if name in told}
    return replace(base, asked=asked_of(values, {kind: _floats(w) for kind, w in weights.items()}), **options)


def _texts(kind: str, value: Any, folder: Path) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) for one in values):
        raise QueryError(f"{kind} is {json.dumps(value)[:40]}, want a text or a list of texts")
    is_file = kind.removeprefix(MINUS) in ("audio", "image")
    return tuple(str(folder / one) if is_file else one for one in values)


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(float(one) for one in (value if isinstance(value, list) else [value]))


def _option(name: str, value: Any) -> Any:
    """Return an option; a CSV has texts only."""
    if name in ("exact", "distinct"):
        truth = TRUTHS.get(value.lower()) if isinstance(value, str) else value
        return truth if isinstance(truth, bool) else _refuse(name, value, "true or false")
    return _number(name, value) if name in NUMBERS else value


def _number(name: str, value: Any) -> Any:
    kind = NUMBERS[name]
    try:
        number = kind(value)
    except (TypeError, ValueError, OverflowError):
        _refuse(name, value, "a number")
    if isinstance(value, bool) or (kind is int and isinstance(value, float) and number != value):
        _refuse(name, value, "a whole number" if kind is int else "a number")
    return number


def _refuse(name: str, value: Any, wanted: str) -> NoReturn:
    raise QueryError(f"{name} is {json.dumps(value)[:40]}, want {wanted}")
