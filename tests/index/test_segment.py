"""Segments: what is written comes back, named by its content, and damage is seen."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unibrivl.index.errors import IndexStoreError
from unibrivl.index.segment import ROWS, ROWS_SCHEMA, VECTORS, open_segment, remove_leftovers

from ..made import write_segment

FILES = (VECTORS, ROWS)


def vectors(count: int, dims: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dims)).astype(np.float32)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 30), st.integers(1, 20), st.integers(0, 1000))
def test_what_is_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, make_rows, count: int, dims: int, seed: int
) -> None:
    directory = tmp_path_factory.mktemp("segments")
    given_ND, rows = vectors(count, dims, seed) * 100, make_rows(count)
    entry = write_segment(directory, "audio", given_ND, rows)
    segment = open_segment(directory, entry)
    assert (segment.modality, segment.id, entry["rows"]) == ("audio", entry["id"], count)
    assert segment.vectors_ND.dtype == np.float16 and segment.vectors_ND.flags.c_contiguous
    unit = given_ND / np.linalg.norm(given_ND, axis=1, keepdims=True)
    assert segment.vectors_ND == pytest.approx(unit, abs=6e-4)  # float16 keeps 11 bits
    assert segment.rows.schema == ROWS_SCHEMA
    for number, (found, wanted) in enumerate(zip(segment.rows.to_pylist(), rows, strict=True)):
        assert found == wanted | {
            "row": number, "item_id": f"{wanted['key']}/audio", "modality": "audio", "source": 0, "duration_s": 1.0,
        }  # fmt: skip
    assert sorted(path.name for path in directory.iterdir()) == [entry["id"]]
    assert sorted(path.name for path in (directory / entry["id"]).iterdir()) == sorted(FILES)


def test_the_name_is_the_content(tmp_path: Path, make_rows) -> None:
    first = write_segment(tmp_path, "audio", vectors(4), make_rows(4))
    assert write_segment(tmp_path, "audio", vectors(4), make_rows(4)) == first
    assert write_segment(tmp_path / "elsewhere", "audio", vectors(4), make_rows(4)) == first
    others = [
        write_segment(tmp_path, "image", vectors(4), make_rows(4)),
        write_segment(tmp_path, "audio", vectors(4, seed=1), make_rows(4)),
        write_segment(tmp_path, "audio", vectors(4), make_rows(4, caption="another")),
    ]
    assert len({first["id"], *(entry["id"] for entry in others)}) == 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_a_row_that_has_no_direction_is_named(tmp_path: Path, make_rows, value: float) -> None:
    given_ND = vectors(5)
    given_ND[3] = value
    with pytest.raises(IndexStoreError, match=r"row 3 \(gen_clip3_000000000\) is not finite or zero"):
        write_segment(tmp_path, "image", given_ND, make_rows(5))
    given_ND = vectors(5)
    if np.isnan(value):
        given_ND[3, 1] = value  # one number is enough
        with pytest.raises(IndexStoreError, match="gen_clip3"):
            write_segment(tmp_path, "image", given_ND, make_rows(5))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [1e-6, 1e6])
def test_long_and_short_vectors_are_kept(tmp_path: Path, make_rows, length: float) -> None:
    given_ND = np.tile(np.float32([length, 0, 0]), (2, 1))
    segment = open_segment(tmp_path, write_segment(tmp_path, "audio", given_ND, make_rows(2)))
    assert segment.vectors_ND[0].tolist() == [1, 0, 0]


def test_two_clips_of_one_key_are_refused(tmp_path: Path, make_rows) -> None:
    rows = make_rows(3)
    rows[2]["key"] = rows[0]["key"]
    with pytest.raises(IndexStoreError, match=r"two clips have one key.*gen_clip0|gen_clip0.*two clips"):
        write_segment(tmp_path, "audio", vectors(3), rows)


@pytest.mark.parametrize("rows", [2, 4])
def test_as_many_rows_as_vectors_are_needed(tmp_path: Path, make_rows, rows: int) -> None:
    with pytest.raises(IndexStoreError, match="rows are missing"):
        write_segment(tmp_path, "audio", vectors(3), make_rows(rows))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "append", "remove", "empty"])
def test_damage_is_seen_and_named(tmp_path: Path, make_rows, name: str, damage: str) -> None:
    entry = write_segment(tmp_path, "audio", vectors(6), make_rows(6))
    path = tmp_path / entry["id"] / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "truncate":
        del data[-1]
    elif damage == "append":
        data.append(0)
    elif damage == "empty":
        data.clear()
    path.write_bytes(data)
    if damage == "remove":
        path.unlink()
    with pytest.raises(IndexStoreError, match=f"{name} is (missing|damaged).*build the index again"):
        open_segment(tmp_path, entry)


def test_files_that_do_not_fit_each_other_are_refused(tmp_path: Path, make_rows) -> None:
    entry = write_segment(tmp_path, "audio", vectors(6), make_rows(6))
    with pytest.raises(IndexStoreError, match="do not fit each other"):
        open_segment(tmp_path, entry | {"rows": 5})


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, make_rows, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unibrivl.index.segment.pq.write_table", fail)
    with pytest.raises(OSError, match="No space left"):
        write_segment(tmp_path, "audio", vectors(3), make_rows(3))
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_dead_writers_are_removed_and_segments_kept(tmp_path: Path, make_rows) -> None:
    entry = write_segment(tmp_path, "audio", vectors(3), make_rows(3))
    shutil.copytree(tmp_path / entry["id"], tmp_path / ".segment.tmp-1-abcdef01")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [entry["id"]]
