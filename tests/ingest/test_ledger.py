"""Checks that the ledger tells the last word on a clip, whatever else stands in it."""

import io
import json
from pathlib import Path
from typing import Any

from unibrivl.ingest.ledger import last_failures, write_attempt


def write(root: Path, name: str, *entries: Any) -> None:
    path = root / "ledger" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{e if isinstance(e, str) else json.dumps(e)}\n" for e in entries))


def entry(time_s: float, key: str, error: str, *, shard: str = "s") -> dict[str, Any]:
    return {"time_s": time_s, "shard": shard, "key": key, "error": error, "detail": f"why {error}"}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = io.StringIO()
    write_attempt(file, "s", "a", "transient.network", "lost «it»")
    write_attempt(file, "s", "a", "source.gone", "gone")
    write_attempt(file, "s", "b", "", "")
    write_attempt(file, "t", "c", "local.missing_file", "none")
    write(tmp_path, "r/000.jsonl", *file.getvalue().splitlines())
    assert last_failures(tmp_path, ["s"]) == {"s": {"a": ("source.gone", "gone")}}
    assert last_failures(tmp_path, ["s", "t", "u"])["t"] == {"c": ("local.missing_file", "none")}


def test_the_latest_word_counts_in_whatever_file_it_stands(tmp_path: Path) -> None:
    write(tmp_path, "r2/000.jsonl", entry(1, "a", "x.1"), entry(9, "b", ""), entry(5, "c", "x.5"))
    write(tmp_path, "r1/000.jsonl", entry(2, "a", "x.2"), entry(3, "b", "x.3"), entry(6, "c", "x.6", shard="t"))
    assert last_failures(tmp_path, ["s"]) == {"s": {"a": ("x.2", "why x.2"), "c": ("x.5", "why x.5")}}


def test_torn_and_strange_lines_are_left_aside(tmp_path: Path) -> None:
    lines = ['{"time_s": 1, "shard": "s", "key": "a", "err', "", '"shard": "s"', '{"shard": "s"}', "\ufffd"]
    write(tmp_path, "r/000.jsonl", *lines, entry(1, "a", "x.1"))
    assert last_failures(tmp_path, ["s"]) == {"s": {"a": ("x.1", "why x.1")}}


def test_without_a_ledger_nothing_is_known(tmp_path: Path) -> None:
    assert last_failures(tmp_path, ["s"]) == {"s": {}}
    assert last_failures(tmp_path, []) == {}
