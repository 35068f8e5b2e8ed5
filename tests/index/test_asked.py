"""The queries of the gate: samples are seeded and spread over segments; a row is no answer to itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.index import asked as module
from unibrivl.index.asked import GIVEN, LEFT_OUT, SAMPLED, gather_queries, sample_rows
from unibrivl.index.exact import ExactScan
from unibrivl.index.search import Part, search_parts


def unit(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), number=st.integers(1, 100), seed=st.integers(0, 99))
def test_a_sample_holds_rows_of_every_segment_once(sizes: list[int], number: int, seed: int) -> None:
    segments = [unit(rows, n) for n, rows in enumerate(sizes)]
    queries, own = sample_rows(segments, number, seed)
    assert len(queries) == len(own) == min(number, sum(sizes))
    assert len({tuple(place) for place in own.tolist()}) == len(own)
    assert all((segments[s][r] == query).all() for query, (s, r) in zip(queries, own.tolist(), strict=True))
    again = sample_rows(segments, number, seed)
    assert queries.tobytes() == again[0].tobytes() and own.tolist() == again[1].tolist()


def test_where_queries_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NUM_QUERIES", 5)
    vectors = {"audio": [unit(9, 0)], "image": [unit(9, 1)]}
    given_queries = {"text": unit(7, 2).astype(np.float32), "audio": np.empty((0, 8), np.float32)}
    found = gather_queries(vectors, given_queries, "image", 0)
    assert {name: a.source for name, a in found.items()} == {"audio": SAMPLED, "image": LEFT_OUT, "text": GIVEN}
    assert {len(a.queries_QD) for a in found.values()} == {5}
    assert [name for name, a in found.items() if a.own_Q2 is not None] == ["image"]


@pytest.mark.parametrize("k", [1, 3, 12])
def test_a_row_is_no_answer_to_itself(k: int) -> None:
    segments = [unit(7, 0), unit(6, 1)]
    segments[1][2] = segments[0][3]  # an equal row is an answer
    parts = [Part(str(n), ExactScan(vectors), None, None) for n, vectors in enumerate(segments)]
    asked = gather_queries({"image": segments}, {}, "image", 0)["image"]
    scores = asked.scores(search_parts(parts, asked.queries_QD, k + asked.spare, None))
    rows = np.concatenate(segments).astype(np.float64)
    assert asked.own_Q2 is not None
    for found, (segment, row) in zip(scores, asked.own_Q2.tolist(), strict=True):
        place = row + 7 * segment
        wanted = np.sort(np.delete(rows @ rows[place], place))[::-1][:k]
        assert found.tolist() == pytest.approx(wanted.tolist(), abs=1e-5)  # float32 sums of 8 products
