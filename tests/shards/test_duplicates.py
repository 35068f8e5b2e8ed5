"""Equal and nearly equal clips: the same groups as comparing every pair, and what the bounds leave out."""

from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.shards.duplicates import COLUMNS, find_duplicates
from unibrivl.shards.schema import SIDECAR_SCHEMA

BASE = 0x5A5A_1234_9876_0F0F
SCHEMA = pa.schema([SIDECAR_SCHEMA.field(name) for name in COLUMNS])


def flip(value, *bits):
    for bit in bits:
        value ^= 1 << bit
    return value


def table(*rows):
    """Return clips `a`, `b`, ... that differ in everything but what `rows` say."""
    full = []
    for number, row in enumerate(rows):
        base = {
            "key": chr(ord("a") + number),
            "media_id": f"medium{number}",
            "split": "train",
            "status": "ok",
            "audio_sha256": f"sound{number}",
            "frame_sha256": f"picture{number}",
        }
        full.append(base | row)
    return pa.Table.from_pylist(full, schema=SCHEMA)


def keys(groups):
    return sorted(group.keys for group in groups)


def test_equal_bytes_are_a_group_of_their_kind():
    found = find_duplicates(table({"audio_sha256": "x"}, {}, {"audio_sha256": "x"}, {"frame_sha256": "sound1"}))
    (group,) = found.groups
    assert (group.kind, group.exact, group.keys, group.media) == ("audio", True, ("a", "c"), 2)
    assert found.clips == 4


def test_near_hashes_are_a_group_and_farther_ones_are_not():
    rows = [{"frame_dhash": BASE}, {"frame_dhash": flip(BASE, 0, 30, 63)}, {"frame_dhash": flip(BASE, 5, 6, 7, 8)}]
    (group,) = find_duplicates(table(*rows), max_distance=3).groups
    assert (group.kind, group.exact, group.keys) == ("frame", False, ("a", "b"))
    assert keys(find_duplicates(table(*rows), max_distance=4).groups) == [("a", "b", "c")]


def test_a_near_group_that_only_repeats_an_equal_one_is_listed_once():
    rows = [{"audio_sha256": "x", "audio_fp": BASE}, {"audio_sha256": "x", "audio_fp": BASE}]
    assert [group.exact for group in find_duplicates(table(*rows)).groups] == [True]
    rows.append({"audio_fp": flip(BASE, 9)})
    assert keys(find_duplicates(table(*rows)).groups) == [("a", "b"), ("a", "b", "c")]


def test_clips_of_one_medium_are_told_from_those_of_several():
    rows = [{"audio_fp": BASE, "media_id": "film"}] * 2 + [{"audio_fp": BASE >> 1}] * 2 + [{"frame_dhash": BASE}] * 2
    found = find_duplicates(table(*rows))
    assert keys(found.select(kind="audio", exact=False, same_medium=True)) == [("a", "b")]
    assert keys(found.select(kind="audio", exact=False, same_medium=False)) == [("c", "d")]
    assert keys(found.select(kind="frame", exact=False, same_medium=False)) == [("e", "f")]
    assert found.select(kind="audio", exact=True, same_medium=False) == ()


def test_a_group_across_splits_comes_first_and_says_so():
    rows = [{"audio_sha256": "x"}] * 3 + [{"audio_sha256": "y"}, {"audio_sha256": "y", "split": "test"}]
    found = find_duplicates(table(*rows))
    assert [group.splits for group in found.groups] == [("test", "train"), ("train",)]
    assert found.as_dict()["equal_audio_different_media"] == {
        "groups": [["d", "e"], ["a", "b", "c"]],
        "clips": 5,
        "across_splits": 1,
    }


@pytest.mark.parametrize("nothing", [0, 0b111, 2**64 - 1, 2**64 - 8])
def test_silence_and_flat_pictures_are_counted_and_not_called_alike(nothing):
    rows = [{"frame_dhash": nothing, "audio_fp": nothing}] * 3
    found = find_duplicates(table(*rows))
    assert found.groups == ()
    assert found.featureless == {"audio": 3, "frame": 3}


