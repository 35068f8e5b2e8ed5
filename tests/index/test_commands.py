"""`unibrivl snapshots`: what each command prints, in words and as JSON, and what it leaves."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from unibrivl.cli import app
from unibrivl.index.errors import IndexStoreError
from unibrivl.index.snapshot import open_snapshot


@pytest.fixture
def copy(index: Path, tmp_path: Path) -> Path:
    """Return a copy of the index of 24 clips."""
    shutil.copytree(index, tmp_path / "index")
    return tmp_path / "index"


def run(command: str, *words: object) -> Result:
    return CliRunner().invoke(app, ["snapshots", command, *map(str, words)])


def value(command: str, *words: object) -> Any:
    result = run(command, *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_life_of_an_index(copy: Path) -> None:
    first = open_snapshot(copy).id
    key = open_snapshot(copy).segments[0].rows["key"][0].as_py()
    result = run("delete", copy, "--key", key, "--where", "split=test")
    number = 24 - open_snapshot(copy).count("audio")
    second = open_snapshot(copy).id
    assert number in (6, 7)  # six of the split, and the clip unless it is among them
    assert result.stdout.splitlines()[0] == (
        f"{2 * number} deleted, {24 - number} audio and {24 - number} image items in {copy}, snapshot {second}"
    )
    assert "unibrivl snapshots compact" in result.stdout, "over a fifth is deleted"

    compacted = value("compact", copy)
    assert compacted["items"] == {"audio": 24 - number, "image": 24 - number} and compacted["deleted"] == 0
    listed = value("list", copy)
    assert {one["id"]: one["parent"] for one in listed} == {
        first: None, second: first, compacted["snapshot"]: second,
    }  # fmt: skip
    assert [one["id"] for one in listed if one["current"]] == [compacted["snapshot"]]
    assert compacted["snapshot"] in run("list", copy).stdout

    assert value("rollback", copy, "--to", first) == {
        "index": str(copy), "snapshot": first, "items": {"audio": 24, "image": 24}, "deleted": 0,
    }  # fmt: skip
    assert value("clean", copy)["removed"] == []  # they are young
    cleaned = value("clean", copy, "--grace", 0)
    assert set(cleaned["removed"]) == {second, compacted["snapshot"]} and cleaned["segments"] == 2
    assert run("clean", copy).stdout == "0 snapshots and 0 segments removed, 0.0 MB\n"


def test_verify_names_what_is_damaged_and_exits_with_1(copy: Path) -> None:
    assert value("verify", copy) == {"index": str(copy), "intact": True, "faults": []}
    path = next((copy / "segments").rglob("vectors.npy"))
    path.write_bytes(path.read_bytes()[:-1])
    result = run("verify", copy)
    assert result.exit_code == 1
    assert result.stdout == f"{path} is damaged: its SHA-256 is not the manifest's\n{copy}: 1 faults\n"
    result = run("verify", copy, "--json")
    assert result.exit_code == 1 and json.loads(result.stdout)["intact"] is False


def test_compacting_asks_for_what_the_build_was_asked_for(copy: Path) -> None:
    def asked() -> dict[str, Any]:
        return open_snapshot(copy).manifest["asked"]

    before = asked()
    value("compact", copy, "--exact", "--recall", "0.9")
    assert asked() == before | {"exact": True, "recall": 0.9}
    value("compact", copy)
    assert asked() == before | {"exact": True, "recall": 0.9}
    value("compact", copy, "--factory", "IVF4,SQ8", "--recall", "0.5")
    assert asked() == before | {"factory": "IVF4,SQ8", "recall": 0.5}
    assert open_snapshot(copy).manifest["search"]["audio"]["factory"] == "IVF4,SQ8"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compact", "--recall", "2"), "--recall is 2.0, want 0.5 to 0.999"),
        (("compact", "--exact", "--factory", "IVF4,SQ8"), "exact and factory exclude each other"),
        (("clean", "--grace", "-1"), "should be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_asked_is_a_mistake_of_usage(copy: Path, words: tuple[str, ...], message: str) -> None:
    result = run(words[0], copy, *words[1:])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize("command", ["list", "verify", "rollback", "delete", "compact", "clean"])
def test_a_folder_without_an_index_is_refused(command: str, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "slip"):
        error = run(command, place).exception
        assert isinstance(error, IndexStoreError) and f"{place} is no index; make one with" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_a_rollback_mends_a_lost_current(copy: Path) -> None:
    name = open_snapshot(copy).id
    (copy / "CURRENT").write_bytes(b"\0" * 17)
    assert value("rollback", copy, "--to", name)["snapshot"] == name == open_snapshot(copy).id
