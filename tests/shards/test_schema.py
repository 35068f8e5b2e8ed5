"""Checks clip keys and the columns of the sidecar."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.shards import make_key, split_key
from unibrivl.shards.schema import KEY_PATTERN, SIDECAR_SCHEMA, shard_name

CORPORA = st.from_regex(r"[a-z][a-z0-9]{0,15}", fullmatch=True)
MEDIA_IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@given(corpus=CORPORA, media_id=MEDIA_IDS, start_ms=st.integers(0, 999_999_999))
def test_a_key_comes_apart_into_what_it_was_made_of(corpus: str, media_id: str, start_ms: int) -> None:
    assert split_key(make_key(corpus, media_id, start_ms)) == (corpus, media_id, start_ms)


@pytest.mark.parametrize("media_id", ["-", "_", "__", "--PJHxphWEs", "_a-_b_", "x_000000001", "_000000001", "a" * 64])
def test_awkward_ids_survive(media_id: str) -> None:
    key = make_key("as", media_id, 30_000)
    assert key == f"as_{media_id}_000030000"
    assert split_key(key) == ("as", media_id, 30_000)


@given(first=st.tuples(CORPORA, MEDIA_IDS, st.integers(0, 10**9 - 1)), second=st.tuples(CORPORA, MEDIA_IDS, st.just(1)))
def test_two_clips_never_share_a_key(first: tuple[str, str, int], second: tuple[str, str, int]) -> None:
    assert (make_key(*first) == make_key(*second)) == (first == second)


@pytest.mark.parametrize(
    ("corpus", "media_id", "start_ms"),
    [
        ("", "a", 0),
        ("AS", "a", 0),
        ("1s", "a", 0),
        ("a" * 17, "a", 0),
        ("a_s", "b", 0),
        ("as", "", 0),
        ("as", "a" * 65, 0),
        ("as", "a.b", 0),
        ("as", "a/b", 0),
        ("as", "a b", 0),
        ("as", "é", 0),
        ("as", "a", -1),
        ("as", "a", 10**9),
    ],
)
def test_parts_that_do_not_fit_are_refused(corpus: str, media_id: str, start_ms: int) -> None:
    with pytest.raises(ValueError, match="is no clip key"):
        make_key(corpus, media_id, start_ms)


@pytest.mark.parametrize("key", ["", "as_a", "as_a_1", "as__000000001", "as_a_0000000001.flac", "as_a_000000001\n"])
def test_what_is_no_key_is_not_taken_apart(key: str) -> None:
    with pytest.raises(ValueError, match="is no clip key"):
        split_key(key)


@given(corpus=CORPORA, media_id=MEDIA_IDS)
def test_a_member_name_fits_a_tar_header_and_starts_with_no_dash(corpus: str, media_id: str) -> None:
    name = make_key(corpus, media_id, 0) + ".flac"
    assert len(name.encode()) <= 100
    assert name.count(".") == 1 and name[0] != "-"


def test_shards_sort_by_number() -> None:
    assert shard_name("as", "train", 12) == "as-train-000012"
    stems = [shard_name("as", "train", n) for n in (0, 9, 10, 999_999)]
    assert stems == sorted(stems)
    assert not any(KEY_PATTERN.match(stem) for stem in stems)


def test_a_failed_clip_needs_no_other_columns() -> None:
    row = {"key": make_key("as", "a", 0), "status": "failed", "error_code": "media.no_audio"}
    table = pa.Table.from_pylist([row], schema=SIDECAR_SCHEMA)
    assert table.schema == SIDECAR_SCHEMA
    assert {name: value for name, value in table.to_pylist()[0].items() if value is not None} == row
