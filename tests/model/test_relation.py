"""Which clips are true answers to each other: one group and, of one medium, a moment in common."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.model.relation import MIN_OVERLAP, Spans, related

CLIPS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("mn"), st.integers(0, 40), st.integers(1, 30)),
    min_size=1, max_size=8,
)  # fmt: skip


def spans(*clips: tuple[str, str, int, int]) -> Spans:
    """Return the spans of clips given as group, medium, start and length."""
    return Spans.of([
        {"group": group, "media_id": medium, "start_ms": start, "end_ms": start + length, "other": None}
        for group, medium, start, length in clips
    ])  # fmt: skip


def test_a_group_relates_clips_of_different_media() -> None:
    found = related(spans(("a", "m", 0, 10)), spans(("a", "n", 500, 10), ("b", "n", 0, 10), ("b", "m", 0, 10)))
    assert found.tolist() == [[True, False, False]]


def test_of_one_medium_only_overlapping_moments_are_related() -> None:
    asked = spans(("a", "m", 0, 10))
    moments = spans(*(("a", "m", start, 10) for start in (0, 3, 4, 9, 10, 50)))
    assert related(asked, moments).tolist() == [[True, True, True, True, False, False]]
    # 7 of 13 is more than half, 6 of 14 less
    assert related(asked, moments, min_overlap=MIN_OVERLAP).tolist() == [[True, True, False, False, False, False]]


def test_half_is_enough() -> None:
    found = related(spans(("a", "m", 0, 20)), spans(("a", "m", 0, 10), ("a", "m", 11, 9)), min_overlap=0.5)
    assert found.tolist() == [[True, False]]


@given(CLIPS, CLIPS, st.sampled_from([0.0, 0.5]))
def test_it_is_a_symmetric_relation_that_each_clip_has_to_itself(one, other, least: float) -> None:
    first, second = spans(*one), spans(*other)
    found = related(first, second, min_overlap=least)
    assert np.array_equal(found, related(second, first, min_overlap=least).T)
    assert related(first, first, min_overlap=least).diagonal().all()
    for i, (group, medium, start, length) in enumerate(one):
        for j, (group2, medium2, start2, length2) in enumerate(other):
            common = len(set(range(start, start + length)) & set(range(start2, start2 + length2)))
            union = length + length2 - common
            near = medium != medium2 or (common > 0 and common >= least * union)
            assert found[i, j] == (group == group2 and near)


@given(CLIPS, st.data())
def test_taking_clips_takes_rows(clips, data: st.DataObject) -> None:
    whole = spans(*clips)
    positions = np.array(data.draw(st.lists(st.integers(0, len(clips) - 1), min_size=1)))
    taken = whole.take(positions)
    assert np.array_equal(related(taken, whole), related(whole, whole)[positions])
