"""The running best K: the same as sorting everything, whatever the blocks and however many ties."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unibrivl.index.topk import Best


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(0, 200), queries=st.integers(1, 5), k=st.integers(1, 12), block=st.integers(1, 60),
    seed=st.integers(0, 2**31), values=st.integers(1, 30), ascending=st.booleans(),
)  # fmt: skip
def test_it_keeps_what_sorting_keeps(
    rows: int, queries: int, k: int, block: int, seed: int, values: int, ascending: bool
) -> None:
    rng = np.random.default_rng(seed)
    products = rng.integers(0, values, (rows, queries)).astype(np.float32)
    if ascending:  # every block beats all before it
        products = np.sort(products, axis=0)
    best = Best(queries, k)
    for first in range(0, rows, block):
        best.add(products[first : first + block], first)
    scores, places = best.result()
    for query in range(queries):
        order = np.lexsort((np.arange(rows), -products[:, query]))[:k]
        assert places[query, : len(order)].tolist() == order.tolist()
        assert scores[query, : len(order)].tolist() == products[order, query].tolist()
        assert (places[query, len(order) :] == -1).all() and np.isneginf(scores[query, len(order) :]).all()