def test_clips_that_did_not_come_or_have_no_hash_are_left_out():
    failed = {"status": "failed", "audio_sha256": None, "frame_sha256": None}
    found = find_duplicates(table(failed, failed, {"status": "not yet"}, {"audio_sha256": None}))
    assert found.groups == () and found.clips == 1


def test_no_clip_at_all():
    found = find_duplicates(table())
    assert found.groups == () and found.clips == 0


def test_where_very_many_agree_the_search_is_bounded_and_says_so():
    rng = np.random.default_rng(0)
    crowd = [BASE & ~0xFFFFF | int(low) for low in rng.choice(1 << 20, 400, replace=False)]
    rows = table(*({"key": f"{n:03d}", "frame_dhash": value} for n, value in enumerate(crowd)))
    bounded = find_duplicates(rows, reach=8)
    assert 300 < bounded.cut["frame"] <= 400 and bounded.cut["audio"] == 0
    whole = find_duplicates(rows, reach=400)
    assert whole.cut["frame"] == 0
    assert keys(whole.groups) == brute_force(crowd, 3)


@pytest.mark.parametrize("max_distance", [1, 2, 3, 4, 5, 6])
def test_wherever_the_bits_differ_the_pair_is_found(max_distance):
    rng = np.random.default_rng(max_distance)
    hashes = []
    for value in rng.integers(0, 2**63, 400).tolist():
        hashes += [value, flip(value, *rng.choice(64, max_distance, replace=False).tolist())]
    rows = table(*({"key": f"{n:03d}", "audio_fp": value} for n, value in enumerate(hashes)))
    found = find_duplicates(rows, max_distance=max_distance)
    assert keys(found.groups) == [(f"{n:03d}", f"{n + 1:03d}") for n in range(0, 800, 2)]


@pytest.mark.parametrize("bad", [{"max_distance": -1}, {"max_distance": 7}, {"reach": 0}])
def test_arguments_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="want"):
        find_duplicates(table(), **bad)


def brute_force(hashes, max_distance):
    """Return the groups of three and more of linked numbers, by comparing every pair and walking the links."""
    links = {n: set() for n in range(len(hashes))}
    for a, b in combinations(range(len(hashes)), 2):
        if (hashes[a] ^ hashes[b]).bit_count() <= max_distance:
            links[a].add(b)
            links[b].add(a)
    groups, seen = [], set()
    for start in links:
        reached, edge = {start}, [start]
        while edge:
            new = links[edge.pop()] - reached
            reached |= new
            edge += new
        if len(reached) > 1 and start not in seen:
            groups.append(tuple(sorted(f"{n:03d}" for n in reached)))
        seen |= reached
    return sorted(groups)


@given(
    seeds=st.lists(st.integers(1, 2**64 - 2), min_size=1, max_size=4),
    changes=st.lists(st.tuples(st.integers(0, 40), st.sets(st.integers(0, 63), max_size=8)), max_size=40),
    max_distance=st.integers(0, 6),
)
def test_the_groups_are_those_of_comparing_every_pair(seeds, changes, max_distance):
    hashes = list(seeds)
    for parent, bits in changes:  # chains and clusters around what is there
        hashes.append(flip(hashes[parent % len(hashes)], *bits))
    rows = table(*({"key": f"{n:03d}", "audio_fp": value} for n, value in enumerate(hashes)))
    found = find_duplicates(rows, max_distance=max_distance)
    telling = [h if max_distance < h.bit_count() < 64 - max_distance else None for h in hashes]
    kept = {n: h for n, h in enumerate(telling) if h is not None}
    expected = [
        tuple(f"{list(kept)[int(k)]:03d}" for k in group) for group in brute_force(list(kept.values()), max_distance)
    ]
    assert keys(found.groups) == sorted(expected)
    assert found.featureless["audio"] == len(hashes) - len(kept)


def test_the_order_of_the_rows_changes_nothing():
    rng = np.random.default_rng(3)
    rows = table(*({"key": f"{n:03d}", "audio_fp": flip(BASE, *rng.integers(0, 64, 2).tolist())} for n in range(200)))
    shuffled = rows.take(rng.permutation(len(rows)))
    assert find_duplicates(rows) == find_duplicates(shuffled)
