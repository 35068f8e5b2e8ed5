"""Checks what a reader sees of a folder: committed shards, their good clips, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unibrivl.shards import ShardError, open_catalog, read_commit, read_dataset
from unibrivl.shards.catalog import committed_shards, read_sidecar
from unibrivl.shards.commit import Commit, describe_file, write_commit

Members = dict[str, bytes]


def first_commit(root: Path) -> Path:
    return root / "shards" / "train" / "as-train-000000.commit.json"


def test_good_clips_come_in_the_order_of_names_and_slots(
    shard_set: Path, make_clip: Callable[[int], tuple[str, Members]]
) -> None:
    catalog = open_catalog(shard_set)
    assert [c.name for c in catalog.shards] == ["as-test-000000", "as-train-000000", "as-train-000001"]
    assert catalog.column("key") == [make_clip(n)[0] for n in (7, 8, 0, 1, 2, 3, 4, 5, 6)]
    assert catalog.column("shard") == [0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert len(catalog) == 9
    assert set(catalog.column("status")) == {"ok"}
    assert sum(c.planned for c in catalog.shards) == 12


def test_one_split(shard_set: Path, make_clip: Callable[[int], tuple[str, Members]]) -> None:
    catalog = open_catalog(shard_set, split="test")
    assert catalog.column("key") == [make_clip(n)[0] for n in (7, 8)]
    assert catalog.column("shard") == [0, 0]


@pytest.mark.parametrize("split", ["validation", "tes", "t*", "../shards/test", "TEST"])
def test_a_wrong_split_is_refused_with_those_there_are(shard_set: Path, split: str) -> None:
    with pytest.raises(ShardError) as caught:
        open_catalog(shard_set, split=split)
    assert str(caught.value) == f"{shard_set} holds no clip of split {split!r}; it has test, train"


def test_a_shard_without_commit_is_not_there(shard_set: Path, make_clip: Callable[[int], tuple[str, Members]]) -> None:
    first_commit(shard_set).unlink()
    assert len(committed_shards(shard_set)) == 2
    assert open_catalog(shard_set, split="train").column("key") == [make_clip(n)[0] for n in (4, 5, 6)]
    for path in shard_set.rglob("*.commit.json"):
        path.unlink()
    with pytest.raises(ShardError, match=r"holds no clip$"):
        open_catalog(shard_set)
    with pytest.raises(ShardError, match="holds no clip of split 'train'; it has none"):
        open_catalog(shard_set, split="train")


def test_a_hidden_commit_that_was_not_renamed_is_not_there(shard_set: Path) -> None:
    path = first_commit(shard_set)
    path.rename(path.with_name(f".{path.name}.tmp-1-abcd"))
    assert len(committed_shards(shard_set)) == 2


def test_a_damaged_shard_is_refused_not_skipped(shard_set: Path) -> None:
    tar = read_commit(first_commit(shard_set)).path(".tar")
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(ShardError, match=r"as-train-000000\.tar has"):
        open_catalog(shard_set)
    with pytest.raises(ShardError, match=r"as-train-000000\.tar has"):
        open_catalog(shard_set, split="train")
    assert len(open_catalog(shard_set, split="test")) == 2


@pytest.mark.parametrize("where", ["missing", "empty"])
def test_a_folder_that_is_no_set_is_refused(tmp_path: Path, where: str) -> None:
    root = tmp_path / where
    if where == "empty":
        root.mkdir()
    with pytest.raises(ShardError, match=f"{where} is no shard set: it has no dataset.json; make one with"):
        open_catalog(root)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"format": 2}', "dataset.json: shard format 2, this program reads 1"),
        ('{"format": "1"}', "dataset.json: shard format 1, this program reads 1"),
        ('{"format": null}', "shard format None"),
        ("{}", "not readable"),
        ("[]", "not readable"),
        ("", "not readable"),
        ("\x00", "not readable"),
    ],
)
def test_another_format_or_a_damaged_data_set_file_is_refused(shard_set: Path, text: str, match: str) -> None:
    (shard_set / "dataset.json").write_text(text)
    with pytest.raises(ShardError, match=match):
        read_dataset(shard_set)
    with pytest.raises(ShardError, match=match):
        open_catalog(shard_set)


def replace_sidecar(root: Path, change: Callable[[pa.Table], Any]) -> Commit:
    """Write another sidecar, with a commit whose size and hash fit it."""
    commit = read_commit(first_commit(root))
    path = commit.path(".parquet")
    changed = change(pq.read_table(path))
    if isinstance(changed, bytes):
        path.write_bytes(changed)
    else:
        pq.write_table(changed, path)
    commit.files[".parquet"] = describe_file(path)
    write_commit(commit)
    return read_commit(first_commit(root))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda table: b"PAR1 this is no table PAR1", "not a readable sidecar"),
        (lambda table: b"", "not a readable sidecar"),
        (lambda table: table.drop_columns(["tar_offset"]), "not a readable sidecar"),
        (lambda table: table.slice(1), "4 rows, its commit says 5"),
        (
            lambda table: table.set_column(table.schema.get_field_index("tar_len"), "tar_len", pa.array(["x"] * 5)),
            "not a readable sidecar",
        ),
    ],
    ids=["text", "empty", "no column", "a row less", "another type"],
)
def test_a_sidecar_of_another_shape_is_refused(shard_set: Path, change: Callable[[pa.Table], Any], match: str) -> None:
    commit = replace_sidecar(shard_set, change)
    with pytest.raises(ShardError, match=match):
        read_sidecar(commit)
    with pytest.raises(ShardError, match=match):
        open_catalog(shard_set)


def test_columns_that_a_later_version_adds_are_left_aside(shard_set: Path) -> None:
    commit = replace_sidecar(shard_set, lambda table: table.append_column("new", pa.array([1] * len(table))))
    assert "new" not in read_sidecar(commit).schema.names
    assert json.loads(first_commit(shard_set).read_text())["planned"] == 5
