"""Checks what a reader sees of a folder: committed shards, their good clips, and nothing else."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.shards import ShardError, ShardWriter, compaction, open_catalog, read_commit, read_dataset
from unibrivl.shards.catalog import (
    CATALOG_FILES,
    all_rows,
    committed_shards,
    compact,
    label_counts,
    read_sidecar,
    write_dataset,
)
from unibrivl.shards.commit import Commit, DamageError, describe_file, write_commit
from unibrivl.shards.compaction import check_catalog, compacted_rows
from unibrivl.shards.schema import SIDECAR_SCHEMA
from unibrivl.shards.sidecar import best_rows, first_rows

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
        (lambda table: b"PAR1 this is no table PAR1", "is no sound sidecar"),
        (lambda table: b"", "is no sound sidecar"),
        (lambda table: table.drop_columns(["tar_offset"]), "is no sound sidecar"),
        (lambda table: table.slice(1), "4 rows, its commit says 5"),
        (
            lambda table: table.set_column(table.schema.get_field_index("tar_len"), "tar_len", pa.array(["x"] * 5)),
            "is no sound sidecar",
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


def test_a_sidecar_that_is_not_the_committed_one_is_refused(shard_set: Path) -> None:
    """Another table of the same size: its offsets would be believed if nothing but the size were looked at."""
    path = read_commit(first_commit(shard_set)).path(".parquet")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamageError, match=r"as-train-000000\.parquet is no sound sidecar \(SHA-256 differs") as caught:
        open_catalog(shard_set)
    assert str(caught.value).endswith(f"; mend it with `unibrivl shards repair {shard_set}`")


def set_column(name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        number = table.schema.get_field_index(name)
        values = pa.array(change(table[name].to_pylist()), table.schema.field(number).type)
        return table.set_column(number, table.schema.field(number), values)

    return changed


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("tar_offset", lambda v: [v[0] + 512, *v[1:]], "two clips overlap"),
        ("tar_offset", lambda v: [v[1], v[0], *v[2:]], "two clips overlap"),
        ("tar_offset", lambda v: [-512, *v[1:]], "a clip lies outside the tar"),
        ("tar_offset", lambda v: [*v[:-1], v[-1] + 512], "a clip lies outside the tar"),
        ("tar_offset", lambda v: [*v[:-1], 2**62], "a clip lies outside the tar"),
        ("tar_offset", lambda v: [*v[:-1], 2**63 - 1], "a clip lies outside the tar"),
        ("tar_offset", lambda v: [1, *v[1:]], "does not fill whole blocks"),
        ("tar_offset", lambda v: [None, *v[1:]], "a good clip has no place"),
        ("tar_len", lambda v: [*v[:-1], v[-1] + 512], "a clip lies outside the tar"),
        ("tar_len", lambda v: [*v[:-1], 2**63 - 1], "a clip lies outside the tar"),
        ("tar_len", lambda v: [v[0] + 512, *v[1:]], "two clips overlap"),
        ("tar_len", lambda v: [0, *v[1:]], "a clip lies outside the tar"),
        ("tar_len", lambda v: [-512, *v[1:]], "a clip lies outside the tar"),
        ("tar_len", lambda v: [v[0] - 1, *v[1:]], "does not fill whole blocks"),
        ("sample_xxh3", lambda v: [None, *v[1:]], "a good clip has no place"),
        ("key", lambda v: [None, *v[1:]], "a clip has no key"),
        ("key", lambda v: [v[1], *v[1:]], "two have the same"),
        ("status", lambda v: ["fine", *v[1:]], "a status is none of ok, failed"),
        ("status", lambda v: [None, *v[1:]], "a status is none of ok, failed"),
        ("status", lambda v: ["failed", *v[1:]], "3 good clips, its commit says 4"),
    ],
)
def test_rows_that_cannot_be_are_refused(
    shard_set: Path, name: str, change: Callable[[list[Any]], list[Any]], match: str
) -> None:
    replace_sidecar(shard_set, set_column(name, change))
    with pytest.raises(ShardError, match=match):
        open_catalog(shard_set)


def test_a_mirror_without_tars_is_opened_on_request(shard_set: Path) -> None:
    whole = open_catalog(shard_set)
    for path in (*shard_set.rglob("*.tar"), *shard_set.rglob("*.tar.idx")):
        path.unlink()
    mirror = open_catalog(shard_set, tars=False)
    assert mirror.table.equals(whole.table) and mirror.shards == whole.shards
    assert len(all_rows(shard_set, tars=False)) == 12
    with pytest.raises(ShardError, match=r"as-test-000000\.tar is missing"):
        open_catalog(shard_set)


@pytest.mark.parametrize("suffix", [".commit.json", ".parquet", ".tar"])
def test_damaged_shards_are_left_out_on_request_and_named(shard_set: Path, suffix: str) -> None:
    path = first_commit(shard_set).with_name(f"as-train-000000{suffix}")
    path.write_bytes(path.read_bytes()[:-7])
    catalog = open_catalog(shard_set, on_error="skip")
    assert [commit.name for commit in catalog.shards] == ["as-test-000000", "as-train-000001"]
    assert catalog.column("shard") == [0, 0, 1, 1, 1]
    (damage,) = catalog.damaged
    assert (damage.path, damage.shard) == (path, "as-train-000000")
    assert open_catalog(shard_set, split="test", on_error="skip").damaged == ()
    with pytest.raises(DamageError):
        open_catalog(shard_set)
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        open_catalog(shard_set, on_error="ignore")  # pyright: ignore[reportArgumentType]
    for other in shard_set.rglob("*.commit.json"):
        other.write_bytes(b"")
    with pytest.raises(ShardError, match=r"holds no clip; .*as-test-000000\.commit\.json is no readable commit file"):
        open_catalog(shard_set, on_error="skip")


def write_patch(root: Path, clips: list[tuple[str, Members]], failed: list[str], number: int = 1) -> Commit:
    """Write a patch shard: clips that were recovered, then keys that failed once more."""
    rows: list[dict[str, Any]] = []
    with ShardWriter(root / "shards" / "train", f"as-train-r{number:02d}-000000") as writer:
        for key, members in clips:
            rows.append(
                {"key": key, "split": "train", "status": "ok", "caption": f"{number}"} | writer.add(key, members)
            )
        for key in failed:
            rows.append({"key": key, "split": "train", "status": "failed", "error_code": f"round.{number}"})
        return writer.commit(split="train", plan_sha256="0" * 64, rows=rows)


def recovered(key: str, make_clip: Callable[[int], tuple[str, Members]]) -> tuple[str, Members]:
    return key, make_clip(99)[1]


GONE = ("as_gone_000000000", "as_gone_000000001")
"""The failed clips of the two shards of split train."""


def test_a_recovered_clip_has_one_row_and_it_is_the_good_one(
    shard_set: Path, make_clip: Callable[[int], tuple[str, Members]]
) -> None:
    write_patch(shard_set, [recovered(GONE[0], make_clip)], [GONE[1]])
    catalog = open_catalog(shard_set, split="train")
    assert catalog.column("key") == [*(make_clip(n)[0] for n in range(7)), GONE[0]]
    assert [c.name for c in catalog.shards][-1] == "as-train-r01-000000"
    assert catalog.column("shard") == [0, 0, 0, 0, 1, 1, 1, 2]
    rows = all_rows(shard_set, split="train")
    first, second = [make_clip(n)[0] for n in range(4)], [make_clip(n)[0] for n in range(4, 7)]
    assert rows["key"].to_pylist() == [*first[:-1], GONE[0], first[-1], *second[:-1], GONE[1], second[-1]]
    by_key = {row["key"]: row for row in rows.to_pylist()}
    assert (by_key[GONE[0]]["status"], by_key[GONE[0]]["shard"], by_key[GONE[0]]["error_code"]) == ("ok", 2, None)
    assert (by_key[GONE[1]]["error_code"], by_key[GONE[1]]["shard"]) == ("round.1", 2)
    assert len(all_rows(shard_set)) == 12


def test_the_first_of_several_good_rows_and_the_last_of_several_failed_ones_count(
    shard_set: Path, make_clip: Callable[[int], tuple[str, Members]]
) -> None:
    write_patch(shard_set, [], list(GONE), 1)
    write_patch(shard_set, [recovered(GONE[0], make_clip)], [GONE[1]], 2)
    write_patch(shard_set, [recovered(GONE[0], make_clip), recovered(make_clip(0)[0], make_clip)], [GONE[1]], 10)
    for _ in range(2):
        catalog = open_catalog(shard_set, split="train")
        assert sorted(catalog.column("key")) == sorted([*(make_clip(n)[0] for n in range(7)), GONE[0]])
        by_key = {row["key"]: row for row in catalog.table.to_pylist()}
        assert by_key[GONE[0]]["caption"] == "2" and by_key[make_clip(0)[0]]["caption"] is None
        rows = {row["key"]: row for row in all_rows(shard_set, split="train").to_pylist()}
        assert rows[GONE[0]]["caption"] == "2" and rows[make_clip(0)[0]]["caption"] is None
        assert rows[GONE[1]]["error_code"] == "round.10"
        assert len(rows) == 9
        compact(shard_set)  # and the same again from the cache


def test_the_same_clip_in_two_splits_is_two_clips(
    shard_set: Path, make_clip: Callable[[int], tuple[str, Members]]
) -> None:
    write_patch(shard_set, [recovered(make_clip(7)[0], make_clip)], [])
    both = open_catalog(shard_set)
    assert len(both) == 10
    assert len(open_catalog(shard_set, split="train")) + len(open_catalog(shard_set, split="test")) == len(both)
    assert len(all_rows(shard_set)) == 13


def test_a_set_without_shards_has_no_rows(tmp_path: Path) -> None:
    rows = all_rows(tmp_path)
    assert len(rows) == 0
    assert rows.schema.names == [*SIDECAR_SCHEMA.names, "shard"]


@given(rows=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.booleans()), max_size=20))
def test_one_row_a_clip_is_the_first_good_or_the_last_failed(rows: list[tuple[str, str, bool]]) -> None:
    table = pa.table(
        {
            "split": pa.array([split for split, _, _ in rows], pa.string()),
            "key": pa.array([key for _, key, _ in rows], pa.string()),
            "status": pa.array(["ok" if is_ok else "failed" for _, _, is_ok in rows], pa.string()),
        }
    )
    want: dict[tuple[str, str], tuple[int, bool]] = {}
    for position, (split, key, is_ok) in enumerate(rows):
        if not want.get((split, key), (0, False))[1]:
            want[split, key] = position, is_ok
    assert best_rows(table).tolist() == [position for position, _ in want.values()]
    first = first_rows(table)
    once = list({(split, key): n for n, (split, key, _) in reversed(list(enumerate(rows)))}.values())
    assert (first.tolist() if first is not None else list(range(len(rows)))) == sorted(once)
    assert (first is None) == (len(once) == len(rows))


def test_labels_are_counted(shard_set: Path) -> None:
    labels = pa.array([["dog", "cat"], None, ["dog"], [], ["bee"]], pa.list_(pa.string()))
    assert list(label_counts(pa.table({"labels": labels})).items()) == [("dog", 2), ("bee", 1), ("cat", 1)]
    assert label_counts(open_catalog(shard_set).table) == {}


def test_the_cache_says_what_the_sidecars_say(shard_set: Path) -> None:
    plain = {split: (open_catalog(shard_set, split=split), all_rows(shard_set, split=split)) for split in SPLITS}
    assert compact(shard_set) == 12
    for path in shard_set.rglob("*.parquet"):
        if path.name != "catalog.parquet":
            path.write_bytes(bytes(path.stat().st_size))  # nobody looks at the sidecars any more
    for split, (catalog, rows) in plain.items():
        cached = open_catalog(shard_set, split=split)
        assert cached.table.equals(catalog.table) and cached.shards == catalog.shards
        assert all_rows(shard_set, split=split).equals(rows)
    with pytest.raises(ShardError, match="no clip of split 'val'; it has test, train"):
        open_catalog(shard_set, split="val")


SPLITS = (None, "train", "test")


def test_the_cache_is_the_same_each_time_and_names_the_shards(shard_set: Path) -> None:
    compact(shard_set)
    first = [(shard_set / name).read_bytes() for name in CATALOG_FILES]
    compact(shard_set)
    assert [(shard_set / name).read_bytes() for name in CATALOG_FILES] == first
    table = pq.read_table(shard_set / "catalog.parquet")
    assert table.schema.names == [*SIDECAR_SCHEMA.names, "shard"]
    assert dict(Counter(table["shard"].to_pylist())) == {
        "as-test-000000": 3,
        "as-train-000000": 5,
        "as-train-000001": 4,
    }


def test_a_stale_cache_is_left_aside(
    shard_set: Path, write_shard: Callable[..., Commit], make_clip: Callable[[int], tuple[str, Members]]
) -> None:
    compact(shard_set)
    write_shard(shard_set / "shards" / "train", [9, 10], number=2)
    assert len(open_catalog(shard_set)) == 11
    assert len(open_catalog(shard_set, split="test")) == 2
    first_commit(shard_set).unlink()
    assert len(open_catalog(shard_set, split="train")) == 5
    write_shard(shard_set / "shards" / "train", [20, 21, 22, 23])  # as many clips under an old name
    assert make_clip(20)[0] in open_catalog(shard_set).column("key")


@pytest.mark.parametrize("name", ["catalog.json", "catalog.parquet"])
@pytest.mark.parametrize("change", ["cut", "flip", "empty", "gone", "text"])
def test_a_damaged_cache_is_left_aside(shard_set: Path, name: str, change: str) -> None:
    plain = open_catalog(shard_set)
    compact(shard_set)
    path = shard_set / name
    data = path.read_bytes()
    flipped = bytes(b ^ (n == len(data) // 2) for n, b in enumerate(data))
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": data[:-9], "flip": flipped, "empty": b"", "text": b'{"shards": 3}'}[change])
    assert open_catalog(shard_set).table.equals(plain.table)
    assert bool(check_catalog(shard_set)) == ((name, change) != ("catalog.json", "gone"))


def test_a_cache_is_not_made_of_damaged_shards(shard_set: Path, tmp_path: Path) -> None:
    path = read_commit(first_commit(shard_set)).path(".parquet")
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DamageError, match=r"as-train-000000\.parquet is no sound sidecar"):
        compact(shard_set)
    assert not list(shard_set.glob("catalog*"))
    with pytest.raises(ShardError, match="holds no shard to index"):
        compact(tmp_path / "empty")


def test_many_row_groups_give_the_same_rows(shard_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {split: all_rows(shard_set, split=split) for split in SPLITS}
    for size in (1, 2, 5, 7):
        monkeypatch.setattr(compaction, "ROW_GROUP", size)
        compact(shard_set)
        for split, rows in plain.items():
            found = compacted_rows(shard_set, committed_shards(shard_set, split=split), split=split)
            assert found is not None
            assert found["key"].to_pylist() == rows["key"].to_pylist()


def test_the_data_set_file_is_sealed(shard_set: Path) -> None:
    write_dataset(shard_set, {"plan_sha256": "0" * 64, "seed": 3})
    assert read_dataset(shard_set) == {"format": 1, "plan_sha256": "0" * 64, "seed": 3}
    path = shard_set / "dataset.json"
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(
        ShardError, match=r"dataset.json: not readable \(its seal does not fit its content\); delete it"
    ):
        open_catalog(shard_set)
